// Vectors of HB_LANES floats by the compiler's own vector types: the same source becomes SSE, AVX2, AVX-512 or NEON.
//
// Kernel sources are compiled once an instruction set, and a linker keeps one copy of an inline function that several of them
// define: with a standard-library template it could keep the one that needs AVX-512 and call it everywhere. So kernel sources
// include no standard header that defines inline functions, and all that they define lies in the namespace of their own
// instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HB_INLINE inline __attribute__((always_inline))

namespace hollowbone::HB_ISA {

constexpr int lanes = HB_LANES;

typedef float Floats __attribute__((vector_size(4 * HB_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * HB_LANES)));
// The same vector at any address.
typedef float Unaligned __attribute__((vector_size(4 * HB_LANES), aligned(4), may_alias));
typedef int32_t AnyInts __attribute__((vector_size(4 * HB_LANES), may_alias));

HB_INLINE Floats load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
HB_INLINE void store(float* p, Floats v) { *reinterpret_cast<Unaligned*>(p) = v; }
HB_INLINE Floats fill(float value) { return value - Floats{}; }

// 0, 1, 2, ...
alignas(64) constexpr int32_t counting[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
HB_INLINE Ints iota() { return *reinterpret_cast<const AnyInts*>(counting); }

// The first `count` lanes of v, zeros behind them.
HB_INLINE Floats keep_first(Floats v, int count) {
  const Ints keep = iota() < (count - Ints{});
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(v) & keep);
}

// The first `count` < lanes floats at p, zeros behind them; nothing behind them is read. Slow.
static __attribute__((noinline, unused)) Floats load_first(const float* p, int count) {
  Floats v{};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

// Writes the first `count` < lanes floats of v and nothing behind them.
HB_INLINE void store_first(float* p, Floats v, int count) {
  alignas(sizeof(Floats)) float all[lanes];
  *reinterpret_cast<Floats*>(all) = v;
  const float* from = all;
#pragma GCC unroll 4
  for (int piece = lanes / 2; piece > 0; piece /= 2)
    if (count & piece) {
      __builtin_memcpy(p, from, sizeof(float) * piece);
      p += piece;
      from += piece;
    }
}

// The same vector, in a register from here on: GCC would otherwise repeat the load in every multiply-add that uses it.
HB_INLINE Floats in_register(Floats v) {
#if defined(__x86_64__)
  __asm__("" : "+v"(v));
#elif defined(__aarch64__)
  __asm__("" : "+w"(v));
#endif
  return v;
}

// Every second float of a followed by b: those at 0, 2, 4, ... and those at 1, 3, 5, ...
#if defined(__clang__)
#if HB_LANES == 4
HB_INLINE Floats evens(Floats a, Floats b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
HB_INLINE Floats odds(Floats a, Floats b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#elif HB_LANES == 8
HB_INLINE Floats evens(Floats a, Floats b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
HB_INLINE Floats odds(Floats a, Floats b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#elif HB_LANES == 16
HB_INLINE Floats evens(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
HB_INLINE Floats odds(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#endif
#else
HB_INLINE Floats evens(Floats a, Floats b) { return __builtin_shuffle(a, b, 2 * iota()); }
HB_INLINE Floats odds(Floats a, Floats b) { return __builtin_shuffle(a, b, 2 * iota() + 1); }
#endif

// min(max(v, low), high) that keeps a NaN, as torch's clamp does.
HB_INLINE Floats clamp(Floats v, Floats low, Floats high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

}  // namespace hollowbone::HB_ISA
