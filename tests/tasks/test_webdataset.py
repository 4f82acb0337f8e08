"""Shards: where labels are looked for, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hollowbone.errors import UserError
from hollowbone.tasks import get_task
from hollowbone.tasks.classification.webdataset import expand, list_shards
from tests.tasks.folders import make_shard, png_bytes

task = get_task("classification")


def test_labels_come_from_cls_then_json_then_txt(tmp_path):
    make_shard(
        tmp_path / "s.tar",
        [
            ("0", {"txt": b"a caption", "png": b"", "cls": b"cat\n"}),
            ("1", {"png": b"", "json": b'{"label": "dog", "txt": 1}', "txt": b"a caption"}),
            ("2", {"txt": b" bird ", "png": b""}),
            ("3", {"txt": b"fish", "png": b"", "json": b'{"width": 4}'}),
        ],
    )
    assert [item.label for item in list_shards(tmp_path / "s.tar").items] == ["cat", "dog", "bird", "fish"]


def test_shards_of_the_public_writer_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "train-000.tar")) as sink:
        for n in range(12):
            sink.write({"__key__": f"k{n:03d}", "png": png_bytes(n), "cls": n % 2})
    data = task.read(tmp_path)
    assert data.classes == ("0", "1")
    assert sum(len(s) for s in (data.train, data.select, data.report)) == 12
    assert data.found.broken == {}
    assert task.read(data.source).digest == data.digest


def test_a_pattern_can_be_read_again_from_another_folder(tmp_path, monkeypatch):
    for part in range(2):
        samples = [(str(n), {"png": png_bytes(10 * part + n), "cls": str(n % 2).encode()}) for n in range(6)]
        make_shard(tmp_path / f"s{part}.tar", samples)
    monkeypatch.chdir(tmp_path)
    data = task.read("s{0..1}.tar")
    monkeypatch.chdir("/")
    assert task.read(data.source).digest == data.digest


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"png": b"", "cls": b" "}, "has a picture and no label"),
        ({"png": b"", "json": b"{"}, "is not JSON"),
        ({"png": b"", "json": b"[" * 100_000}, "is not JSON"),
        ({"cls": b"1"}, "hold no samples with a picture"),
    ],
)
def test_samples_without_label_or_picture_are_refused(tmp_path, parts, sentence):
    make_shard(tmp_path / "s.tar", [("0", parts)])
    with pytest.raises(UserError, match=sentence):
        list_shards(tmp_path / "s.tar")


def test_a_pattern_of_a_billion_shards_is_refused_at_once():
    with pytest.raises(UserError, match="more than 100000 shards"):
        expand("s-{0..999999999}.tar")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=40))
def test_a_damaged_shard_is_read_or_refused(tmp_path, at, garbage):
    path = tmp_path / "s.tar"
    make_shard(path, [(str(n), {"png": b"x" * 30, "cls": str(n % 2).encode()}) for n in range(2)])
    data = bytearray(path.read_bytes())
    data[at : at + len(garbage)] = garbage
    path.write_bytes(data)
    try:
        listing = list_shards(path)
    except UserError as refused:
        assert "s.tar" in str(refused)  # noqa: PT017
        return
    assert all(item.label for item in listing.items)
