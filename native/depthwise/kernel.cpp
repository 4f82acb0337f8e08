// Depthwise convolution over vector types; compiled once an instruction set (lanes.h says what that forbids here).
//
// A plane is taken in strips of output rows. The input rows of a strip are copied into a panel that stays in the first-level
// cache, with zeros around them and, at stride 2, even and odd columns apart; so the inner loop has no borders, no masks and
// contiguous loads only. It computes a tile of `tile_rows` rows by one vector: each vector that it loads serves every
// row of the tile that has a tap on it.

#include "depthwise/depthwise.h"

#include "lanes.h"

namespace hollowbone::HB_ISA {

namespace {

constexpr int tile_rows = 4;
constexpr int64_t panel_floats = 5 << 10;
// The pitch of all panels whose rows fit in it. Known to the compiler, it leaves no address arithmetic in the inner loop; an odd
// number of cache lines, it spreads the rows over the sets of the cache.
constexpr int64_t usual_pitch = 144;

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How a strip lies in the panel: `rows` rows, and in each one row of `pitch` floats for every residue of the column modulo the
// stride ("phase"). `used` of these floats are read: a vector that ends with the left zero padding, the columns, the right one.
struct Panel {
  int64_t used, pitch, strip, rows;

  Panel(const Depthwise& d) {
    used = round_up(lanes + round_up(d.out_width(), lanes) + d.kernel, lanes);
    pitch = most(usual_pitch, used);
    const int64_t fitting = panel_floats / (d.stride * used);
    strip = most(1, ((fitting - d.kernel) / d.stride + 1) / tile_rows) * tile_rows;
    strip = least(strip, round_up(d.out_height(), tile_rows));
    rows = (strip - 1) * d.stride + d.kernel;
  }
};

// A row of the input, of which `readable` says how far memory may be read: copied into the panel, zeros behind it.
struct Row {
  const float *first, *readable;
  int64_t width;

  // Columns from c on; zeros from the row's end on.
  HB_INLINE Floats at(int64_t c) const {
    if (c + lanes <= width) return load(first + c);
    if (c >= width) return Floats{};
    const int left = static_cast<int>(width - c);
    return first + c + lanes <= readable ? keep_first(load(first + c), left) : load_first(first + c, left);
  }
};

// Where the first column of the plane lies in a row of a phase: on a vector's boundary, less the padding that comes before it.
template <int K, int S>
constexpr int lead(int phase) {
  return lanes - (K / 2 + S - 1 - phase) / S;
}

template <int K, int S>
HB_INLINE void copy_row(const Row& row, int64_t pitch, float* panel) {
  // Stores are aligned.
  if constexpr (S == 1) {
    for (int64_t c = 0; c < row.width; c += lanes) store(panel + lanes + c, row.at(c));
  } else {
    constexpr int even = K / 2 % 2, odd = 1 - even;
    for (int64_t c = 0; c < row.width; c += 2 * lanes) {
      const Floats a = row.at(c), b = row.at(c + lanes);
      store(panel + even * pitch + lanes + c / 2, evens(a, b));
      store(panel + odd * pitch + lanes + c / 2, odds(a, b));
    }
  }
}

struct Filter {
  const float *taps, *bias;
  Floats low, high;
};

// Where a tile is written: its first element, the rows and columns from there to the plane's end, and the plane's width. A vector
// that reaches beyond the row's end is cut off there, unless it ends before `writable`: what it spoils is written later.
struct Place {
  float* first;
  int64_t rows, columns, width;
  const float* writable;
};

template <int K, int S>
HB_INLINE void tile(const float* panel, int64_t pitch, const Filter& filter, const Place& place) {
  Floats sum[tile_rows];
#pragma GCC unroll 16
  for (int r = 0; r < tile_rows; ++r) sum[r] = fill(filter.bias ? *filter.bias : 0.0f);
#pragma GCC unroll 16
  for (int kx = 0; kx < K; ++kx) {
    const float* column = panel + kx % S * pitch + lead<K, S>(kx % S) + kx / S;
    Floats tap[K];
#pragma GCC unroll 16
    for (int ky = 0; ky < K; ++ky) tap[ky] = fill(filter.taps[ky * K + kx]);
#pragma GCC unroll 32
    for (int i = 0; i < (tile_rows - 1) * S + K; ++i) {
      const Floats v = in_register(load(column + i * S * pitch));
#pragma GCC unroll 16
      for (int r = 0; r < tile_rows; ++r)
        if (i - r * S >= 0 && i - r * S < K) sum[r] += tap[i - r * S] * v;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < tile_rows; ++r) {
    if (r >= place.rows) break;
    float* p = place.first + r * place.width;
    const Floats v = clamp(sum[r], filter.low, filter.high);
    if (place.columns >= lanes || p + lanes <= place.writable)
      store(p, v);
    else
      store_first(p, v, static_cast<int>(place.columns));
  }
}

// P is the panel's pitch where it is the usual one, else 0.
template <int K, int S, int P>
void run_planes(const Depthwise& d, const float* x, const float* weight, const float* bias, float* y, float* scratch,
                int64_t begin, int64_t end) {
  const Panel panel(d);
  const int64_t pitch = P ? P : panel.pitch;
  const int64_t out_height = d.out_height(), out_width = d.out_width();
  const float* const readable = x + d.batch * d.channels * d.height * d.width;
  // Where one vector covers a row, the next row is written after it, and the next plane after the last row.
  const float* const writable = out_width <= lanes ? y + end * out_height * out_width : y;
  for (int64_t i = 0; i < panel.rows * S * pitch; ++i) scratch[i] = 0.0f;

  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t channel = plane % d.channels;
    const Filter filter{weight + channel * K * K, bias ? bias + channel : nullptr, fill(d.low), fill(d.high)};
    const float* const in = x + plane * d.height * d.width;
    float* const out = y + plane * out_height * out_width;
    for (int64_t top = 0; top < out_height; top += panel.strip) {
      const int64_t rows = least(panel.strip, out_height - top);
      const int64_t needed = (round_up(rows, tile_rows) - 1) * S + K;
      float* to = scratch;
      for (int64_t i = top * S - K / 2; i < top * S - K / 2 + needed; ++i, to += S * pitch)
        if (i >= 0 && i < d.height)
          copy_row<K, S>({in + i * d.width, readable, d.width}, pitch, to);
        else if (rows < out_height)  // the rows around a plane that is one strip were zero from the start
          for (int phase = 0; phase < S; ++phase)
            for (int64_t j = 0; j < panel.used; j += lanes) store(to + phase * pitch + j, Floats{});

      for (int64_t r = 0; r < rows; r += tile_rows) {
        const float* const from = scratch + r * S * S * pitch;
        float* const to = out + (top + r) * out_width;
        for (int64_t c = 0; c < out_width; c += lanes)
          tile<K, S>(from + c, pitch, filter, {to + c, rows - r, out_width - c, out_width, writable});
      }
    }
  }
}

template <int K, int S>
void run_pitch(const Depthwise& d, const float* x, const float* weight, const float* bias, float* y, float* scratch,
               int64_t begin, int64_t end) {
  if (Panel(d).pitch == usual_pitch)
    run_planes<K, S, usual_pitch>(d, x, weight, bias, y, scratch, begin, end);
  else
    run_planes<K, S, 0>(d, x, weight, bias, y, scratch, begin, end);
}

int64_t scratch_floats(const Depthwise& d) {
  const Panel panel(d);
  return panel.rows * d.stride * panel.pitch;
}

void run(const Depthwise& d, const float* x, const float* weight, const float* bias, float* y, float* scratch, int64_t begin,
         int64_t end) {
  switch (d.kernel * 10 + d.stride) {
    case 31: return run_pitch<3, 1>(d, x, weight, bias, y, scratch, begin, end);
    case 32: return run_pitch<3, 2>(d, x, weight, bias, y, scratch, begin, end);
    case 51: return run_pitch<5, 1>(d, x, weight, bias, y, scratch, begin, end);
    case 52: return run_pitch<5, 2>(d, x, weight, bias, y, scratch, begin, end);
    case 71: return run_pitch<7, 1>(d, x, weight, bias, y, scratch, begin, end);
    case 72: return run_pitch<7, 2>(d, x, weight, bias, y, scratch, begin, end);
  }
}

}  // namespace

extern const DepthwiseKernel depthwise;
const DepthwiseKernel depthwise{scratch_floats, run};

}  // namespace hollowbone::HB_ISA
