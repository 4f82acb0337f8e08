"""What the published systems are: slug, paper, idea, claims, and where each is built. The facts lie in `systems.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, overload

from hollowbone.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.table import Table

KINDS = (
    "network",
    "plug-in layer",
    "operator",
    "pruning",
    "quantisation",
    "token reduction",
    "adaptation",
    "codec",
    "split inference",
    "search",
    "pre-training",
    "other",
)
"""What a system is, which decides the family of the library in which it lives."""

SOURCES = ("abstract", "paper", "repository", "summary", "memory")
"""Where a claim was read: the paper's abstract, the paper, the authors' repository, others' summary; or recalled, not read."""


@dataclass(frozen=True)
class Claim:
    """A headline claim as its source states it; never a figure of ours. `figure` is empty where the claim has none."""

    text: str
    figure: str
    source: str

    @property
    def unverified(self) -> bool:
        """Whether the figure was recalled and never read at its source."""
        return self.source == "memory"

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text, self.figure, f"[{'unverified' if self.unverified else self.source}]")))


@dataclass(frozen=True)
class System:
    """One published system.

    `kind` is one of `KINDS`; `entry_points` are the modules that hold it, none while it is planned; `planned_parts` are what
    a built system still lacks. `arxiv` and `doi` are empty where they are not recorded; `licence` is that of the official code.
    """

    slug: str
    name: str
    title: str
    authors: str
    venue: str
    year: int
    kind: str
    tasks: tuple[str, ...]
    idea: str
    claims: tuple[Claim, ...]
    code: str
    licence: str = ""
    arxiv: str = ""
    doi: str = ""
    volume: str = ""
    number: str = ""
    pages: str = ""
    entry_points: tuple[str, ...] = ()
    planned_parts: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """`built` or `planned`."""
        return "built" if self.entry_points else "planned"

    @property
    def reference(self) -> str:
        """Where to find the paper: its arXiv id, else its DOI, else venue and pages."""
        if self.arxiv or self.doi:
            return f"arXiv:{self.arxiv}" if self.arxiv else f"doi:{self.doi}"
        return f"{self.venue} {self.year}" + (f", pp. {self.pages}" if self.pages else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "status": self.status}

    def __str__(self) -> str:
        lines = [
            f"{self.name} ({self.slug}): {self.status}"
            + (f"; planned: {', '.join(self.planned_parts)}" if self.planned_parts else ""),
            f"  {self.title}. {self.venue} {self.year}, {self.reference}",
            f"  {self.idea}",
            f"  tasks: {', '.join(self.tasks)}",
            *(f"  claims: {claim}" for claim in self.claims),
            f"  code: {self.code}" + (f" ({self.licence})" if self.licence else ""),
            *(f"  here: {module}" for module in self.entry_points),
        ]
        return "\n".join(lines)


class Systems(Sequence[System]):
    """A list of systems that prints as a table."""

    COLUMNS = ("slug", "kind", "venue", "status", "idea")

    def __init__(self, items: Sequence[System]) -> None:
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> System: ...
    @overload
    def __getitem__(self, index: slice) -> Systems: ...
    def __getitem__(self, index: int | slice) -> System | Systems:
        return Systems(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Systems) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells, in the order of `COLUMNS`."""
        return [(s.slug, s.kind, f"{s.venue} {s.year}", s.status, s.idea) for s in self._items]

    @property
    def caption(self) -> str:
        """How many there are, and how many are built."""
        return f"{len(self)} systems, {sum(s.status == 'built' for s in self)} built"

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.COLUMNS[:-1], *(r[:-1] for r in self.rows), strict=True)]
        lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in [self.COLUMNS, *self.rows]]
        return "\n".join([*lines, self.caption])

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(*self.COLUMNS, caption=self.caption)
        for row in self.rows:
            table.add_row(*row, style="bold" if row[3] == "built" else "")
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{c}</th>" for c in self.COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return f"<table><caption>{self.caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@cache
def catalogue() -> dict[str, System]:
    """Every system by slug, in the order of the slugs."""
    table = tomllib.loads(files(__package__).joinpath("systems.toml").read_text(encoding="utf-8"))
    found = [
        System(**{**row, **{k: tuple(v) for k, v in row.items() if isinstance(v, list)}, "claims": _claims(row)})
        for row in table["system"]
    ]
    return {s.slug: s for s in found}


def _claims(row: dict[str, Any]) -> tuple[Claim, ...]:
    return tuple(Claim(**claim) for claim in row["claims"])


def system(slug: str) -> System:
    """One system; `UserError` names the nearest slug if there is none."""
    known = catalogue()
    if slug not in known:
        raise unknown("system", slug, known)
    return known[slug]


def systems(pattern: str = "*", *, task: str | None = None) -> Systems:
    """The systems whose slug matches a glob pattern, optionally those of one task; prints as a table, here and in notebooks.

    Raises `UserError` for a task that no system has.
    """
    every = catalogue().values()
    tasks = {t for s in every for t in s.tasks}
    if task is not None and task not in tasks:
        raise unknown("task", task, tasks)
    if not pattern:
        raise UserError("the pattern is empty; '*' matches every system")
    return Systems([s for s in every if fnmatchcase(s.slug, pattern) and task in (None, *s.tasks)])
