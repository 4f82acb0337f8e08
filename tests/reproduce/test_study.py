"""Studies: resumed by arm and seed, stored as figures, judged when shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hollowbone.reproduce import study as study_module
from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, UNKNOWN, Contrast, SubClaim
from hollowbone.reproduce.study import Study, arm_rows, judge, run_study, stored_study, study_folder, unchanged
from hollowbone.tasks.base import Metric
from tests.reproduce.made_up import ACCURACY, HereDevice, MadeUp

ACC, LOSS = Metric("accuracy"), Metric("error", higher_is_better=False)
CLAIM = SubClaim("gain", "better", "", "")


def runs(ours: list[float], theirs: list[float], first_seed: int = 0) -> dict[str, dict[int, dict[str, float]]]:
    made = {"ours": dict(enumerate(ours)), "theirs": dict(enumerate(theirs, first_seed))}
    return {arm: {seed: {"accuracy": a} for seed, a in by_seed.items()} for arm, by_seed in made.items()}


def test_all_arms_and_seeds_run_once_and_are_stored(tmp_path: Path) -> None:
    made = MadeUp()
    found = run_study(made.found(), device=HereDevice(), folder=tmp_path)
    assert made.asked == [(arm, seed) for seed in (0, 1, 2) for arm in ("ours", "theirs")]
    assert {arm: tuple(f["accuracy"] for f in by.values()) for arm, by in found.runs.items()} == ACCURACY
    stored = Study.from_dict(json.loads((tmp_path / "study.json").read_text()))
    assert stored.runs == found.runs
    assert (found.fresh, stored.fresh) == (True, False)
    assert found.conditions.seeds == (0, 1, 2)
    assert found.conditions.split == "report"


@pytest.mark.parametrize("stop_after", range(6))
def test_interrupted_study_goes_on_where_it_stopped(tmp_path: Path, stop_after: int) -> None:
    whole = run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path / "whole")
    made = MadeUp(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        run_study(made.found(), device=HereDevice(), folder=tmp_path)
    assert not (tmp_path / "study.json").exists()
    rest = MadeUp()
    resumed = run_study(rest.found(), device=HereDevice(), folder=tmp_path)
    assert len(made.asked) == stop_after
    assert made.asked + rest.asked == [(arm, seed) for seed in (0, 1, 2) for arm in ("ours", "theirs")]
    drop = {arm: {s: {**f, "seconds": 0} for s, f in by.items()} for arm, by in resumed.runs.items()}
    assert drop == {arm: {s: {**f, "seconds": 0} for s, f in by.items()} for arm, by in whole.runs.items()}


def test_more_seeds_extend_a_study(tmp_path: Path) -> None:
    run_study(MadeUp().found(seeds=(0, 1)), device=HereDevice(), folder=tmp_path)
    more = MadeUp()
    assert run_study(more.found(), device=HereDevice(), folder=tmp_path).conditions.seeds == (0, 1, 2)
    assert more.asked == [("ours", 2), ("theirs", 2)]


@pytest.mark.parametrize(
    ("changes", "fingerprint"),
    [
        ({"settings": {"epochs": 2}}, "f"),
        ({"sources": ("hollowbone.files",)}, "f"),
        ({"data": "other"}, "f"),
        ({}, "another machine"),
    ],
)
def test_changed_settings_code_data_or_machine_run_again(tmp_path: Path, changes: dict, fingerprint: str) -> None:
    run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path)
    made = MadeUp()
    run_study(made.found(**changes), device=HereDevice(fingerprint), folder=tmp_path)
    assert len(made.asked) == 6


def test_changed_words_do_not_run_again(tmp_path: Path) -> None:
    run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path)
    made = MadeUp()
    run_study(made.found(notes=("better words",), contrasts=()), device=HereDevice(), folder=tmp_path)
    assert made.asked == []


def test_claim_is_judged_on_differences_paired_by_seed() -> None:
    # The arms overlap, and every pair differs by about 2 points: only pairing shows it.
    ours, theirs = [0.50, 0.60, 0.70, 0.80], [0.48, 0.581, 0.679, 0.78]
    finding = judge(Contrast(CLAIM, "ours", "theirs"), runs(ours, theirs), ACC)
    assert finding.verdict == HOLDS
    assert finding.seeds == (0, 1, 2, 3)
    assert finding.value == pytest.approx(0.02)
    assert finding.interval is not None
    assert 0 < finding.interval[0] < 0.02 < finding.interval[1]
    assert finding.measured.startswith("+2.00 points (95% interval +1.")


def test_less_than_stated_is_partly_and_the_wrong_way_is_not() -> None:
    figures = runs([0.52, 0.53, 0.521], [0.50, 0.51, 0.50])
    assert judge(Contrast(CLAIM, "ours", "theirs", stated=0.05), figures, ACC).verdict == PARTLY
    assert judge(Contrast(CLAIM, "theirs", "ours", stated=0.05), figures, ACC).verdict == FAILS


def test_where_lower_is_better_the_lower_arm_wins() -> None:
    assert judge(Contrast(CLAIM, "ours", "theirs"), runs([0.20, 0.21, 0.20], [0.30, 0.31, 0.29]), LOSS).verdict == HOLDS


def test_noise_cannot_be_told() -> None:
    assert judge(Contrast(CLAIM, "ours", "theirs"), runs([0.5, 0.6, 0.5], [0.5, 0.5, 0.6]), ACC).verdict == UNKNOWN


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_pairs_cannot_be_told(seeds: int) -> None:
    finding = judge(Contrast(CLAIM, "ours", "theirs"), runs([0.9, 0.91][:seeds], [0.1, 0.11][:seeds]), ACC)
    assert finding.verdict == UNKNOWN
    assert finding.interval is None


def test_only_seeds_that_both_arms_have_are_paired() -> None:
    finding = judge(Contrast(CLAIM, "ours", "theirs"), runs([0.5] * 5, [0.4] * 5, first_seed=2), ACC)
    assert finding.seeds == (2, 3, 4)
    assert judge(Contrast(CLAIM, "ours", "no such arm"), runs([0.5] * 5, [0.4] * 5), ACC).verdict == UNKNOWN


def test_arm_rows_have_means_intervals_and_ranges(tmp_path: Path) -> None:
    found = MadeUp().found()
    first, second = arm_rows(found, run_study(found, device=HereDevice(), folder=tmp_path).runs)
    assert first.accuracy == pytest.approx(0.82)
    assert first.interval == pytest.approx((0.82 - 4.302653 * 0.02 / 3**0.5, 0.82 + 4.302653 * 0.02 / 3**0.5))
    assert first.latency_range == pytest.approx((0.1, 0.12))
    assert (second.params, second.macs, second.seeds) == (100, 1000, (0, 1, 2))
    assert arm_rows(found, {}) == []


def store(path: Path, date: str) -> None:
    made = run_study(MadeUp().found(), device=HereDevice(), folder=path.parent / "ledger")
    dated = dataclasses.replace(made, conditions=dataclasses.replace(made.conditions, date=date))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dated.to_dict()))


def test_newest_of_the_committed_and_the_own_study_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLLOWBONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(study_module, "COMMITTED", tmp_path / "committed")
    assert stored_study("mobilenetv2") is None
    store(tmp_path / "committed" / "mobilenetv2.json", "2026-01-02")
    assert stored_study("mobilenetv2").conditions.date == "2026-01-02"
    store(study_folder("mobilenetv2") / "study.json", "2026-01-01")
    assert stored_study("mobilenetv2").conditions.date == "2026-01-02"
    store(study_folder("mobilenetv2") / "study.json", "2026-01-03")
    assert stored_study("mobilenetv2").conditions.date == "2026-01-03"


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"version": 99}', '{"version": 1}'])
def test_file_that_is_no_study_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("HOLLOWBONE_CACHE", str(tmp_path))
    monkeypatch.setattr(study_module, "COMMITTED", tmp_path / "committed")
    study_folder("x").mkdir(parents=True)
    (study_folder("x") / "study.json").write_text(content)
    assert stored_study("x") is None


def test_study_knows_whether_its_code_has_changed(tmp_path: Path) -> None:
    made = run_study(MadeUp().found(), device=HereDevice(), folder=tmp_path)
    stored = Study.from_dict(json.loads((tmp_path / "study.json").read_text()))
    assert unchanged(MadeUp().found(), made)
    assert unchanged(MadeUp().found(), stored)
    assert not unchanged(MadeUp().found(settings={"epochs": 7}), stored)
    assert not unchanged(MadeUp().found(sources=("hollowbone.files",)), stored)
