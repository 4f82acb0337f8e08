"""The documentation's examples are run: every ```python block, and every `$ hollowbone ...` line of a ```console block.

The blocks of a page share one namespace and one empty folder, in their order. `<!-- not run: REASON -->` on the line before
a block leaves it out; `<!-- exit code 2 -->` says how a command is to end.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hollowbone.cli import app
from hollowbone.models import base

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*) -->\n *)?```(?P<kind>\w+)[^\n]*\n(?P<body>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its kind, text, first line, and the mark before it."""

    kind: str
    text: str
    line: int
    mark: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] for line in found["body"].splitlines(keepends=True))
        yield Block(found["kind"], body, text.count("\n", 0, found.start("body")) + 1, found["mark"] or "")


def runs(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.kind in ("python", "console") and not b.mark.startswith("not run: ")]


@pytest.mark.parametrize("page", [p for p in PAGES if runs(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base.cards()  # all are registered before the registry is copied
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))  # an example may register a network
    names: dict[str, Any] = {"__name__": "docs"}
    for block in runs(page):
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        else:
            run_console(page, block)


def run_console(page: Path, block: Block) -> None:
    expected = int(block.mark.removeprefix("exit code ")) if block.mark.startswith("exit code ") else 0
    for line in block.text.splitlines():
        if not line.startswith("$ "):
            continue
        program, *arguments = shlex.split(line[2:], comments=True)
        assert program == "hollowbone", f"{page}:{block.line} runs {program}, which this test does not; mark it `not run`"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == expected, f"{page}:{block.line}: {line}\n{done.output}\n{done.exception!r}"


def test_every_mark_is_understood() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert re.fullmatch(r"|not run: .+|exit code \d+", block.mark), f"{page}:{block.line}: {block.mark}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page} links to {target}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert str(page.relative_to(DOCS)) in navigation
