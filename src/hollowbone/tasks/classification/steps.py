"""The training step of classification: cross-entropy with the true label and, where there is a teacher, with its.

Distillation is DeiT's (Touvron et al. 2021, arXiv:2012.12877, section 4): *hard*, cross-entropy with the teacher's argmax,
or *soft*, tau^2 KL(teacher || student) at temperature tau (Hinton et al. 2015, arXiv:1503.02531). A network that returns a
pair in training (class head, distillation head) gives the second head to the teacher; with one head both terms fall on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.tasks.base import Batch, Preprocessing, Step


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, K) with labels (B,) or with soft targets (B, k), k <= K (absent columns are zero)."""
    if targets.is_floating_point():
        targets = F.pad(targets, (0, logits.shape[1] - targets.shape[1])).to(logits.dtype)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def hard_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross-entropy of the student's logits (B, K) with the teacher's argmax."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


def soft_distillation(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(softmax(teacher/tau) || softmax(student/tau)), mean over the batch."""
    log_s, log_t = F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * tau**2


class Presented(nn.Module):
    """A network that takes batches normalised for another: undone, resized to its own resolution, normalised anew."""

    def __init__(self, network: nn.Module, given: Preprocessing, wanted: Preprocessing) -> None:
        super().__init__()
        if given.in_chans != wanted.in_chans and 1 not in (given.in_chans, wanted.in_chans):
            raise UserError(f"a network for {wanted.in_chans} channels cannot be shown pictures of {given.in_chans} channels")
        self.network, self.wanted = network, wanted
        for name, value in (("mean", given.mean), ("std", given.std), ("new_mean", wanted.mean), ("new_std", wanted.std)):
            self.register_buffer(name, torch.tensor(value).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for `x` (B, C, H, W) as the other network takes it."""
        x = x * self.get_buffer("std") + self.get_buffer("mean")
        if x.shape[1] != self.wanted.in_chans:
            x = x.mean(dim=1, keepdim=True) if self.wanted.in_chans == 1 else x.expand(-1, self.wanted.in_chans, -1, -1)
        if x.shape[-2:] != torch.Size(self.wanted.resolution):
            x = F.interpolate(x, size=self.wanted.resolution, mode="bilinear", antialias=True)
        return self.network((x - self.get_buffer("new_mean")) / self.get_buffer("new_std"))


def teacher_logits(teacher: nn.Module, x: Tensor) -> Tensor:
    """What the teacher says about `x` (B, K), in evaluation mode and without a graph; a pair of heads is averaged."""
    teacher.eval()
    with torch.no_grad():
        return joined(teacher(x))


def joined(outputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Logits (B, K): those given, or the mean of a pair of heads."""
    return outputs if isinstance(outputs, Tensor) else (outputs[0] + outputs[1]) / 2


def classification_step(
    *,
    teacher: nn.Module | None = None,
    label_smoothing: float = 0.0,
    distill: float = 0.5,
    tau: float = 1.0,
) -> Step:
    """The Step: minimises (1 - distill) label loss + distill teacher loss, or the label loss alone without a teacher.

    `tau` = 0 is hard distillation, above 0 soft at that temperature. The teacher sees the batch that the network sees;
    wrap it in `Presented` if it was trained with another preprocessing. Raises `UserError` for values out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")
    if not 0 <= distill <= 1:
        raise UserError(f"distill is the teacher's share of the loss, between 0 and 1, not {distill}")
    if tau < 0:
        raise UserError(f"tau must be 0 (hard labels) or a temperature above 0, not {tau}")
    learn_from: Callable[[Tensor, Tensor], Tensor] = (
        hard_distillation if tau == 0 else lambda s, t: soft_distillation(s, t, tau)
    )

    def loss(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        x, targets = batch
        outputs = model(x)
        head, dist_head = outputs if isinstance(outputs, tuple | list) else (outputs, outputs)
        by_label = label_loss(head, targets, label_smoothing)
        if teacher is None or distill == 0:
            if dist_head is not head:
                by_label = (by_label + label_loss(dist_head, targets, label_smoothing)) / 2
            return {"loss": by_label}
        given = teacher_logits(teacher, x)
        if given.shape != dist_head.shape:
            raise UserError(
                f"the teacher tells {given.shape[1]} classes apart, the network {dist_head.shape[1]}: they must agree"
            )
        by_teacher = learn_from(dist_head, given)
        return {
            "loss": (1 - distill) * by_label + distill * by_teacher,
            "label": by_label.detach(),
            "teacher": by_teacher.detach(),
        }

    return Step(loss=loss, name="classification")
