"""The supernet of latency-driven slimming: every block position a *MetaPath*, trained once as a Gumbel-softmax mixture.

Source: Li et al. 2022 (EfficientFormer, arXiv 2206.01191), section 4.2 and appendix. A MetaPath is {MB4D, I} in the first
stages and {MB4D, MB3D, I} in the last two, with logits alpha; the network's weights and alpha are trained together:

    X_{i+1} = sum_n softmax_n((alpha_i^n + eps_i^n) / tau) * MP^n(X_i)

The paper leaves open what follows; these are our readings. eps is true Gumbel noise (the uniform noise that the paper prints is
`uniform_noise`); tau falls linearly from 1.0 to 0.1; alpha starts at 0 and has no weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.models.blocks.metaformer import Meta3D, Meta4D
from hollowbone.models.blocks.tokens import to_map, to_tokens
from hollowbone.models.efficientformer import Embedding, Stem, stage_grids
from hollowbone.search.base import Config
from hollowbone.search.efficientformer_space import check
from hollowbone.tasks.base import Data, Task
from hollowbone.train.recipe import Callback, Recipe

if TYPE_CHECKING:
    from hollowbone.train.trainer import State

Noise = Callable[[Tensor], Tensor]
"""From alpha to eps of the same shape, drawn with torch's global generator."""


def gumbel_noise(alpha: Tensor) -> Tensor:
    """-log(-log U), U uniform in (0, 1)."""
    return -torch.empty_like(alpha).exponential_().log()


def uniform_noise(alpha: Tensor) -> Tensor:
    """U itself, as the paper prints it."""
    return torch.rand_like(alpha)


class MetaPath(nn.Module):
    """One position: a weighted mixture of a pooling block, an attention block (where `grid` is given) and the identity.

    `alpha` holds one logit a branch, in the order of `branches`; maps (B, dim, H, W) come in and go out. In evaluation mode
    the mixture is without noise.
    """

    def __init__(
        self, dim: int, *, grid: tuple[int, int] | None, noise: Noise = gumbel_noise, layer_scale: float = 1e-5
    ) -> None:
        super().__init__()
        self.branches = ("4d", "identity") if grid is None else ("4d", "3d", "identity")
        self.four = Meta4D(dim, layer_scale=layer_scale)
        self.three = None if grid is None else Meta3D(dim, grid=grid, layer_scale=layer_scale)
        self.alpha = nn.Parameter(torch.zeros(len(self.branches)))
        self.noise = noise
        self.tau = 1.0

    def mixture(self) -> Tensor:
        """The weights of the branches for one call: they sum to 1."""
        noise = self.noise(self.alpha.detach()) if self.training else 0.0
        return ((self.alpha + noise) / self.tau).softmax(dim=0)

    def probabilities(self) -> dict[str, float]:
        """Softmax of alpha by branch: what slimming calls the alphas (their ratios need positive numbers)."""
        return dict(zip(self.branches, self.alpha.detach().double().softmax(dim=0).tolist(), strict=True))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keeps the shape."""
        weights = self.mixture()
        y = weights[0] * self.four(x) + weights[-1] * x
        if self.three is not None:
            grid = (x.shape[2], x.shape[3])
            y = y + weights[1] * to_map(self.three(to_tokens(x), grid), grid)
        return y


class Supernet(nn.Module):
    """(B, in_chans, H, W) -> logits (B, num_classes): the widest widths and greatest depths of a configuration.

    `config` is one of `EfficientFormerSpace`; its `vit_num` is ignored, since every position of the last two stages may attend.
    """

    def __init__(self, config: Config, *, noise: Noise = gumbel_noise, layer_scale: float = 1e-5) -> None:
        super().__init__()
        check(config)
        widths, depths = config["widths"], config["depths"]
        grids = stage_grids(config["resolution"], config["stem_strides"], len(depths))
        attends = range(len(depths) - 2, len(depths))
        self.config = dict(config)
        self.stem = Stem(config["in_chans"], widths[0], strides=tuple(config["stem_strides"]))
        self.embeddings = nn.ModuleList([Embedding(a, b) for a, b in pairwise(widths)])
        options: dict[str, Any] = {"noise": noise, "layer_scale": layer_scale}
        self.stages = nn.ModuleList(
            nn.ModuleList(MetaPath(width, grid=grids[i] if i in attends else None, **options) for _ in range(depth))
            for i, (width, depth) in enumerate(zip(widths, depths, strict=True))
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], config["num_classes"])
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def by_stage(self) -> list[list[MetaPath]]:
        """Every position of every stage."""
        return [[path for path in stage if isinstance(path, MetaPath)] for stage in self.stages]  # type: ignore[attr-defined]

    def paths(self) -> list[MetaPath]:
        """Every position, from the input on."""
        return [path for stage in self.by_stage() for path in stage]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the mixture of all paths."""
        x = self.stem(x)
        for i, stage in enumerate(self.by_stage()):
            if i:
                x = self.embeddings[i - 1](x)
            for path in stage:
                x = path(x)
        return self.head(self.norm(to_tokens(x)).mean(dim=1))


class TauSchedule(Callback):
    """tau of the `Supernet` in training from `start` to `end`, linear in the steps."""

    def __init__(self, *, start: float = 1.0, end: float = 0.1) -> None:
        self.start, self.end = start, end

    def on_step_start(self, state: State) -> None:
        """Set the temperature of this step; it follows from the step's number, so a resume needs nothing more."""
        share = min(1.0, state.step / max(1, state.total_steps - 1))
        for module in state.model.modules():
            if isinstance(module, MetaPath):
                module.tau = self.start + (self.end - self.start) * share


def train_supernet(
    config: Config, data: Data, *, task: Task, recipe: Recipe, out: str | Path | None = None, noise: Noise = gumbel_noise
) -> Supernet:
    """A supernet of `config` trained once by `recipe`; resumable where `out` is given. Returned in evaluation mode.

    An average of weights would lag behind alpha and tau, so none is kept.
    """
    from hollowbone.train.trainer import train

    torch.manual_seed(recipe.seed)
    supernet = Supernet(config, noise=noise)
    train(supernet, data, task=task, recipe=recipe.with_(ema=0.0), callbacks=[TauSchedule()], out=out, select_every=0)
    supernet.eval()
    return supernet
