// The Python module `hollowbone.ops._native`: checks every buffer, then calls the kernels without the interpreter lock.
// What a caller can get wrong is a ValueError; behind these checks no argument leads outside a buffer.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

#include "depthwise/depthwise.h"
#include "isa.h"

namespace nb = nanobind;

namespace {

using Input = nb::ndarray<nb::ro>;
using Output = nb::ndarray<>;

std::string shape_of(const nb::ndarray<nb::ro>& a) {
  std::string text = "(";
  for (size_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
  return text + ")";
}

[[noreturn]] void refuse(const std::string& sentence) { throw nb::value_error(sentence.c_str()); }

// Whether the elements lie in row-major order without gaps; the stride of an axis of one element does not matter.
template <class Array>
bool contiguous(const Array& a) {
  int64_t expected = 1;
  for (size_t i = a.ndim(); i-- > 0;) {
    if (a.size() > 0 && a.shape(i) != 1 && a.stride(i) != expected) return false;
    expected *= static_cast<int64_t>(a.shape(i));
  }
  return true;
}

template <class Array>
void check(const Array& a, const char* name, size_t axes) {
  const std::string argument = name;
  if (a.device_type() != nb::device::cpu::value) refuse(argument + " is not in CPU memory");
  if (a.dtype() != nb::dtype<float>()) refuse(argument + " must hold float32");
  if (a.ndim() != axes) refuse(argument + " must have " + std::to_string(axes) + " axes, not " + std::to_string(a.ndim()));
  if (!contiguous(a)) refuse(argument + " must be contiguous");
}

template <class A, class B>
bool overlap(const A& a, const B& b) {
  const auto* from_a = static_cast<const char*>(static_cast<const void*>(a.data()));
  const auto* from_b = static_cast<const char*>(static_cast<const void*>(b.data()));
  return from_a < from_b + b.nbytes() && from_b < from_a + a.nbytes();
}

void depthwise(const Input& x, const Input& weight, const std::optional<Input>& bias, const Output& y, int stride, float low,
               float high, int threads) {
  check(x, "x", 4);
  check(weight, "weight", 4);
  if (bias) check(*bias, "bias", 1);
  check(y, "y", 4);
  hollowbone::Depthwise d;
  d.batch = x.shape(0), d.channels = x.shape(1), d.height = x.shape(2), d.width = x.shape(3);
  d.kernel = static_cast<int>(weight.shape(2) < 8 ? weight.shape(2) : 0);
  d.stride = stride, d.low = low, d.high = high;
  if (d.kernel != 3 && d.kernel != 5 && d.kernel != 7) refuse("weight must be 3 x 3, 5 x 5 or 7 x 7, not " + shape_of(weight));
  if (weight.shape(0) != x.shape(1) || weight.shape(1) != 1 || weight.shape(3) != weight.shape(2))
    refuse("weight of shape " + shape_of(weight) + " does not fit x of shape " + shape_of(x) + ": (channels, 1, k, k) would do");
  if (bias && bias->shape(0) != x.shape(1)) refuse("bias of shape " + shape_of(*bias) + " does not fit x of shape " + shape_of(x));
  if (stride != 1 && stride != 2) refuse("stride must be 1 or 2, not " + std::to_string(stride));
  if (d.height < 1 || d.width < 1) refuse("x of shape " + shape_of(x) + " has no pixels");
  if (std::isnan(low) || std::isnan(high) || low > high) refuse("low and high must be numbers, and low not above high");
  if (threads < 1) refuse("threads must be at least 1, not " + std::to_string(threads));
  if (y.shape(0) != x.shape(0) || y.shape(1) != x.shape(1) || static_cast<int64_t>(y.shape(2)) != d.out_height() ||
      static_cast<int64_t>(y.shape(3)) != d.out_width())
    refuse("y of shape " + shape_of(nb::ndarray<nb::ro>(y)) + " does not fit x of shape " + shape_of(x));
  if (overlap(y, x) || overlap(y, weight) || (bias && overlap(y, *bias))) refuse("y shares memory with an input");

  const auto* px = static_cast<const float*>(x.data());
  const auto* pw = static_cast<const float*>(weight.data());
  const auto* pb = bias ? static_cast<const float*>(bias->data()) : nullptr;
  auto* py = static_cast<float*>(y.data());
  nb::gil_scoped_release unlocked;
  hollowbone::depthwise(d, px, pw, pb, py, threads);
}

std::vector<std::string> names(const std::vector<hollowbone::Isa>& isas) {
  std::vector<std::string> result;
  for (hollowbone::Isa isa : isas) result.emplace_back(hollowbone::name(isa));
  return result;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "CPU kernels of hollowbone on plain buffers; call them through hollowbone.ops.";
  m.def("compiled", [] { return names(hollowbone::compiled()); }, "Instruction sets built in, the fastest first.");
  m.def("available", [] { return names(hollowbone::available()); }, "Those that this machine runs, the fastest first.");
  m.def("isa", [] { return std::string(hollowbone::name(hollowbone::current())); }, "The one in use.");
  m.def("use", &hollowbone::use, nb::arg("isa"), "Choose one by name; ValueError if it is not available.");
  m.def("depthwise", &depthwise, nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("y"), nb::arg("stride"),
        nb::arg("low"), nb::arg("high"), nb::arg("threads"),
        "Depthwise convolution of float32 x (n, c, h, w) by weight (c, 1, k, k), padding k // 2, plus bias, clamped, into y.");
}
