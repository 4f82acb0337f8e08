"""`--start`: the user's model as it is, slimmed with its weights, in int8, or refused with the figure."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hollowbone.errors import BudgetImpossible, UserError
from hollowbone.fit import brought, candidates, reference, start
from hollowbone.fit.context import Context
from hollowbone.fit.folder import RunFolder
from hollowbone.fit.journal import Journal
from hollowbone.fit.run import Run, _open, fit
from hollowbone.fit.settings import Settings
from hollowbone.fit.trial import build
from hollowbone.measure.budget import Budget
from hollowbone.models import base
from hollowbone.models.checkpoint import save_checkpoint
from hollowbone.models.create import create_model
from hollowbone.models.efficientformer import EfficientFormer
from hollowbone.runtime.base import Timing
from hollowbone.tasks import get_task
from tests.fit.fakes import Weighing

DIGITS = get_task("classification").read("digits", seed=0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The networks here are tiny: one thread runs them faster than two, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(name: str, path: Path, *, num_classes: int = 10, seed: int = 3) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(create_model(name, num_classes=num_classes, in_chans=1), path)
    return path


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of no family that hollowbone knows, and an EfficientFormer of small numbers."""
    base.cards()
    tiny = partial(EfficientFormer, widths=(16, 32, 32, 48), depths=(1, 1, 2, 2), vit_num=2)
    for name, make in (("toy_net", toy), ("efficientformer_toy", tiny)):
        monkeypatch.setitem(base._REGISTRY, name, base.ModelCard(name=name, system="toy", build=make, tiny_overrides={}))


def toy(num_classes: int = 10, in_chans: int = 1) -> nn.Module:
    first = nn.Conv2d(in_chans, 32, 3, stride=4, padding=1)
    return nn.Sequential(
        first,
        nn.ReLU(),
        nn.Conv2d(32, 256, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Context]:
    """`opened(start, budget)`: a context as `fit` has it, in the folder `out`, on a device that weighs."""
    monkeypatch.setattr("hollowbone.runtime.get_device", lambda name: Weighing())
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # one thread: the networks are tiny
    monkeypatch.setattr("hollowbone.measure.require_measurable", lambda *rest: None)

    def make(start: str | None = None, budget: str = "latency<=1ms", out: str = "run", **settings: object) -> Context:
        folder = RunFolder(tmp_path / out)
        folder.path.mkdir(exist_ok=True)
        told = Settings("digits", str(Budget(budget)), start=start, epochs=1, **settings)
        return _open(told, folder, Journal(folder.journal), engine="local", quiet=True)

    return make


def found_by(context: Context) -> tuple[candidates.Found, reference.Baseline]:
    baseline = reference.measure(context)
    return start.find(context, context.budget.resolve(baseline.cost), baseline), baseline


# The door


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mobilenetv2_10", "mobilenetv2_100"),
        ("mobilenetv2_035@nowhere.pt", "no checkpoint file nowhere.pt"),
        ("mobilenetv2_050@{other}", "is not a checkpoint of MobileNetV2 with these sizes"),
        ("mobilenetv2_035@{torn}", "torn.safetensors"),
        ("mobilenetv2_035@{bomb}", "refused"),
    ],
)
@pytest.mark.parametrize("role", ["start", "teacher"])
def test_what_cannot_be_used_is_refused_before_any_work(given, said, role, opened, tmp_path: Path) -> None:
    files = {"other": tmp_path / "other.safetensors", "torn": tmp_path / "torn.safetensors", "bomb": tmp_path / "bomb.pt"}
    checkpoint("mobilenetv2_035", files["other"])
    files["torn"].write_bytes(files["other"].read_bytes()[:5000])

    class Bomb:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "executed"), "w"))

    files["bomb"].write_bytes(pickle.dumps({"state_dict": Bomb()}))
    with pytest.raises(UserError, match=said):
        opened(**{role: given.format(**files)})
    assert not (tmp_path / "executed").exists()
    assert (tmp_path / "run" / "journal.jsonl").read_text() == ""


def test_teacher_needs_weights_and_the_same_number_of_classes(opened, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no weights, so it has nothing to teach"):
        opened(teacher="mobilenetv2_035")
    of_seven = checkpoint("mobilenetv2_035", tmp_path / "seven.safetensors", num_classes=7)
    with pytest.raises(UserError, match="other classes than the 10 of the data"):
        opened(teacher=f"mobilenetv2_035@{of_seven}")
    of_ten = checkpoint("mobilenetv2_035", tmp_path / "ten.safetensors")
    context = opened(teacher=f"mobilenetv2_035@{of_ten}")
    assert context.teacher is not None
    taught = build(context.with_weights(context.teacher)).state_dict()
    assert all(torch.equal(taught[k], v) for k, v in load_file(of_ten).items())


def test_network_that_cannot_take_the_pictures_is_refused(toys, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = lambda num_classes, in_chans: nn.Sequential(nn.Flatten(), nn.Linear(7, num_classes))  # noqa: E731
    card = base.ModelCard(name="stuck", system="toy", build=stuck, tiny_overrides={})
    monkeypatch.setitem(base._REGISTRY, "stuck", card)
    with pytest.raises(UserError, match="cannot take pictures of 1x32x32"):
        brought.open_model("stuck", DIGITS, role="start", seed=0)


def test_changed_weights_are_refused_on_resume_and_fresh_heads_are_the_same(opened, tmp_path: Path) -> None:
    path = checkpoint("mobilenetv2_035", tmp_path / "mine.safetensors", num_classes=7)
    first, second = (opened(start=f"mobilenetv2_035@{path}") for _ in range(2))
    assert first.start == second.start
    assert str(path) not in json.dumps(first.start)
    checkpoint("mobilenetv2_035", path, num_classes=7, seed=4)
    with pytest.raises(UserError, match="the weights of --start are not those of the run"):
        opened(start=f"mobilenetv2_035@{path}")


def test_networks_that_timm_names_are_ours_and_can_be_slimmed() -> None:
    model = brought.open_model("timm:mobilenetv2_035", DIGITS, role="start", seed=0)
    assert model.config["name"] == "mobilenetv2_035"
    assert model.weights is None


@torch.no_grad()
def test_efficientformer_is_brought_to_the_data_and_computes_the_same(toys, tmp_path: Path) -> None:
    path = checkpoint("efficientformer_toy", tmp_path / "former.safetensors")
    model = brought.open_model(f"efficientformer_toy@{path}", DIGITS, role="start", seed=0)
    ours = build(model.config)
    ours.load_state_dict(model.weights)
    x = torch.randn(2, 1, 32, 32)
    whole = create_model(f"efficientformer_toy@{path}", num_classes=10, in_chans=1)
    torch.testing.assert_close(ours.eval()(x), whole.eval()(x), atol=1e-5, rtol=1e-5)
    assert model.config["resolution"] == 32


# What is made of it


def test_model_within_the_limits_stays_as_it_is(toys, opened, tmp_path: Path) -> None:
    path = checkpoint("toy_net", tmp_path / "mine.safetensors")
    context = opened(f"toy_net@{path}", "latency<=3ms, params<=500k")
    found, baseline = found_by(context)
    [candidate] = found.candidates
    assert candidate.origin == "start"
    assert candidate.config == baseline.config == context.start
    assert found.slimming is None
    assert context.recipe(1, candidate.config).lr == pytest.approx(context.recipe(1).lr / 3)


def test_other_family_goes_in_int8_or_is_refused_with_the_figure(toys, opened) -> None:
    found, _ = found_by(opened("toy_net", "latency<=0.15ms"))
    [candidate] = found.candidates
    assert candidate.origin == "start in int8"
    assert candidate.ms <= 0.15 < found.tried[0]["latency_ms"]
    refusal = r"as it is, params 76\.9 k, 1\.54 times the limit \(measured on scales\)\. Only EfficientFormer and MobileNetV2"
    with pytest.raises(BudgetImpossible, match=refusal):
        found_by(opened("toy_net", "params<=50k", out="second"))
    with pytest.raises(BudgetImpossible, match=r"in int8, latency 0\.0\d+ ms"):
        found_by(opened("toy_net", "latency<=0.01ms", out="third"))


def test_efficientformer_is_fine_tuned_and_slimmed_with_its_weights(toys, opened, monkeypatch, tmp_path: Path) -> None:
    path = checkpoint("efficientformer_toy", tmp_path / "former.safetensors")
    context = opened(f"efficientformer_toy@{path}", "params<=200k")
    for module in (start, candidates):  # no export is timed: the claim is about the weights
        monkeypatch.setattr(module, "measured", lambda context, config: Timing(1.0, 1.0, 1.0, 1.0, 1))
    assert context.start is not None
    found = start.find(context, Budget("params<=200k"), reference.Baseline("toy", context.start, None, None))
    [candidate] = found.candidates
    assert candidate.config["space"] == "efficientformer"
    assert len(found.slimming.record()["path"]) >= 1
    network = build(context.with_weights(candidate.config))
    assert sum(p.numel() for p in network.parameters()) <= 200_000
    tuned = load_file(context.folder.weights(candidate.source.teacher["init_sha"]))
    assert not torch.equal(tuned["stem.conv1.weight"], load_file(path)["stem.conv1.weight"])
    kept = network.state_dict()["stem.conv1.weight"]
    assert all(any(torch.equal(row, other) for other in tuned["stem.conv1.weight"]) for row in kept)


@pytest.fixture(scope="module")
def slimmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """A MobileNetV2 of the user's slimmed to two thirds of its size: run, and replayed into another folder."""
    folder = tmp_path_factory.mktemp("slimmed")
    path = checkpoint("mobilenetv2_035", folder / "mine.safetensors", num_classes=7)
    device = Weighing()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLLOWBONE_CACHE", str(folder / "cache"))
        patch.setattr("hollowbone.runtime.get_device", lambda name: device)
        patch.setattr("os.sched_getaffinity", lambda process: {0})
        told = {"start": f"mobilenetv2_035@{path}", "epochs": 1, "quiet": True}
        run = fit("digits", "latency<=0.65x", out=folder / "a", **told)
        timed = device.timed
        replayed = fit("digits", "latency<=0.65x", out=folder / "b", replay=folder / "a" / "journal.jsonl", **told)
        assert device.timed == timed, "a replay measured again"
        yield run, replayed


def test_slimmed_mobilenetv2_is_within_the_budget_and_keeps_its_weights(slimmed) -> None:
    run = slimmed[0]
    result = run.result
    assert run.met
    assert result["model"]["origin"] == "start"
    assert result["model"]["config"]["space"] == "mobilenetv2"
    assert result["slimming"]["begun"] == "start"
    assert result["slimming"]["supernet"]["widths"] == [8, 8, 16, 24, 32, 56, 112]
    assert result["training"]["recipe"]["lr"] == pytest.approx(1e-3)
    assert str(result["training"]["teacher"]).startswith("mobilenetv2_035@")
    assert result["reference"]["metrics"]
    assert (run.folder / "report.html").stat().st_size > 10_000
    sliced = load_file(RunFolder(run.folder).weights(result["model"]["config"]["init_sha"]))
    records = map(json.loads, (run.folder / "journal.jsonl").read_text().splitlines())
    [sha] = [r["value"] for r in records if r["key"].startswith("reference/") and r["key"].endswith("/weights")]
    tuned = load_file(RunFolder(run.folder).weights(sha))
    rows, kept = (set(map(tuple, w["conv_stem.weight"].flatten(1).tolist())) for w in (tuned, sliced))
    assert kept <= rows
    assert len({e["config"]["groups"] for rung in result["halving"] for e in rung["entrants"]}) == 2


def test_replay_in_another_folder_decides_the_same_and_ends_with_the_same_weights(slimmed) -> None:
    run, replayed = slimmed
    assert replayed.result["model"]["weights_sha256"] == run.result["model"]["weights_sha256"]
    assert replayed.result["model"]["config"] == run.result["model"]["config"]
    assert replayed.result["slimming"] == run.result["slimming"]
    journals = [(r.folder / "journal.jsonl").read_text() for r in (run, replayed)]
    assert [json.loads(line)["key"] for line in journals[0].splitlines()] == [
        json.loads(line)["key"] for line in journals[1].splitlines()
    ]
    assert not any(str(run.folder) in line for line in journals[0].splitlines())


def test_network_of_timm_with_weights_for_other_classes_gets_a_fresh_head(tmp_path: Path) -> None:
    path = checkpoint("timm:test_resnet", tmp_path / "mine.safetensors", num_classes=7)
    model = brought.open_model(f"timm:test_resnet@{path}", DIGITS, role="start", seed=0)
    assert model.config["name"] == "timm:test_resnet"
    assert model.weights is not None
    given = load_file(path)
    fresh = {key for key, value in model.weights.items() if not torch.equal(value, given[key])}
    assert fresh == {"fc.weight", "fc.bias"}


def test_own_function_is_called_and_teaches_with_the_weights_that_it_gives(opened, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\n\n\ndef net(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_chans, num_classes))\n"
    )
    context = opened(start=f"{mine}:net", teacher=f"{mine}:net")
    assert context.start is not None
    assert context.teacher is not None
    assert "init_sha" not in context.start
    assert context.recipe(1, context.start) == context.recipe(1)
    torch.manual_seed(0)
    wanted = build(context.start).state_dict()
    taught = build(context.with_weights(context.teacher)).state_dict()
    assert all(torch.equal(taught[key], value) for key, value in wanted.items())
