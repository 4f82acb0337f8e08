"""Depthwise convolution: the native kernel beside torch and onnxruntime, on MobileNetV2's layers at 224 pixels.

    python benchmarks/depthwise.py --threads 1 --rounds 200

Each row is one layer, batch 1, float32, 3x3 with bias and ReLU6. The arms take turns call by call in one process, so that drift
falls on all alike; figures are medians, with first calls left out. torch is the faster of contiguous and channels_last,
`conv2d` and an in-place clamp; onnxruntime is a graph of Conv and Clip with bound inputs and outputs. The kernel is timed as
torch calls it (with the operator's overhead) and alone, on its buffers. Roofline: attainable time, by this machine's measured
peaks (hollowbone.measure.roofline) for bytes read and written once, over the time of the kernel alone.
The machine should be idle.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import geometric_mean, median

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import helper

from hollowbone.measure.roofline import peaks
from hollowbone.ops import depthwise_conv2d, native
from hollowbone.runtime import get_device

# Channels, side of the input, stride: the distinct depthwise layers of MobileNetV2 1.0.
LAYERS = [
    (32, 112, 1),
    (96, 112, 2),
    (144, 56, 1),
    (144, 56, 2),
    (192, 28, 1),
    (192, 28, 2),
    (384, 14, 1),
    (576, 14, 1),
    (576, 14, 2),
    (960, 7, 1),
]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    roof, facts = peaks(threads=args.threads), get_device("local").facts()
    print(f"{facts['processor']}, {native.isa()}, {args.threads} thread(s), batch 1, median of {args.rounds} interleaved calls")
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    print(f"peak {roof.gflops:.0f} GFLOP/s, main memory {roof.gbps:.0f} GB/s")
    head = ("layer", "kernel us", "torch op us", "torch us", "ort us", "over torch", "over ort", "roofline")
    print("".join(f"{title:>13}" for title in head))
    over_torch, over_ort = [], []
    for channels, side, stride in LAYERS:
        calls, macs, nbytes = arms(channels, side, stride, args.threads)
        us = {name: value * 1e6 for name, value in interleaved(calls, args.rounds).items()}
        torch_us = min(us["torch"], us["torch channels_last"])
        over_torch.append(torch_us / us["op"])
        over_ort.append(us["ort"] / us["kernel"])
        share = roof.attainable_ms(macs, nbytes) * 1e3 / us["kernel"]
        cells = [f"{channels} x {side} / {stride}", *(f"{v:.1f}" for v in (us["kernel"], us["op"], torch_us, us["ort"]))]
        cells += [f"{over_torch[-1]:.2f}", f"{over_ort[-1]:.2f}", f"{share:.0%}"]
        print("".join(f"{cell:>13}" for cell in cells), flush=True)
    print(
        f"geometric mean: operator {geometric_mean(over_torch):.2f} over torch, kernel {geometric_mean(over_ort):.2f} over ort"
    )


def arms(channels: int, side: int, stride: int, threads: int) -> tuple[dict[str, Callable[[], object]], int, int]:
    """The calls to compare by name, the layer's multiply-adds, and the bytes that it must move."""
    module = native.kernels()
    if module is None:
        raise SystemExit(f"nothing to measure: {native.status()['reason']}")
    x, weight, bias = torch.randn(1, channels, side, side), torch.randn(channels, 1, 3, 3), torch.randn(channels)
    last = x.to(memory_format=torch.channels_last)
    y = torch.empty(1, channels, -(-side // stride), -(-side // stride))
    buffers = [t.numpy() for t in (x, weight, bias, y)]
    session = onnxruntime.InferenceSession(
        conv_clip(x, weight, bias, y, stride), options(threads), providers=["CPUExecutionProvider"]
    )
    bound = session.io_binding()
    bound.bind_cpu_input("x", x.numpy())
    from_ort = torch.empty_like(y)
    bound.bind_output("y", "cpu", 0, np.float32, list(y.shape), from_ort.data_ptr())
    calls: dict[str, Callable[[], object]] = {
        "kernel": lambda: module.depthwise(*buffers, stride, 0.0, 6.0, threads),
        "op": lambda: depthwise_conv2d(x, weight, bias, stride=stride, clamp=(0, 6)),
        "torch": lambda: F.conv2d(x, weight, bias, stride, 1, 1, channels).clamp_(0, 6),
        "torch channels_last": lambda: F.conv2d(last, weight, bias, stride, 1, 1, channels).clamp_(0, 6),
        "ort": lambda: (session.run_with_iobinding(bound), from_ort),  # which must live as long as it is bound
    }
    for call in calls.values():
        call()
    expected = calls["torch"]()
    for result in (y, from_ort, calls["op"]()):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)  # all arms compute the same thing
    return calls, 9 * y.numel(), 4 * (x.numel() + y.numel() + weight.numel() + bias.numel())


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(rounds + 10):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values[10:]) for name, values in seconds.items()}


def options(threads: int) -> onnxruntime.SessionOptions:
    """onnxruntime at its best for a number of threads."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = threads, 1
    chosen.log_severity_level = 3
    return chosen


def conv_clip(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, y: torch.Tensor, stride: int) -> bytes:
    """A model of the layer alone: Conv and Clip."""
    constants = [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in (("weight", weight), ("bias", bias))]
    constants += [onnx.numpy_helper.from_array(np.array(v, np.float32), name) for name, v in (("low", 0), ("high", 6))]
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["c"], group=x.shape[1], pads=[1] * 4, strides=[stride] * 2),
        helper.make_node("Clip", ["c", "low", "high"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(t.shape)) for name, t in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "depthwise", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


if __name__ == "__main__":
    main()
