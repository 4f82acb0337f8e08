"""The contracts of the runtime layer: what is exported (`Artifact`), from what (`Example`), and where it runs (`Device`).

A format is one file of this package (`onnx.py`, `executorch.py`, `coreml.py`, `torch_export.py`) with the functions
`export(model, example, path) -> Artifact` and `load(artifact, threads) -> Session`. A `Timing` is always of an exported
file or a called function, and always says how many runs stand behind it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Example:
    """Inputs that a network accepts, and what may vary about them.

    `dynamic` names the axes that an export leaves open: `{0: {0: "batch"}}` says that axis 0 of argument 0 is the batch
    (string keys are keyword arguments). `unit` and `units` say how much work one call does (8 images, 1 second of audio).
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic: dict[int | str, dict[int, str]] = field(default_factory=dict)
    unit: str = "image"
    units: int = 1


@dataclass(frozen=True)
class Timing:
    """Wall-clock of one call: milliseconds. `low_ms..high_ms` is the 95% interval of the median."""

    median_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float
    runs: int

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Verification:
    """How far an exported file's output is from PyTorch's: `error` is max|a-b| / max(1, max|b|) over `samples` inputs."""

    error: float
    tolerance: float
    samples: int

    @property
    def passed(self) -> bool:
        """Whether the error is finite and within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None where open) and numpy dtype name of an input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Artifact:
    """A model as it ships: one file (or folder) that its runtime runs without PyTorch.

    `verified` is None where this machine cannot run the format; `note` then says so ("not verified, not timed here").
    `metadata` is stored inside the file where the format allows it: preprocessing, class names, task, hollowbone's version.
    """

    path: Path
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    verified: Verification | None = None
    note: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the shipped file, or of all files of a folder format."""
        if self.path.is_dir():
            return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())
        return self.path.stat().st_size


class Session(Protocol):
    """A loaded artifact: takes and returns numpy arrays in the order of its specs."""

    artifact: Artifact

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run once."""
        ...


class Device(Protocol):
    """A machine that runs artifacts: this one (`local`) or one behind a command (`command:ssh pi python3 runner.py`)."""

    name: str

    def facts(self) -> dict[str, Any]:
        """What it is: processor, cores, instruction sets, operating system, versions of the runtimes, native library."""
        ...

    def fingerprint(self) -> str:
        """Hexadecimal digest of the facts on which timings depend; the key of everything cached."""
        ...

    def time(
        self,
        artifact: Artifact,
        inputs: list[np.ndarray],
        *,
        threads: int = 1,
        fresh: bool = False,
        clock: dict[str, Any] | None = None,
    ) -> Timing:
        """Time the artifact in its runtime until the interval is tight; `fresh` in a process of its own.

        `clock` holds options of `runtime.clock.time_call` (how long, how tight).
        """
        ...

    def time_pair(
        self, a: Artifact, b: Artifact, inputs: list[np.ndarray], *, threads: int = 1, clock: dict[str, Any] | None = None
    ) -> tuple[Timing, Timing]:
        """Time two artifacts interleaved in one process, so that drift falls on both alike."""
        ...

    def run(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> list[np.ndarray]:
        """Outputs of the artifact on that machine."""
        ...

    def peak_memory(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> int:
        """Peak resident bytes that loading and running the artifact adds to a bare runtime process."""
        ...
