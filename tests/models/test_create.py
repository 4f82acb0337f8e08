"""`create_model` and the registry: names, overrides, sentences."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hollowbone.errors import UserError
from hollowbone.models.base import card, cards, list_models, register
from hollowbone.models.checkpoint import save_checkpoint
from hollowbone.models.create import create_model
from tests.models.networks import CARDS, name_of

TINY = dict(card("mobilenetv2_035").tiny_overrides)


def test_every_variant_of_the_two_papers_is_registered() -> None:
    assert list_models("mobilenetv2*") == sorted(
        f"mobilenetv2_{v}" for v in ("035", "050", "075", "100", "140", "110d", "120d")
    )
    assert list_models("efficientformer*") == ["efficientformer_l1", "efficientformer_l3", "efficientformer_l7"]
    assert list_models(task="segmentation") == []
    with pytest.raises(ValueError, match="registered twice"):
        register(card("mobilenetv2_035"))


@pytest.mark.parametrize("card_", CARDS, ids=name_of)
def test_names_and_sizes_are_those_of_timm(card_) -> None:  # type: ignore[no-untyped-def]
    timm = pytest.importorskip("timm")
    assert timm.is_model(card_.name)
    facts = timm.get_pretrained_cfg(card_.name)
    assert facts.hf_hub_id is None or card_.hub in ("", facts.hf_hub_id)


def test_network_carries_its_card_and_travels_between_processes() -> None:
    model = create_model("mobilenetv2_035", **TINY)
    assert model.card is card("mobilenetv2_035")
    copy = pickle.loads(pickle.dumps(model)).eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(copy(x), model.eval()(x))


def test_example_fits_the_network() -> None:
    example = card("efficientformer_l1").example(batch=3, in_chans=1, resolution=(32, 48))
    assert example.args[0].shape == (3, 1, 32, 48)
    assert example.units == 3
    assert torch.equal(example.args[0], card("efficientformer_l1").example(batch=3, in_chans=1, resolution=(32, 48)).args[0])


def test_name_and_file_in_one(tmp_path: Path) -> None:
    trained = create_model("mobilenetv2_035", num_classes=3).eval()
    save_checkpoint(trained, tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 32, 32)
    for model in (
        create_model(f"mobilenetv2_035@{tmp_path / 'w.safetensors'}", num_classes=3),
        create_model("mobilenetv2_035", num_classes=3, checkpoint=str(tmp_path / "w.safetensors")),
    ):
        assert torch.equal(model.eval()(x), trained(x))


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("mobilenetv2_10", {}, "there is no model named 'mobilenetv2_10'"),
        ("mobilenetv2_100", {"widht": 2}, "there is no argument of mobilenetv2_100 named 'widht'; the nearest is 'width'"),
        ("mobilenetv2_100@none.pt", {}, "there is no checkpoint file none.pt"),
        ("mobilenetv2_100@a.pt", {"checkpoint": "b.pt"}, "weights are given twice: b.pt and a.pt"),
        ("mobilenetv2_100", {"checkpoint": "b.pt", "pretrained": True}, "weights are given twice"),
        ("timm:resnet19", {}, "there is no timm model named 'resnet19'"),
        ("timm:resnet18", {"wings": 2}, "timm's resnet18 does not take these arguments"),
    ],
)
def test_mistakes_are_sentences(name: str, arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create_model(name, **arguments)


def test_networks_of_timm_are_built_with_a_card_of_their_own() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = create_model("timm:mobilenetv3_small_050", num_classes=4, in_chans=1).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv3_small_050", num_classes=4, in_chans=1).eval()
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(ours(x), theirs(x))
    assert ours.card.name == "timm:mobilenetv3_small_050"
    assert ours.card.input_size == (3, 224, 224)
    assert ours.card.hub.startswith("timm/mobilenetv3_small_050")


def test_networks_of_timm_without_timm_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        create_model("timm:resnet18")


def test_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hollowbone.models.create import create_model; create_model('mobilenetv2_035'); "
        "heavy = ('timm', 'torchvision', 'huggingface_hub', 'onnx', 'onnxruntime', 'safetensors'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(cards()) >= 10


def test_shapes_in_signatures_hold(tmp_path: Path) -> None:
    """In a process of its own: the checked wrappers would get in the way of tracing and compiling."""
    # An int is a float here, as everywhere in Python's typing.
    checker = "from beartype import BeartypeConf, beartype\ncheck = beartype(conf=BeartypeConf(is_pep484_tower=True))\n"
    (tmp_path / "checker.py").write_text(checker)
    script = tmp_path / "checked.py"
    script.write_text(
        """
import jaxtyping, torch
with jaxtyping.install_import_hook(["hollowbone.models", "hollowbone.layers"], "checker.check"):
    from hollowbone.models.base import cards
    from hollowbone.models.blocks.inverted_residual import InvertedResidual
    from hollowbone.models.blocks.metaformer import Meta3D
    from hollowbone.models.fold import fold
    registered = cards().values()  # imports the networks, which must happen under the hook
for card in registered:
    model = card.tiny()
    x = torch.randn(2, *card.tiny_size)
    model(x)
    model.feature_maps(x)
    model.eval()(x)
    fold(model)(torch.randn(1, 3, 65, 97))
InvertedResidual(8, 8, padding="same", chunks=3).eval()(torch.randn(1, 8, 5, 5))
attention = Meta3D(8, grid=(2, 2))
for call, wrong in ((model.feature_maps, torch.randn(3, 64, 64)), (attention, torch.randint(9, (1, 4, 8)))):
    try:
        call(wrong)
    except jaxtyping.TypeCheckError:
        print("refused")
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["refused", "refused"]
