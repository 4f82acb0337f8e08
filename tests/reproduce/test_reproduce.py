"""The verb: its door, and both systems' exact claims; timing is left to a made-up device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hollowbone as hb
from hollowbone import reproduce as package
from hollowbone.errors import HollowboneError, UserError
from hollowbone.reproduce import SYSTEMS, efficientformer, get_reproduction, mobilenetv2
from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, UNKNOWN, VERDICTS
from hollowbone.reproduce.where import commit
from hollowbone.runtime.base import Timing
from tests.reproduce.made_up import HereDevice, MadeUp


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    made = MadeUp()
    monkeypatch.setattr("hollowbone.reproduce.get_reproduction", lambda slug: made.found())
    monkeypatch.setattr("hollowbone.runtime.device.get_device", lambda name="local": HereDevice())
    return made


def test_unknown_slug_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'mobilenetv2'"):
        hb.reproduce("mobilenet2")


def test_planned_system_is_refused_as_planned() -> None:
    with pytest.raises(UserError, match=r"planned.*efficientformer, mobilenetv2"):
        hb.reproduce("osnet")


@pytest.mark.parametrize("scale", ["lap", "", "paper "])
def test_unknown_scale_is_refused(scale: str) -> None:
    with pytest.raises(UserError, match="scale"):
        hb.reproduce("mobilenetv2", scale)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_paper_scale_says_in_one_sentence_what_it_needs(slug: str) -> None:
    with pytest.raises(UserError, match="ImageNet") as refused:
        hb.reproduce(slug, "paper")
    assert "\n" not in str(refused.value)


def test_out_that_is_a_folder_is_refused_before_anything_runs(tmp_path: Path, made_up: MadeUp) -> None:
    with pytest.raises(UserError, match="folder"):
        hb.reproduce("mobilenetv2", "study", out=tmp_path)
    assert made_up.asked == []


def test_study_runs_resumes_and_is_then_what_the_laptop_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_up: MadeUp
) -> None:
    monkeypatch.setenv("HOLLOWBONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hollowbone.reproduce.study.COMMITTED", tmp_path)
    assert [f.verdict for f in hb.reproduce("mobilenetv2").claims] == [HOLDS, UNKNOWN]
    verdict = hb.reproduce("mobilenetv2", "study", out=tmp_path / "verdict.json")
    assert [f.verdict for f in verdict.claims] == [HOLDS, HOLDS]
    assert json.loads((tmp_path / "verdict.json").read_text()) == json.loads(json.dumps(verdict.to_dict()))
    assert [f.verdict for f in hb.reproduce("mobilenetv2").claims] == [HOLDS, HOLDS]
    hb.reproduce("mobilenetv2", "study")
    assert len(made_up.asked) == 6


@pytest.mark.parametrize("slug", SYSTEMS)
def test_reproduction_is_complete(slug: str) -> None:
    found = get_reproduction(slug)
    assert found.slug == slug
    assert len(found.seeds) >= 3
    arms = [arm.name for arm in found.arms]
    assert len(set(arms)) == len(arms) >= 2
    for contrast in found.contrasts:
        assert {contrast.better, contrast.worse} <= set(arms)
        assert contrast.claim.text
        assert contrast.claim.place
    json.dumps(dict(found.settings))
    assert found.runtime == "onnxruntime"


@pytest.mark.parametrize("slug", SYSTEMS)
def test_committed_study_fits_the_reproduction(slug: str) -> None:
    path = package.study.COMMITTED / f"{slug}.json"
    if not path.exists():
        pytest.skip("no study is committed yet")
    study = package.study.Study.from_dict(json.loads(path.read_text()))
    assert set(study.runs) == {arm.name for arm in get_reproduction(slug).arms}
    assert all(len(by_seed) >= 3 for by_seed in study.runs.values())


def test_commit_is_that_of_the_checkout_or_the_release() -> None:
    said = commit().removesuffix("+")
    assert said.startswith("of release") or int(said, 16)


# ---------------------------------------------------------------------------------------------------------- MobileNetV2


def test_mobilenetv2_counts_and_the_papers_print() -> None:
    verdicts = {finding.claim.name: finding.verdict for finding in mobilenetv2.counts()}
    assert verdicts == {
        "counts": HOLDS,
        "parameters 1": FAILS,
        "multiply-adds 1": HOLDS,
        "parameters 1.4": FAILS,
        "multiply-adds 1.4": HOLDS,
    }


def test_wrong_count_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobilenetv2, "COUNTS", {"mobilenetv2_035": (1_677_128, 59_285_807)})
    monkeypatch.setattr(mobilenetv2, "PRINTED", {})
    (finding,) = mobilenetv2.counts()
    assert finding.verdict == FAILS
    assert "59,285,808" in finding.measured


def test_chunks_give_the_same_output_in_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobilenetv2, "CHUNKS", (2, 5))
    same, less = mobilenetv2.chunks()
    assert same.verdict == HOLDS
    assert same.value is not None
    assert 0 < same.value < 1e-5
    assert less.verdict in (HOLDS, PARTLY)


def test_peak_formula_is_the_second_groups_expansion() -> None:
    formula = mobilenetv2.peak_formula(torch.zeros(1, 3, 224, 224))
    # 16 channels in and 96 inside at 112 pixels, 24 out at 56
    assert formula[1] == (16 + 96) * 112**2 + 24 * 56**2
    assert formula[1] > formula[2] > formula[5]


def test_share_above_the_stated_one_is_partly_and_above_one_is_not() -> None:
    assert mobilenetv2.judge_shares([0.5, 0.3], [0.5, 0.4]) == HOLDS
    assert mobilenetv2.judge_shares([0.6, 0.3], [0.5, 0.4]) == PARTLY
    assert mobilenetv2.judge_shares([1.1, 0.3], [0.5, 0.4]) == FAILS


class PairDevice(HereDevice):
    """Says that the first of a pair takes `slower` times as long."""

    def __init__(self, slower: float, spread: float = 0.01) -> None:
        super().__init__()
        self.slower, self.spread = slower, spread

    def time_pair(self, a: Any, b: Any, inputs: Any, *, threads: int = 1, clock: Any = None) -> tuple[Timing, Timing]:
        def timing(ms: float) -> Timing:
            return Timing(ms, ms, ms * (1 - self.spread), ms * (1 + self.spread), 30)

        return timing(self.slower), timing(1.0)


def test_arms_cost_the_same_in_everything_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = mobilenetv2.equal_cost(PairDevice(1.25))
    assert finding.verdict == HOLDS
    assert finding.claim.ours
    assert "relu6 1.25x (1.23 to 1.28)" in finding.measured
    monkeypatch.setitem(mobilenetv2.SWITCHES, "relu6", {"bottleneck": "relu6", "residual": "none", "expansion": 4})
    assert mobilenetv2.equal_cost(PairDevice(1.25)).verdict == FAILS


# ------------------------------------------------------------------------------------------------------ EfficientFormer


def test_efficientformer_counts_hold() -> None:
    assert [finding.verdict for finding in efficientformer.counts()] == [HOLDS, HOLDS]


@pytest.mark.parametrize(("slower", "spread", "verdict"), [(0.9, 0.01, HOLDS), (1.06, 0.05, UNKNOWN), (1.9, 0.05, FAILS)])
def test_speed_is_judged_by_the_interval_of_the_ratio(
    monkeypatch: pytest.MonkeyPatch, slower: float, spread: float, verdict: str
) -> None:
    monkeypatch.setattr(efficientformer, "create_model", lambda name: torch.nn.Conv2d(3, 1, 1))
    finding = efficientformer.speed(PairDevice(slower, spread))
    assert finding.verdict == verdict
    assert finding.value == pytest.approx(slower)
    assert finding.verdict in VERDICTS


def ms_of(config: dict[str, Any]) -> float:
    return config["ms"]


def test_arm_takes_the_slowest_network_that_is_within_the_limit() -> None:
    ladder = [{"ms": ms} for ms in (9.0, 7.0, 5.0, 3.0, 1.0)]
    for limit, chosen in ((10.0, 9.0), (9.0, 9.0), (8.9, 7.0), (4.9, 3.0), (1.0, 1.0)):
        assert efficientformer.first_within(ladder, ms_of, limit)["ms"] == chosen
    with pytest.raises(HollowboneError, match=r"within 0\.5 ms"):
        efficientformer.first_within(ladder, ms_of, 0.5)
