// Depthwise convolution of planes: every channel is convolved with a K x K filter of its own, K in {3, 5, 7}, stride 1 or 2,
// zero padding K/2, then bias and clamp. All buffers are contiguous floats.
#pragma once

#include <stdint.h>

namespace hollowbone {

struct Depthwise {
  int64_t batch, channels, height, width;
  int kernel, stride;
  float low, high;  // the output is clamped to them; -infinity and infinity leave it as it is

  // Always inlined: these are compiled into the code of every instruction set (see lanes.h). Both extents are at least 1.
  __attribute__((always_inline)) int64_t out_height() const { return (height - 1) / stride + 1; }
  __attribute__((always_inline)) int64_t out_width() const { return (width - 1) / stride + 1; }
};

// x: batch, channels, height, width. weight: channels, kernel, kernel. bias: channels, or null.
// y: batch, channels, out_height, out_width; must not overlap the inputs. `threads` is the most that may run at a time; the
// result has the same bits with any number. Throws std::bad_alloc.
void depthwise(const Depthwise& shape, const float* x, const float* weight, const float* bias, float* y, int threads);

// What one instruction set offers.
struct DepthwiseKernel {
  // Floats of scratch that one thread needs.
  int64_t (*scratch)(const Depthwise& shape);
  // Planes [first, last) of the batch * channels.
  void (*run)(const Depthwise& shape, const float* x, const float* weight, const float* bias, float* y, float* scratch,
              int64_t first, int64_t last);
};

}  // namespace hollowbone
