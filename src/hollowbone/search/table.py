"""The latency look-up table: what one building block adds to a network, on the device that will run it.

A block timed alone says little about what it costs inside a network: a session has its own overhead, and layouts are
changed at its ends. So an entry here is always a *difference in context*. A block that keeps its shape is timed as
(n + 2 copies minus n) / 2 in one exported chain; a block that changes it as a chain with it against a chain without it,
neighbours counted off. The two chains of a difference are timed interleaved, so that drift of the clock falls on both.
What the sum still misses (start of a session, fusions across blocks) is fitted on whole networks: an offset and a scale.
The table itself is EfficientFormer's (Li et al. 2022, arXiv 2206.01191, section 4.2); differences in context are ours.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from hollowbone import files
from hollowbone.errors import UserError, unknown
from hollowbone.models.fold import fold
from hollowbone.runtime.base import Device, Example, Timing
from hollowbone.search.base import BlockSpec, Config, Space, canonical

VERSION = 1
FORMATS = {"onnxruntime": "onnx", "executorch": "executorch"}
"""The file of `hollowbone.runtime` that exports for a runtime."""
CLOCK = {"warmup_seconds": 0.02, "min_seconds": 0.03, "max_seconds": 0.25}
"""How long each chain of a difference is timed: a table has some seventy entries, and they must not take a minute."""
CALM, RETRIES = 0.04, 1
"""A timing is repeated when the interval of its median is wider than this share of it."""
WHOLE = "network"
"""The kind of a block that is a network of its own: timed alone, in no context."""
COPIES = 1
"""n of (n + 2 copies minus n): one copy stays as the context of the other two."""

Record = Callable[[str, Callable[[], Any]], Any]
"""`record(key, measure)`: the value of that name, measured now or taken from a journal."""


def measure_now(key: str, measure: Callable[[], Any]) -> Any:
    """The `Record` that remembers nothing."""
    return measure()


class Timer(Protocol):
    """Times modules on the device: milliseconds, medians."""

    def pair(self, a: nn.Module, b: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
        """Both, interleaved."""
        ...

    def one(self, module: nn.Module, shape: tuple[int, ...]) -> float:
        """One alone."""
        ...


@dataclass(frozen=True)
class ExportTimer:
    """Times what would ship: folded (`models.fold`), exported, run in the runtime on the device."""

    device: Device
    runtime: str = "onnxruntime"
    threads: int = 1

    def pair(self, a: nn.Module, b: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
        """Milliseconds of both, interleaved in one process."""
        with TemporaryDirectory(prefix="hollowbone-table-") as folder:
            first, second = (self._export(m, shape, Path(folder) / name) for m, name in ((a, "a"), (b, "b")))
            a_timing, b_timing = self._calmest(
                lambda: self.device.time_pair(first, second, [_picture(shape)], threads=self.threads, clock=CLOCK)
            )
        return a_timing.median_ms, b_timing.median_ms

    def one(self, module: nn.Module, shape: tuple[int, ...]) -> float:
        """Milliseconds of one module."""
        with TemporaryDirectory(prefix="hollowbone-table-") as folder:
            artifact = self._export(module, shape, Path(folder) / "a")
            (timing,) = self._calmest(
                lambda: (self.device.time(artifact, [_picture(shape)], threads=self.threads, clock=CLOCK),)
            )
        return timing.median_ms

    def _calmest(self, measure: Callable[[], tuple[Timing, ...]]) -> tuple[Timing, ...]:
        """Measure again (at most `RETRIES` times) while another program disturbs; what it adds only ever slows."""
        tries = []
        gc.freeze()  # the clock collects garbage before it starts: a tenth of a second over all that torch has loaded
        try:
            for _ in range(1 + RETRIES):
                tries.append(measure())
                if all(t.high_ms - t.low_ms <= CALM * t.median_ms for t in tries[-1]):
                    break
        finally:
            gc.unfreeze()
        return min(tries, key=lambda timings: sum(t.median_ms for t in timings))

    def _export(self, module: nn.Module, shape: tuple[int, ...], path: Path) -> Any:
        name = FORMATS[self.runtime]
        exporter = import_module(f"hollowbone.runtime.{name}")
        suffix = {"onnx": ".onnx", "executorch": ".pte"}[name]
        options = {"fast": True} if name == "onnx" else {}
        example = Example(args=(torch.from_numpy(_picture(shape)),))
        return exporter.export(fold(module), example, path.with_suffix(suffix), **options)


@dataclass(frozen=True)
class Offset:
    """What is added to a sum of entries: `fixed_ms + scale * sum`, fitted on `networks` whole networks."""

    fixed_ms: float = 0.0
    scale: float = 1.0
    networks: int = 0


class TimedSpace(Space, Protocol):
    """A `Space` that also says how its blocks are put into context."""

    def context(self, spec: BlockSpec) -> tuple[BlockSpec | None, BlockSpec | None]:
        """Shape-keeping blocks that may stand before and after a shape-changing one; None at the network's ends."""
        ...

    def interpolation(self, spec: BlockSpec) -> Sequence[tuple[float, BlockSpec]]:
        """The measured blocks, with weights, of which this block's time is the weighted sum."""
        ...


class LatencyTable:
    """Predicted milliseconds of a space's networks on one device, measured on demand (a `search.base.Table`).

    `record` is asked for every measurement before it is used (`fit` passes its journal's `clock`); with `cache`, what was
    measured is kept under the cache folder by device fingerprint, runtime and threads. Raises `UserError` for a runtime
    that hollowbone cannot time.
    """

    def __init__(
        self,
        space: TimedSpace,
        device: Device,
        *,
        runtime: str = "onnxruntime",
        threads: int = 1,
        cache: bool = True,
        record: Record = measure_now,
        timer: Timer | None = None,
    ) -> None:
        if runtime not in FORMATS:
            raise unknown("runtime", runtime, FORMATS)
        if threads < 1:
            raise UserError(f"threads must be 1 or more, not {threads}")
        self.space = space
        self.device = device
        self.record = record
        self.offset = Offset()
        self._timer = timer or ExportTimer(device, runtime, threads)
        self._entries: dict[str, float] = {}
        self._cache = _Cache(_cache_path(device, space, runtime, threads)) if cache else None

    def latency(self, blocks: Iterable[BlockSpec]) -> float:
        """Milliseconds of a network made of these blocks: the offset, and the scaled sum of their entries."""
        return self.offset.fixed_ms + self.offset.scale * sum(spec.count * self.block(spec) for spec in blocks)

    def block(self, spec: BlockSpec) -> float:
        """Milliseconds that one copy of the block adds to a network, interpolated where the space says so."""
        return sum(weight * self.entry(measured) for weight, measured in self.space.interpolation(spec))

    def entry(self, spec: BlockSpec) -> float:
        """Milliseconds of a block measured in context, never interpolated."""
        return self._lookup(spec.key, lambda: self._measure(spec))

    def network(self, config: Config) -> float:
        """Milliseconds of a whole freshly built network, measured."""
        shape = (1, config["in_chans"], config["resolution"], config["resolution"])
        return self._lookup("network" + canonical(config), lambda: self._timer.one(self.space.build(config), shape))

    def calibrate(self, configs: Sequence[Config]) -> Offset:
        """Fit the offset on whole networks (three or more), which must not be those on which the table is judged.

        Least absolute relative errors, so that one disturbed measurement does not bend it; a scale outside of 0.7-1.4 would
        mean wrong entries and is not used.
        """
        if len(configs) < 3:
            raise ValueError("an offset and a scale need three networks or more")
        self.offset = Offset()
        sums = np.array([self.space.latency(config, self) for config in configs])
        measured = np.array([self.network(config) for config in configs])
        slope, fixed = _least_absolute(sums, measured)
        if not 0.7 <= slope <= 1.4:
            slope, fixed = 1.0, float(np.median(measured - sums))
        self.offset = Offset(float(fixed), float(slope), len(configs))
        return self.offset

    def entries(self) -> dict[str, Any]:
        """Everything measured or loaded so far, as JSON values."""
        return {"version": VERSION, "entries": dict(sorted(self._entries.items())), "offset": asdict(self.offset)}

    def load_entries(self, value: Mapping[str, Any]) -> None:
        """The inverse of `entries`; what is loaded is not measured again."""
        if value.get("version") != VERSION:
            raise UserError(f"this table has version {value.get('version')}; version {VERSION} can be read")
        self._entries.update(value["entries"])
        self.offset = Offset(**value["offset"])

    def _lookup(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self._entries:
            self._entries[key] = float(self.record(f"table:{self.space.name}:{key}", lambda: self._cached(key, measure)))
        return self._entries[key]

    def _cached(self, key: str, measure: Callable[[], float]) -> float:
        if self._cache is None:
            return measure()
        if key not in self._cache.values:
            self._cache.add(key, measure())
        return self._cache.values[key]

    def _measure(self, spec: BlockSpec) -> float:
        """One entry, as a difference in context."""
        if spec.kind == WHOLE:
            return self._timer.one(*self.space.block(spec))
        before, after = self.space.context(spec)
        if before is None and after is None:
            short, long = self._pair([spec] * COPIES, [spec] * (COPIES + 2))
            return max((long - short) / 2, 1e-5)  # noise must not make a block free
        if before is None:
            # The first block of a network: nothing with the same input can stand for "without", so its successor is
            # counted off instead. What a session costs by itself is thereby part of this entry.
            assert after is not None
            short, long = self._pair([spec, after], [spec, after, after])
            return 2 * short - long
        chain = [before, spec] + ([after] if after else [])
        with_it, without = self._pair(chain, [before, before])
        return with_it - without + self.entry(before) - (self.entry(after) if after else 0.0)

    def _pair(self, a: Sequence[BlockSpec], b: Sequence[BlockSpec]) -> tuple[float, float]:
        shape = self.space.block(a[0])[1]
        first, second = (nn.Sequential(*(self.space.block(spec)[0] for spec in chain)) for chain in (a, b))
        return self._timer.pair(first, second, shape)


class _Cache:
    """Measured values in one JSON file, merged with what other runs wrote meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = self._read()

    def add(self, key: str, value: float) -> None:
        self.values = {**self._read(), **self.values, key: value}
        files.write_json(self.path, {"version": VERSION, "entries": dict(sorted(self.values.items()))})

    def _read(self) -> dict[str, float]:
        """What the file holds; a file that is torn or of another version is measured anew."""
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(value["entries"]) if value["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _least_absolute(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept that minimise the sum of |y - slope x - intercept| / y, by reweighted least squares."""
    weights = 1 / y
    for _ in range(30):
        slope, intercept = np.polyfit(x, y, 1, w=weights)
        weights = 1 / y / np.sqrt(np.maximum(np.abs(y - slope * x - intercept) / y, 1e-3))
    return float(slope), float(intercept)


def _cache_path(device: Device, space: Space, runtime: str, threads: int) -> Path:
    return files.cache_dir() / "tables" / device.fingerprint() / f"{space.name}-{runtime}-{threads}t.json"


def _picture(shape: tuple[int, ...]) -> np.ndarray:
    """The same random input for every timing of a shape."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
