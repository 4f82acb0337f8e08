"""The reproduction contract: a paper's comparison, as data and two functions.

A system's file states the sub-claims, the arms and what decides a run, and brings `exact`, which measures what is exact
now, and `run`, which trains one arm with one seed. Everything else (seeds, resuming, pairing, intervals, verdicts, tables)
is the same for all systems and lies beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from hollowbone.runtime.base import Device

HOLDS = "holds"
PARTLY = "partly"
FAILS = "does not hold here"
UNKNOWN = "cannot tell at this scale"
VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN)
"""`partly` is the right direction with an interval without zero, but less than the stated figure; `cannot tell at this
scale` is an interval that contains zero, or too few seeds for one."""

SEEDS_NEEDED = 3
"""Seeds below which nothing is said about learning."""


@dataclass(frozen=True)
class SubClaim:
    """One statement that can be true or false by itself.

    `stated` is the paper's figure as text (empty where it gives none), `place` where it stands; `recalled` marks a figure that
    was never read at its source, `ours` a condition of this comparison that no paper claims (that the arms cost the same).
    """

    name: str
    text: str
    stated: str = ""
    place: str = ""
    recalled: bool = False
    ours: bool = False


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    name: str
    text: str


@dataclass(frozen=True)
class Contrast:
    """A claim about learning: the arm `better` is better than `worse`, by `stated` (in the metric's own fraction) or at all."""

    claim: SubClaim
    better: str
    worse: str
    stated: float | None = None


@dataclass(frozen=True)
class Finding:
    """A sub-claim judged. `measured` is the figure as text, `how` says where it comes from and under which conditions.

    `value` and `interval` are the figure as numbers; `seeds` are those of a learning claim.
    """

    claim: SubClaim
    verdict: str
    measured: str
    how: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Once(Protocol):
    """Gives a JSON value by name: computed now, or read back where it was computed before (`ledger.Ledger`)."""

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of that name."""
        ...


@dataclass(frozen=True)
class Reproduction:
    """The comparison of one system.

    `exact(device)` measures what is exact, in about a minute. `run(arm, seed, kept, device)` trains one arm with one seed and
    returns its figures as JSON values, of which `accuracy`, `latency_ms`, `params` and `macs` make the table of arms; what
    several arms share it asks of `kept`. `settings` is everything that decides a run, `sources` the code that does
    (`sources.digest`): when either changes, finished runs no longer count. `minutes` is about what a study takes on two idle
    cores, `paper` says what the paper's own scale needs.
    """

    slug: str
    data: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    settings: Mapping[str, Any]
    sources: tuple[str, ...]
    exact: Callable[[Device], list[Finding]]
    run: Callable[[str, int, Once, Device], dict[str, Any]]
    minutes: int
    paper: str
    task: str = "classification"
    runtime: str = "onnxruntime"
    threads: int = 1
    notes: tuple[str, ...] = field(default=())
    """What a reader must know to weigh the study: its limits, in sentences."""
