"""What every phase of a run needs: settings, data, device, journal, folder, and a console to say what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hollowbone.fit.folder import RunFolder
from hollowbone.fit.journal import Journal
from hollowbone.fit.settings import Settings
from hollowbone.measure.budget import Budget
from hollowbone.runtime.base import Device
from hollowbone.search.base import Config
from hollowbone.tasks.base import Data, Task
from hollowbone.train import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from hollowbone.train.engines import Engine

SAMPLES = 75_000
"""Training samples that the final training sees, unless `--epochs` says otherwise: epochs follow from the size of the data."""
MIN_EPOCHS, MAX_EPOCHS = 8, 60
LR = 3e-3
FINE_TUNING = 1 / 3
"""Share of the rate at which weights that are given are trained on."""


@dataclass(frozen=True)
class Context:
    """One run, as its phases see it. `threads` is the number of training threads, journaled so that a replay uses the same.

    `start` and `teacher` are the user's models as configurations (`fit.brought`).
    """

    settings: Settings
    budget: Budget
    task: Task
    data: Data
    device: Device
    journal: Journal
    folder: RunFolder
    engine: Engine
    console: Console
    threads: int
    start: Config | None = None
    teacher: Config | None = None

    def say(self, text: str) -> None:
        """One line to the console."""
        self.console.print(text, highlight=False)

    @property
    def epochs(self) -> int:
        """Epochs of a final training."""
        if self.settings.epochs is not None:
            return self.settings.epochs
        return min(MAX_EPOCHS, max(MIN_EPOCHS, round(SAMPLES / len(self.data.train))))  # type: ignore[arg-type]

    def recipe(self, epochs: int, config: Config | None = None) -> Recipe:
        """The recipe of every training of a run: what differs is how long, and how gently where weights are given."""
        given = config is not None and "init_sha" in config
        small = len(self.data.train) < 20_000  # type: ignore[arg-type]
        return Recipe(
            epochs=epochs,
            batch_size=64 if small else 256,
            lr=LR * FINE_TUNING if given else LR,
            weight_decay=0.05,
            warmup_epochs=min(2.0, epochs / 5),
            ema=0.995 if small else 0.9998,
            augment="shift",
            clip_grad=5.0,
            seed=self.settings.seed,
            threads=self.threads,
        )

    def with_weights(self, config: Config) -> dict[str, Any]:
        """The configuration with the file of the weights that it names by digest, as a job needs it."""
        if "init_sha" not in config:
            return dict(config)
        return {**config, "init": str(self.folder.weights(config["init_sha"]))}

    def job(self, config: Config, epochs: int, out: str, *, teacher: Config | None = None) -> dict[str, Any]:
        """A training as an engine runs it."""
        return {
            "task": self.task.name,
            "data": self.data.source,
            "seed": self.settings.seed,
            "config": self.with_weights(config),
            "recipe": self.recipe(epochs, config).to_dict(),
            "out": str(self.folder.work(out)),
            "teacher": self.with_weights(teacher) if teacher else None,
            "devices": self.settings.devices,
        }

    def train(self, jobs: list[dict[str, Any]], function: Any) -> list[dict[str, Any]]:
        """Run training jobs on the engine, in order."""
        return self.engine.map(function, jobs)
