#include <memory>
#include <new>

#include "depthwise.h"
#include "isa.h"
#include "parallel.h"

namespace hollowbone {

namespace portable {
extern const DepthwiseKernel depthwise;
}
#ifdef HB_HAS_AVX2
namespace avx2 {
extern const DepthwiseKernel depthwise;
}
#endif
#ifdef HB_HAS_AVX512
namespace avx512 {
extern const DepthwiseKernel depthwise;
}
#endif
#ifdef HB_HAS_NEON
namespace neon {
extern const DepthwiseKernel depthwise;
}
#endif

namespace {

const DepthwiseKernel& chosen([[maybe_unused]] const Depthwise& shape) {
  switch (current()) {
#ifdef HB_HAS_AVX512
    case Isa::avx512:  // rows of up to 8 columns leave half of a vector empty: there the shorter one is a fifth faster
      return shape.out_width() <= 8 ? avx2::depthwise : avx512::depthwise;
#endif
#ifdef HB_HAS_AVX2
    case Isa::avx2:
      return avx2::depthwise;
#endif
#ifdef HB_HAS_NEON
    case Isa::neon:
      return neon::depthwise;
#endif
    default:
      return portable::depthwise;
  }
}

// Waking a thread costs several microseconds; below this many multiply-adds a thread does not earn them.
constexpr double worth_a_thread = 500e3;

constexpr std::align_val_t cache_line{64};
struct Free {
  void operator()(float* p) const { ::operator delete[](p, cache_line); }
};

}  // namespace

void depthwise(const Depthwise& shape, const float* x, const float* weight, const float* bias, float* y, int threads) {
  const int64_t planes = shape.batch * shape.channels;
  if (planes == 0) return;
  const double work = 1.0 * planes * shape.out_height() * shape.out_width() * shape.kernel * shape.kernel;
  int parts = threads;
  if (parts > planes) parts = static_cast<int>(planes);
  if (parts > 1 + work / worth_a_thread) parts = static_cast<int>(1 + work / worth_a_thread);

  const DepthwiseKernel& kernel = chosen(shape);
  const int64_t each = (kernel.scratch(shape) + 15) / 16 * 16;
  const std::unique_ptr<float[], Free> scratch(new (cache_line) float[each * parts]);
  parallel(parts, [&](int part) {
    const Range planes_here = share(planes, part, parts);
    kernel.run(shape, x, weight, bias, y, scratch.get() + each * part, planes_here.first, planes_here.last);
  });
}

}  // namespace hollowbone
