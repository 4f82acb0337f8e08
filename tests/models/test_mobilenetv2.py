"""What is particular to MobileNetV2: its counts, its ablations, its chunked inference, its foreign weights."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hollowbone.errors import UserError
from hollowbone.models.base import card
from hollowbone.models.blocks.channels import make_divisible
from hollowbone.models.blocks.conv import Conv2dSame
from hollowbone.models.blocks.inverted_residual import InvertedResidual
from hollowbone.models.checkpoint import load_state_dict
from hollowbone.models.create import create_model
from hollowbone.models.fold import fold_batchnorm
from hollowbone.models.mobilenetv2 import MobileNetV2
from tests.models.networks import error, shaken

VARIANTS = ["035", "050", "075", "100", "140", "110d", "120d"]


@given(st.floats(0.01, 5000), st.sampled_from([4, 8, 16]))
def test_rounded_channels_are_divisible_and_hardly_fewer(value: float, divisor: int) -> None:
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= max(divisor, 0.9 * value)
    assert rounded - value <= divisor


def test_stage_outputs_are_112_56_28_14_7() -> None:
    with torch.device("meta"):
        model = create_model("mobilenetv2_100")
        x = torch.empty(1, 3, 224, 224)
        assert [tuple(m.shape[1:]) for m in model.feature_maps(x)] == [
            (16, 112, 112),
            (24, 56, 56),
            (32, 28, 28),
            (96, 14, 14),
            (320, 7, 7),
        ]
        assert model.forward_features(x).shape == (1, 1280, 7, 7)


def test_classifier_and_head_of_narrow_networks_keep_1280_features() -> None:
    with torch.device("meta"):
        assert MobileNetV2(width=0.1).num_features == 1280
        assert MobileNetV2(width=1.4).num_features == 1792
        assert MobileNetV2(width=1.4, fix_stem_head=True).num_features == 1280


@pytest.mark.parametrize("variant", ["035", *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS if v != "035")])
def test_outputs_equal_timm_under_its_weights(variant: str) -> None:
    timm = pytest.importorskip("timm")
    name = f"mobilenetv2_{variant}"
    theirs = shaken(timm.create_model(name))
    ours = create_model(name).eval()
    assert not load_state_dict(ours, theirs.state_dict(), layouts=card(name).keys).fresh
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    assert error(ours(x), theirs(x)) < 1e-5
    assert error(ours.forward_features(x), theirs.forward_features(x)) < 1e-5
    assert [(f["num_chs"], f["reduction"], f["module"]) for f in theirs.feature_info] == [
        (f.num_chs, f.reduction, f.module) for f in ours.feature_info
    ]


@pytest.mark.parametrize("width", [0.35, pytest.param(1.0, marks=pytest.mark.slow)])
def test_torchvision_checkpoints_load(width: float) -> None:
    models = pytest.importorskip("torchvision").models
    theirs = shaken(models.mobilenet_v2(width_mult=width))
    ours = MobileNetV2(width=width).eval()
    assert load_state_dict(ours, theirs.state_dict(), layouts=card("mobilenetv2_100").keys).layout == "torchvision"
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert error(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("stride", "cout", "t"), [(1, 16, 6), (2, 24, 6), (1, 16, 1), (1, 16, 2.5)])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_chunked_block_equals_plain_block(k: int, stride: int, cout: int, t: float, padding: str) -> None:
    torch.manual_seed(0)
    block = shaken(InvertedResidual(16, cout, stride=stride, expansion=t, padding=padding))
    x = torch.randn(2, 16, 13, 10)
    plain = block(x)
    block.chunks = k
    assert error(block(x), plain) < 1e-5
    assert error(fold_batchnorm(block)(x), plain) < 1e-5


def test_chunks_leave_training_alone_and_may_exceed_the_channels() -> None:
    block = InvertedResidual(4, 4, expansion=2, chunks=50)
    reference = InvertedResidual(4, 4, expansion=2)
    reference.load_state_dict(block.state_dict())
    x = torch.randn(3, 4, 6, 6)
    assert torch.equal(block(x), reference(x))
    assert error(block.eval()(x), reference.eval()(x)) < 1e-5


class _Peak(TorchDispatchMode):
    """Most elements alive at a time, of tensors that operators made."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.alive += size
                self.peak = max(self.peak, self.alive)
                weakref.finalize(tensor.untyped_storage(), self._drop, size)
        return out

    def _drop(self, size: int) -> None:
        self.alive -= size


def _memory(block: InvertedResidual, x: torch.Tensor, chunks: int) -> int:
    block.chunks = chunks
    with torch.no_grad(), _Peak() as mode:
        block(x)
    return mode.peak


def test_chunks_hold_a_part_of_the_wide_tensor() -> None:
    # The first strided block of MobileNetV2 1.0 at 224 pixels, where the paper finds the peak.
    block = InvertedResidual(16, 24, stride=2, expansion=6).eval()
    x = torch.randn(1, 16, 112, 112)
    inner = 96 * 112 * 112
    whole, five = _memory(block, x, 1), _memory(block, x, 5)
    assert whole >= inner
    # A chunk has a fifth of the wide tensor, twice at a time (an operator's input and output), and the output and its part.
    assert five <= 2 * -(-inner // 5) + 3 * 24 * 56 * 56
    assert five < 0.5 * whole


def test_linear_bottleneck_may_be_negative_and_relu6_may_not() -> None:
    x = torch.randn(2, 8, 9, 9)
    assert shaken(InvertedResidual(8, 12))(x).min() < 0
    out = shaken(InvertedResidual(8, 12, bottleneck="relu6"))(x)
    assert 0 <= out.min() <= out.max() <= 6


def test_residuals_of_the_ablation_differ_where_the_shape_is_kept_and_only_there() -> None:
    x = torch.randn(2, 8, 9, 9)

    def outputs(cout: int, stride: int) -> list[torch.Tensor]:
        made = []
        for residual in ("bottleneck", "expansion", "none"):
            torch.manual_seed(0)
            made.append(shaken(InvertedResidual(8, cout, stride=stride, residual=residual))(x))
        return made

    a, b, c = outputs(8, 1)
    assert error(a, c + x) < 1e-5
    assert error(b, c) > 1e-2
    for cout, stride in ((8, 2), (12, 1)):
        first, *others = outputs(cout, stride)
        assert all(torch.equal(first, other) for other in others)


def test_ablations_cost_the_same() -> None:
    arms = [
        MobileNetV2(width=0.35, bottleneck=b, residual=r)
        for b in ("linear", "relu6")
        for r in ("bottleneck", "expansion", "none")
    ]
    assert {sum(p.numel() for p in arm.parameters()) for arm in arms} == {1_677_128}


def test_same_padding_is_that_of_tensorflow() -> None:
    conv = Conv2dSame(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    even = conv(torch.ones(1, 1, 4, 4))
    # Padding (0, 1): the first window is whole and the last is cut; symmetric padding would cut the first.
    assert torch.equal(even[0, 0], torch.tensor([[9.0, 6.0], [6.0, 4.0]]))
    assert conv(torch.ones(1, 1, 5, 7)).shape == (1, 1, 3, 4)
    model = shaken(MobileNetV2(width=0.35, padding="same", bn_eps=1e-3, num_classes=4))
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    x = torch.randn(1, 3, 65, 64)
    assert error(fold_batchnorm(model)(x), model(x)) < 1e-4


def test_strides_keep_small_pictures_large() -> None:
    model = create_model("mobilenetv2_035", strides=(1, 1, 2, 2, 1, 2, 1), stem_stride=1).eval()
    assert [f.reduction for f in model.feature_info] == [1, 2, 4, 8]
    assert model.feature_maps(torch.randn(1, 3, 32, 32))[-1].shape == (1, 112, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 0}, "width must be a positive number, not 0"),
        ({"width": float("nan")}, "width must be a positive number"),
        ({"depth": -1}, "depth must be a positive number, not -1"),
        ({"bottleneck": "relu"}, "there is no bottleneck named 'relu'"),
        ({"residual": "wide"}, "there is no residual named 'wide'"),
        ({"padding": "valid"}, "there is no padding named 'valid'"),
        ({"strides": (1, 2)}, "strides must be 7 numbers"),
        ({"chunks": 0}, "chunks must be 1 or more, not 0"),
        ({"expansion": 0.001}, "leaves no channel"),
        ({"settings": [(1, 2, 3)]}, "rows of four numbers"),
        ({"num_classes": -2}, "num_classes must be 0"),
        ({"in_chans": 0}, "in_chans must be 1 or more"),
    ],
)
def test_sizes_that_make_no_network_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create_model("mobilenetv2_100", **arguments)
