"""What a reader found, printed: classes and counts, sizes, imbalance, duplicates, unreadable files, notes."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hollowbone.tasks.base import SPLITS, Data

ROWS = 40
"""Classes that are listed one by one; of more, the smallest and the largest are."""

PAIRS = 20
"""Duplicates that are listed one by one; `result.json` has them all."""


def describe(data: Data) -> Group:
    """Everything in `data.found`, for a terminal. Every unreadable file is named."""
    found = data.found
    totals = {split: sum(found.counts[split].values()) for split in SPLITS}
    parts: list[RenderableType] = [
        Text(f"{data.name}: {sum(totals.values())} pictures of {len(data.classes)} classes", style="bold"),
        _counts(data, totals),
        Text(_sizes(found.sizes)),
        Text(_presented(data)),
        Text(f"imbalance (largest over smallest class of train): {found.imbalance:.2f}"),
    ]
    if found.duplicates:
        parts.append(Text(f"duplicates across splits, left out of the earlier split: {len(found.duplicates)}"))
        parts.append(_two_columns(("kept", "left out"), found.duplicates[:PAIRS]))
        if len(found.duplicates) > PAIRS:
            parts.append(Text(f"  and {len(found.duplicates) - PAIRS} more"))
    if found.broken:
        parts.append(Text(f"unreadable files, left out: {len(found.broken)}", style="bold yellow"))
        parts.append(_two_columns(("file", "reason"), list(found.broken.items())))
    parts += [Text(f"note: {note}") for note in found.notes]
    return Group(*parts)


def _counts(data: Data, totals: dict[str, int]) -> Table:
    table = Table("class", box=None, pad_edge=False)
    for split in SPLITS:
        table.add_column(split, justify="right")
    shown = list(data.classes)
    if len(shown) > ROWS:
        by_size = sorted(shown, key=lambda label: data.found.counts["train"][label])
        shown = [*by_size[: ROWS // 2], *by_size[-ROWS // 2 :]]
        table.title = f"the {ROWS // 2} smallest and the {ROWS // 2} largest of {len(data.classes)} classes"
    for label in shown:
        table.add_row(escape(label), *(str(data.found.counts[split].get(label, 0)) for split in SPLITS))
    table.add_row("all", *(str(totals[split]) for split in SPLITS), style="bold")
    return table


def _sizes(sizes: dict[str, int]) -> str:
    first = ", ".join(f"{size} ({count})" for size, count in list(sizes.items())[:5])
    return f"sizes: {first}" + (f" and {len(sizes) - 5} more" if len(sizes) > 5 else "")


def _presented(data: Data) -> str:
    height, width = data.preprocessing.resolution
    return f"presented to the network as {width}x{height}, {'grey' if data.preprocessing.in_chans == 1 else 'RGB'}"


def _two_columns(titles: tuple[str, str], rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for title in titles:
        table.add_column(title, overflow="fold")
    for left, right in rows:
        table.add_row("  " + escape(left), escape(right))
    return table
