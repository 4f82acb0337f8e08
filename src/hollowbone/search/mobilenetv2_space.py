"""MobileNetV2 at widths, depths and resolutions, as a candidate space.

Source: Sandler et al. 2018, arXiv 1801.04381: the width multiplier and the input resolution are the paper's two knobs (section
6.1). For budgets that the paper never thought of (a tenth of a millisecond) there are two more, ours: a depth multiplier on
the repeats, and leaving out the last groups, which at small pictures work on a single pixel. A configuration is
`{"space": "mobilenetv2", "width", "depth", "groups", "resolution", "num_classes", "in_chans"}`.

The space has few members, so each is timed as a whole: its only "block" is the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from hollowbone.errors import UserError
from hollowbone.models.mobilenetv2 import SETTINGS, MobileNetV2
from hollowbone.search.base import Action, BlockSpec, Config, Table
from hollowbone.search.table import WHOLE

WIDTHS = (1.4, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1)
DEPTHS = (1.0, 0.5, 0.25)
GROUPS = (7, 5)
"""All groups of the paper's table, or those up to stride 16 (96 channels)."""
RESOLUTIONS = (1.0, 0.75)
"""Shares of the data's resolution."""


class MobileNetV2Space:
    """The space of `MobileNetV2`."""

    name = "mobilenetv2"

    def propose(
        self, *, limit_ms: float, predict: Callable[[Config], float], resolution: int, num_classes: int, in_chans: int
    ) -> list[Config]:
        """For every depth, number of groups and resolution the widest that meets the limit, the slowest (largest) first.

        A wider network is taken to be slower, so each search halves the list of widths.
        """
        found: list[tuple[float, Config]] = []
        for side in _resolutions(resolution):
            for depth in DEPTHS:
                for groups in GROUPS:
                    sizes = {"resolution": side, "num_classes": num_classes, "in_chans": in_chans}
                    ladder = [self.config(width, depth=depth, groups=groups, **sizes) for width in WIDTHS]
                    if (best := first_within(ladder, predict, limit_ms)) is not None:
                        found.append((predict(best), best))
        return [config for _, config in sorted(found, key=lambda pair: -pair[0])]

    def smallest(self, *, resolution: int, num_classes: int, in_chans: int) -> Config:
        """The narrowest, shallowest, with the fewest groups, at the lowest resolution."""
        side = _resolutions(resolution)[-1]
        return self.config(
            WIDTHS[-1], depth=DEPTHS[-1], groups=GROUPS[-1], resolution=side, num_classes=num_classes, in_chans=in_chans
        )

    def config(
        self, width: float, *, resolution: int, num_classes: int, in_chans: int, depth: float = 1.0, groups: int = 7
    ) -> Config:
        """A configuration as JSON."""
        return {
            "space": self.name,
            "width": width,
            "depth": depth,
            "groups": groups,
            "resolution": resolution,
            "num_classes": num_classes,
            "in_chans": in_chans,
        }

    def build(self, config: Config) -> nn.Module:
        """The network, freshly initialised."""
        if not 1 <= config["groups"] <= len(SETTINGS):
            raise UserError(f"groups must be 1 to {len(SETTINGS)}, not {config['groups']}")
        return MobileNetV2(
            width=config["width"],
            depth=config["depth"],
            settings=SETTINGS[: config["groups"]],
            num_classes=config["num_classes"],
            in_chans=config["in_chans"],
        )

    def blocks(self, config: Config) -> list[BlockSpec]:
        """The whole network as one block (multipliers in thousandths)."""
        sizes = {"w": round(1000 * config["width"]), "d": round(1000 * config["depth"]), "g": config["groups"]}
        sizes |= {"r": config["resolution"], "i": config["in_chans"], "k": config["num_classes"]}
        return [BlockSpec(WHOLE, tuple(sizes.items()))]

    def block(self, spec: BlockSpec) -> tuple[nn.Module, tuple[int, ...]]:
        """The network of that block, and its input (1, in_chans, H, W)."""
        size = dict(spec.sizes)
        sizes = {"resolution": size["r"], "num_classes": size["k"], "in_chans": size["i"]}
        config = self.config(size["w"] / 1000, depth=size["d"] / 1000, groups=size["g"], **sizes)
        return self.build(config), (1, size["i"], size["r"], size["r"])

    def context(self, spec: BlockSpec) -> tuple[None, None]:
        """A whole network stands alone."""
        return None, None

    def interpolation(self, spec: BlockSpec) -> list[tuple[float, BlockSpec]]:
        """Timed as it is."""
        return [(1.0, spec)]

    def latency(self, config: Config, table: Table) -> float:
        """Measured milliseconds of the whole network."""
        return table.latency(self.blocks(config))

    def actions(self, config: Config) -> list[Action]:
        """The next smaller width, depth, number of groups."""
        found = []
        for kind, name, ladder in (("width", "width", WIDTHS), ("depth", "depth", DEPTHS), ("depth", "groups", GROUPS)):
            smaller = [value for value in ladder if value < config[name]]
            if smaller:
                left = {**config, name: smaller[0]}
                found.append(Action(kind, f"{name} {config[name]} to {smaller[0]}", left))
        if (side := _rounded(config["resolution"] * RESOLUTIONS[-1])) < config["resolution"]:
            found.append(Action("resolution", f"resolution {config['resolution']} to {side}", {**config, "resolution": side}))
        return found


def first_within(ladder: Sequence[Config], predict: Callable[[Config], float], limit: float) -> Config | None:
    """The first of a descending ladder that is predicted within the limit, by halving."""
    low, high = 0, len(ladder)
    while low < high:
        middle = (low + high) // 2
        if predict(ladder[middle]) <= limit:
            high = middle
        else:
            low = middle + 1
    return ladder[low] if low < len(ladder) else None


def _resolutions(resolution: int) -> list[int]:
    """The data's resolution and lower ones, descending."""
    return sorted({_rounded(resolution * share) if share < 1 else resolution for share in RESOLUTIONS}, reverse=True)


def _rounded(side: float) -> int:
    """A multiple of 8, at least 16."""
    return max(16, int(side) // 8 * 8)
