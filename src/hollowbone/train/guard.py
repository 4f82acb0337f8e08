"""The NaN guard: back to the last good state, at half the rate, when a loss or gradient is no longer finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hollowbone.errors import UserError

EVERY = 50
"""Optimiser steps between two snapshots: the copy costs about as much as one step of a small network."""
LIMIT = 5
"""Restores in one training before it is given up: the rate is then 1/32 of the recipe's."""
OVERFLOWS = 20
"""Consecutive skipped steps of scaled (fp16) training that count as divergence."""


@dataclass
class Guard:
    """Holds a snapshot of the training in memory; all of this is in the checkpoint, so that a resume stays exact.

    A snapshot taken before a step is good once that step's loss and gradients turned out finite. `rate` multiplies the
    learning rate.
    """

    rate: float = 1.0
    restores: int = 0
    overflows: int = 0
    good: dict[str, Any] | None = None
    pending: dict[str, Any] | None = None

    def due(self, step: int) -> bool:
        """Whether a snapshot is to be taken before this step."""
        return self.good is None or step % EVERY == 0

    def confirm(self) -> None:
        """The step after the snapshot was finite."""
        if self.pending is not None:
            self.good, self.pending = self.pending, None

    def back(self, step: int, lr: float) -> dict[str, Any]:
        """Halve the rate and return the state to go back to; `UserError` when that has been done `LIMIT` times."""
        if self.good is None:
            raise UserError(
                f"the loss is not finite in the first step (learning rate {lr:.3g}): the model's weights or the data hold "
                "NaN or infinite values, or the model overflows on them"
            )
        if self.restores == LIMIT:
            raise UserError(
                f"the loss became non-finite {LIMIT + 1} times, last at step {step} with learning rate {lr:.3g}, although the "
                "rate was halved each time; choose a lower lr, or set clip_grad"
            )
        self.restores += 1
        self.rate /= 2
        self.overflows = 0
        self.pending = None
        return self.good

    def state_dict(self) -> dict[str, Any]:
        """Everything; at a step boundary nothing is pending."""
        return {"rate": self.rate, "restores": self.restores, "overflows": self.overflows, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.rate, self.restores, self.overflows, self.good = (state[k] for k in ("rate", "restores", "overflows", "good"))


def finite(figures: Iterable[float]) -> bool:
    """Whether all figures are."""
    return all(map(math.isfinite, figures))
