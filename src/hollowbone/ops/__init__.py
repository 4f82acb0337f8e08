"""Operators with kernels of their own, each defined by a plain PyTorch reference in a folder of its own.

`status()` says whether the compiled kernels are there and which instruction set they use; asking needs no torch, which is
imported with the first operator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hollowbone.ops.native import status

if TYPE_CHECKING:
    from hollowbone.ops.base import dense_forms
    from hollowbone.ops.depthwise import depthwise_conv2d

__all__ = ["dense_forms", "depthwise_conv2d", "status"]

_HOMES = {"depthwise_conv2d": "hollowbone.ops.depthwise", "dense_forms": "hollowbone.ops.base"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
