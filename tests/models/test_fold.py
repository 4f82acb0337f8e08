"""Folding works on networks that it has never seen, and leaves alone what it must."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from hollowbone.models.blocks.conv import Conv2dSame
from hollowbone.models.blocks.metaformer import Meta4D
from hollowbone.models.fold import fold, fold_batchnorm
from tests.models.networks import error, shaken


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


LAYERS = [
    (nn.Conv1d(6, 8, 3, padding=1, groups=2), nn.BatchNorm1d(8), (2, 6, 9)),
    (nn.Conv2d(6, 8, 3, dilation=2, bias=False), nn.BatchNorm2d(8), (2, 6, 9, 7)),
    (nn.Conv2d(6, 6, 3, stride=2, groups=6), nn.BatchNorm2d(6, affine=False), (2, 6, 9, 7)),
    (nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4, eps=1e-3), (2, 2, 4, 5, 4)),
    (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(4, 8, 2, groups=4, bias=False), nn.BatchNorm3d(8), (1, 4, 3, 3, 3)),
    (nn.Linear(5, 7), nn.BatchNorm1d(7), (4, 5)),
    (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), (4, 5)),
    (Conv2dSame(3, 4, 3, 2), nn.BatchNorm2d(4), (2, 3, 8, 7)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), (2, 3, 8, 7)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("between", [(), (nn.Dropout(), nn.Identity())], ids=["adjacent", "dropout"])
def test_layer_and_norm_become_one(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...], between: tuple) -> None:
    model = shaken(nn.Sequential(layer, *between, norm, nn.ReLU()))
    folded, x = fold_batchnorm(model), torch.randn(shape)
    assert not norms(folded)
    assert norms(model)
    assert error(folded(x), model(x)) < 1e-5


class Branching(nn.Module):
    """The convolution's output is read twice, so only the second norm may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.b, self.nb = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y + self.nb(self.b(self.na(y)))


class Shared(nn.Module):
    """One convolution under two norms, one norm after two convolutions, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.n1, self.n2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.c1, self.c2, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.t1, self.m1, self.t2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.t2.weight = self.t1.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(self.conv(x)) + self.n2(self.conv(x))
        x = self.norm(self.c1(x)) * self.norm(self.c2(x))
        return self.t2(self.m1(self.t1(x)))


class NormFirst(nn.Module):
    """Registered as convolution and norm, run as norm and convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Dynamic(nn.Module):
    """Cannot be traced: its branches depend on values. Its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)
        )
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), Unsteady(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if x.sum().item() > -1e9:
                x = block(x)
        return self.inner(x)


class Unsteady(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class Standardised(nn.Conv2d):
    """Multiplies by another weight than the one it holds."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


def test_output_read_twice_is_not_folded() -> None:
    model, x = shaken(Branching()), torch.randn(2, 3, 4, 4)
    folded = fold_batchnorm(model)
    assert norms(folded) == ["na"]
    assert error(folded(x), model(x)) < 1e-5


def test_shared_layers_norms_and_weights_are_not_folded() -> None:
    model, x = shaken(Shared()), torch.randn(2, 3, 4, 4)
    folded = fold_batchnorm(model)
    assert norms(folded) == norms(model)
    assert torch.equal(folded(x), model(x))


def test_order_of_registration_does_not_mislead() -> None:
    model, x = shaken(NormFirst()), torch.randn(2, 3, 4, 4)
    folded = fold_batchnorm(model)
    assert norms(folded) == ["norm"]
    assert torch.equal(folded(x), model(x))


def test_networks_that_cannot_be_traced_fold_part_by_part() -> None:
    model, x = shaken(Dynamic()), torch.randn(2, 3, 6, 6)
    folded = fold_batchnorm(model)
    assert not norms(folded)
    assert error(folded(x), model(x)) < 1e-5


def test_norms_of_the_batch_itself_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    x = torch.randn(4, 3, 5, 5)
    folded = fold_batchnorm(model)
    assert len(norms(folded)) == 1
    assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize("kind", ["standardised", "parametrised", "pruned", "hooked"])
def test_layers_that_do_more_than_they_hold_are_left_alone(kind: str) -> None:
    conv = (Standardised if kind == "standardised" else nn.Conv2d)(3, 4, 1)
    if kind == "parametrised":
        parametrizations.weight_norm(conv)
    elif kind == "pruned":
        with torch.no_grad():  # else the weight is a result with a history, which PyTorch cannot copy
            prune.l1_unstructured(conv, "weight", amount=0.5)
    elif kind == "hooked":
        conv.register_forward_hook(lambda module, args, out: out * 2)
    model, x = shaken(nn.Sequential(conv, nn.BatchNorm2d(4))), torch.randn(2, 3, 4, 4)
    folded = fold_batchnorm(model)
    assert len(norms(folded)) == 1
    assert error(folded(x), model(x)) < 1e-6


def test_a_block_in_two_places_is_folded_once() -> None:
    block = Meta4D(6, layer_scale=0.5)
    model, x = shaken(nn.Sequential(block, block, nn.Sequential(block))), torch.randn(1, 6, 5, 5)
    folded = fold(model)
    assert folded[0] is folded[2][0]
    assert error(folded(x), model(x)) < 1e-5


def test_precision_is_kept() -> None:
    model = shaken(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).double()
    assert fold_batchnorm(model)[0].weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnetx_002", "repvgg_a0"])
def test_networks_of_timm_fold(name: str) -> None:
    timm = pytest.importorskip("timm")
    model = shaken(timm.create_model(name, num_classes=10))
    folded, x = fold_batchnorm(model), torch.randn(1, 3, 64, 64)
    assert norms(folded) == ([n for n in norms(model) if n.endswith("identity")])  # RepVGG's identity branch is a norm alone
    assert error(folded(x), model(x)) < 1e-4
