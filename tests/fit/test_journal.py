"""The journal: what is written before it is used, what a resume takes, what a replay checks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hollowbone.errors import ReplayDiverged, UserError
from hollowbone.files import write_json
from hollowbone.fit.journal import Journal


def never() -> float:
    raise AssertionError("measured again")


def test_measurement_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    assert journal.clock("a", lambda: 1.5) == 1.5
    assert '"a"' in path.read_text()  # not closed, not flushed by us


def test_resume_takes_every_record_and_computes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    first.clock("latency", lambda: 0.1)
    first.result("score", lambda: 0.9)
    first.close()
    again = Journal(path)
    assert again.clock("latency", never) == 0.1
    assert again.result("score", never) == 0.9


def test_replay_takes_clocks_and_computes_results_again(tmp_path: Path) -> None:
    source = Journal(tmp_path / "a.jsonl")
    source.clock("latency", lambda: 0.1)
    source.result("score", lambda: 0.9)
    source.close()
    calls: list[int] = []
    replay = Journal(tmp_path / "b.jsonl", source=tmp_path / "a.jsonl")
    assert replay.clock("latency", never) == 0.1
    assert replay.result("score", lambda: calls.append(1) or 0.9) == 0.9
    assert calls == [1]


def test_replay_that_computes_something_else_is_stopped(tmp_path: Path) -> None:
    source = Journal(tmp_path / "a.jsonl")
    source.result("score", lambda: 0.9)
    source.close()
    replay = Journal(tmp_path / "b.jsonl", source=tmp_path / "a.jsonl")
    with pytest.raises(ReplayDiverged, match="score"):
        replay.result("score", lambda: 0.8)


def test_line_torn_by_a_kill_is_dropped_and_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.clock("a", lambda: 1)
    journal.close()
    with open(path, "a") as handle:
        handle.write('{"key": "b", "kind": "clo')
    again = Journal(path)
    assert again.keys() == ["a"]
    assert again.clock("b", lambda: 2) == 2
    again.close()
    assert Journal(path).keys() == ["a", "b"]


def test_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(UserError, match="line 1"):
        Journal(tmp_path / "y.jsonl", source=tmp_path / "x.jsonl")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_any_json_value_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    kept = journal.clock("value", lambda: value)
    journal.close()
    again = Journal(path)
    assert again["value"] == kept == value
    again.close()


def test_file_name_that_is_not_utf8_is_written_as_its_escape(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"broken": {"caf\udce9.png": "truncated"}})
    assert json.loads((tmp_path / "result.json").read_text())["broken"] == {"caf\udce9.png": "truncated"}
