"""The roofline of this machine: the fastest it multiplies and the fastest it moves bytes, measured once and kept.

Peak rate: the best of square matrix products of several sizes and of 3x3 convolutions on maps as networks have them. (Both,
since they come from different libraries: on an AMD processor PyTorch's matrix product reaches half the rate of its
convolution, and no layer may seem to beat the peak.) Bandwidth: the best of a copy and a triad (a + s*b), for
working sets from the first cache to main memory, since the tensors of a small layer never leave the caches; the figure
called `gbps` is that of main memory. Both at a number of threads, in float32, by PyTorch's own kernels.

The words are those of the waterline analysis: *balance* F/B is the waterline, operations for each byte below which a layer
is bound by memory; *attainable* time of a layer with o operations and b bytes is max(o/F, b/B).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hollowbone.errors import NotMeasurable
from hollowbone.files import cache_dir, write_json
from hollowbone.measure.subject import pinned_threads
from hollowbone.runtime.device import get_device

_GEMM_SIZES = (128, 256, 512, 1024)
_CONVS = ((32, 56), (64, 56), (128, 28), (256, 14))
_SETS = tuple(2**k for k in (15, 17, 19, 20, 21, 22, 23, 24, 25))
_SECONDS = 0.04
_LARGEST = 2**29


@dataclass(frozen=True)
class Peaks:
    """Peak rate in GFLOP/s (two operations a multiply-add), main-memory bandwidth in GB/s, and the threads they are of.

    `levels` are (bytes of the working set, GB/s), smallest set first, falling from the caches to main memory.
    """

    gflops: float
    gbps: float
    threads: int
    levels: tuple[tuple[int, float], ...] = ()

    @property
    def balance(self) -> float:
        """The waterline: operations for each byte from main memory at which neither limit waits for the other."""
        return self.gflops / self.gbps

    def gbps_at(self, nbytes: int) -> float:
        """Bandwidth for a working set of so many bytes: that of the smallest measured set which holds it."""
        return next((gbps for size, gbps in self.levels if nbytes <= size), self.gbps)

    def ideal_ms(self, macs: int) -> float:
        """Milliseconds at the peak rate."""
        return 2 * macs / self.gflops / 1e6

    def attainable_ms(self, macs: int, nbytes: int) -> float:
        """Milliseconds that one layer needs at least: the longer of its arithmetic and its traffic."""
        return max(self.ideal_ms(macs), nbytes / self.gbps_at(nbytes) / 1e6)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Peaks:
        """The inverse of `to_dict`."""
        levels = tuple((int(size), float(gbps)) for size, gbps in value["levels"])
        return cls(float(value["gflops"]), float(value["gbps"]), int(value["threads"]), levels)


def peaks(device: str = "local", *, threads: int = 1, fresh: bool = False) -> Peaks:
    """The peaks of this machine at a number of threads; measured in about two seconds, then read from the cache.

    The cache is `files.cache_dir()/devices/<fingerprint>.json`; `fresh` measures again. Raises `NotMeasurable` for a device
    behind a command: its runner runs exported files and no probes.
    """
    if device != "local":
        raise NotMeasurable(f"peak rate and bandwidth are measured on this machine only, not on {device}")
    path = cache_dir() / "devices" / f"{get_device(device).fingerprint()}.json"
    kept = _read(path)
    known = kept.get("peaks", {})
    if not fresh and str(threads) in known:
        try:
            return Peaks.from_dict(known[str(threads)])
        except (KeyError, TypeError, ValueError):
            pass  # written by another version: measure again
    with pinned_threads(threads):
        found = measure_peaks(threads)
    kept = _read(path)
    write_json(path, {**kept, "peaks": {**kept.get("peaks", {}), str(threads): found.to_dict()}})
    return found


def measure_peaks(threads: int) -> Peaks:
    """Measure now, at PyTorch's present number of threads (`threads` is what the result says)."""
    with torch.inference_mode():
        gflops = max(*(_gemm(n) for n in _GEMM_SIZES), *(_convolution(c, side) for c, side in _CONVS))
        largest = _main_memory_set()
        levels: list[tuple[int, float]] = [(size, _bandwidth(size)) for size in (*(s for s in _SETS if s < largest), largest)]
    for i in range(len(levels) - 2, -1, -1):  # a smaller set is never slower: what looks so is noise
        levels[i] = (levels[i][0], max(levels[i][1], levels[i + 1][1]))
    return Peaks(gflops, levels[-1][1], threads, tuple(levels))


def _gemm(n: int) -> float:
    a, b = torch.randn(n, n), torch.randn(n, n)
    out = torch.empty(n, n)
    return 2 * n**3 / _best(lambda: torch.mm(a, b, out=out)) / 1e9


def _convolution(channels: int, side: int) -> float:
    x, weight = torch.randn(1, channels, side, side), torch.randn(channels, channels, 3, 3)
    return 2 * 9 * channels**2 * side**2 / _best(lambda: torch.conv2d(x, weight, padding=1)) / 1e9


def _bandwidth(nbytes: int) -> float:
    """GB/s over a working set: bytes read and written, what the cache fetches on its own account not counted."""
    third = max(nbytes // 12, 1)
    a, b, c = torch.ones(third), torch.ones(third), torch.empty(third)
    triad = 12 * third / _best(lambda: torch.add(a, b, alpha=0.5, out=c))
    half = max(nbytes // 8, 1)
    source, target = torch.ones(half), torch.empty(half)
    return max(triad, 8 * half / _best(lambda: target.copy_(source))) / 1e9


def _best(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of many calls: a peak is what the machine can do undisturbed."""
    call()
    fastest, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end or fastest == float("inf"):
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def _main_memory_set() -> int:
    """Four times the last cache, between 64 MiB and 512 MiB."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [0]
    for index in caches.glob("index*/size"):
        text = index.read_text().strip()
        sizes.append(int(text.rstrip("KM") or 0) * {"K": 2**10, "M": 2**20}.get(text[-1:], 1))
    return min(max(4 * max(sizes), 2**26), _LARGEST)


def _read(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or broken, since all of it can be measured again."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
