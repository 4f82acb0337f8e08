"""Energy of a call, where there is a counter: RAPL for processors (Intel and AMD, through Linux's powercap), NVML for GPUs.

A counter is read before and after a second or more of calls, and the difference is divided by their number. It covers the
whole package (and its memory, where RAPL counts that), idle power and neighbours included: measure on a quiet machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from hollowbone.runtime.base import Artifact, Device

POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """An energy counter."""

    def read(self) -> list[float]:
        """Joules so far, one figure a domain."""
        ...

    def between(self, before: list[float], after: list[float]) -> float:
        """Joules spent between two readings."""
        ...


@dataclass(frozen=True)
class Rapl:
    """Counters of processor packages and their memory: (file of microjoules, the microjoules at which it starts again)."""

    domains: tuple[tuple[Path, float], ...]

    def read(self) -> list[float]:
        """Joules so far, one figure a domain."""
        return [int(path.read_text()) / 1e6 for path, _ in self.domains]

    def between(self, before: list[float], after: list[float]) -> float:
        """Joules spent; a counter that has started again since is put right (once: they last minutes at full power)."""
        spans = (wraps / 1e6 for _, wraps in self.domains)
        return sum(b - a if b >= a else b - a + span for a, b, span in zip(before, after, spans, strict=True))


@dataclass(frozen=True)
class Nvml:
    """The counter of one NVIDIA GPU (Volta and later)."""

    handle: Any

    def read(self) -> list[float]:
        """Joules since the driver was loaded."""
        import pynvml

        return [pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3]

    def between(self, before: list[float], after: list[float]) -> float:
        """Joules spent between two readings."""
        return after[0] - before[0]


def rapl(root: Path = POWERCAP) -> Rapl | str:
    """The processor's counters, or the reason why there are none.

    Packages are `intel-rapl:N` (on AMD too); `dram` domains lie outside their package's figure and are added, `core` and
    `uncore` lie inside and are not, and the memory-mapped copies of the same counters are left out.
    """
    packages = sorted(
        p for p in root.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", p.name) and _name(p).startswith("package")
    )
    if not packages:
        return f"this machine shows no energy counter (no RAPL package under {root})"
    drams = [d for p in packages for d in sorted(root.glob(f"{p.name}:*")) if _name(d) == "dram"]
    domains = []
    for domain in [*packages, *drams]:
        counter = domain / "energy_uj"
        try:
            int(counter.read_text())
            domains.append((counter, float((domain / "max_energy_range_uj").read_text())))
        except PermissionError:
            allow = f"sudo chmod a+r {root}/intel-rapl:*/energy_uj"
            return f"the energy counter {counter} may be read by root only (to allow it: {allow})"
        except (OSError, ValueError) as error:
            return f"the energy counter {counter} cannot be read ({error})"
    return Rapl(tuple(domains))


def _name(domain: Path) -> str:
    try:
        return (domain / "name").read_text().strip()
    except OSError:
        return ""


def nvml(index: int = 0) -> Nvml | str:
    """The counter of a GPU, or the reason why there is none."""
    try:
        import pynvml
    except ImportError:
        return "a GPU's energy is read through pynvml, which is not installed"
    try:
        pynvml.nvmlInit()
        meter = Nvml(pynvml.nvmlDeviceGetHandleByIndex(index))
        meter.read()
    except pynvml.NVMLError as error:
        return f"the GPU's energy counter cannot be read ({error})"
    return meter


def energy_available(root: Path = POWERCAP) -> tuple[bool, str]:
    """Whether this machine's processor counts energy, and the reason if not (empty if it does)."""
    meter = rapl(root)
    return (False, meter) if isinstance(meter, str) else (True, "")


def joules(call: Callable[[], Any], meter: Meter, *, seconds: float = 1.0, min_runs: int = 5) -> float:
    """Joules of one call: the counter's difference over at least `seconds` and `min_runs` of calls, divided by their number."""
    call()
    runs = 0
    before, start = meter.read(), time.perf_counter()
    while runs < min_runs or time.perf_counter() - start < seconds:
        call()
        runs += 1
    return meter.between(before, meter.read()) / runs


def measure_energy(
    device: Device, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1, root: Path = POWERCAP
) -> tuple[float | None, str]:
    """Joules of one run of an exported file, or None and the reason."""
    if device.name != "local":
        return None, f"energy is read on this machine only, not on {device.name}"
    meter = rapl(root)
    if isinstance(meter, str):
        return None, meter
    from hollowbone.runtime.session import LocalSession

    return joules(LocalSession(artifact, threads).bind(inputs), meter), ""
