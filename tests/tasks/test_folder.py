"""Folders as people have them: what is passed over, what is refused, and what decides where a picture goes."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hollowbone.errors import UserError
from hollowbone.tasks import get_task
from hollowbone.tasks.base import SPLITS
from tests.tasks.folders import make_plain_folder, make_shard, png_bytes

task = get_task("classification")


def test_what_file_managers_leave_behind_is_passed_over_in_silence(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "b": 4, ".hidden": 4, "__MACOSX": 4})
    for name in ("a/.DS_Store", "a/Thumbs.db", "b/._1.png", "desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    data = task.read(tmp_path)
    assert data.classes == ("a", "b")
    assert data.found.broken == {}
    assert [note for note in data.found.notes if "left out" in note] == []


def test_pipes_dead_links_and_links_to_folders_are_named_and_waited_for_by_nobody(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "b": 4})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "dead.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a" / "round").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "zero.png").touch()
    data = task.read(tmp_path)
    assert data.found.broken == {
        "a/dead.png": "no such file or directory",
        "a/pipe.png": "not a file",
        "a/zero.png": "the file is empty",
    }
    assert any("a/round" in note for note in data.found.notes)


def test_names_that_are_not_utf8_are_printed_and_stored(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "b": 4})
    os.rename(os.fsencode(tmp_path / "a" / "0.png"), os.fsencode(tmp_path / "a") + b"/\xff.png")
    (tmp_path / "b" / os.fsdecode(b"\xfe.png")).write_text("words")
    data = task.read(tmp_path)
    assert set(data.found.broken) == {"b/\ufffd.png"}
    assert "a/\ufffd.png" in {name for split in SPLITS for name in data.split(split).names}


def test_a_picture_in_another_format_and_name_is_the_same_picture(tmp_path):
    make_plain_folder(tmp_path / "one", {"a": 9, "b": 9})
    for number, path in enumerate(sorted((tmp_path / "one").rglob("*.png"))):
        kind = ("bmp", "tiff", "png")[number % 3]
        other = tmp_path / "two" / path.parent.name / f"x{20 - number}.{kind}"
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(other)
    one, two = task.read(tmp_path / "one"), task.read(tmp_path / "two")
    assert one.digest == two.digest
    for split in SPLITS:
        assert torch.equal(one.split(split).images, two.split(split).images)
        assert torch.equal(one.split(split).labels, two.split(split).labels)


def test_another_label_is_another_digest(tmp_path):
    make_plain_folder(tmp_path / "one", {"a": 6, "b": 6})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    os.rename(tmp_path / "two" / "a" / "0.png", tmp_path / "two" / "b" / "moved.png")
    assert task.read(tmp_path / "one").digest != task.read(tmp_path / "two").digest


def test_a_picture_keeps_its_split_at_every_resolution(tmp_path):
    make_plain_folder(tmp_path, {"a": 12, "b": 12})
    small, large = task.read(tmp_path, resolution=32), task.read(tmp_path, resolution=64, in_chans=1)
    for split in SPLITS:
        assert small.split(split).names == large.split(split).names
    assert small.digest != large.digest


def test_pictures_that_no_network_could_tell_apart_are_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        grey = Image.fromarray(rng.integers(0, 256, (40, 40)).astype(np.uint8))
        for split in ("train", "val", "test")[number % 3 :][:1]:
            folder = tmp_path / split / "ab"[number // 3 % 2]
            folder.mkdir(parents=True, exist_ok=True)
            grey.save(folder / f"{number}.png")
    # The same picture at the working resolution, from a file of another size.
    held = tmp_path / "test" / "a" / "2.png"
    Image.open(held).resize((32, 32), Image.Resampling.BILINEAR).save(tmp_path / "train" / "a" / "small.png")
    data = task.read(tmp_path, resolution=32)
    assert data.found.duplicates == [("test/a/2.png", "train/a/small.png")]
    assert "train/a/small.png" not in data.train.names


def test_an_archive_beside_class_folders_does_not_hide_them(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "b": 4})
    make_shard(tmp_path / "as_it_came.tar", [(str(n), {"png": png_bytes(n), "cls": b"0"}) for n in range(4)])
    data = task.read(tmp_path)
    assert data.classes == ("a", "b")
    assert any("as_it_came.tar" in note for note in data.found.notes)


def test_a_class_of_broken_pictures_is_refused_by_name(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "b": 4, "c": 0})
    for n in range(3):
        (tmp_path / "c" / f"{n}.png").write_text("words")
    with pytest.raises(UserError, match="c has 0; every class needs at least 3"):
        task.read(tmp_path)


def test_the_source_can_be_read_again_from_another_folder(tmp_path, monkeypatch):
    make_plain_folder(tmp_path / "data", {"a": 4, "b": 4})
    monkeypatch.chdir(tmp_path)
    data = task.read("data")
    assert data.name == "data"
    monkeypatch.chdir("/")
    assert task.read(data.source).digest == data.digest


def test_a_bundled_name_means_the_bundled_data_wherever_one_stands(tmp_path, monkeypatch):
    make_plain_folder(tmp_path / "digits", {"a": 4, "b": 4})
    monkeypatch.chdir(tmp_path)
    assert len(task.read("digits").classes) == 10
    assert task.read("./digits").classes == ("a", "b")


@pytest.mark.parametrize(
    "source", [None, 3, {"a": 1}, np.zeros((3, 4)), ([[1], [1, 2]], [0, 1]), "x" * 5000, "a\0b", "~nobody/x"]
)
def test_what_is_no_data_is_refused_in_one_sentence(source):
    with pytest.raises(UserError) as refused:
        task.read(source)
    assert "\n" not in str(refused.value).strip()
