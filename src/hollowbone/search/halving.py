"""Successive halving: train all candidates a little, keep the better half, train those more, until one is left.

Source: Karnin, Koren and Somekh (2013), "Almost Optimal Exploration in Multi-Armed Bandits"; Jamieson and Talwalkar
(2016, arXiv 1502.07943) for its use here. The logic is pure: who trains, and how a record is kept, are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from hollowbone.errors import UserError
from hollowbone.search.base import Config, canonical

Train = Callable[[list[Config], int], list[float]]
"""`train(configs, epochs)`: the score of each after `epochs` epochs in all; a whole rung is asked for at once, so that it
may be spread over machines."""


@dataclass(frozen=True)
class Entrant:
    """One candidate at one rung; `kept` says whether it went on."""

    config: Config
    score: float
    latency_ms: float
    kept: bool


@dataclass(frozen=True)
class Rung:
    """Everything trained for `epochs` epochs, the best first."""

    epochs: int
    entrants: tuple[Entrant, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def successive_halving(
    configs: Sequence[Config],
    train: Train,
    rungs: Sequence[int],
    *,
    latency_ms: Callable[[Config], float],
    higher_is_better: bool = True,
    keep: float = 0.5,
) -> tuple[Config, list[Rung]]:
    """The winner, and the record of every rung (epochs in all, ascending).

    After each rung but the last `ceil(keep * n)` candidates go on, and always fewer than n. Equal scores go to the lower
    latency, then to the order given, so that the same scores always choose the same candidate. A single candidate wins
    untrained. Raises `UserError` where there is no candidate, no rung or the rungs do not ascend.
    """
    if not configs:
        raise UserError("successive halving needs at least one candidate")
    if not rungs or rungs[0] < 1 or any(b <= a for a, b in pairwise(rungs)):
        raise UserError(f"rungs are ascending numbers of epochs, 1 or more, not {list(rungs)}")
    if len({canonical(config) for config in configs}) != len(configs):
        raise UserError("successive halving was given the same candidate twice")
    alive, record = list(configs), []
    for number, epochs in enumerate(rungs):
        if len(alive) == 1:
            break
        scores = train(alive, epochs)
        placed = [(score, latency_ms(config), place) for place, (config, score) in enumerate(zip(alive, scores, strict=True))]
        ranked = sorted(placed, key=lambda s: (-_sortable(s[0], higher_is_better), s[1], s[2]))
        last = number == len(rungs) - 1
        count = 1 if last else min(math.ceil(keep * len(alive)), len(alive) - 1)
        entrants = [Entrant(alive[place], score, ms, rank < count) for rank, (score, ms, place) in enumerate(ranked)]
        record.append(Rung(epochs, tuple(entrants)))
        alive = [alive[place] for _, _, place in ranked[:count]]
    return alive[0], record


def _sortable(score: float, higher_is_better: bool) -> float:
    """Higher is better; a score that is no number (a diverged candidate) is the worst."""
    if math.isnan(score):
        return -math.inf
    return score if higher_is_better else -score
