"""Data from disk: mixed formats, ready splits, manifests, shards, arrays; and what is said about data that cannot be used."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from hollowbone.errors import UserError
from hollowbone.tasks import get_task
from hollowbone.tasks.base import SPLITS, Data
from hollowbone.tasks.classification import LazySplit, MemorySplit, readers
from hollowbone.tasks.classification.listing import Item
from hollowbone.tasks.classification.manifest import parse, text_of
from hollowbone.tasks.classification.webdataset import expand
from tests.tasks.folders import TEXT, TRUNCATED, make_plain_folder, make_shard, make_two_class_folder, png_bytes

task = get_task("classification")


def names(data: Data) -> dict[str, tuple[str, ...]]:
    return {split: data.split(split).names for split in SPLITS}  # type: ignore[attr-defined]


def printed(data: Data) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(task.describe(data))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("mixed")
    make_two_class_folder(root, per_class=40)
    return root, task.read(root, seed=3)


def test_mixed_formats_are_all_used_and_the_broken_are_named(mixed):
    root, data = mixed
    assert set(data.found.broken) == {TRUNCATED, TEXT}
    assert "not a picture" in data.found.broken[TEXT]
    assert "truncated" in data.found.broken[TRUNCATED]
    used = [name for split in names(data).values() for name in split]
    on_disk = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert set(used) == on_disk - {TRUNCATED, TEXT}
    assert len(used) == len(set(used)) == 80
    assert data.classes == ("disc", "stripes")
    assert sum(data.found.sizes.values()) == 80
    assert data.found.sizes["48x40"] > data.found.sizes["40x48"] > 0  # those turned upright by their EXIF data
    assert len(data.found.sizes) == 6
    assert (data.preprocessing.resolution, data.preprocessing.in_chans) == ((32, 32), 3)
    for split in SPLITS:
        held = data.split(split)
        assert isinstance(held, MemorySplit)
        assert held.images.dtype == torch.uint8
        assert held.images.shape == (len(held), 3, 32, 32)
        assert set(held.labels.tolist()) == {0, 1}
    text = printed(data)
    for said in (TRUNCATED, TEXT, "not a picture", "disc", "stripes", "48x40 (", "80 pictures of 2 classes"):
        assert said in text


def test_broken_files_are_refused_on_request(mixed):
    with pytest.raises(UserError, match="1 more files cannot be read"):
        task.read(mixed[0], skip_broken=False)


def test_a_decoded_file_equals_the_stored_sample(mixed):
    root, data = mixed
    for index in (0, 7, 20):
        again = task.decode(root / data.train.names[index], data.preprocessing)
        np.testing.assert_array_equal(again, data.train.images[index].numpy())


def test_splits_and_digest_depend_on_content_and_not_on_order_or_place(mixed, tmp_path, monkeypatch):
    root, data = mixed
    shutil.copytree(root, tmp_path / "copy")
    real = os.scandir

    class Shuffled:
        def __init__(self, path):
            with real(path) as found:
                self.found = list(found)
            random.Random(5).shuffle(self.found)

        def __enter__(self):
            return iter(self.found)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Shuffled)
    again = task.read(tmp_path / "copy", seed=3)
    monkeypatch.undo()
    assert again.digest == data.digest
    assert {s: sorted(n) for s, n in names(again).items()} == {s: sorted(n) for s, n in names(data).items()}
    assert torch.equal(again.train.images, data.train.images)
    assert task.read(root, seed=4).digest != data.digest
    assert set(names(task.read(root, seed=4))["train"]) != set(names(data)["train"])
    picture = tmp_path / "copy" / "disc" / "0000.png"
    Image.open(picture).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(picture)
    assert task.read(tmp_path / "copy", seed=3).digest != data.digest


def test_renaming_files_moves_no_picture_to_another_split(tmp_path):
    make_plain_folder(tmp_path / "a", {"cat": 20, "dog": 20})
    for folder in ("cat", "dog"):
        (tmp_path / "b" / folder).mkdir(parents=True)
        for n, path in enumerate(sorted((tmp_path / "a" / folder).iterdir())):
            shutil.copy(path, tmp_path / "b" / folder / f"z{99 - n}.png")
    one, two = task.read(tmp_path / "a"), task.read(tmp_path / "b")
    for split in SPLITS:
        assert {i.numpy().tobytes() for i in one.split(split).images} == {i.numpy().tobytes() for i in two.split(split).images}


def test_grey_pictures_stay_grey_and_sizes_follow_the_data(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for n in range(5):
            Image.fromarray(rng.integers(0, 256, (70, 90)).astype(np.uint8)).save(tmp_path / label / f"{n}.png")
    data = task.read(tmp_path)
    assert (data.preprocessing.resolution, data.preprocessing.in_chans) == ((64, 64), 1)
    assert task.read(tmp_path, in_chans=3, resolution=(24, 40)).train.images.shape[1:] == (3, 24, 40)
    assert task.read(data) is data


def test_numeric_classes_are_in_order_of_number(tmp_path):
    make_plain_folder(tmp_path, {"10": 3, "9": 3, "2": 3})
    assert task.read(tmp_path).classes == ("2", "9", "10")


def test_ready_splits_are_kept(tmp_path):
    make_plain_folder(tmp_path, {f"{s}/{c}": n for s, n in (("Train", 6), ("valid", 2), ("test", 3)) for c in "ab"})
    data = task.read(tmp_path)
    assert {s: {n.split("/")[0] for n in ns} for s, ns in names(data).items()} == {
        "train": {"Train"},
        "select": {"valid"},
        "report": {"test"},
    }
    assert "the data's own splits are used" in data.found.notes


@pytest.mark.parametrize(("held_out", "word"), [("val", "validation"), ("test", "test")])
def test_one_held_out_split_reports_and_select_comes_from_train(tmp_path, held_out, word):
    make_plain_folder(tmp_path, {f"{s}/{c}": n for s, n in (("train", 20), (held_out, 5)) for c in "ab"})
    data = task.read(tmp_path)
    assert {n.split("/")[0] for n in names(data)["report"]} == {held_out}
    assert {n.split("/")[0] for n in names(data)["select"]} == {"train"}
    assert (len(data.train), len(data.select), len(data.report)) == (32, 8, 10)
    assert any(word in note and "set apart to select" in note for note in data.found.notes)


def test_a_class_that_is_called_train_is_a_class(tmp_path):
    make_plain_folder(tmp_path, {"train": 4, "bus": 4})
    assert task.read(tmp_path).classes == ("bus", "train")


def test_equal_pictures_across_splits_leave_the_earlier_split_and_are_listed(tmp_path):
    make_plain_folder(tmp_path, {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in "ab"})
    for split in ("train", "val", "test"):  # every folder of make_plain_folder draws different pictures
        for label in "ab":
            for n, path in enumerate(sorted((tmp_path / split / label).iterdir())):
                Image.open(path).save(path.with_name(f"{split}{n}.png"))
                path.unlink()
    Image.open(tmp_path / "test/a/test0.png").save(tmp_path / "train/a/same.bmp")
    Image.open(tmp_path / "test/a/test0.png").save(tmp_path / "val/a/same.png")
    Image.open(tmp_path / "val/b/val1.png").save(tmp_path / "train/a/other.png")
    data = task.read(tmp_path)
    assert sorted(data.found.duplicates) == [
        ("test/a/test0.png", "train/a/same.bmp"),
        ("test/a/test0.png", "val/a/same.png"),
        ("val/b/val1.png", "train/a/other.png"),
    ]
    assert not {"train/a/same.bmp", "train/a/other.png", "val/a/same.png"} & {n for ns in names(data).values() for n in ns}
    assert any("different labels" in note and "val/b/val1.png" in note for note in data.found.notes)
    assert "train/a/same.bmp" in printed(data)


def test_large_data_are_decoded_when_asked_for_and_are_the_same(mixed, monkeypatch):
    root, data = mixed
    monkeypatch.setattr(readers, "MEMORY", 1000)
    lazy = task.read(root, seed=3)
    assert isinstance(lazy.train, LazySplit)
    assert lazy.digest == data.digest
    assert lazy.preprocessing == data.preprocessing
    assert lazy.found == data.found
    picture, label = lazy.report[5]
    assert torch.equal(picture, data.report.images[5])
    assert label == int(data.report.labels[5])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("with_split", [False, True])
def test_manifests_are_read(tmp_path, kind, with_split):
    make_plain_folder(tmp_path, {"pictures": 24})
    rows = [{"path": f"pictures/{n}.png", "label": n % 2, "split": ("train", "val", "test")[n % 3]} for n in range(24)]
    rows.append({"path": "pictures/gone.png", "label": 1, "split": "test"})
    columns = ["path", "label", "split"] if with_split else ["path", "label"]
    manifest = tmp_path / f"list.{kind}"
    if kind == "csv":
        lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
        manifest.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet as pq

        pq.write_table(pyarrow.table({c: [row[c] for row in rows] for c in columns}), manifest)
    data = task.read(manifest)
    assert data.classes == ("0", "1")
    assert data.name == "list"
    assert data.found.broken == {"pictures/gone.png": "no such file or directory"}
    assert sum(map(len, names(data).values())) == 24
    if with_split:
        assert {int(Path(n).stem) % 3 for n in names(data)["report"]} == {2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label\na.png,x\nb.png,\n", "line 3: the label of b.png is missing"),
        ("path,label\na.png,NaN\n", "line 2: the label of a.png is missing"),
        ("path,label\n,x\n", "line 2: the path is missing"),
        ("file,label\na.png,x\n", "lacks the column path; it has file, label"),
        ("", "lacks the column path and label"),
        ("path,label\n", "lists no pictures"),
        ("path,label,split\na.png,x,later\n", "the split 'later' is unknown"),
        ("path,label,split\na.png,x,train\nb.png,x,\n", "name one in every row or in none"),
        ("path,label\na.png,x\na.png,y\n", "one label or split in line 2 and another in line 3"),
        ("path,label\na.png,x\nb.png,x\n", "one class only"),
        ("path,label\na.png,x\nb.png,y\n", "none of the 2 files is a readable picture; a.png: no such file"),
        ("path,label,split\na.png,x,test\nb.png,y,val\n", "none of the 2 files"),
    ],
)
def test_wrong_manifests_are_refused_in_one_sentence(tmp_path, text, sentence):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError) as refused:
        task.read(tmp_path / "list.csv")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


cells = st.one_of(st.none(), st.text(max_size=6), st.floats(), st.integers(0, 3), st.sampled_from(["train", "val", "x", "NaN"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({"path": cells, "label": cells, "split": cells}), max_size=6))
def test_a_manifest_is_either_understood_whole_or_refused_with_its_place(rows):
    try:
        listing = parse(((f"row {n}", row) for n, row in enumerate(rows)), Path("/data/list.csv"))
    except UserError as refused:
        assert "list.csv" in str(refused)  # noqa: PT017
        return
    assert len({item.name for item in listing.items}) == len(listing.items) <= len(rows)
    for item in listing.items:
        assert item.label
        assert item.label.lower() != "nan"
        assert item.split in (None, *SPLITS)
    assert len({item.split is None for item in listing.items}) == 1
    assert {item.label for item in listing.items} == {text_of(row["label"]) for row in rows}


def test_shards_are_read(tmp_path):
    for shard, split in (("train-000", 12), ("train-001", 12), ("val-000", 6), ("test-000", 6)):
        base = hash_free(shard)
        samples = []
        for n in range(split):
            label = {"cls": str(n % 2).encode()} if n % 4 < 2 else {"json": json.dumps({"label": n % 2}).encode()}
            samples.append((f"sub.dir/{n:03d}", {"png": png_bytes(base + n), **label, "txt": b"a caption"}))
        make_shard(tmp_path / f"{shard}.tar", samples)
    data = task.read(tmp_path)
    assert {s: len(n) for s, n in names(data).items()} == {"train": 24, "select": 6, "report": 6}
    assert data.classes == ("0", "1")
    same = task.read(str(tmp_path / "{train-{000..001},val-000,test-000}.tar"))
    assert same.digest == data.digest
    one = task.read(tmp_path / "train-000.tar")
    assert sum(map(len, names(one).values())) == 12
    picture, _ = data.report[0]
    expected = Image.open(io.BytesIO(png_bytes(hash_free("test-000") + int(data.report.names[0].split("/")[-1][:3]))))
    resized = np.asarray(expected.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(picture.numpy(), resized)


def hash_free(shard: str) -> int:
    return {"train-000": 0, "train-001": 100, "val-000": 200, "test-000": 300}[shard]


def test_wrong_shards_are_refused(tmp_path):
    with pytest.raises(UserError, match="these shards are missing"):
        task.read(str(tmp_path / "s-{000..002}.tar"))
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"bad\.tar is not a whole"):
        task.read(tmp_path / "bad.tar")
    make_shard(tmp_path / "no.tar", [("a", {"png": png_bytes(0)})])
    with pytest.raises(UserError, match="the sample a has a picture and no label"):
        task.read(tmp_path / "no.tar")


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a.tar", "a.tar"),
        ("{000..003}.tar", "000.tar 001.tar 002.tar 003.tar"),
        ("x-{8..11}-{a,b}", "x-8-a x-8-b x-9-a x-9-b x-10-a x-10-b x-11-a x-11-b"),
        ("{3..1}", "3 2 1"),
        ("{a,b{1..2}}", "a b1 b2"),
        ("{08..10}", "08 09 10"),
        ("{train,val}/{0..1}.tar", "train/0.tar train/1.tar val/0.tar val/1.tar"),
    ],
)
def test_brace_patterns_expand_like_the_shell(pattern, expanded):
    assert expand(pattern) == expanded.split()


def test_arrays_are_read(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 9, 7, 3)).astype(np.uint8), np.arange(40) % 2
    data = task.read((images, labels))
    assert [len(n) for n in names(data).values()] == [24, 6, 10]
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert task.read((images.transpose(0, 3, 1, 2), labels)).digest == data.digest
    assert task.read((torch.from_numpy(images), labels)).digest == data.digest
    np.savez(tmp_path / "small.npz", images=images, labels=labels)
    from_file = task.read(tmp_path / "small.npz")
    assert (from_file.digest, from_file.name) == (data.digest, "small")
    assert from_file.source == str(tmp_path / "small.npz")
    floats = images / 255.0
    floats[3, 0, 0, 0] = np.nan
    for wrong, sentence in (
        ((floats, labels), "the pictures 3 hold NaN or infinity"),
        ((images * 2.0, labels), "lie between 0 and 1"),
        ((images, labels[:3]), "need labels of shape"),
        ((images, np.where(labels == 1, np.nan, 0.0)), "are missing"),
        ((images, labels * 0), "one class only"),
        ((images[:2], labels[:2]), "too few pictures"),
        ((images.astype(int), labels), "uint8"),
    ):
        with pytest.raises(UserError, match=sentence):
            task.read(wrong)
    np.savez(tmp_path / "objects.npz", images=np.array([object()]), labels=labels)
    with pytest.raises(UserError, match="plain arrays"):
        task.read(tmp_path / "objects.npz")


def test_unusable_folders_are_refused_in_one_sentence(tmp_path, monkeypatch):
    def refused(path: object, **options: object) -> str:
        with pytest.raises(UserError) as error:
            task.read(path, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "there is no file or folder" in refused(tmp_path / "gone")
    assert "'digits'" in refused("digts")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    make_plain_folder(tmp_path / "flat", {".": 3})
    assert "3 pictures lie directly in" in refused(tmp_path / "flat")
    make_plain_folder(tmp_path / "one", {"cat": 5})
    assert "one class only ('cat')" in refused(tmp_path / "one")
    make_plain_folder(tmp_path / "two", {"cat": 1, "dog": 1})
    assert "cat has 1, dog has 1; every class needs at least 3" in refused(tmp_path / "two")
    (tmp_path / "words" / "a").mkdir(parents=True)
    (tmp_path / "words" / "a" / "x.txt").write_text("x")
    assert "no pictures in its folders" in refused(tmp_path / "words")
    for label in ("a", "b"):
        (tmp_path / "broken" / label).mkdir(parents=True)
        (tmp_path / "broken" / label / "x.png").write_text("x")
    assert "none of the 2 files is a readable picture" in refused(tmp_path / "broken")
    (tmp_path / "data.zip").write_text("x")
    assert "is no data set" in refused(tmp_path / "data.zip")
    make_plain_folder(tmp_path / "ready", {"train/a": 4, "train/b": 4, "val/a": 2, "val/c": 2})
    assert "the train split has no readable pictures of c" in refused(tmp_path / "ready")
    make_plain_folder(tmp_path / "both", {"train/a": 4, "train/b": 4, "val/a": 2, "valid/b": 2})
    assert "both name the select split" in refused(tmp_path / "both")
    for options in ({"resolution": 0}, {"resolution": (32, "x")}, {"in_chans": 2}, {"fractions": (1, 0, 0)}):
        assert next(iter(options)) in refused("digits", **options)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    assert "Permission denied" in refused(tmp_path / "one")


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    make_plain_folder(tmp_path, {"a": 4, "b": 4})
    read = Item.read

    def denied(item: Item) -> bytes:
        if item.name == "a/2.png":
            raise PermissionError(13, "Permission denied")
        return read(item)

    monkeypatch.setattr(Item, "read", denied)
    assert task.read(tmp_path).found.broken == {"a/2.png": "permission denied"}


def test_what_is_left_aside_is_said(tmp_path):
    make_plain_folder(tmp_path, {"a": 4, "b/deep": 4})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "loose.png").write_bytes(png_bytes(0))
    (tmp_path / "c").mkdir()
    data = task.read(tmp_path)
    assert data.classes == ("a", "b")
    for said in ("a/notes.txt", "loose.png", "the folder c holds no pictures"):
        assert any(said in note for note in data.found.notes), said
