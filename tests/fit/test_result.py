"""What `result.json` says about a model that kept its budget and learnt nothing."""

from __future__ import annotations

import numpy as np

from hollowbone.fit.result import near_chance


def judged(value: float, low: float) -> dict[str, object]:
    return {"metric": "accuracy", "split": "report", "value": value, "interval": [low, value]}


def test_model_that_cannot_be_told_from_the_largest_class_is_called_so() -> None:
    targets = np.array([0] * 60 + [1] * 40)
    [warning] = near_chance(judged(0.65, 0.55), targets)
    assert "60.0%" in warning
    assert "learnt nothing" in warning


def test_model_that_is_surely_better_brings_no_warning() -> None:
    assert near_chance(judged(0.9, 0.82), np.array([0] * 60 + [1] * 40)) == []
