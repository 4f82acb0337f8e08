"""Whatever bytes a manifest or a shard consists of, it is read or refused with a `UserError`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hollowbone.errors import UserError
from hollowbone.tasks import get_task
from hollowbone.tasks.classification.manifest import list_manifest
from tests.tasks.folders import make_plain_folder

task = get_task("classification")
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
field = st.text(st.characters(codec="utf-8"), max_size=8)
line = st.lists(field, max_size=4).map(",".join)


@quick
@given(
    st.one_of(
        st.binary(max_size=60), st.lists(line, max_size=5).map(lambda lines: ("path,label,split\n" + "\n".join(lines)).encode())
    )
)
@example(b'path,label\n"' + b"x" * 200_000 + b'",a\n')
@example(b"path,label\n" + b"a.png," + b"9" * 5000)
@example(b"path,label\na\0b.png,x\nc.png,y\n")
@example("path,label\nä.png,x\n".encode("latin-1"))
def test_any_csv_is_read_or_refused(tmp_path, data):
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    try:
        listing = list_manifest(path)
    except UserError as refused:
        assert "list.csv" in str(refused)  # noqa: PT017
        return
    assert listing.items
    assert listing.classes
    assert all(item.label and item.name for item in listing.items)


@quick
@given(st.binary(max_size=60))
@example(b"PAR1" + b"\0" * 20 + b"PAR1")
def test_any_parquet_is_read_or_refused(tmp_path, data):
    path = tmp_path / "list.parquet"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"list\.parquet"):
        list_manifest(path)


def test_odd_names_are_broken_files_and_not_crashes(tmp_path):
    make_plain_folder(tmp_path, {"p": 8})
    rows = [f"p/{n}.png,{'xy'[n % 2]}" for n in range(8)] + ["a\0b.png,x", "n" * 5000 + ".png,y", "p,x", "../gone.png,y"]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows))
    broken = task.read(tmp_path / "list.csv").found.broken
    assert len(broken) == 4
    assert broken["p"] == "not a file"
    assert broken["../gone.png"] == "no such file or directory"


def test_paths_are_relative_to_the_manifest_or_absolute(tmp_path, monkeypatch):
    make_plain_folder(tmp_path, {"p": 8})
    rows = [f"{tmp_path}/p/{n}.png;{'xy'[n % 2]}" if n < 4 else f"p/{n}.png;{'xy'[n % 2]}" for n in range(8)]
    (tmp_path / "list.csv").write_text("Path;Label\n" + "\n".join(rows))
    monkeypatch.chdir("/")
    data = task.read(tmp_path / "list.csv")
    assert data.found.broken == {}
    assert data.classes == ("x", "y")


def test_a_manifest_without_a_train_split_is_refused(tmp_path):
    make_plain_folder(tmp_path, {"p": 8})
    rows = [f"p/{n}.png,{'xy'[n % 2]},{('val', 'test')[n // 2 % 2]}" for n in range(8)]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(rows))
    with pytest.raises(UserError, match="no train split"):
        task.read(tmp_path / "list.csv")


def test_a_directory_named_like_a_manifest_is_a_folder(tmp_path):
    (tmp_path / "list.csv").mkdir()
    with pytest.raises(UserError, match="is empty"):
        task.read(Path(tmp_path / "list.csv"))
