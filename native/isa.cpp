#include "isa.h"

#include <atomic>
#include <stdexcept>

namespace hollowbone {

namespace {

bool supported(Isa isa) {
  switch (isa) {
#ifdef HB_HAS_AVX512
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
#ifdef HB_HAS_AVX2
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef HB_HAS_NEON
    case Isa::neon:  // part of every 64-bit Arm processor
      return true;
#endif
    case Isa::portable:
      return true;
    default:
      return false;
  }
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{available().front()};
  return isa;
}

}  // namespace

const char* name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::neon:
      return "neon";
    case Isa::portable:
      break;
  }
  return "portable";
}

std::vector<Isa> compiled() {
  return {
#ifdef HB_HAS_AVX512
      Isa::avx512,
#endif
#ifdef HB_HAS_AVX2
      Isa::avx2,
#endif
#ifdef HB_HAS_NEON
      Isa::neon,
#endif
      Isa::portable};
}

std::vector<Isa> available() {
  std::vector<Isa> result;
  for (Isa isa : compiled())
    if (supported(isa)) result.push_back(isa);
  return result;
}

Isa current() { return chosen().load(std::memory_order_relaxed); }

void use(const std::string& isa) {
  std::string known;
  for (Isa candidate : available()) {
    if (isa == name(candidate)) {
      chosen().store(candidate, std::memory_order_relaxed);
      return;
    }
    known += known.empty() ? "" : ", ";
    known += name(candidate);
  }
  throw std::invalid_argument("the instruction set '" + isa + "' is not available here; available are " + known);
}

}  // namespace hollowbone
