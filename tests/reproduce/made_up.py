"""A reproduction that trains nothing: accuracies are made up, and it counts how often it was asked to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hollowbone.reproduce.base import HOLDS, Arm, Contrast, Finding, Once, Reproduction, SubClaim

ACCURACY = {"ours": (0.80, 0.82, 0.84), "theirs": (0.70, 0.73, 0.72)}


class HereDevice:
    """Has facts; cannot time."""

    name = "here"

    def __init__(self, fingerprint: str = "f") -> None:
        self._fingerprint = fingerprint

    def facts(self) -> dict[str, Any]:
        return {"processor": "Made Up 9000", "cores": 2, "python": "3", "torch": "2", "onnxruntime": "1"}

    def fingerprint(self) -> str:
        return self._fingerprint


@dataclass
class MadeUp:
    """`found` is the reproduction; `asked` lists the (arm, seed) that really ran; `stop_after` runs it is interrupted."""

    accuracy: dict[str, tuple[float, ...]] = field(default_factory=lambda: dict(ACCURACY))
    asked: list[tuple[str, int]] = field(default_factory=list)
    stop_after: int = 1000

    def run(self, arm: str, seed: int, kept: Once, device: Any) -> dict[str, Any]:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        shared = kept.once(f"shared/{seed}", lambda: {"limit": seed})
        self.asked.append((arm, seed))
        figures = {"accuracy": self.accuracy[arm][seed], "latency_ms": 0.1 + 0.01 * seed, "params": 100, "macs": 1000}
        return {**figures, "limit": shared["limit"]}

    def found(self, **changes: Any) -> Reproduction:
        exact = Finding(SubClaim("count", "it has 100 parameters", "100", "table 1"), HOLDS, "100", "counted now", 100.0)
        gain = SubClaim("gain", "ours is [better] than theirs", "+5 points", "abstract", recalled=True)
        options: dict[str, Any] = {
            "slug": "mobilenetv2",
            "data": "nothing",
            "seeds": (0, 1, 2),
            "arms": (Arm("ours", "the paper's"), Arm("theirs", "the other")),
            "contrasts": (Contrast(gain, "ours", "theirs", stated=0.05),),
            "settings": {"epochs": 1, "widths": (1, 2)},
            "sources": ("hollowbone.errors",),
            "exact": lambda device: [exact],
            "run": self.run,
            "minutes": 1,
            "paper": "a cluster",
            "notes": ("made up",),
        }
        return Reproduction(**{**options, **changes})
