"""Reading a dataset from wherever the user keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hollowbone.errors import UserError, unknown
from hollowbone.tasks.base import Data
from hollowbone.tasks.classification.bundled import BUNDLED, read_bundled
from hollowbone.tasks.classification.splits import FRACTIONS


def read(
    source: Any,
    *,
    seed: int = 0,
    resolution: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    skip_broken: bool = True,
    fractions: Sequence[float] = FRACTIONS,
) -> Data:
    if isinstance(source, Data):
        return source
    if source in BUNDLED:
        size = (resolution, resolution) if isinstance(resolution, int) else resolution
        return read_bundled(source, seed=seed, resolution=size, in_chans=in_chans, fractions=fractions)
    raise unknown("data", str(source), BUNDLED)
