"""Optimisers, learning-rate schedules, weight-decay groups and adaptive gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hollowbone.errors import UserError, unknown
from hollowbone.tasks.base import Step
from hollowbone.train.recipe import Recipe

SCHEDULES = ("cosine", "constant", "step", "poly", "onecycle")
UNDECAYED = ("layer_scale", "attention_biases", "relative_position_bias", "pos_embed", "cls_token")
"""Parts of parameter names that get no weight decay, besides everything one-dimensional and all parameters of norms."""
HEADS = ("head", "classifier", "fc")
"""First parts of the names of final layers, which adaptive gradient clipping leaves alone."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def undecayed(model: nn.Module) -> set[int]:
    """Ids of the parameters without weight decay: biases, norms, scales, position biases, whatever the model names itself.

    A model names more of them in `no_weight_decay()`, as in timm.
    """
    named = getattr(model, "no_weight_decay", None)
    listed = set(named()) if callable(named) else set()
    exempt = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    for name, p in model.named_parameters():
        if p.ndim <= 1 or name in listed or name.endswith(".bias") or any(part in name for part in UNDECAYED):
            exempt.add(id(p))
    return exempt


def trainable(model: nn.Module, step: Step) -> list[nn.Parameter]:
    """The parameters that a Step moves, each once."""
    return list({id(p): p for p in step.params(model) if p.requires_grad}.values())


def make_optimizer(model: nn.Module, step: Step, recipe: Recipe, *, fused: bool = True) -> Optimizer:
    """The recipe's optimiser over a Step's parameters, in two groups (decayed and not).

    `fused` is PyTorch's one-kernel form where it has one (three times as fast as the loop on a CPU); it must be off where
    gradients are scaled. Raises `UserError` for an unknown optimiser or a Step without parameters.
    """
    params = trainable(model, step)
    if not params:
        raise UserError(f"nothing to train: the step {step.name!r} has no parameter that requires a gradient")
    exempt = undecayed(model)
    decay = recipe.weight_decay if step.weight_decay is None else step.weight_decay
    groups = [
        {"params": [p for p in params if id(p) not in exempt], "weight_decay": decay, "lr_scale": step.lr_scale},
        {"params": [p for p in params if id(p) in exempt], "weight_decay": 0.0, "lr_scale": step.lr_scale},
    ]
    groups = [g for g in groups if g["params"]]
    fast: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999), **fast)
        case "adam":
            return torch.optim.Adam(groups, lr=recipe.lr, betas=(0.9, 0.999), **fast)
        case "sgd":
            return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, **fast)
        case "rmsprop":  # the constants of TensorFlow's, with which mobile networks were trained
            return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=0.9, eps=1e-3, momentum=recipe.momentum, foreach=True)
        case other:
            raise unknown("optimizer", other, ("adamw", "adam", "sgd", "rmsprop"))


def learning_rate(recipe: Recipe, step: int, total: int, per_epoch: int) -> float:
    """The rate of optimiser step `step` of `total`.

    All but one-cycle rise linearly for `warmup_epochs` (at most half of the training) to `lr`; then, with p the share of the
    rest that is over: cosine to `min_lr`; constant; step, a tenth after each third; poly, (1-p)^0.9 down to `min_lr` (Chen
    et al. 2017). One-cycle (Smith 2018) rises by a cosine from lr/25 over the first 30% and falls to `min_lr`.
    """
    low = min(recipe.min_lr, recipe.lr)
    if recipe.schedule == "onecycle":
        rise = max(1, round(0.3 * total))
        if step < rise:
            return _cosine(recipe.lr / 25, recipe.lr, (step + 1) / rise)
        return _cosine(recipe.lr, low, (step + 1 - rise) / max(1, total - rise))
    warm = min(round(recipe.warmup_epochs * per_epoch), total // 2)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    p = (step - warm) / max(1, total - warm)
    match recipe.schedule:
        case "cosine":
            return _cosine(recipe.lr, low, p)
        case "constant":
            return recipe.lr
        case "step":
            return recipe.lr * 0.1 ** int(3 * p)
        case "poly":
            return low + (recipe.lr - low) * (1 - p) ** 0.9
        case other:
            raise unknown("schedule", other, SCHEDULES)


def _cosine(start: float, end: float, p: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * p)) / 2


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group its rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def total_norm(params: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all gradients together; zero where there are none."""
    grads = [p.grad for p in params if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads, foreach=True) if grads else torch.zeros(())


@torch.no_grad()
def clip_norm(params: Sequence[nn.Parameter], limit: float, norm: Tensor) -> None:
    """Scale all gradients so that their norm, given as `norm`, is at most `limit`."""
    torch.nn.utils.clip_grads_with_norm_(params, limit, norm, foreach=True)


@torch.no_grad()
def clip_adaptively(params: Iterable[nn.Parameter], limit: float, eps: float = 1e-3) -> None:
    """Adaptive gradient clipping (Brock et al. 2021, arXiv:2102.06171, eq. 3): |g_i| <= limit max(|w_i|, eps) a unit i.

    A unit is an output row of a weight; a one-dimensional parameter is one unit, as in the authors' code.
    """
    for p in params:
        if p.grad is None:
            continue
        units = tuple(range(1, p.ndim)) or None
        w = torch.linalg.vector_norm(p, dim=units, keepdim=True)
        g = torch.linalg.vector_norm(p.grad, dim=units, keepdim=True)
        p.grad.mul_((limit * w.clamp(min=eps) / g.clamp(min=1e-6)).clamp(max=1.0))


def clipped_adaptively(model: nn.Module, params: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those of `params` to which adaptive clipping applies: all but the final layer's (section 4.1 of the paper)."""
    final = {id(p) for name, p in model.named_parameters() if name.partition(".")[0].startswith(HEADS)}
    return [p for p in params if id(p) not in final]
