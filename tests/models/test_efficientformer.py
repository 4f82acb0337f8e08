"""What is particular to EfficientFormer: its attention bias, its pooling, its two heads, its folded form, its checkpoints."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hollowbone.errors import UserError
from hollowbone.models.base import card
from hollowbone.models.blocks.biased_attention import BiasedAttention, offset_index, resize_table
from hollowbone.models.blocks.drop import DropPath
from hollowbone.models.blocks.metaformer import Meta3D, Meta4D, PoolMixer
from hollowbone.models.checkpoint import load_state_dict
from hollowbone.models.create import create_model
from hollowbone.models.efficientformer import EfficientFormer, stage_grids
from hollowbone.models.fold import fold, fold_batchnorm
from tests.models.networks import error, shaken

SMALL = {"widths": (8, 16, 24, 32), "depths": (1, 1, 2, 2), "num_heads": 2, "key_dim": 4, "attn_ratio": 2.0, "num_classes": 10}


def small(**overrides: object) -> EfficientFormer:
    torch.manual_seed(0)
    model = shaken(EfficientFormer(**{**SMALL, "resolution": 64, **overrides}))
    assert isinstance(model, EfficientFormer)
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_l1_stage_by_stage() -> None:
    with torch.device("meta"):
        model = create_model("efficientformer_l1")
    assert count(model.stem) == 11_232
    assert [count(stage.downsample) for stage in model.stages] == [0, 41_760, 194_208, 904_512]
    assert [count(stage.blocks) for stage in model.stages] == [57_744, 150_720, 2_431_296, 7_599_560]
    assert count(model.stages[0].blocks[0]) == 19_248
    assert count(model.stages[3].blocks[-1]) == 2_759_816
    assert (count(model.norm), count(model.head), count(model.head_dist)) == (896, 449_000, 449_000)


def test_network_without_distillation_lacks_one_head() -> None:
    with torch.device("meta"):
        two, one = create_model("efficientformer_l1"), create_model("efficientformer_l1", distilled=False)
    assert count(two) - count(one) == 449_000


def test_stage_outputs_of_l1() -> None:
    with torch.device("meta"):
        model, x = create_model("efficientformer_l1"), torch.empty(1, 3, 224, 224)
        assert [tuple(m.shape[1:]) for m in model.feature_maps(x)] == [(48, 56, 56), (96, 28, 28), (224, 14, 14), (448, 7, 7)]
        assert model.forward_features(x).shape == (1, 49, 448)


def test_bias_table_has_49_offsets_in_order_of_first_appearance() -> None:
    index = offset_index(7, 7)
    assert index.unique().tolist() == list(range(49))
    seen: dict[tuple[int, int], int] = {}
    points = [(y, x) for y in range(7) for x in range(7)]
    for i, (y1, x1) in enumerate(points):
        for j, (y2, x2) in enumerate(points):
            offset = (abs(y1 - y2), abs(x1 - x2))
            assert index[i, j] == seen.setdefault(offset, len(seen))


@given(st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_gathered_bias_is_symmetric_and_does_not_change_under_flips(height: int, width: int) -> None:
    attention = BiasedAttention(4, grid=(height, width), num_heads=2, key_dim=2)
    nn.init.normal_(attention.attention_biases)
    bias = attention.bias()
    assert torch.equal(bias, bias.transpose(1, 2))
    square = bias.unflatten(2, (height, width)).unflatten(1, (height, width))
    assert torch.equal(square, square.flip(1, 3))
    assert torch.equal(square, square.flip(2, 4))


def test_table_for_another_grid_keeps_the_ends_and_grows_linearly() -> None:
    table = torch.arange(4.0)[:, None].expand(4, 4).flatten()[None]  # the bias is |dy|
    grown = resize_table(table, (4, 4), (7, 5)).unflatten(1, (7, 5))
    assert torch.allclose(grown[0], torch.linspace(0, 3, 7)[:, None].expand(7, 5))
    assert resize_table(table, (4, 4), (4, 4)) is table
    assert torch.equal(resize_table(table, (4, 4), (1, 1)), table[:, :1])


def test_bias_is_never_stale() -> None:
    model, other = small(), small()
    for module in other.modules():
        if isinstance(module, BiasedAttention):
            nn.init.normal_(module.attention_biases, std=2.0)
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(model(x), other(x))
    model.load_state_dict(other.state_dict())  # in eval mode, after a forward
    assert torch.equal(model(x), other(x))
    assert not [key for key in model.state_dict() if "bias_idxs" in key or key.endswith(".ab")]


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (33, 70), (20, 20)])
def test_other_grids_than_that_of_construction_work_in_every_form(size: tuple[int, int]) -> None:
    model, x = small(), torch.randn(2, 3, *size)
    assert error(fold(model)(x), model(x)) < 1e-5
    at_home = EfficientFormer(**SMALL, resolution=size).eval()
    assert not load_state_dict(at_home, {**model.state_dict(), **_tables(model, at_home)}).fresh
    assert error(at_home(x), model(x)) < 1e-5


def _tables(model: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    pairs = zip(model.named_modules(), target.modules(), strict=True)
    return {
        f"{name}.attention_biases": resize_table(a.attention_biases.detach(), a.grid, b.grid)
        for (name, a), b in pairs
        if isinstance(a, BiasedAttention) and isinstance(b, BiasedAttention)
    }


def test_pool_mixer_of_a_constant_is_exactly_zero() -> None:
    assert torch.equal(PoolMixer()(torch.full((1, 3, 5, 4), 1.25)), torch.zeros(1, 3, 5, 4))
    block = shaken(Meta4D(6))
    block.mlp = nn.Identity()
    block.ls2.gamma.data.zero_()
    x = torch.full((2, 6, 7, 7), 1.25)
    assert torch.equal(block(x), x)


def test_training_returns_a_pair_and_evaluation_its_mean() -> None:
    model = small()
    x = torch.randn(3, 3, 64, 64)
    features = model.forward_features(x)
    assert error(model(x), (model.head(features.mean(1)) + model.head_dist(features.mean(1))) / 2) < 1e-6
    pair = model.train()(x)
    assert isinstance(pair, tuple)
    assert [p.shape for p in pair] == [(3, 10), (3, 10)]
    assert small(distilled=False).train()(x).shape == (3, 10)


@pytest.mark.parametrize(
    ("dim", "absorbed"), [(6, ("values", "keys")), (12, ("values",)), (40, ())], ids=["narrow", "middle", "wide"]
)
@pytest.mark.parametrize("grid", [(3, 4), (1, 1)])
def test_folded_attention_equals_attention(dim: int, absorbed: tuple[str, ...], grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = shaken(Meta3D(dim, grid=grid, num_heads=3, key_dim=5, attn_ratio=2.0, layer_scale=0.5))
    nn.init.normal_(block.token_mixer.qkv.weight)
    folded = fold(block)
    mixer = folded.token_mixer
    assert (mixer.values is None, mixer.keys is None) == ("values" in absorbed, "keys" in absorbed)
    for size in (grid, (2, 5), (1, 1)):
        x = torch.randn(2, size[0] * size[1], dim)
        assert error(folded(x, size), block(x, size)) < 1e-5
    assert error(folded(x := torch.randn(2, grid[0] * grid[1], dim)), block(x)) < 1e-5


def test_folded_blocks_are_less_work() -> None:
    torch.manual_seed(0)
    model = small(num_heads=8, key_dim=32, attn_ratio=4.0, depths=(1, 1, 1, 3), vit_num=2)
    costs = []
    for form in (model, fold_batchnorm(model), fold(model)):
        with FlopCounterMode(display=False) as counter:
            form(torch.randn(1, 3, 64, 64))
        costs.append(counter.get_total_flops())
    assert costs[2] < costs[1] <= costs[0]


@pytest.mark.parametrize("vit_num", [0, 1, 2, 3, 4])
def test_attention_may_reach_back_into_the_third_stage(vit_num: int) -> None:
    model = small(vit_num=vit_num)
    kinds = [isinstance(b, Meta3D) for stage in model.stages for b in stage.blocks if isinstance(b, Meta3D | Meta4D)]
    assert kinds == [False] * (6 - vit_num) + [True] * vit_num
    x = torch.randn(2, 3, 64, 64)
    assert error(fold(model)(x), model(x)) < 1e-5
    assert [m.ndim for m in model.feature_maps(x)] == [4] * 4


def test_drop_path_rates_grow_linearly_over_blocks() -> None:
    model = small(drop_path_rate=0.5)
    rates = [b.drop_path1.rate for stage in model.stages for b in stage.blocks if isinstance(b, Meta3D | Meta4D)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    x = torch.randn(8, 3, 64, 64)
    assert torch.equal(model(x), model(x))


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(20000, 2, 2))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert out.mean() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))


@pytest.mark.parametrize(("strides", "reductions"), [((2, 1), [2, 4, 8, 16]), ((1, 1), [1, 2, 4, 8])])
def test_stem_strides_keep_small_pictures_large(strides: tuple[int, int], reductions: list[int]) -> None:
    model = small(stem_strides=strides, resolution=32)
    assert [f.reduction for f in model.feature_info] == reductions
    sides = [m.shape[2:] for m in model.feature_maps(torch.randn(1, 3, 32, 32))]
    assert sides == [(32 // r, 32 // r) for r in reductions]
    assert stage_grids(32, strides) == [tuple(side) for side in sides]


@pytest.mark.parametrize("variant", ["l1", *(pytest.param(v, marks=pytest.mark.slow) for v in ("l3", "l7"))])
def test_outputs_equal_timm_under_its_weights(variant: str) -> None:
    timm = pytest.importorskip("timm")
    name = f"efficientformer_{variant}"
    theirs = shaken(timm.create_model(name))
    ours = create_model(name).eval()
    assert not load_state_dict(ours, theirs.state_dict(), layouts=card(name).keys).fresh
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert error(ours(x), theirs(x)) < 1e-5
    assert error(ours.forward_features(x), theirs.forward_features(x)) < 1e-5
    assert error(fold(ours)(x), theirs(x)) < 1e-5


def _official(model: EfficientFormer) -> dict[str, Tensor]:
    """The state dict as the official code names it, written down here independently of the translation."""
    state = {}
    for key, value in model.state_dict().items():
        maps = key.endswith(".gamma") and not _attends(model, key)
        key = re.sub(r"^stem\.(\w+)\.", lambda m: f"patch_embed.{('conv1', 'norm1', '', 'conv2', 'norm2').index(m[1])}.", key)
        key = re.sub(r"^stages\.(\d)\.downsample\.(conv|norm)", _official_embedding, key)
        key = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"network.{2 * int(m[1])}.", key)
        key = re.sub(r"\.ls(\d)\.gamma$", r".layer_scale_\1", key).replace("head_dist", "dist_head")
        state[key] = value[:, None, None] if maps else value
        if key.endswith("attention_biases"):
            state[key.replace("attention_biases", "attention_bias_idxs")] = offset_index(2, 2)
    return state


def _official_embedding(match: re.Match[str]) -> str:
    return f"network.{2 * int(match[1]) - 1}.{'proj' if match[2] == 'conv' else 'norm'}"


def _attends(model: EfficientFormer, key: str) -> bool:
    return isinstance(model.get_submodule(".".join(key.split(".")[:4])), Meta3D)


@pytest.mark.parametrize("vit_num", [1, 2])
def test_official_checkpoints_load(vit_num: int) -> None:
    model = small(vit_num=vit_num)
    state = _official(model)
    # What the released files hold: a Flatten counts as a block, so attention's index is shifted by one.
    assert f"network.6.{3 - vit_num}.token_mixer.qkv.weight" in state
    assert {"patch_embed.0.weight", "patch_embed.4.running_mean", "network.1.proj.bias", "network.5.norm.weight"} <= set(state)
    assert state["network.0.0.layer_scale_1"].shape == (8, 1, 1)
    fresh = EfficientFormer(**SMALL, vit_num=vit_num, resolution=64).eval()
    assert load_state_dict(fresh, state, layouts=card("efficientformer_l1").keys).layout == "official"
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(fresh(x), model(x))


def test_checkpoint_of_another_resolution_loads_with_its_tables_interpolated() -> None:
    model = small(resolution=128)
    other = EfficientFormer(**SMALL, resolution=96).eval()
    load_state_dict(other, model.state_dict())
    x = torch.randn(1, 3, 96, 96)
    assert error(other(x), model(x)) < 1e-5


def test_two_heads_load_as_one_and_one_as_two() -> None:
    two, one = small(), small(distilled=False)
    x = torch.randn(2, 3, 64, 64)
    load_state_dict(one, two.state_dict())
    assert error(one(x), two(x)) < 1e-5
    fresh = EfficientFormer(**SMALL, resolution=64).eval()
    load_state_dict(fresh, one.state_dict())
    assert error(fresh(x), two(x)) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"widths": (8, 16)}, "one number a stage"),
        ({"depths": (0, 1, 1, 1)}, "every stage needs a block"),
        ({"vit_num": 11}, "vit_num must be 0 to 10"),
        ({"stem_strides": (4, 1)}, "stem_strides must be two numbers"),
        ({"resolution": 0}, "resolution must be 1 pixel or more"),
        ({"num_heads": 0}, "attention needs"),
    ],
)
def test_sizes_that_make_no_network_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create_model("efficientformer_l1", **arguments)
