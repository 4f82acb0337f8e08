"""The bundled data: the same everywhere, three honest splits, nothing downloaded."""

from __future__ import annotations

import re
import socket
from collections import defaultdict

import numpy as np
import pytest
import torch
from PIL import Image

from hollowbone.errors import UserError
from hollowbone.tasks import get_task
from hollowbone.tasks.base import SPLITS, Data
from hollowbone.tasks.classification import photo_patches as pp

task = get_task("classification")


@pytest.fixture(scope="module")
def patches() -> Data:
    return task.read("photo_patches")


def boxes(data: Data, split: str) -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """(class, photograph, box) of each patch of a split, from its name."""
    held = data.split(split)
    found = []
    for name, label in zip(held.names, held.labels.tolist(), strict=True):
        match = re.fullmatch(r"(\S+)\[(\d+):(\d+), (\d+):(\d+)\]", name)
        assert match
        x0, x1, y0, y1 = map(int, match.groups()[1:])
        found.append((data.classes[label], match[1], (x0, y0, x1, y1)))
    return found


def test_digits_are_the_1797_of_scikit_learn_in_stratified_splits():
    from sklearn.datasets import load_digits

    data = task.read("digits")
    assert [len(data.split(s)) for s in SPLITS] == [1078, 269, 450]
    assert data.classes == tuple("0123456789")
    assert (data.preprocessing.resolution, data.preprocessing.in_chans) == ((32, 32), 1)
    for split, share in zip(SPLITS, (0.6, 0.15, 0.25), strict=True):
        for label, count in data.found.counts[split].items():
            total = sum(data.found.counts[s][label] for s in SPLITS)
            assert abs(count - share * total) <= 1
    raw = load_digits()
    for split in SPLITS:
        held = data.split(split)
        rows = [int(name[7:-1]) for name in held.names]
        assert held.labels.tolist() == raw.target[rows].tolist()
        shrunk = torch.nn.functional.interpolate(held.images.float(), size=(8, 8), mode="area")[:, 0].numpy() / 255 * 16
        assert np.corrcoef(shrunk.ravel(), raw.images[rows].ravel())[0, 1] > 0.97
    everyone = [name for split in SPLITS for name in data.split(split).names]
    assert len(set(everyone)) == 1797


@pytest.mark.parametrize("name", ["digits", "photo_patches"])
def test_bundled_data_are_the_same_for_a_seed_and_differ_between_seeds(name, patches):
    one, same, other = patches if name == "photo_patches" else task.read(name), task.read(name), task.read(name, seed=2)
    assert one.digest == same.digest != other.digest
    assert one.preprocessing == same.preprocessing
    for split in SPLITS:
        assert torch.equal(one.split(split).images, same.split(split).images)
        assert one.split(split).names == same.split(split).names
    assert one.report.names != other.report.names


def test_digits_take_other_sizes_and_channels():
    data = task.read("digits", resolution=16, in_chans=3)
    assert data.train.images.shape[1:] == (3, 16, 16)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    assert data.digest != task.read("digits").digest


def test_photo_patches_have_over_twenty_classes_in_equal_numbers(patches):
    assert len(patches.classes) == len(set(patches.classes)) >= 20
    for split in SPLITS:
        assert set(patches.found.counts[split].values()) == {pp.PER_CLASS[split]}
        assert patches.split(split).images.shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("seed", [0, 5])
def test_no_pixel_serves_two_splits(seed):
    data = task.read("photo_patches", seed=seed)
    used: dict[str, dict[str, np.ndarray]] = defaultdict(lambda: {s: np.zeros((1500, 1500), bool) for s in SPLITS})
    for split in SPLITS:
        for _, photograph, (x0, y0, x1, y1) in boxes(data, split):
            used[photograph][split][y0:y1, x0:x1] = True
    assert set(used) == set(pp.REGIONS)
    for masks in used.values():
        assert not (masks["train"] & masks["select"]).any()
        assert not (masks["train"] & masks["report"]).any()
        assert not (masks["select"] & masks["report"]).any()
        assert all(mask.any() for mask in masks.values())


def test_train_and_select_do_not_change_with_the_pixels_of_report(patches, tmp_path, monkeypatch):
    where = defaultdict(list)
    for _, photograph, box in boxes(patches, "report"):
        where[photograph].append(box)
    for photograph, cut in where.items():
        with Image.open(pp.photographs() / photograph) as photo:
            pixels = np.asarray(photo.convert("RGB")).copy()
        for x0, y0, x1, y1 in cut:
            pixels[y0:y1, x0:x1] = 77
        Image.fromarray(pixels).save(tmp_path / photograph, "PNG")
    monkeypatch.setattr(pp, "photographs", lambda: tmp_path)
    painted = task.read("photo_patches")
    assert torch.equal(painted.train.images, patches.train.images)
    assert torch.equal(painted.select.images, patches.select.images)
    assert not torch.equal(painted.report.images, patches.report.images)


def test_every_patch_lies_in_the_region_of_its_class_and_regions_do_not_overlap(patches):
    regions = {}
    for photograph, named in pp.REGIONS.items():
        with Image.open(pp.photographs() / photograph) as photo:
            taken = np.zeros((photo.height, photo.width), int)
            for name, (x0, y0, x1, y1) in named.items():
                assert 0 <= x0 < x1 <= photo.width
                assert 0 <= y0 < y1 <= photo.height
                taken[y0:y1, x0:x1] += 1
                regions[photograph, f"{photograph.split('.')[0].split('_')[0]}-{name}"] = (x0, y0, x1, y1)
            assert taken.max() == 1
    for split in SPLITS:
        for label, photograph, (x0, y0, x1, y1) in boxes(patches, split):
            left, top, right, bottom = regions[photograph, label]
            assert left <= x0 < x1 <= right
            assert top <= y0 < y1 <= bottom
            assert pp.SMALLEST <= x1 - x0 == y1 - y0 <= pp.CELL


def test_photo_patches_cannot_be_told_by_their_mean_colour(patches):
    """A nearest class mean in colour stays far below what the task asks of a network, and above chance."""
    colour = {s: patches.split(s).images.float().mean((2, 3)) for s in SPLITS}
    labels = patches.train.labels
    centres = torch.stack([colour["train"][labels == k].mean(0) for k in range(len(patches.classes))])
    guessed = torch.cdist(colour["report"], centres).argmin(1)
    accuracy = (guessed == patches.report.labels).float().mean()
    assert 2 / len(patches.classes) < accuracy < 0.6


def test_photo_patches_open_no_connection(patches, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert len(task.read("photo_patches", seed=11).classes) == len(patches.classes)


def test_missing_packages_are_named_with_what_would_do(monkeypatch):
    import importlib.util

    monkeypatch.setattr(pp, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"scikit-image: pip install 'hollowbone\[demo\]'"):
        task.read("photo_patches")
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"scikit-learn: pip install 'hollowbone\[demo\]'"):
        task.read("digits")
    assert importlib.util.find_spec("skimage") is not None
