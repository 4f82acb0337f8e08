"""What is printed: every figure with its conditions, and what was trained another day never as measured now."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hollowbone.reproduce.base import HOLDS, UNKNOWN
from hollowbone.reproduce.study import Study, run_study
from hollowbone.reproduce.verdict import Verdict, judged
from tests.reproduce.made_up import HereDevice, MadeUp


def study(tmp_path: Path, date: str = "2020-02-03") -> Study:
    made = run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path)
    there = dataclasses.replace(made.conditions, date=date, commit="abc123def456")
    return dataclasses.replace(made, conditions=there, fresh=False)


def laptop(found: Study | None) -> Verdict:
    return judged(MadeUp().found(), "laptop", found, device=HereDevice())


def flat(text: str) -> str:
    """Cells as one line each: what rich broke over lines is joined."""
    return " ".join(text.split())


def test_stored_study_is_shown_with_date_machine_and_commit(tmp_path: Path) -> None:
    shown = flat(str(laptop(study(tmp_path))))
    for fact in (
        "2020-02-03",
        "Made Up 9000",
        "2 cores",
        "abc123def456",
        "onnxruntime 1",
        "1 thread",
        "report split",
        "seeds 0 1 2",
    ):
        assert fact in shown, fact
    assert "the arms, trained on 2020-02-03, not now" in shown
    assert "recalled, not read" in shown.replace("│", " ")


def test_learning_claim_of_a_stored_study_is_never_now(tmp_path: Path) -> None:
    verdict = laptop(study(tmp_path))
    exact, learned = verdict.to_dict()["claims"]
    assert (exact["when"], learned["when"]) == ("now", "study of 2020-02-03")
    assert not verdict.to_dict()["study_made_now"]


def test_study_made_by_the_call_is_now(tmp_path: Path) -> None:
    made = run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path)
    verdict = judged(MadeUp().found(), "study", made, device=HereDevice())
    assert [claim["when"] for claim in verdict.to_dict()["claims"]] == ["now", "now"]
    assert "the arms, trained now" in str(verdict)


def test_study_that_went_on_from_another_day_is_not_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hollowbone.reproduce.study.today", lambda: "2020-02-03")
    monkeypatch.setattr("hollowbone.reproduce.study.commit", lambda: "old")
    run_study(MadeUp().found(seeds=(0, 1)), device=HereDevice(), folder=tmp_path)
    monkeypatch.setattr("hollowbone.reproduce.study.today", lambda: "2020-02-05")
    monkeypatch.setattr("hollowbone.reproduce.study.commit", lambda: "new")
    resumed = run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path)
    assert (resumed.conditions.date, resumed.conditions.last_date) == ("2020-02-03 to 2020-02-05", "2020-02-05")
    assert resumed.conditions.commit == "old new"
    shown = str(judged(MadeUp().found(), "study", resumed, device=HereDevice()))
    assert "trained on 2020-02-03 to 2020-02-05, not now" in shown
    assert "trained now" not in shown


def test_without_a_study_learning_cannot_be_told_and_it_says_how() -> None:
    verdict = laptop(None)
    assert [finding.verdict for finding in verdict.claims] == [HOLDS, UNKNOWN]
    assert verdict.arms == ()
    assert "no study yet: hollowbone reproduce mobilenetv2 --scale study" in str(verdict)
    assert verdict.to_dict()["claims"][1]["when"] == "no study"


def test_changed_code_is_said(tmp_path: Path) -> None:
    found = study(tmp_path)
    assert "have changed since" not in str(laptop(found))
    assert "have changed since" in str(laptop(dataclasses.replace(found, sources="other")))


def test_every_learning_verdict_but_unknown_has_an_interval(tmp_path: Path) -> None:
    for verdict in (laptop(study(tmp_path)), laptop(None)):
        for finding in verdict.learned:
            assert finding.verdict == UNKNOWN or finding.interval is not None


def test_dictionary_is_json_and_complete(tmp_path: Path) -> None:
    value = json.loads(json.dumps(laptop(study(tmp_path)).to_dict(), allow_nan=False))
    claim = value["claims"][1]
    assert claim["verdict"] == "holds"
    assert claim["interval"][0] < claim["value"] < claim["interval"][1]
    assert claim["seeds"] == [0, 1, 2]
    assert value["arms"][0]["accuracy"] == pytest.approx(0.82)
    for conditions in (value["now"], value["study"]):
        assert {"date", "device", "processor", "cores", "runtime", "threads", "commit", "versions"} <= conditions.keys()


def test_notebook_shows_the_same_and_escapes(tmp_path: Path) -> None:
    html = laptop(study(tmp_path))._repr_html_()
    assert html.count("<table>") == 2
    assert "ours is [better] than theirs" in html
    assert "2020-02-03" in html
    assert "made up" in html


def test_brackets_in_a_claim_are_not_taken_for_markup(tmp_path: Path) -> None:
    assert "[better]" in str(laptop(None))
