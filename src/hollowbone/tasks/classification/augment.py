"""What training does to a batch of pictures. Every draw comes from torch's global CPU generator.

The trainer seeds that generator for each step, so an interrupted and resumed run sees the pictures of an uninterrupted one.
Pictures are float (B, C, H, W) in [0, 1]; normalisation comes afterwards.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hollowbone.errors import UserError
from hollowbone.tasks.base import Augment

GEOMETRIC = ("none", "shift", "flip_shift")
GROUP = 8
"""Pictures that share RandAugment's draw of operations (kornia draws one sequence a call)."""


def check(augment: Augment) -> None:
    """Raise `UserError` for a preset or a strength that does not exist."""
    if augment.geometric not in GEOMETRIC:
        raise UserError(f"the augmentation preset is one of {', '.join(GEOMETRIC)}, not {augment.geometric!r}")
    for name in ("mixup", "cutmix"):
        if getattr(augment, name) < 0:
            raise UserError(f"{name} must be 0 (off) or the alpha of a Beta distribution, not {getattr(augment, name)}")
    if not 0 <= augment.random_erasing <= 1:
        raise UserError(f"random_erasing is a probability between 0 and 1, not {augment.random_erasing}")
    operations, magnitude = augment.randaugment
    if operations < 0 or (operations and not 0 < magnitude < 30):
        raise UserError(f"randaugment is (operations, magnitude between 1 and 29) or (0, 0), not {tuple(augment.randaugment)}")


def shift(x: Tensor, share: float = 0.125) -> Tensor:
    """Move each picture by up to `share` of its sides, each by its own draw; what comes in from outside is black."""
    b, _, h, w = x.shape
    py, px = round(h * share), round(w * share)
    padded = F.pad(x, (px, px, py, py))
    tops = torch.randint(0, 2 * py + 1, (b,)).tolist()
    lefts = torch.randint(0, 2 * px + 1, (b,)).tolist()
    # Views and one stack copy each picture once; a gather with index tensors is several times slower on a CPU.
    return torch.stack([padded[i, :, y : y + h, x : x + w] for i, (y, x) in enumerate(zip(tops, lefts, strict=True))])


def flip(x: Tensor) -> Tensor:
    """Mirror half of the pictures left to right."""
    chosen = torch.rand(x.shape[0]) < 0.5
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(-1), x)


def erase(x: Tensor, probability: float) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle of 2% to 33% of the picture becomes noise."""
    x = x.clone()
    b, _, h, w = x.shape
    chosen = torch.rand(b) < probability
    area = torch.empty(b).uniform_(0.02, 0.33) * h * w
    aspect = torch.empty(b).uniform_(-1.2, 1.2).exp()  # 0.3 to 3.3, symmetric in the logarithm
    heights = (area * aspect).sqrt().round().clamp(1, h).long()
    widths = (area / aspect).sqrt().round().clamp(1, w).long()
    tops = (torch.rand(b) * (h - heights + 1)).long()
    lefts = (torch.rand(b) * (w - widths + 1)).long()
    for i in chosen.nonzero().flatten().tolist():
        box = (slice(None), slice(tops[i], tops[i] + heights[i]), slice(lefts[i], lefts[i] + widths[i]))
        x[i][box] = torch.rand(x[i][box].shape).to(x)
    return x


@cache
def _randaugment(operations: int, magnitude: int) -> Any:
    try:
        from kornia.augmentation.auto import RandAugment
    except ImportError as error:
        raise UserError("randaugment needs kornia: pip install 'hollowbone[train]', or set randaugment to (0, 0)") from error
    try:
        return RandAugment(n=operations, m=magnitude)
    except ValueError as error:
        raise UserError(f"randaugment refuses {operations} operations of magnitude {magnitude}: {error}") from error


def randaugment(x: Tensor, operations: int, magnitude: int) -> Tensor:
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) by kornia; magnitude 1 to 29, operations drawn per `GROUP` pictures."""
    policy = _randaugment(operations, magnitude)
    channels = x.shape[1]
    if channels == 1:  # the colour operations want three channels
        x = x.expand(-1, 3, -1, -1)
    with torch.no_grad():
        x = torch.cat([policy(group) for group in x.split(GROUP)]).clamp(0, 1)
    return x.mean(dim=1, keepdim=True) if channels == 1 else x


def _beta(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _blend(targets: Tensor, partner: Tensor, share: float, num_classes: int | None) -> Tensor:
    wide = num_classes or int(targets.max()) + 1
    one_hot = F.one_hot(targets, wide).float()
    return share * one_hot + (1 - share) * one_hot[partner.to(targets.device)]


def mixup(x: Tensor, targets: Tensor, alpha: float, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2017, arXiv:1710.09412): pictures and one-hot labels blended with those of a shuffled batch."""
    partner, share = torch.randperm(x.shape[0]), _beta(alpha)
    return share * x + (1 - share) * x[partner.to(x.device)], _blend(targets, partner, share, num_classes)


def cutmix(x: Tensor, targets: Tensor, alpha: float, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019, arXiv:1905.04899): a box of each picture comes from another, labels by area."""
    partner, share = torch.randperm(x.shape[0]), _beta(alpha)
    h, w = x.shape[-2:]
    cut_h, cut_w = round(h * (1 - share) ** 0.5), round(w * (1 - share) ** 0.5)
    cy, cx = int(torch.randint(0, h, ())), int(torch.randint(0, w, ()))
    y0, y1 = max(cy - cut_h // 2, 0), min(cy - cut_h // 2 + cut_h, h)
    x0, x1 = max(cx - cut_w // 2, 0), min(cx - cut_w // 2 + cut_w, w)
    mixed = x.clone()
    mixed[:, :, y0:y1, x0:x1] = x[partner.to(x.device)][:, :, y0:y1, x0:x1]
    kept = 1 - (y1 - y0) * (x1 - x0) / (h * w)
    return mixed, _blend(targets, partner, kept, num_classes)


def apply(x: Tensor, targets: Tensor, augment: Augment, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Everything that `augment` asks for, in order: geometry, RandAugment, erasing, then mixup or cutmix (a coin decides)."""
    check(augment)
    if augment.geometric != "none":
        x = shift(x)
    if augment.geometric == "flip_shift":
        x = flip(x)
    if augment.randaugment[0]:
        x = randaugment(x, *augment.randaugment)
    if augment.random_erasing:
        x = erase(x, augment.random_erasing)
    if augment.mixup and augment.cutmix:
        mix = mixup if torch.rand(()) < 0.5 else cutmix
        return mix(x, targets, augment.mixup if mix is mixup else augment.cutmix, num_classes)
    if augment.mixup:
        return mixup(x, targets, augment.mixup, num_classes)
    if augment.cutmix:
        return cutmix(x, targets, augment.cutmix, num_classes)
    return x, targets
