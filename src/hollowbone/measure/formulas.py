"""Multiply-adds of the operators that PyTorch's flop counter does not know, or counts otherwise than we do.

`torch.utils.flop_counter` is the base: matmul, convolution (transposed ones too) and whatever a library registers for its
own operators with `register_flop_formula`; one MAC is two of its flops. It has nothing for attention on a CPU, FFTs,
recurrent layers, int8 and int4 products, matrix-vector products and bilinear forms; those are here. Its backward formulas
are replaced in two places: a grouped convolution's weight gradient (which it counts as if there were one group), and
fused attention (where it adds the recomputed scores, so that the figure depends on the kernel).

A complex multiply-add is four real ones. An FFT of length N is 5 N log2 N real operations (Cooley and Tukey's radix-2
count), half of that for real input or output, and two operations are one MAC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils.flop_counter import flop_registry

Call = Mapping[str, Any]
"""Arguments of one operator call by the names in its schema; defaults that were not given are absent."""

Formula = Callable[[Call, Any], int]

_DENSE = (torch.strided, torch._mkldnn)  # type: ignore[attr-defined]


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of an operator's result."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)):
        return next((t for t in value if isinstance(t, Tensor)), None)
    return None


def _numel(out: Any) -> int:
    tensor = first_tensor(out)
    return 0 if tensor is None else tensor.numel()


def _times_inner(name: str) -> Formula:
    """Output elements times the length of the last axis of the argument `name`: every kind of matrix product."""
    return lambda call, out: _numel(out) * call[name].shape[-1]


def _attention(call: Call, out: Any) -> int:
    """Scores (Lq x Lk x D) and their product with the values (Lq x Lk x Dv), heads of the query."""
    query, key, value = call["query"], call["key"], call["value"]
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(call: Call, out: Any) -> int:
    """Two products for each of the two forward; scores that a kernel recomputes are not counted."""
    return 2 * _attention(call, out)


def _convolution_backward(call: Call, out: Any) -> int:
    """As many as forward for the gradient of the input, and as many again for that of the weight."""
    grad, weight = call["grad_output"], call["weight"]
    positions = call["input"] if call["transposed"] else grad
    forward = positions.shape[0] * positions.shape[2:].numel() * weight.numel()
    return forward * sum(bool(wanted) for wanted in call["output_mask"][:2])


def _fft(call: Call, real: Tensor, lengths: tuple[int, ...], half: bool) -> int:
    n = math.prod(lengths)
    return round((1.25 if half else 2.5) * real.numel() * math.log2(n)) if n > 1 else 0


def _fft_r2c(call: Call, out: Any) -> int:
    x = call["self"]
    return _fft(call, x, tuple(x.shape[d] for d in call["dim"]), half=True)


def _fft_c2r(call: Call, out: Any) -> int:
    return _fft(call, out, tuple(out.shape[d] for d in call["dim"]), half=True)


def _fft_c2c(call: Call, out: Any) -> int:
    return _fft(call, out, tuple(out.shape[d] for d in call["dim"]), half=False)


def _rnn_layer(call: Call, out: Any) -> int:
    """oneDNN's single layer and direction: both weight matrices once for each step of each sequence."""
    return call["input"].shape[:-1].numel() * (call["weight0"].numel() + call["weight1"].numel())


def _rnn_layer_backward(call: Call, out: Any) -> int:
    return 2 * call["input"].shape[:-1].numel() * (call["weight1"].numel() + call["weight2"].numel())


def _cudnn_rnn(call: Call, out: Any) -> int:
    """All layers and directions: every matrix (not the bias vectors) once for each step of each sequence."""
    return call["input"].shape[:-1].numel() * sum(w.numel() for w in call["weight"] if w.dim() == 2)


def _quantized_rnn(gates: int) -> Formula:
    def formula(call: Call, out: Any) -> int:
        x = call["data"] if "data" in call else call["input"]
        state = call["hx"][0] if isinstance(call["hx"], (tuple, list)) else call["hx"]
        hidden, directions = state.shape[-1], 2 if call["bidirectional"] else 1
        inner = (call["num_layers"] - 1) * (directions * hidden + hidden)
        return x.shape[:-1].numel() * directions * gates * hidden * (x.shape[-1] + hidden + inner)

    return formula


def _quantized_cell(gates: int) -> Formula:
    def formula(call: Call, out: Any) -> int:
        x, state = call["input"], first_tensor(call["hx"])
        assert state is not None
        return x.shape[:-1].numel() * gates * state.shape[-1] * (x.shape[-1] + state.shape[-1])

    return formula


def _quantized_convolution(call: Call, out: Any) -> int:
    packed = call["packed_weight"] if "packed_weight" in call else call["weight"]
    weight = packed.weight()
    if packed.transpose():
        x = call["qx"] if "qx" in call else call["x"]
        return x.shape[0] * x.shape[2:].numel() * weight.numel()
    return _numel(out) * weight[0].numel()


def _trilinear(call: Call, out: Any) -> int:
    """Sum over `sumdim` of i1 * i2 * i3, each expanded: one multiply-add an element of the full product."""
    full: tuple[int, ...] = ()
    for name in ("1", "2", "3"):
        x = call[f"i{name}"]
        for axis in call[f"expand{name}"]:
            x = x.unsqueeze(axis)
        full = tuple(torch.broadcast_shapes(full, x.shape))
    return math.prod(full)


_SDPA = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention", "fused_attention_overrideable")

FORMULAS: dict[str, Formula] = {
    **{f"aten._scaled_dot_product_{kernel}": _attention for kernel in _SDPA},
    **{f"aten._scaled_dot_product_{kernel}_backward": _attention_backward for kernel in _SDPA},
    "aten.convolution_backward": _convolution_backward,
    "aten._fft_r2c": _fft_r2c,
    "aten._fft_c2r": _fft_c2r,
    "aten._fft_c2c": _fft_c2c,
    "aten.mkldnn_rnn_layer": _rnn_layer,
    "aten.mkldnn_rnn_layer_backward": _rnn_layer_backward,
    "aten._cudnn_rnn": _cudnn_rnn,
    "aten._cudnn_rnn_backward": lambda call, out: 2 * _cudnn_rnn(call, out),
    "aten.quantized_lstm": _quantized_rnn(4),
    "aten.quantized_gru": _quantized_rnn(3),
    "quantized.quantized_lstm_cell_dynamic": _quantized_cell(4),
    "quantized.quantized_gru_cell_dynamic": _quantized_cell(3),
    "quantized.quantized_rnn_relu_cell_dynamic": _quantized_cell(1),
    "quantized.quantized_rnn_tanh_cell_dynamic": _quantized_cell(1),
    "aten.linear": _times_inner("input"),
    "aten.mkldnn_linear": _times_inner("self"),
    "aten._addmm_activation": _times_inner("mat1"),
    "aten.mv": _times_inner("self"),
    "aten.mkldnn_convolution": lambda call, out: _numel(out) * call["weight"].numel() // out.shape[1],
    "aten.addmv": _times_inner("mat"),
    "aten.dot": lambda call, out: call["self"].numel(),
    "aten.vdot": lambda call, out: call["self"].numel(),
    "aten.addr": lambda call, out: _numel(out),
    "aten.addbmm": lambda call, out: call["batch1"].numel() * call["batch2"].shape[-1],
    "aten._trilinear": _trilinear,
    "aten.conv_tbc": lambda call, out: _numel(out) * call["weight"].shape[:2].numel(),
    "aten._int_mm": _times_inner("self"),
    "aten._weight_int8pack_mm": _times_inner("self"),
    "aten._weight_int4pack_mm": _times_inner("self"),
    "aten._weight_int4pack_mm_for_cpu": _times_inner("self"),
    "aten._dyn_quant_matmul_4bit": _times_inner("inp"),
    **{
        f"quantized.linear{kind}": _times_inner("X")
        for kind in ("", "_relu", "_dynamic", "_relu_dynamic", "_dynamic_fp16", "_relu_dynamic_fp16")
    },
    **{f"quantized.conv{n}d{kind}": _quantized_convolution for n in (1, 2, 3) for kind in ("", "_relu", "_dynamic")},
    **{f"quantized.conv_transpose{n}d{kind}": _quantized_convolution for n in (1, 2, 3) for kind in ("", "_dynamic")},
}
"""Our formulas by operator; they go before those of `flop_registry`."""


def _known(func: OpOverload) -> Formula | OpOverloadPacket | None:
    """Our formula, or the packet whose formula is in torch's registry; `addmm_` counts as `addmm`."""
    packet = func.overloadpacket
    if (ours := FORMULAS.get(str(packet)) or FORMULAS.get(str(packet).removesuffix("_"))) is not None:
        return ours
    if packet not in flop_registry and func.namespace == "aten" and packet.__name__.endswith("_"):
        packet = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet)
    return packet if packet in flop_registry else None


def has_formula(func: OpOverload) -> bool:
    """Whether `macs_of` knows the operator."""
    return _known(func) is not None


def macs_of(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """Real multiply-adds of one operator call that returned `out`; None where there is no formula.

    Sparse operands have no formula: a dense count would be wrong for them.
    """
    known = _known(func)
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if known is None or any(t.layout not in _DENSE for t in tensors):
        return None
    if isinstance(known, OpOverloadPacket):
        count = flop_registry[known](*args, **kwargs, out_val=out) // 2
    else:
        names = (argument.name for argument in func._schema.arguments)
        count = known(dict(zip(names, args, strict=False)) | kwargs, out)
    is_fft = func.overloadpacket.__name__.startswith("_fft_")
    return 4 * count if not is_fft and any(t.is_complex() for t in tensors) else count
