"""The public surface: every name works, whichever of its module and its verb is imported first."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import hollowbone as hb
from hollowbone.doctor import CORE, EXTRAS
from hollowbone.errors import UserError

NAMES = {
    "create_model",
    "list_models",
    "systems",
    "train",
    "evaluate",
    "predict",
    "measure",
    "compare",
    "Budget",
    "search",
    "export",
    "fit",
    "reproduce",
    "cite",
    "doctor",
    "Recipe",
    "Cost",
    "Artifact",
    "__version__",
}
BOTH = ("train", "measure", "search", "fit", "reproduce", "cite", "doctor")
"""Verbs that are also submodules."""

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def test_surface_is_exactly_the_verbs_and_their_types() -> None:
    assert set(hb.__all__) == NAMES
    assert set(dir(hb)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_public_name_is_callable_and_documented(name: str) -> None:
    value = getattr(hb, name)
    assert callable(value)
    assert value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="compres"):
        hb.compres  # noqa: B018


def test_version_is_the_projects() -> None:
    assert hb.__version__ == PROJECT["version"]


@pytest.mark.parametrize("name", BOTH)
def test_verb_that_is_a_module_has_the_signature_of_its_function(name: str) -> None:
    verb = getattr(hb, name)
    assert isinstance(verb, ModuleType)
    assert inspect.signature(verb) == inspect.signature(getattr(verb, name))


def test_calling_the_module_calls_its_function() -> None:
    from hollowbone.cite import cite

    assert hb.cite("mobilenetv2") == cite("mobilenetv2")
    with pytest.raises(UserError, match="nosuch"):
        hb.cite("nosuch")


USE = """
import hollowbone as hb
for name in {names}:
    assert callable(getattr(hb, name)), name
"""
IMPORT = """
from hollowbone.fit.journal import Journal
from hollowbone.measure.cost import Cost
import hollowbone.train.recipe as recipe
import hollowbone.search.base
import hollowbone.reproduce, hollowbone.cite, hollowbone.doctor
from hollowbone import measure
assert callable(measure) and Journal and Cost and recipe.Recipe and hollowbone.search.base.BlockSpec
"""


@pytest.mark.parametrize("parts", [(USE, IMPORT, USE), (IMPORT, USE, IMPORT)], ids=["verbs first", "modules first"])
def test_verbs_and_their_modules_work_in_any_order(parts: tuple[str, ...]) -> None:
    code = "".join(part.format(names=BOTH) for part in parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_knows_the_projects_dependencies_and_extras() -> None:
    def names(requirements: list[str]) -> set[str]:
        return {r.partition(">")[0] for r in requirements}

    assert set(CORE) == names(PROJECT["dependencies"])
    extras = {k: names(v) for k, v in PROJECT["optional-dependencies"].items() if k not in ("test", "docs", "dev")}
    assert {k: set(v) for k, v in EXTRAS.items()} == extras
