"""Batches, augmentation, the loss, predictions and the metric of classification."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hollowbone.errors import UserError
from hollowbone.tasks import get_task, list_tasks
from hollowbone.tasks.base import Augment, Preprocessing
from hollowbone.tasks.classification import augment as aug
from hollowbone.tasks.classification.splits import share_out, statistics, stratified
from hollowbone.tasks.classification.steps import Presented, classification_step, soft_distillation
from hollowbone.tasks.classification.task import balanced_accuracy, confusion, wilson

task = get_task("classification")
RGB = Preprocessing((32, 32), 3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
EVERYTHING = Augment("flip_shift", mixup=0.2, cutmix=1.0, randaugment=(2, 9), random_erasing=0.25)


def batch(n: int = 16, chans: int = 3, size: int = 32, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (n, chans, size, size), generator=generator, dtype=torch.uint8)
    return pictures, torch.arange(n) % classes


class Linear(nn.Module):
    """Logits from mean colours; a pair in training where `pair` is set."""

    def __init__(self, classes: int = 5, chans: int = 3, pair: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(chans, classes)
        self.dist_head = nn.Linear(chans, classes) if pair else None

    def forward(self, x):
        pooled = x.mean((2, 3))
        if self.dist_head is None:
            return self.head(pooled)
        both = self.head(pooled), self.dist_head(pooled)
        return both if self.training else (both[0] + both[1]) / 2


def test_tasks_are_found_by_name_and_the_nearest_is_named():
    assert list_tasks() == ["classification"]
    assert task.name == "classification"
    with pytest.raises(UserError, match="the nearest is 'classification'"):
        get_task("clasification")


def test_prepare_normalises_and_resizes():
    pictures, labels = batch()
    x, y = task.prepare((pictures, labels), RGB)
    expected = (pictures.double() / 255 - torch.tensor(RGB.mean).view(3, 1, 1)) / torch.tensor(RGB.std).view(3, 1, 1)
    torch.testing.assert_close(x.double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(y, labels)
    small, _ = task.prepare((pictures, labels), Preprocessing((24, 16), 3, RGB.mean, RGB.std))
    assert small.shape == (16, 3, 24, 16)


@pytest.mark.parametrize("chans", [1, 3])
def test_augmentation_is_repeatable_from_torchs_generator_and_changes_between_draws(chans):
    shown = Preprocessing((32, 32), chans, RGB.mean[:chans], RGB.std[:chans])
    torch.manual_seed(7)
    one = task.prepare(batch(chans=chans), shown, augment=EVERYTHING)
    after = torch.get_rng_state()
    other = task.prepare(batch(chans=chans), shown, augment=EVERYTHING)
    np.random.seed(123)
    torch.manual_seed(7)
    again = task.prepare(batch(chans=chans), shown, augment=EVERYTHING)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert torch.equal(after, torch.get_rng_state())
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (16, chans, 32, 32)
    assert torch.isfinite(one[0]).all()


def test_shift_moves_each_picture_by_whole_pixels_and_flip_mirrors_some():
    pictures = batch(64)[0].float() / 255
    torch.manual_seed(0)
    moved = aug.shift(pictures)
    padded = F.pad(pictures, (4, 4, 4, 4))
    offsets = set()
    for before, after in zip(padded, moved, strict=True):
        found = [(y, x) for y in range(9) for x in range(9) if torch.equal(before[:, y : y + 32, x : x + 32], after)]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 20
    flipped = aug.flip(pictures)
    mirrored = [torch.equal(f, p.flip(-1)) for f, p in zip(flipped, pictures, strict=True)]
    assert all(m or torch.equal(f, p) for m, f, p in zip(mirrored, flipped, pictures, strict=True))
    assert 15 < sum(mirrored) < 49


@pytest.mark.parametrize("mix", [aug.mixup, aug.cutmix])
@pytest.mark.parametrize("num_classes", [None, 9])
def test_mixed_targets_sum_to_one_and_pictures_are_mixed_in_that_share(mix, num_classes):
    n = 12
    pictures = torch.zeros(n, 1, 32, 32)
    pictures[n // 2 :] = 1  # the value of a picture is its class, so a mixture's mean is the share of class 1
    labels = torch.tensor([0] * (n // 2) + [1] * (n // 2))
    for seed in range(10):
        torch.manual_seed(seed)
        x, y = mix(pictures, labels, 1.0, num_classes)
        assert y.shape == (n, num_classes or 2)
        torch.testing.assert_close(y.sum(1), torch.ones(n))
        torch.testing.assert_close(x.mean((1, 2, 3)), y[:, 1], atol=1e-5, rtol=0)


def test_erasing_touches_a_rectangle_of_the_chosen_pictures_only():
    pictures = torch.full((200, 1, 32, 32), 0.5)
    torch.manual_seed(0)
    changed = aug.erase(pictures, 0.25) != 0.5
    touched = changed.flatten(1).any(1)
    assert 25 < touched.sum() < 75
    for mask in changed[touched][:, 0]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.95
        assert 0.01 < mask.float().mean() < 0.4
    assert torch.equal(aug.erase(pictures, 0.0), pictures)


@pytest.mark.parametrize(
    "wrong",
    [
        Augment("rotate"),
        Augment(mixup=-1),
        Augment(cutmix=-0.1),
        Augment(random_erasing=1.5),
        Augment(randaugment=(2, 30)),
        Augment(randaugment=(-1, 9)),
        Augment(randaugment=(99, 9)),
    ],
)
def test_impossible_augmentation_is_refused(wrong):
    with pytest.raises(UserError):
        task.prepare(batch(), RGB, augment=wrong)


def test_randaugment_without_kornia_says_what_to_install(monkeypatch):
    aug._randaugment.cache_clear()
    monkeypatch.setitem(sys.modules, "kornia.augmentation.auto", None)
    with pytest.raises(UserError, match=r"pip install 'hollowbone\[train\]'"):
        task.prepare(batch(), RGB, augment=Augment(randaugment=(2, 9)))
    aug._randaugment.cache_clear()


def loss_of(model: nn.Module, given: tuple[torch.Tensor, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    return dict(classification_step(**options).loss(model, given))


def test_the_loss_is_cross_entropy_with_labels_or_soft_targets():
    x, y = task.prepare(batch(), RGB)
    model = Linear()
    expected = F.cross_entropy(model(x), y, label_smoothing=0.1)
    torch.testing.assert_close(loss_of(model, (x, y), label_smoothing=0.1)["loss"], expected)
    soft = F.one_hot(y, 5).float()
    torch.testing.assert_close(loss_of(model, (x, soft), label_smoothing=0.1)["loss"], expected)
    narrow = F.one_hot(y.clamp(max=2)).float()
    assert narrow.shape[1] == 3
    torch.testing.assert_close(loss_of(model, (x, narrow))["loss"], F.cross_entropy(model(x), y.clamp(max=2)))


def test_both_heads_learn_the_label_without_a_teacher():
    x, y = task.prepare(batch(), RGB)
    model = Linear(pair=True).train()
    head, dist_head = model(x)
    loss = loss_of(model, (x, y))["loss"]
    torch.testing.assert_close(loss, (F.cross_entropy(head, y) + F.cross_entropy(dist_head, y)) / 2)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("tau", [0.0, 3.0])
def test_the_teacher_speaks_to_the_distillation_head_in_its_share(pair, tau):
    x, y = task.prepare(batch(), RGB)
    model, teacher = Linear(pair=pair).train(), Linear().train()
    outputs = model(x)
    head, dist_head = outputs if pair else (outputs, outputs)
    with torch.no_grad():
        told = teacher.eval()(x)
    teacher.train()
    if tau:
        target = F.softmax(told / tau, 1)
        by_teacher = (target * (target.log() - F.log_softmax(dist_head / tau, 1))).sum(1).mean() * tau**2
    else:
        by_teacher = F.cross_entropy(dist_head, told.argmax(1))
    result = loss_of(model, (x, y), teacher=teacher, distill=0.3, tau=tau)
    torch.testing.assert_close(result["loss"], 0.7 * F.cross_entropy(head, y) + 0.3 * by_teacher)
    result["loss"].backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in model.parameters())


def test_soft_distillation_is_zero_for_equal_logits_only():
    logits = torch.randn(8, 5)
    assert soft_distillation(logits, logits, 2.0).abs() < 1e-6
    assert soft_distillation(logits, logits.flip(1), 2.0) > 0.01


def test_a_teacher_may_have_its_own_preprocessing():
    teacher = Linear(chans=1).eval()
    grey = Preprocessing((16, 16), 1, (0.1,), (0.7,))
    pictures, labels = batch()
    x, _ = task.prepare((pictures, labels), RGB)
    by_hand = F.interpolate((pictures.float() / 255).mean(1, keepdim=True), size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(Presented(teacher, RGB, grey)(x), teacher((by_hand - 0.1) / 0.7), atol=1e-5, rtol=1e-4)


def test_steps_refuse_what_cannot_be():
    for options in ({"label_smoothing": 1.0}, {"distill": 1.5}, {"tau": -1.0}):
        with pytest.raises(UserError, match=next(iter(options))):
            task.steps(**options)
    x, y = task.prepare(batch(), RGB)
    with pytest.raises(UserError, match="the teacher tells 7 classes apart, the network 5"):
        loss_of(Linear(), (x, y), teacher=Linear(7))


def test_predictions_score_and_confusion():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [0, 1, 9], [np.nan, 0, 0], [5, np.inf, 0]], np.float32)
    predictions = task.predictions([logits])
    assert predictions.tolist() == [0, 1, 2, -1, -1]
    targets = np.array([0, 1, 1, 0, 1])
    assert task.score(predictions, targets) == pytest.approx(0.4)
    assert confusion(predictions, targets, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert balanced_accuracy(predictions, targets) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert task.metric.format(0.975) == "97.50%"
    with pytest.raises(ValueError, match="at least one"):
        task.score(np.array([]), np.array([]))


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval_has_its_published_values(successes, total, low, high):
    assert wilson(successes, total) == pytest.approx((low, high), abs=1e-4)
    right = np.arange(total) < successes
    assert task.interval(right.astype(int), np.ones(total, int)) == wilson(successes, total)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 500), st.lists(st.floats(0.05, 1), min_size=1, max_size=5))
def test_shares_add_up_and_leave_nobody_out(total, weights):
    fractions = [w / sum(weights) for w in weights]
    sizes = share_out(total, fractions)
    assert sum(sizes) == total
    assert min(sizes) >= 0
    if total >= len(sizes):
        assert min(sizes) >= 1
    if total >= 20 * len(sizes):
        assert all(abs(size - total * f) <= len(sizes) for size, f in zip(sizes, fractions, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=60), st.integers(0, 5), st.randoms())
def test_splits_do_not_depend_on_order(labels, seed, random):
    digests = [f"{n}-{label}" for n, label in enumerate(labels)]
    parts = stratified(labels, digests, (0.6, 0.15, 0.25), seed)
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = stratified([labels[i] for i in order], [digests[i] for i in order], (0.6, 0.15, 0.25), seed)
    assert [parts[i] for i in order] == shuffled
    for label in set(labels):
        if labels.count(label) >= 3:
            assert {parts[i] for i in range(len(labels)) if labels[i] == label} == {0, 1, 2}


def test_statistics_are_those_of_the_pixels():
    pictures, _ = batch(40)
    mean, std = statistics(pictures)
    scaled = pictures.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-4)
    assert statistics(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)) == ((0.0,), (1.0,))
