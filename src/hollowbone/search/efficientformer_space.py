"""EfficientFormers of any widths (multiples of 16), depths and number of attention blocks, as a candidate space.

Source: Li et al. 2022, arXiv 2206.01191, section 4.2: widths and depths of every stage, and how many of the last blocks
attend. `vit_num` alone says which they are, so "attention blocks form one suffix of the network" cannot be broken; it may
reach back into the third stage. A configuration is
`{"space": "efficientformer", "widths", "depths", "vit_num", "resolution", "stem_strides", "num_classes", "in_chans"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.models.blocks.metaformer import Meta3D, Meta4D
from hollowbone.models.blocks.tokens import Flatten, to_map, to_tokens
from hollowbone.models.efficientformer import EfficientFormer, Embedding, Stem, stage_grids
from hollowbone.search.base import Action, BlockSpec, Config, Table

STEP = 16
"""Widths are multiples of this, and shrink by it."""

GRID = (16, 32, 48, 64, 96, 128, 192, 240, 256, 384, 512, 768)
"""Widths at which pooling and attention blocks are timed; between them the table is linear.

240 and 256 are both there because at 256 a matrix of the MLP reaches a mebibyte, which is all of the second-level cache of
many processors: there an attention block was measured to take more than twice as long as at 240.
"""
GRIDS = {"4d": GRID, "3d": GRID, "stem": GRID, "embed": (16, 64, 128, 240, 512, 768)}
ENDS = (16, 192, 768)
"""The same for embeddings, which come in pairs of widths, and for the rest, whose time is small and linear in the width."""

LADDER: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((16, 32, 48, 64), (1, 1, 2, 2)),
    ((32, 48, 64, 96), (2, 2, 2, 2)),
    ((32, 64, 96, 128), (2, 2, 3, 3)),
    ((32, 64, 128, 192), (2, 2, 4, 3)),
    ((48, 96, 160, 240), (2, 2, 4, 3)),
    ((48, 96, 192, 320), (2, 2, 5, 4)),
    ((48, 96, 224, 448), (3, 2, 6, 4)),
)
"""Widths and depths of supernets, the smallest first; the last are those of EfficientFormer-L1."""
HEADROOM = 2.5
"""A supernet is to be this many times slower than the budget: slimming has to have something to choose from."""


class EfficientFormerSpace:
    """The space of `EfficientFormer` (a `search.table.TimedSpace`)."""

    name = "efficientformer"

    def supernets(self, *, resolution: int, num_classes: int, in_chans: int) -> list[Config]:
        """The ladder of supernets for a data set, the smallest first; no block attends yet (`slimming` decides)."""
        return [
            self.config(widths, depths, 0, resolution=resolution, num_classes=num_classes, in_chans=in_chans)
            for widths, depths in LADDER
        ]

    def supernet(
        self, *, limit_ms: float, predict: Callable[[Config], float], resolution: int, num_classes: int, in_chans: int
    ) -> Config:
        """The smallest supernet predicted at `HEADROOM` times the limit, whichever blocks it lets attend; else the largest."""
        ladder = self.supernets(resolution=resolution, num_classes=num_classes, in_chans=in_chans)
        for config in ladder:
            attending = {**config, "vit_num": config["depths"][-1]}
            if min(predict(config), predict(attending)) >= HEADROOM * limit_ms:
                return config
        return ladder[-1]

    def config(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        vit_num: int,
        *,
        resolution: int,
        num_classes: int,
        in_chans: int,
        stem_strides: Sequence[int] | None = None,
    ) -> Config:
        """A configuration as JSON; the stem's strides follow from the resolution unless given."""
        return {
            "space": self.name,
            "widths": list(widths),
            "depths": list(depths),
            "vit_num": vit_num,
            "resolution": resolution,
            "stem_strides": list(stem_strides or _stem_strides(resolution)),
            "num_classes": num_classes,
            "in_chans": in_chans,
        }

    def propose(
        self, *, limit_ms: float, predict: Callable[[Config], float], resolution: int, num_classes: int, in_chans: int
    ) -> list[Config]:
        """For every depth of the ladder the widest uniform scaling that meets the limit, the slowest (largest) first."""
        found: dict[tuple[int, ...], tuple[float, Config]] = {}
        for base in self.supernets(resolution=resolution, num_classes=num_classes, in_chans=in_chans):
            for config in uniform_widths(base):
                ms = predict(config)
                if ms <= limit_ms:
                    depths = tuple(base["depths"])
                    if depths not in found or found[depths][0] < ms:
                        found[depths] = (ms, config)
                    break
        return [config for _, config in sorted(found.values(), key=lambda pair: -pair[0])]

    def smallest(self, *, resolution: int, num_classes: int, in_chans: int) -> Config:
        """Width 16 and one pooling block in every stage."""
        return self.config([STEP] * 4, [1] * 4, 0, resolution=resolution, num_classes=num_classes, in_chans=in_chans)

    def calibration(self, config: Config, *, seed: int = 0, samples: int = 6) -> list[Config]:
        """Networks on which a table's offset is fitted: the smallest and random sub-networks of `config`, at timed widths."""
        random = np.random.default_rng(seed)
        small = {**config, "widths": [STEP] * len(config["widths"]), "depths": [1] * len(config["depths"]), "vit_num": 0}
        drawn = [self.sample(config, random) for _ in range(samples)]
        return [small, *({**c, "widths": [max(w for w in GRID if w <= width) for width in c["widths"]]} for c in drawn)]

    def sample(self, config: Config, random: np.random.Generator) -> Config:
        """Any sub-network of `config`, every width, depth and number of attention blocks (any or few) equally likely."""
        widths = [STEP * int(random.integers(1, width // STEP + 1)) for width in config["widths"]]
        depths = [int(random.integers(1, depth + 1)) for depth in config["depths"]]
        vit_num = int(random.integers(0, random.choice([depths[-1], sum(depths[-2:])]) + 1))
        return {**config, "widths": widths, "depths": depths, "vit_num": vit_num}

    def build(self, config: Config) -> nn.Module:
        """The network, freshly initialised, with one head."""
        check(config)
        return EfficientFormer(
            widths=config["widths"],
            depths=config["depths"],
            vit_num=config["vit_num"],
            resolution=config["resolution"],
            stem_strides=tuple(config["stem_strides"]),
            num_classes=config["num_classes"],
            in_chans=config["in_chans"],
            distilled=False,
        )

    def blocks(self, config: Config) -> list[BlockSpec]:
        """Stem, blocks, embeddings, flattenings and head, equal neighbours counted together."""
        check(config)
        widths, sides = config["widths"], stage_sides(config)
        first, second = config["stem_strides"]
        specs = [_spec("stem", i=config["in_chans"], c=widths[0], r=config["resolution"], s=first, t=second)]
        flat = False
        for stage, (width, side, kinds) in enumerate(zip(widths, sides, stage_kinds(config), strict=True)):
            if stage:
                if flat:
                    specs.append(_spec("unflatten", c=widths[stage - 1], r=sides[stage - 1]))
                    flat = False
                specs.append(_spec("embed", c=widths[stage - 1], d=width, r=sides[stage - 1]))
            for kind in ("4d", "3d"):
                if count := kinds.count(kind):
                    if kind == "3d":
                        specs.append(_spec("flatten", c=width, r=side))
                        flat = True
                    specs.append(_spec(kind, count=count, c=width, r=side))
        specs.append(_spec("head3d" if flat else "head4d", c=widths[-1], r=sides[-1], k=config["num_classes"]))
        return specs

    def block(self, spec: BlockSpec) -> tuple[nn.Module, tuple[int, ...]]:
        """The module of one block and the shape of its input, (1, C, H, W) or (1, N, C)."""
        size = dict(spec.sizes)
        c, r = size["c"], size["r"]
        maps, tokens = (1, c, r, r), (1, r * r, c)
        match spec.kind:
            case "stem":
                return Stem(size["i"], c, strides=(size["s"], size["t"])), (1, size["i"], r, r)
            case "4d":
                return Meta4D(c), maps
            case "3d":
                return Meta3D(c, grid=(r, r)), tokens
            case "embed":
                return Embedding(c, size["d"]), maps
            case "flatten":
                return Flatten(), maps
            case "unflatten":
                return _Unflatten(r), tokens
            case "head4d" | "head3d":
                return _Head(c, size["k"]), maps if spec.kind == "head4d" else tokens
        raise ValueError(f"the space {self.name} has no block {spec.key}")

    def context(self, spec: BlockSpec) -> tuple[BlockSpec | None, BlockSpec | None]:
        """Blocks that keep their shape, before and after one that does not."""
        size = dict(spec.sizes)
        c, r = size["c"], size["r"]
        match spec.kind:
            case "stem":
                return None, _spec("4d", c=c, r=_ceil(_ceil(r, size["s"]), size["t"]))
            case "embed":
                return _spec("4d", c=c, r=r), _spec("4d", c=size["d"], r=_ceil(r, 2))
            case "flatten":
                return _spec("4d", c=c, r=r), _spec("3d", c=c, r=r)
            case "unflatten":
                return _spec("3d", c=c, r=r), _spec("4d", c=c, r=r)
            case "head4d" | "head3d":
                return _spec(spec.kind[-2:], c=c, r=r), None
        return None, None

    def interpolation(self, spec: BlockSpec) -> list[tuple[float, BlockSpec]]:
        """Weights over blocks at the widths that are timed: linear in every width."""
        grid = GRIDS.get(spec.kind, ENDS)
        size = dict(spec.sizes)
        points: list[tuple[float, dict[str, int]]] = [(1.0, size)]
        for name in ("c", "d"):
            if name in size:
                points = [(w * v, {**p, name: c}) for w, p in points for v, c in _neighbours(size[name], grid)]
        return [(weight, _spec(spec.kind, **point)) for weight, point in points]

    def latency(self, config: Config, table: Table) -> float:
        """Predicted milliseconds."""
        return table.latency(self.blocks(config))

    def actions(self, config: Config) -> list[Action]:
        """Remove a block (one stays in a stage), turn the first attention block to pooling, narrow a stage by 16."""
        found = []
        for stage, kinds in enumerate(stage_kinds(config)):
            for kind in sorted(set(kinds)) if len(kinds) > 1 else ():
                found.append(Action("depth", f"stage {stage + 1}: remove a {kind} block", without_block(config, stage, kind)))
        if config["vit_num"]:
            found.append(Action("mixer", "the first 3d block becomes 4d", {**config, "vit_num": config["vit_num"] - 1}))
        for stage, width in enumerate(config["widths"]):
            if width > STEP:
                detail = f"stage {stage + 1}: width {width} to {width - STEP}"
                found.append(Action("width", detail, with_width(config, stage, width - STEP)))
        return found


def check(config: Config) -> None:
    """Raise `UserError` unless the configuration keeps the space's rules."""
    widths, depths, vit_num = config["widths"], config["depths"], config["vit_num"]
    if any(width < STEP or width % STEP for width in widths):
        raise UserError(f"stage widths must be multiples of {STEP}, not {list(widths)}")
    if len(widths) != len(depths) or len(depths) < 2 or min(depths) < 1:
        raise UserError(
            f"every stage needs a width and at least one block, not widths {list(widths)} and depths {list(depths)}"
        )
    if not 0 <= vit_num <= sum(depths[-2:]):
        raise UserError(f"vit_num must be 0 to {sum(depths[-2:])} (the blocks of the last two stages), not {vit_num}")


def stage_kinds(config: Config) -> list[list[str]]:
    """For every stage the kinds of its blocks, in order: the last `vit_num` of the network are "3d", the others "4d"."""
    total, kinds, seen = sum(config["depths"]), [], 0
    for depth in config["depths"]:
        kinds.append(["3d" if seen + i >= total - config["vit_num"] else "4d" for i in range(depth)])
        seen += depth
    return kinds


def stage_sides(config: Config) -> list[int]:
    """Height (= width) of every stage's maps."""
    return [height for height, _ in stage_grids(config["resolution"], config["stem_strides"], len(config["depths"]))]


def without_block(config: Config, stage: int, kind: str) -> Config:
    """One block of that kind less in the stage."""
    depths = list(config["depths"])
    depths[stage] -= 1
    return {**config, "depths": depths, "vit_num": config["vit_num"] - (kind == "3d")}


def with_width(config: Config, stage: int, width: int) -> Config:
    """The stage at another width."""
    widths = list(config["widths"])
    widths[stage] = width
    return {**config, "widths": widths}


def uniform_widths(config: Config) -> list[Config]:
    """The configuration with all widths scaled alike, rounded to multiples of 16, the widest first, down to 16 everywhere."""
    found: list[Config] = []
    for percent in range(100, 0, -1):
        widths = [max(STEP, round(width * percent / 100 / STEP) * STEP) for width in config["widths"]]
        if not found or found[-1]["widths"] != widths:
            found.append({**config, "widths": widths})
    return found


class _Unflatten(nn.Module):
    """Tokens back to a square map."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return to_map(x, (self.side, self.side))


class _Head(nn.Module):
    """What follows the last block: norm, mean, linear."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(to_tokens(x) if x.ndim == 4 else x).mean(dim=1))


def _spec(kind: str, *, count: int = 1, **sizes: int) -> BlockSpec:
    return BlockSpec(kind, tuple(sizes.items()), count)


def _ceil(size: int, stride: int) -> int:
    return -(-size // stride)


def _stem_strides(resolution: int) -> tuple[int, int]:
    """The published (2, 2) where four stages then still have a pixel each to pool; finer for smaller pictures."""
    if resolution >= 32:
        return (2, 2)
    return (2, 1) if resolution >= 16 else (1, 1)


def _neighbours(width: int, grid: Sequence[int]) -> list[tuple[float, int]]:
    """Weights over the grid's two widths around `width` (beyond its ends, a straight line through the last two)."""
    if width in grid:
        return [(1.0, width)]
    low, high = next(((a, b) for a, b in pairwise(grid) if width < b), grid[-2:])
    share = (width - low) / (high - low)
    return [(1.0 - share, low), (share, high)]
