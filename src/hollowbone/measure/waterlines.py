"""The waterline of a network: for every layer, what the machine could do and what it did.

Per layer i with o_i operations (two a multiply-add) and b_i bytes (each input, weight and output once): *ideal* time o_i/F,
*attainable* time max(o_i/F, b_i/B), measured time. Of a sequence of layers the sums count: the bound
E_max = sum(ideal)/sum(attainable), which is not the roofline of the totals, and the computational efficiency
E = sum(ideal)/sum(measured). A layer whose intensity o_i/b_i lies below the machine's balance is *below the waterline*,
bound by memory.

A layer is a module with work of its own; work that a module does between its children (a residual addition, attention
written out) is in the module's own row. PyTorch's eager execution is what is timed, so that every layer can be: fold and
fuse first what would be folded where it ships.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from hollowbone.errors import NotMeasurable
from hollowbone.measure.counters import ROOT, count
from hollowbone.measure.roofline import Peaks, peaks
from hollowbone.measure.subject import call_of, home, pinned_threads


@dataclass(frozen=True)
class LayerRow:
    """One layer; times in milliseconds. `balance` is the machine's waterline in operations a byte."""

    name: str
    type: str
    macs: int
    elementwise: int
    bytes: int
    ideal_ms: float
    attainable_ms: float
    measured_ms: float
    balance: float

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return 2 * self.macs / self.bytes if self.bytes else 0.0

    @property
    def memory_bound(self) -> bool:
        """Whether the layer lies below the waterline."""
        return self.intensity < self.balance

    @property
    def share(self) -> float:
        """Share of the roofline reached: attainable over measured time, at most 1."""
        return min(1.0, self.attainable_ms / self.measured_ms) if self.measured_ms > 0 else 1.0

    @property
    def lost_ms(self) -> float:
        """Milliseconds above the attainable."""
        return max(0.0, self.measured_ms - self.attainable_ms)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the derived ones too."""
        derived = {"intensity": self.intensity, "memory_bound": self.memory_bound, "share": self.share, "lost_ms": self.lost_ms}
        return {**asdict(self), **derived}


def sequence_bound(rows: Sequence[LayerRow]) -> float:
    """E_max: the computational efficiency that the machine allows this sequence of layers."""
    return sum(r.ideal_ms for r in rows) / max(sum(r.attainable_ms for r in rows), 1e-12)


def efficiency(rows: Sequence[LayerRow]) -> float:
    """E: the computational efficiency measured, ideal over measured time."""
    return sum(r.ideal_ms for r in rows) / max(sum(r.measured_ms for r in rows), 1e-12)


def waterline(
    model: nn.Module, example: Any, threads: int = 1, *, entry: str = "forward", runs: int = 15, machine: Peaks | None = None
) -> list[LayerRow]:
    """The rows of all layers in the order in which they run: counted once, timed `runs` times, the median of each.

    `machine` are the peaks to hold them against, else this machine's. Raises `NotMeasurable` for a model that is not on
    the processor.
    """
    if home(model).type != "cpu":
        raise NotMeasurable(f"layers are timed on the processor, and the model is on {home(model)}")
    machine = machine or peaks(threads=threads)
    counts = count(model, example, entry=entry)
    with pinned_threads(threads):
        times = _own_times(model, example, entry, runs)
    rows = []
    for row in counts.by_module:
        moved = row.bytes + row.other_bytes
        if moved == 0:
            continue
        rows.append(
            LayerRow(
                name=row.name,
                type=row.type,
                macs=row.macs,
                elementwise=row.elementwise,
                bytes=moved,
                ideal_ms=machine.ideal_ms(row.macs),
                attainable_ms=machine.attainable_ms(row.macs, moved),
                measured_ms=times.get(row.name, 0.0),
                balance=machine.balance,
            )
        )
    return rows


def _own_times(model: nn.Module, example: Any, entry: str, runs: int) -> dict[str, float]:
    """Median milliseconds of each module's own work: its call without those of its children."""
    names = {module: name or ROOT for name, module in model.named_modules()}
    own: dict[str, float] = {}
    stack: list[list[float]] = []  # [start, seconds inside children]
    clock = time.perf_counter

    def enter(module: nn.Module, args: Any) -> None:
        stack.append([clock(), 0.0])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        end = clock()
        start, inside = stack.pop()
        own[names[module]] = own.get(names[module], 0.0) + (end - start) - inside
        if stack:
            stack[-1][1] += clock() - start

    samples: dict[str, list[float]] = {}
    handles: list[Any] = []
    with call_of(model, example, entry=entry) as run:
        try:
            for _ in range(2):
                run()
            for module in model.modules():
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(leave, prepend=True))
            with torch.inference_mode():
                for _ in range(runs):
                    own.clear()
                    begin = clock()
                    stack.append([begin, 0.0])
                    run()
                    if entry != "forward":  # the model's own call is not among the hooked ones
                        own[ROOT] = own.get(ROOT, 0.0) + (clock() - begin) - stack[-1][1]
                    stack.clear()
                    for name, seconds in own.items():
                        samples.setdefault(name, []).append(seconds)
        finally:
            for handle in handles:
                handle.remove()
    return {name: 1e3 * max(0.0, median(values)) for name, values in samples.items()}
