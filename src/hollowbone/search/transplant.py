"""A trained network's weights in a smaller one of its family: so a model that a user brings is slimmed and not begun anew.

MobileNetV2: `transplant` slices every layer. Kept are, in ascending order, the channels of largest |gamma|: of a group by the
norm of its first projection, of the inner channels of a block by the norm of its depthwise convolution, of stem and head by
their own; of the repeats of a group the first and those whose projections are scaled most. What is kept at a size follows
from the trained network alone, so narrower sets are subsets of wider ones. `shrink` chooses the size, step by step, as
`search.slimming` does.

EfficientFormer: `as_supernet` writes the network as the supernet of its own blocks, which `search.slimming.slim` then slims.
A block is as important as the change that it makes to what passes through it (the branch that is not there is as good as
absent, and as a fresh block nearly the identity if the slimming wants it after all). All of this is our reading; the paper
slims a supernet alone (Li et al. 2022, arXiv 2206.01191).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.errors import BudgetImpossible
from hollowbone.models.blocks.metaformer import Meta3D, Meta4D
from hollowbone.search.base import Action, Config, SlimmingStep
from hollowbone.search.efficientformer_space import EfficientFormerSpace
from hollowbone.search.mobilenetv2_space import DEPTHS, GROUPS, WIDTHS, MobileNetV2Space, first_within
from hollowbone.search.slimming import choose
from hollowbone.search.subnet import take, top
from hollowbone.search.supernet import Supernet
from hollowbone.search.table import Record, measure_now

FAVOUR = 8.0
"""The logit of the block that is there is this much above that of the one that is not."""


@dataclass(frozen=True)
class Shrunk:
    """What `shrink` found; `selection` continues it (`shrink(..., after=selection)`)."""

    config: Config
    selection: Config
    path: tuple[SlimmingStep, ...]
    latency_ms: float
    score: float
    start_ms: float


def shrink(
    actions: Callable[[Config], list[Action]],
    config: Config,
    latency: Callable[[Config], float],
    limit: float,
    score: Callable[[Config], float],
    *,
    after: Config | None = None,
    record: Record = measure_now,
) -> Shrunk:
    """From `config`, always the action that loses least score per millisecond saved, until the latency is within `limit`.

    These actions are big, so what one saves below the limit counts for nothing. `score(config)` is of the network with the
    trained weights at that size, higher is better. `record` is as in `slimming.slim`.
    Raises `BudgetImpossible` when no action saves anything.
    """
    config = config if after is None else after
    at = first = record("start", lambda: {"latency_ms": latency(config), "score": score(config)})
    path: list[SlimmingStep] = []
    while at["latency_ms"] > limit:
        options = actions(config)

        def step(options: Any = options, at: Any = at) -> dict[str, Any]:
            considered = []
            for action in options:
                ms = latency(action.config)
                entry = {"kind": action.kind, "detail": action.detail, "latency_ms": ms, "saved_ms": at["latency_ms"] - ms}
                if entry["saved_ms"] > 0:
                    entry["score"] = score(action.config)
                    entry["drop"] = at["score"] - entry["score"]
                considered.append(entry)
            needed = at["latency_ms"] - limit
            return {
                "considered": considered,
                "chosen": choose([{**entry, "saved_ms": min(needed, entry["saved_ms"])} for entry in considered]),
            }

        done = record(f"step {len(path) + 1}", step)
        if done["chosen"] is None:
            raise BudgetImpossible(f"slimming ended at {at['latency_ms']:.4g}, above {limit:.4g}; no action saves any more")
        action, at = options[done["chosen"]], done["considered"][done["chosen"]]
        config = action.config
        path.append(SlimmingStep(action, at["score"], at["drop"], at["saved_ms"], at["latency_ms"], tuple(done["considered"])))
    return Shrunk(config, config, tuple(path), at["latency_ms"], at["score"], first["latency_ms"])


def keeping_groups(config: Config) -> list[Action]:
    """The actions after which every layer of a MobileNetV2 still has trained weights."""
    return [action for action in MobileNetV2Space().actions(config) if action.config["groups"] == config["groups"]]


def without_last_groups(config: Config, latency: Callable[[Config], float], limit: float) -> Config | None:
    """The same without the last groups, which work on little more than a pixel at small pictures, at the widest that fits.

    Its last 1x1 convolution is fresh, so no score before training says what it is worth. None where no width fits.
    """
    ladder = [{**config, "width": width, "groups": GROUPS[-1]} for width in WIDTHS if width <= config["width"]]
    return first_within(ladder, latency, limit)


def contained(network: nn.Module, *, resolution: int, num_classes: int, in_chans: int) -> Config:
    """The widest, then deepest, configuration of the MobileNetV2 space that the network can fill with its own weights."""
    space = MobileNetV2Space()
    for width in WIDTHS:
        for depth in DEPTHS:
            config = space.config(width, depth=depth, resolution=resolution, num_classes=num_classes, in_chans=in_chans)
            with torch.device("meta"):
                inner = space.build(config)
            if _fits(inner, network):
                return config
    raise ValueError("the network holds no member of the MobileNetV2 space")


@torch.no_grad()
def transplant(network: nn.Module, config: Config) -> nn.Module:
    """The MobileNetV2 of the configuration with the network's weights, sliced; the network stays as it is.

    With zeros in the removed channels both compute the same, except where the smaller one is another function: with fewer
    `groups` its last 1x1 convolution is fresh (always the same), and a block whose two ends come to be equally wide (below
    width 0.35 the first) gains a residual connection.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        target: Any = MobileNetV2Space().build(config)
    source: Any = network
    channels = top(source.bn1.weight, target.bn1.num_features)
    take(target.conv_stem, source.conv_stem, channels)
    take(target.bn1, source.bn1, channels)
    for stage, trained in zip(target.blocks, source.blocks, strict=False):
        before, channels = channels, top(_projection(trained[0])[1].weight, _projection(stage[0])[1].num_features)
        for block, place in zip(stage, _repeats(trained, len(stage)), strict=True):
            _take_block(block, trained[place], before, channels)
            before = channels
    head = top(source.bn2.weight, target.num_features)
    if len(target.blocks) == len(source.blocks):
        take(target.conv_head, source.conv_head, head, channels)
    take(target.bn2, source.bn2, head)
    take(target.classifier, source.classifier, None, head)
    return target.train(source.training)


def _take_block(block: Any, source: Any, before: Tensor, channels: Tensor) -> None:
    """One inverted residual: `before` are the channels that come in, `channels` those that go out."""
    hidden = before
    if block.expanded:
        hidden = top(source.bn2.weight, block.bn2.num_features)
        take(block.conv_pw, source.conv_pw, hidden, before)
        take(block.bn1, source.bn1, hidden)
    take(block.conv_dw, source.conv_dw, hidden)
    take(block.bn2 if block.expanded else block.bn1, source.bn2 if source.expanded else source.bn1, hidden)
    for part, trained, columns in zip(_projection(block), _projection(source), (hidden, None), strict=True):
        take(part, trained, channels, columns)


def _projection(block: Any) -> tuple[Any, Any]:
    """The last 1x1 convolution and its norm."""
    return (block.conv_pwl, block.bn3) if block.expanded else (block.conv_pw, block.bn2)


def _repeats(stage: Any, count: int) -> list[int]:
    """Places of the blocks that stay: the first, which changes the shape, and the most scaled of the others."""
    scales = torch.stack([_projection(block)[1].weight.abs().mean() for block in stage])
    return [0, *(top(scales[1:], count - 1) + 1).tolist()]


def _fits(inner: Any, outer: Any) -> bool:
    """Whether every layer of one MobileNetV2 can be cut from the other."""
    if len(inner.blocks) != len(outer.blocks) or any(len(a) > len(b) for a, b in zip(inner.blocks, outer.blocks, strict=True)):
        return False
    pairs = [(inner.bn1, outer.bn1), (inner.bn2, outer.bn2)]
    for a, b in zip(inner.blocks, outer.blocks, strict=True):
        pairs += [(_projection(a[0])[1], _projection(b[0])[1])]
        pairs += [(x.bn1, y.bn1) for x, y in zip(a, b, strict=False)]
    return all(a.num_features <= b.num_features for a, b in pairs)


def stage_sizes(network: nn.Module) -> dict[str, list[int]]:
    """Channels and repeats of every group of a MobileNetV2."""
    stages: Any = network.blocks
    return {"widths": [_projection(stage[0])[1].num_features for stage in stages], "depths": [len(stage) for stage in stages]}


def former_config(network: nn.Module, *, resolution: int, num_classes: int, in_chans: int) -> Config:
    """The configuration of an EfficientFormer as it is; of the paper's MLP ratio, heads and head sizes."""
    net: Any = network
    blocks = [[b for b in stage.blocks if isinstance(b, Meta4D | Meta3D)] for stage in net.stages]
    return EfficientFormerSpace().config(
        [info.num_chs for info in net.feature_info],
        [len(stage) for stage in blocks],
        sum(isinstance(b, Meta3D) for stage in blocks for b in stage),
        resolution=resolution,
        num_classes=num_classes,
        in_chans=in_chans,
        stem_strides=(net.stem.conv1.stride[0], net.stem.conv2.stride[0]),
    )


@torch.no_grad()
def influences(network: nn.Module, x: Tensor) -> list[float]:
    """For every block of an EfficientFormer, from the input on, |block(h) - h| / |h| on a batch (B, C, H, W)."""
    found: list[float] = []

    def watch(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        before = arguments[0].double()
        found.append(float((output.double() - before).norm() / before.norm().clamp_min(1e-12)))

    hooks = [m.register_forward_hook(watch) for m in network.modules() if isinstance(m, Meta4D | Meta3D)]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def as_supernet(network: nn.Module, config: Config, influence: list[float]) -> Supernet:
    """The supernet whose positions hold the network's blocks; `influence` (`influences`) becomes their importance.

    Slimming then begins at the network itself: `extract(supernet, initial(supernet))` computes the same.
    """
    net: Any = network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        supernet = Supernet(config)
    supernet.stem.load_state_dict(net.stem.state_dict())
    for embedding, stage in zip(supernet.embeddings, list(net.stages)[1:], strict=True):
        embedding.load_state_dict(stage.downsample.state_dict())
    supernet.norm.load_state_dict(net.norm.state_dict())
    supernet.head.load_state_dict(net.head.state_dict())
    blocks = [b for stage in net.stages for b in stage.blocks if isinstance(b, Meta4D | Meta3D)]
    for path, block, change in zip(supernet.paths(), blocks, influence, strict=True):
        kind = "3d" if isinstance(block, Meta3D) else "4d"
        held: Any = path.three if kind == "3d" else path.four
        held.load_state_dict(block.state_dict())
        own = math.log(max(change, 1e-12)) + FAVOUR
        path.alpha.copy_(torch.tensor([{"identity": 0.0, kind: own}.get(b, own - FAVOUR) for b in path.branches]))
    return supernet.eval()
