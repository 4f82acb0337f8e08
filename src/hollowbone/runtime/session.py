"""A loaded artifact in this process, whichever of the runner's runtimes it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.runtime import runner
from hollowbone.runtime.base import Artifact


def check_runnable(artifact: Artifact) -> None:
    """Raise `NotMeasurable` for a format that neither this machine nor a runner can run."""
    if artifact.format not in runner.FORMATS:
        formats = " and ".join(runner.FORMATS)
        raise NotMeasurable(
            f"{artifact.path.name} is in the format {artifact.format}, which is written here but not run; "
            f"run and timed are {formats}"
        )


class LocalSession:
    """An artifact loaded for running; called with numpy arrays in the order of its inputs.

    Raises `NotMeasurable` for a format that cannot be run here, `UserError` for a file that its runtime refuses, and, when
    called, for arrays whose number, shape or dtype is not the model's.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        check_runnable(artifact)
        if threads < 1:
            raise UserError(f"threads must be 1 or more, not {threads}")
        self.artifact = artifact
        try:
            self._model = runner.MODELS[artifact.format](artifact.path, threads)
        except runner.RunnerError as error:
            raise UserError(str(error)) from error

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run once."""
        return self._model.read(self.bind(inputs)())

    def bind(self, inputs: Sequence[np.ndarray]) -> Callable[[], Any]:
        """A function of no arguments that runs on these arrays and checks nothing more: what the clock times."""
        try:
            return self._model.bind(inputs)
        except runner.RunnerError as error:
            raise UserError(str(error)) from error
