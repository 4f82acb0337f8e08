"""What is printed about data."""

from __future__ import annotations

import io

from rich.console import Console

from hollowbone.tasks import get_task
from tests.tasks.folders import make_plain_folder

task = get_task("classification")


def printed(data, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(task.describe(data))
    return console.file.getvalue()


def test_every_unreadable_file_is_named_with_its_reason_whatever_it_is_called(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "[bold]b": 8})
    for n in range(60):
        (tmp_path / "a" / f"[red]{n}.png").write_text("words")
    text = printed(task.read(tmp_path))
    for n in range(60):
        assert f"a/[red]{n}.png" in text
    assert "[bold]b" in text
    assert text.count("not a picture") == 60
    assert "imbalance (largest over smallest class of train): 2.50" in text


def test_counts_add_up(tmp_path):
    make_plain_folder(tmp_path, {"a": 10, "b": 10})
    data = task.read(tmp_path)
    assert data.found.counts == {"train": {"a": 6, "b": 6}, "select": {"a": 2, "b": 2}, "report": {"a": 2, "b": 2}}
    last = next(line for line in printed(data).splitlines() if line.startswith("all"))
    assert last.split() == ["all", "12", "4", "4"]


def test_of_many_duplicates_some_are_listed_and_all_are_counted(tmp_path):
    make_plain_folder(tmp_path, {f"{split}/{label}": 30 for split in ("train", "val", "test") for label in "ab"})
    for n in range(25):
        (tmp_path / f"train/a/copy{n}.png").write_bytes((tmp_path / f"test/a/{n}.png").read_bytes())
    text = printed(task.read(tmp_path))
    assert "duplicates across splits, left out of the earlier split: 25" in text
    assert "and 5 more" in text
