"""hollowbone: make neural networks fit into milliseconds, megabytes, joules or multiply-adds, on a device that you name.

The whole public surface is the verbs and types below; each is imported from its place when it is first used, so that
`import hollowbone` costs nothing. Some verbs are named like the package or module in which they live (`hollowbone.fit`).
Python binds a submodule to its parent's attribute whenever it is imported, by whomever, and would so hide the verb. Here
such a submodule is the verb: when it is bound it is made callable, and calling it calls its function of the same name.
`hollowbone.fit(...)`, `from hollowbone import fit`, `from hollowbone.fit.journal import Journal` and
`import hollowbone.fit.journal as journal` so all work, in any order.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hollowbone.catalogue import systems as systems
    from hollowbone.cite import cite as cite
    from hollowbone.doctor import doctor as doctor
    from hollowbone.fit import fit as fit
    from hollowbone.measure import compare as compare
    from hollowbone.measure import measure as measure
    from hollowbone.measure.budget import Budget as Budget
    from hollowbone.measure.cost import Cost as Cost
    from hollowbone.models.base import list_models as list_models
    from hollowbone.models.create import create_model as create_model
    from hollowbone.reproduce import reproduce as reproduce
    from hollowbone.runtime import export as export
    from hollowbone.runtime.base import Artifact as Artifact
    from hollowbone.search import search as search
    from hollowbone.train import evaluate as evaluate
    from hollowbone.train import predict as predict
    from hollowbone.train import train as train
    from hollowbone.train.recipe import Recipe as Recipe

__version__ = "0.1.0"

_HOME = {
    "create_model": "models.create",
    "list_models": "models.base",
    "systems": "catalogue",
    "train": "train",
    "evaluate": "train",
    "predict": "train",
    "measure": "measure",
    "compare": "measure",
    "Budget": "measure.budget",
    "search": "search",
    "export": "runtime",
    "fit": "fit",
    "reproduce": "reproduce",
    "cite": "cite",
    "doctor": "doctor",
    "Recipe": "train.recipe",
    "Cost": "measure.cost",
    "Artifact": "runtime.base",
}
"""Where each public name lives."""

__all__ = ["__version__", *_HOME]


class _Verb(ModuleType):
    """A submodule that is also a verb: `hollowbone.fit(...)` is `hollowbone.fit.fit(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    @property
    def _function(self) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:  # what `inspect.signature` and notebooks show
        from inspect import signature

        return signature(self._function)


class _Package(ModuleType):
    """This package: makes the submodules callable that are verbs, at the moment when Python binds them here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name and value.__name__ == f"{__name__}.{name}":
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOME[name]}")
    return home if _HOME[name] == name else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
