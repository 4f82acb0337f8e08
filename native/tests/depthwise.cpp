// Every instruction set that this machine runs, against a naive loop in double precision, on many odd shapes. Inputs are
// deterministic; input and output lie in buffers of exactly their size, so that a sanitizer sees the first byte out of place.
//
//   depthwise_test            check, print a line an instruction set, exit 1 at the first difference
//   depthwise_test --time     time the depthwise layers of MobileNetV2 at 224 pixels instead

#include "depthwise/depthwise.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "isa.h"

using namespace hollowbone;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Marsaglia's xorshift, scaled to [-1, 1).
struct Noise {
  uint64_t state = 0x9E3779B97F4A7C15;
  float operator()() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<float>(static_cast<int64_t>(state) >> 40) / 8388608.0f;
  }
};

// A heap block without spare bytes, which std::vector does not promise.
struct Buffer {
  explicit Buffer(int64_t count) : size(count), data(new float[count]) {}
  Buffer(int64_t count, Noise& noise) : Buffer(count) {
    std::generate_n(data.get(), size, [&] { return noise(); });
  }
  int64_t size;
  std::unique_ptr<float[]> data;
};

struct Case {
  Depthwise shape;
  Buffer x, weight, bias, y;
  Case(const Depthwise& d, Noise& noise)
      : shape(d), x(d.batch * d.channels * d.height * d.width, noise), weight(d.channels * d.kernel * d.kernel, noise),
        bias(d.channels, noise), y(d.batch * d.channels * d.out_height() * d.out_width()) {}
  void run(bool with_bias, int threads) {
    std::fill_n(y.data.get(), y.size, std::nanf(""));
    depthwise(shape, x.data.get(), weight.data.get(), with_bias ? bias.data.get() : nullptr, y.data.get(), threads);
  }
};

double naive(const Case& c, bool with_bias, int64_t plane, int64_t row, int64_t column) {
  const Depthwise& d = c.shape;
  const int64_t channel = plane % d.channels;
  double sum = with_bias ? c.bias.data[channel] : 0.0;
  for (int ky = 0; ky < d.kernel; ++ky)
    for (int kx = 0; kx < d.kernel; ++kx) {
      const int64_t i = row * d.stride + ky - d.kernel / 2, j = column * d.stride + kx - d.kernel / 2;
      if (i < 0 || i >= d.height || j < 0 || j >= d.width) continue;
      sum += 1.0 * c.weight.data[(channel * d.kernel + ky) * d.kernel + kx] * c.x.data[(plane * d.height + i) * d.width + j];
    }
  return std::min<double>(std::max<double>(sum, d.low), d.high);
}

bool equal_to_naive(Case& c, bool with_bias, int threads) {
  const Depthwise& d = c.shape;
  c.run(with_bias, threads);
  const float* y = c.y.data.get();
  for (int64_t plane = 0; plane < d.batch * d.channels; ++plane)
    for (int64_t row = 0; row < d.out_height(); ++row)
      for (int64_t column = 0; column < d.out_width(); ++column, ++y) {
        const double expected = naive(c, with_bias, plane, row, column);
        if (std::fabs(*y - expected) <= 1e-5) continue;  // a NaN fails this
        std::printf("%s: %lld x %lld x %lld x %lld, kernel %d, stride %d, threads %d: y[%lld, %lld, %lld] is %g, not %g\n",
                    name(current()), (long long)d.batch, (long long)d.channels, (long long)d.height, (long long)d.width, d.kernel,
                    d.stride, threads, (long long)plane, (long long)row, (long long)column, *y, expected);
        return false;
      }
  return true;
}

bool same_bits(Case& c) {
  c.run(true, 1);
  const std::vector<float> one(c.y.data.get(), c.y.data.get() + c.y.size);
  for (int threads : {2, 3, 8}) {
    c.run(true, threads);
    if (std::memcmp(one.data(), c.y.data.get(), sizeof(float) * one.size()) == 0) continue;
    std::printf("%s: %d threads change the bits\n", name(current()), threads);
    return false;
  }
  return true;
}

bool keeps_nan() {
  Noise noise;
  Case c({1, 1, 5, 5, 3, 1, 0.0f, 6.0f}, noise);
  c.x.data[12] = std::nanf("");
  c.run(true, 1);
  for (int row = 0; row < 5; ++row)
    for (int column = 0; column < 5; ++column) {
      const bool touched = row >= 1 && row <= 3 && column >= 1 && column <= 3;
      if (std::isnan(c.y.data[row * 5 + column]) != touched) {
        std::printf("%s: a NaN in the middle of 5 x 5 is wrong at %d, %d\n", name(current()), row, column);
        return false;
      }
    }
  return true;
}

int check() {
  const int64_t extents[][2] = {{1, 1}, {1, 7}, {2, 3}, {3, 2}, {7, 7}, {8, 16}, {14, 15}, {17, 31}, {5, 33}, {49, 50}, {3, 130}};
  for (Isa isa : available()) {
    use(name(isa));
    Noise noise;
    int cases = 0;
    for (int kernel : {3, 5, 7})
      for (int stride : {1, 2})
        for (const auto& extent : extents)
          for (int64_t planes : {1, 3}) {
            const bool odd = cases % 2;
            Case c({cases % 3 == 0 ? 2 : 1, planes, extent[0], extent[1], kernel, stride, odd ? -infinity : 0.0f,
                    odd ? infinity : 1.5f}, noise);
            if (!equal_to_naive(c, cases % 5 < 3, 1 + cases % 2)) return 1;
            ++cases;
          }
    Case large({1, 37, 56, 56, 3, 1, -infinity, infinity}, noise);  // enough work for several threads
    if (!equal_to_naive(large, true, 3) || !same_bits(large) || !keeps_nan()) return 1;
    Case empty({0, 5, 7, 7, 3, 1, -infinity, infinity}, noise);
    empty.run(true, 2);
    std::printf("%s: %d shapes equal the naive loop\n", name(isa), cases + 1);
  }
  return 0;
}

int time() {
  const int64_t layers[][3] = {{32, 112, 1}, {96, 112, 2}, {144, 56, 1}, {144, 56, 2}, {192, 28, 1},
                               {192, 28, 2}, {384, 14, 1}, {576, 14, 1}, {576, 14, 2}, {960, 7, 1}};
  for (Isa isa : available()) {
    use(name(isa));
    for (const auto& layer : layers) {
      Noise noise;
      Case c({1, layer[0], layer[1], layer[1], 3, static_cast<int>(layer[2]), 0.0f, 6.0f}, noise);
      std::vector<double> seconds;
      for (int i = 0; i < 200; ++i) {
        const auto start = std::chrono::steady_clock::now();
        depthwise(c.shape, c.x.data.get(), c.weight.data.get(), c.bias.data.get(), c.y.data.get(), 1);
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      }
      std::nth_element(seconds.begin(), seconds.begin() + 100, seconds.end());
      const double median = seconds[100];
      std::printf("%-9s %4lld x %3lld stride %lld  %7.1f us  %6.1f GFLOP/s  %6.1f GB/s\n", name(isa), (long long)layer[0],
                  (long long)layer[1], (long long)layer[2], median * 1e6, 18e-9 * c.y.size / median,
                  4e-9 * (c.x.size + c.y.size) / median);
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) { return count > 1 && !std::strcmp(arguments[1], "--time") ? time() : check(); }
