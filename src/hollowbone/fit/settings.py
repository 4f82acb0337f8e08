"""What a run was told, as one frozen record: written to the journal first, and compared on resume."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any

from hollowbone.errors import UserError

AIM = 0.9
"""The search aims at this share of every limit; the budget itself is judged on the shipped file alone."""


@dataclass(frozen=True)
class Settings:
    """The arguments of `fit` that decide its outcome. Names are the command line's options."""

    data: str
    budget: str
    task: str = "classification"
    start: str | None = None
    teacher: str | None = None
    reference: str = "mobilenetv2_100"
    device: str = "local"
    runtime: str = "onnxruntime"
    threads: int = 1
    format: str = "onnx"
    candidates: str = "efficientformer,mobilenetv2"
    int8_loss: float = 0.5
    seed: int = 0
    epochs: int | None = None
    devices: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UserError(f"--threads must be 1 or more, not {self.threads}")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"--epochs must be 1 or more, not {self.epochs}")
        if not self.int8_loss >= 0:
            raise UserError(f"--int8-loss is in points of the metric and must be 0 or more, not {self.int8_loss}")
        if self.devices < 1:
            raise UserError(f"--devices must be 1 or more, not {self.devices}")
        wanted = {"onnx": "onnxruntime", "executorch": "executorch"}.get(self.format)
        if wanted is None:
            raise UserError(
                f"fit ships onnx or executorch, which it can time; {self.format!r} can be written by `hollowbone export`"
            )
        if self.runtime != wanted:
            raise UserError(f"the format {self.format} runs in {wanted}, not in {self.runtime!r}; pass --runtime {wanted}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def command(self, out: str) -> str:
        """The command line that repeats the run."""
        words = ["hollowbone", "fit", self.data, "--budget", self.budget]
        for f in fields(self)[2:]:
            value = getattr(self, f.name)
            if value != f.default:
                words += ["--" + f.name.replace("_", "-"), str(value)]
        return shlex.join([*words, "--out", out])

    def check_same(self, earlier: dict[str, Any], folder: str) -> None:
        """Raise `UserError` unless the folder's run was told the same."""
        differing = [k for k, v in self.to_dict().items() if earlier.get(k) != v]
        if differing:
            said = ", ".join(f"{k} {earlier.get(k)!r} there and {getattr(self, k)!r} here" for k in differing)
            raise UserError(f"{folder} holds a run of another command ({said}); give another --out, or remove the folder")
