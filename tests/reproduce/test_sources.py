"""A finished run counts while the code that it rests on does the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hollowbone.reproduce import SYSTEMS, get_reproduction, sources
from hollowbone.reproduce.sources import digest, shape, used_by

CODE = '''
"""A module."""
from x import helper

EPOCHS = 3
"""Why three."""
LEFT = RIGHT = 1
UNUSED = 5

class Part(Base):
    """A part."""
    size: int = LEFT

def run(a):
    """Run."""
    def inner():
        return Part(EPOCHS)
    return inner() + helper(f"{a}: {EPOCHS!r}")

def other():
    return UNUSED
'''


def digest_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, definition: str = "") -> str:
    monkeypatch.setattr(sources, "ROOT", tmp_path / "hollowbone")
    (tmp_path / "hollowbone").mkdir(exist_ok=True)
    (tmp_path / "hollowbone" / "module.py").write_text(code)
    return digest("hollowbone.module" + definition)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Why three."""', '"""Why not four."""  # a comment'),
        ('"""Run."""', '"""Runs, says a better sentence."""'),
        ('    """A part."""\n', ""),
        ("LEFT = RIGHT = 1", "LEFT = \\\n    RIGHT = 1\n\n"),
    ],
)
def test_words_and_layout_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    before = digest_of(tmp_path, monkeypatch, CODE)
    assert old in CODE
    assert digest_of(tmp_path, monkeypatch, CODE.replace(old, new)) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("EPOCHS = 3", "EPOCHS = 4"),
        ("return inner()", "return -inner()"),
        ("Part(EPOCHS)", "Part(3)"),
        ("{EPOCHS!r}", "{EPOCHS!s}"),
    ],
)
def test_what_the_code_does_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    for definition in ("", ":run"):
        before = digest_of(tmp_path, monkeypatch, CODE, definition)
        assert digest_of(tmp_path, monkeypatch, CODE.replace(old, new), definition) != before


def test_definition_rests_on_what_it_uses_and_on_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(CODE)
    assert [ast.unparse(node).split("\n")[0] for node in used_by("run", tree)] == [
        "EPOCHS = 3",
        "LEFT = RIGHT = 1",
        "class Part(Base):",
        "def run(a):",
    ]
    before = digest_of(tmp_path, monkeypatch, CODE, ":run")
    assert digest_of(tmp_path, monkeypatch, CODE.replace("UNUSED = 5", "UNUSED = 6"), ":run") == before
    assert digest_of(tmp_path, monkeypatch, CODE.replace("LEFT = RIGHT = 1", "LEFT = RIGHT = 2"), ":run") != before


def test_constants_that_look_alike_are_not_alike() -> None:
    shapes = {shape(ast.parse(code)) for code in ("x = 1", "x = 1.0", "x = '1'", "x = True", "x = None", "x = b'1'")}
    assert len(shapes) == 6


def test_source_that_does_not_exist_is_an_error() -> None:
    for name in ("hollowbone.nosuch", "torch", "hollowbone.errors:nosuch"):
        with pytest.raises(ValueError, match=r"no"):
            digest(name)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_reproduction_rests_on_its_own_run_and_on_training(slug: str) -> None:
    found = get_reproduction(slug)
    assert f"hollowbone.reproduce.{slug}:run" in found.sources
    assert {"hollowbone.train", "hollowbone.reproduce.trial", "hollowbone.tasks.classification"} <= set(found.sources)
    assert len(digest(*found.sources)) == 16
