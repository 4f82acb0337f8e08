"""Image classification: one label a picture."""

from hollowbone.tasks.classification.splits import LazySplit, MemorySplit
from hollowbone.tasks.classification.task import Classification

__all__ = ["Classification", "LazySplit", "MemorySplit"]
