"""What every registered network keeps, in its tiny form; full-size variants are counted on the meta device."""

from __future__ import annotations

import copy
import math
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from torch import nn

from hollowbone.errors import UserError
from hollowbone.measure import count
from hollowbone.models.base import Backbone, ModelCard
from hollowbone.models.checkpoint import load_checkpoint, save_checkpoint
from hollowbone.models.fold import fold, fold_batchnorm
from hollowbone.runtime import export, load
from hollowbone.runtime.base import Example
from tests.models.networks import CARDS, ONE_A_SYSTEM, SMALLEST, error, name_of, pictures, tiny

every = pytest.mark.parametrize("card", CARDS, ids=name_of)
one_a_system = pytest.mark.parametrize("card", ONE_A_SYSTEM, ids=name_of)
CLASSES = 10


@every
def test_full_size_counts_are_those_of_the_card(card: ModelCard) -> None:
    with torch.device("meta"):
        model = card.build().eval()
        counts = count(model, Example(args=(torch.empty(1, *card.input_size),)))
    assert counts.params == card.params
    assert counts.macs == card.macs
    assert not counts.uncounted


@every
def test_output_is_one_row_of_logits_a_picture(card: ModelCard) -> None:
    model = tiny(card)
    assert model(pictures(card, 3)).shape == (3, CLASSES)
    assert model(pictures(card, 1)).shape == (1, CLASSES)


@every
def test_gray_pictures_and_other_class_counts_build(card: ModelCard) -> None:
    assert tiny(card, in_chans=1, num_classes=7)(pictures(card, in_chans=1)).shape == (2, 7)


@every
def test_a_picture_is_judged_by_itself(card: ModelCard) -> None:
    model, x = tiny(card), pictures(card, 4)
    assert error(torch.cat([model(one) for one in x.split(1)]), model(x)) < 1e-5


@every
@pytest.mark.parametrize("size", [None, (65, 97), (97, 65)])
def test_feature_maps_are_as_announced(card: ModelCard, size: tuple[int, int] | None) -> None:
    model, x = tiny(card), pictures(card, size=size)
    assert isinstance(model, Backbone)
    maps = model.feature_maps(x)
    assert len(maps) == len(model.feature_info)
    for map_, info in zip(maps, model.feature_info, strict=True):
        expected = tuple(math.ceil(side / info.reduction) for side in x.shape[2:])
        assert map_.shape == (2, info.num_chs, *expected)
        assert info.module in dict(model.named_modules())
    assert [i.reduction for i in model.feature_info] == sorted(i.reduction for i in model.feature_info)


@every
@pytest.mark.parametrize("size", [(65, 97), (40, 33)])
def test_odd_input_sizes_give_logits(card: ModelCard, size: tuple[int, int]) -> None:
    logits = tiny(card)(pictures(card, size=size))
    assert logits.shape == (2, CLASSES)
    assert logits.isfinite().all()


@every
def test_classifier_can_be_reset_and_removed(card: ModelCard) -> None:
    model, x = tiny(card), pictures(card)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5)
    assert model.num_classes == 5
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert model.train()(x).shape == (2, model.num_features)
    assert not any(name.startswith(model.heads) for name, _ in model.named_parameters())
    with pytest.raises(UserError, match="num_classes must be 0"):
        model.reset_classifier(-1)


@every
def test_gradient_reaches_every_parameter_that_is_not_dead(card: ModelCard) -> None:
    model = tiny(card).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # a norm over the batch takes a bias before it out again: its gradient is rightly zero
    out = model(pictures(card, 4))
    outputs = out if isinstance(out, tuple) else (out,)
    torch.manual_seed(0)
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()
    for name, parameter in model.named_parameters():
        dead = any(fnmatchcase(name, pattern) for pattern in card.dead)
        assert (parameter.grad is None) == dead, name
        assert dead or parameter.grad.abs().max() > 0, name


@every
def test_same_seed_same_network_same_output(card: ModelCard) -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        model = card.tiny().train()
        out = model(pictures(card))
        outputs.append(out[0] if isinstance(out, tuple) else out)
    assert torch.equal(*outputs)


@every
def test_saved_and_loaded_network_is_the_same(card: ModelCard, tmp_path: Path) -> None:
    model, x = tiny(card), pictures(card)
    save_checkpoint(model, tmp_path / "net.safetensors", metadata={"name": card.name})
    fresh = card.tiny().eval()
    assert error(fresh(x), model(x)) > 1e-3
    loaded = load_checkpoint(fresh, card, tmp_path / "net.safetensors")
    assert not loaded.fresh
    assert torch.equal(fresh(x), model(x))


@every
@pytest.mark.parametrize("size", [None, (65, 97)])
def test_folded_network_equals_trained_network(card: ModelCard, size: tuple[int, int] | None) -> None:
    model, x = tiny(card), pictures(card, size=size)
    before = copy.deepcopy(model.state_dict())
    for form in (fold_batchnorm(model), fold(model)):
        assert not any(isinstance(m, nn.BatchNorm2d) for m in form.modules())
        assert error(form(x), model(x)) < 1e-5
        for ours, theirs in zip(form.feature_maps(x), model.feature_maps(x), strict=True):
            assert error(ours, theirs) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "folding touched the original"


@one_a_system
@pytest.mark.parametrize("format", ["onnx", "executorch"])
def test_exported_network_equals_network(card: ModelCard, format: str, tmp_path: Path) -> None:
    model, x = tiny(card), pictures(card, 1)
    example = Example(args=(x,), dynamic={0: {0: "batch"}})
    artifact = export(fold(model), example, tmp_path / {"onnx": "net.onnx", "executorch": "net.pte"}[format], format=format)
    session = load(artifact)
    batches = (1, 3) if format == "onnx" else (1,)
    for batch in batches:
        x = pictures(card, batch)
        (out,) = session(x.numpy())
        assert error(torch.from_numpy(out), model(x)) < 1e-5


@one_a_system
def test_unfolded_network_exports_too(card: ModelCard, tmp_path: Path) -> None:
    model, x = tiny(card), pictures(card, 1, size=(65, 97))
    artifact = export(model, Example(args=(x,), dynamic={0: {0: "batch"}}), tmp_path / "net.onnx")
    (out,) = load(artifact)(x.numpy())
    assert error(torch.from_numpy(out), model(x)) < 1e-5


@one_a_system
def test_compiled_network_equals_network(card: ModelCard) -> None:
    _check_compiled(card, "aot_eager")


@pytest.mark.parametrize("card", SMALLEST, ids=name_of)
def test_natively_compiled_network_equals_network(card: ModelCard) -> None:
    _check_compiled(card, "inductor")


def _check_compiled(card: ModelCard, backend: str) -> None:
    model, x = tiny(card), pictures(card)
    with torch.no_grad():
        assert error(torch.compile(model, backend=backend, fullgraph=True)(x), model(x)) < 1e-5
    torch._dynamo.reset()


@one_a_system
def test_compiled_training_step_equals_training_step(card: ModelCard) -> None:
    x, gradients = pictures(card, 4), []
    for compiled in (False, True):
        model = tiny(card).train()
        torch.manual_seed(0)
        out = (torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model)(x)
        (out[0] if isinstance(out, tuple) else out).square().sum().backward()
        gradients.append(model.get_parameter(next(n for n, _ in model.named_parameters())).grad)
    torch._dynamo.reset()
    assert error(gradients[1], gradients[0]) < 1e-4
