"""What is finished is kept, line by line, and counts as long as its identity does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hollowbone.errors import UserError
from hollowbone.reproduce.ledger import Ledger


def test_value_is_computed_once_and_read_back(tmp_path: Path) -> None:
    asked: list[int] = []

    def compute() -> dict[str, float]:
        asked.append(1)
        return {"accuracy": 0.1 + 0.2}

    first = Ledger(tmp_path / "deep" / "l.jsonl", "a").once("run", compute)
    again = Ledger(tmp_path / "deep" / "l.jsonl", "a")
    assert "run" in again
    assert again.once("run", compute) == first == {"accuracy": 0.1 + 0.2}
    assert len(asked) == 1


def test_first_answer_has_the_types_of_later_ones(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "l", "a").once("widths", lambda: (1, 2)) == [1, 2]


def test_values_of_another_identity_do_not_count_and_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    assert Ledger(path, "old code").once("run", lambda: 1) == 1
    assert Ledger(path, "new code").once("run", lambda: 2) == 2
    assert Ledger(path, "old code").once("run", lambda: 3) == 1


def test_line_torn_by_a_kill_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path, "a")
    ledger.once("one", lambda: 1)
    ledger.once("two", lambda: 2)
    whole = path.read_bytes()
    for cut in range(len(whole.split(b"\n")[0]) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        again = Ledger(path, "a")
        assert "one" in again
        assert "two" not in again
        assert again.once("two", lambda: 2) == 2
        assert path.read_bytes() == whole


def test_lines_are_journal_records_with_an_identity(tmp_path: Path) -> None:
    Ledger(tmp_path / "l", "a").once("run", lambda: 1)
    assert json.loads((tmp_path / "l").read_text()) == {"key": "run", "kind": "result", "value": 1, "identity": "a"}


def test_nothing_is_written_when_computing_fails(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", "a")
    with pytest.raises(ZeroDivisionError):
        ledger.once("run", lambda: 1 / 0)
    with pytest.raises(ValueError, match="JSON"):
        ledger.once("run", lambda: float("nan"))
    assert "run" not in ledger
    assert (tmp_path / "l").read_bytes() == b""


@pytest.mark.parametrize("line", ["no json", "[1]", '{"key": "run", "value": 1}', "3"])
def test_file_that_holds_something_else_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "l"
    Ledger(path, "a").once("run", lambda: 1)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match="line 2"):
        Ledger(path, "a")


def test_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Ledger(tmp_path / "file" / "l", "a")
