"""Manifests: a table with the columns `path`, `label` and, if wanted, `split`; paths are relative to the manifest."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hollowbone.errors import UserError
from hollowbone.tasks.classification.listing import SPELLINGS, Item, Listing, some

MISSING = frozenset({"", "nan", "<na>"})
"""What stands for "no value" in tables that pandas and its like write, in lower case."""


def list_manifest(path: Path) -> Listing:
    """Read a `.csv` or `.parquet` manifest.

    Raises `UserError` when it cannot be read, lacks a column, has a row without path or label, names an unknown split, or
    lists a picture twice with different labels or splits.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    return parse(rows, path)


def parse(rows: Iterable[tuple[str, Mapping[str, Any]]], manifest: Path) -> Listing:
    """Items from rows (where it stands, column -> value)."""
    listing, seen = Listing([]), dict[str, tuple[str, Item]]()
    repeated: list[str] = []
    with_split = without_split = ""
    for where, row in rows:
        name, label, split = (text_of(row.get(column)) for column in ("path", "label", "split"))
        if not name:
            raise UserError(f"{manifest}, {where}: the path is missing")
        if not label:
            raise UserError(f"{manifest}, {where}: the label of {name} is missing; every row needs one")
        if split and split.lower() not in SPELLINGS:
            raise UserError(f"{manifest}, {where}: the split {split!r} is unknown; it is one of {', '.join(SPELLINGS)}")
        with_split, without_split = (where, without_split) if split else (with_split, where)
        item = Item(name, label, SPELLINGS[split.lower()] if split else None, manifest.parent / name)
        if name in seen:
            before, first = seen[name]
            if (first.label, first.split) != (item.label, item.split):
                raise UserError(f"{manifest}: {name} has one label or split in {before} and another in {where}")
            repeated.append(name)
            continue
        seen[name] = (where, item)
        listing.items.append(item)
    if not listing.items:
        raise UserError(f"{manifest} lists no pictures")
    if with_split and without_split:
        raise UserError(
            f"{manifest}: {with_split} names a split and {without_split} does not; name one in every row or in none"
        )
    if repeated:
        listing.notes.append(f"{len(repeated)} rows repeat an earlier one and were left out: {some(repeated)}")
    return listing


def text_of(value: Any) -> str:
    """A cell as text; "" where it is missing (None, NaN, empty); 3.0 and 3 are both "3"."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return "" if text.lower() in MISSING else text


def _columns(found: Iterable[str | None], manifest: Path) -> dict[str, str]:
    columns = {str(name).strip().lower(): str(name) for name in found if name}
    if lacking := [name for name in ("path", "label") if name not in columns]:
        given = ", ".join(columns) or "none"
        raise UserError(f"{manifest} lacks the column {' and '.join(lacking)}; it has {given}, it needs path,label[,split]")
    return {name: columns[name] for name in ("path", "label", "split") if name in columns}


def _csv_rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, delimiter=_delimiter(handle.readline()))
            handle.seek(0)
            columns = _columns(reader.fieldnames or (), path)
            for row in reader:
                yield f"line {reader.line_num}", {ours: row[theirs] for ours, theirs in columns.items()}
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _parquet_rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError("a Parquet manifest needs pyarrow: pip install 'hollowbone[parquet]'") from error
    try:
        file = pq.ParquetFile(path)
        columns = _columns(file.schema_arrow.names, path)
        table = file.read(columns=list(columns.values()))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot read the manifest {path}: {error}") from error
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"row {number}", {ours: row[theirs] for ours, theirs in columns.items()}
