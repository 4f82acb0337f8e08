"""A device on which a file takes as many milliseconds as it has megabytes: nothing is measured, so nothing is uncertain."""

from __future__ import annotations

from typing import Any

import numpy as np

from hollowbone.runtime.base import Artifact, Timing


class Weighing:
    """Weighs files and calls it time."""

    name = "scales"

    def __init__(self) -> None:
        self.timed = 0

    def facts(self) -> dict[str, Any]:
        return {"machine": "x86_64", "flags": ["avx512_vnni"]}

    def fingerprint(self) -> str:
        return "5ca1e5" * 2

    def time(self, artifact: Artifact, inputs: list[np.ndarray], **options: Any) -> Timing:
        self.timed += 1
        ms = artifact.nbytes / 1e6
        return Timing(ms, 1.1 * ms, 0.99 * ms, 1.01 * ms, 100)

    def time_pair(self, a: Artifact, b: Artifact, inputs: list[np.ndarray], **options: Any) -> tuple[Timing, Timing]:
        return self.time(a, inputs), self.time(b, inputs)

    def peak_memory(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> int:
        self.timed += 1
        return 2 * artifact.nbytes
