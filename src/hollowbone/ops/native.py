"""The compiled CPU kernels: whether they are there, and which instruction set they use.

`HOLLOWBONE_ISA` names the instruction set to start with (`avx2`, say, to see what an older processor would do), or
`reference` to leave the kernels alone. Nothing here needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from hollowbone.errors import UserError

REFERENCE = "reference"
"""In place of an instruction set: no kernels, the plain PyTorch formulas instead."""

_NOT_BUILT = (
    "the package was installed without its compiled kernels (no C++ compiler or no Python headers was found then); install "
    "them (Debian, Ubuntu: g++ python3-dev) and install hollowbone again"
)


@dataclass(frozen=True)
class _Library:
    """The extension module, or why there is none."""

    module: ModuleType | None
    reason: str = ""


@cache
def _library() -> _Library:
    try:
        module = import_module("hollowbone.ops._native")
    except ModuleNotFoundError:
        return _Library(None, _NOT_BUILT)
    except ImportError as error:  # built for another Python or another system
        return _Library(None, f"the compiled kernels cannot be loaded: {error}")
    wanted = os.environ.get("HOLLOWBONE_ISA", "")
    if wanted and wanted != REFERENCE:
        _choose(module, wanted, "HOLLOWBONE_ISA")
    return _Library(module)


def _choose(module: ModuleType, isa: str, argument: str) -> None:
    known = [*module.available(), REFERENCE]
    if isa not in known:
        raise UserError(f"{argument}={isa!r} is not an instruction set of this machine; {', '.join(known)} would do")
    module.use(isa)


_left_alone = os.environ.get("HOLLOWBONE_ISA") == REFERENCE


def kernels() -> ModuleType | None:
    """The extension module, or None where the reference operators are to be used."""
    return None if _left_alone else _library().module


def available() -> tuple[str, ...]:
    """Instruction sets whose kernels run on this machine, the fastest first; empty where nothing was built."""
    module = _library().module
    return tuple(module.available()) if module else ()


def isa() -> str:
    """The instruction set in use, `"reference"` for none."""
    module = kernels()
    return module.isa() if module else REFERENCE


def use(isa: str) -> None:
    """Use an instruction set of `available()`, or `"reference"`, from here on and in every thread. Raises `UserError`."""
    global _left_alone
    module = _library().module
    if isa != REFERENCE:
        if module is None:
            raise UserError(f"isa={isa!r} needs the compiled kernels, but {_library().reason}")
        _choose(module, isa, "isa")
    _left_alone = isa == REFERENCE


@contextmanager
def using(isa: str) -> Iterator[None]:
    """`use(isa)` for a block."""
    module = _library().module
    before, kernel_isa = _left_alone, module.isa() if module else REFERENCE
    use(isa)
    try:
        yield
    finally:
        if module:
            use(kernel_isa)
        if before:
            use(REFERENCE)


def status() -> dict[str, Any]:
    """What `hollowbone doctor` says about the kernels: plain JSON values.

    `built` and, if not, `reason`; `compiled` and `available` instruction sets; `isa` in use; `library`, the file.
    """
    library = _library()
    module = library.module
    return {
        "built": module is not None,
        "isa": isa(),
        "available": list(available()),
        "compiled": list(module.compiled()) if module else [],
        "library": module.__file__ if module else None,
        "reason": library.reason or ("HOLLOWBONE_ISA or use() asks for the reference operators" if _left_alone else ""),
    }
