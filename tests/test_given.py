"""Models as they are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hollowbone.errors import UserError
from hollowbone.models.given import artifact_at, example, network

MINE = """
from torch import nn

def build(num_classes=10, in_chans=3):
    return nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

def wrong():
    return "not a module"

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_catalogue_name_gives_the_network_with_the_sizes_of_the_data() -> None:
    model = network("mobilenetv2_050", num_classes=7, in_chans=1).eval()
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 7)


def test_own_python_file_is_executed_and_given_the_sizes(mine: Path) -> None:
    model = network(f"{mine}:build", num_classes=5, in_chans=1)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch", "defines no function 'nosuch'"),
        ("number", "defines no function 'number'"),
        ("wrong", "must take the arguments num_classes"),
    ],
)
def test_own_python_that_does_not_build_a_network_is_refused(mine: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        network(f"{mine}:{name}", num_classes=5)


def test_own_python_that_returns_something_else_is_refused(mine: Path) -> None:
    with pytest.raises(UserError, match="not str"):
        network(f"{mine}:wrong")


def test_nothing_else_that_names_a_python_file_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    for given in (str(trap), f"mobilenetv2_100@{trap}", f"{trap}:"):
        with pytest.raises(UserError):
            network(given)
    assert not (tmp_path / "sprung").exists()


def test_pt2_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(UserError, match="can execute code"):
        artifact_at(str(tmp_path / "model.pt2"))


def test_missing_artifact_is_named() -> None:
    with pytest.raises(UserError, match=r"no file nowhere\.onnx"):
        artifact_at("nowhere.onnx")
    assert artifact_at("mobilenetv2_100") is None


def test_artifact_is_not_a_network() -> None:
    with pytest.raises(UserError, match="exported artifact"):
        network("model.onnx")


def test_example_has_the_shape_given_or_the_models_own() -> None:
    model = network("mobilenetv2_050")
    for shape, expected in ((None, (1, 3, 224, 224)), ("3x32x48", (1, 3, 32, 48)), ("2x3x32x48", (2, 3, 32, 48))):
        shown = example("m", model, shape)
        assert shown is not None
        assert shown.args[0].shape == expected
        assert shown.units == expected[0]
    with pytest.raises(UserError, match="pass --input"):
        example("mine.py:build", nn.Identity())


@pytest.mark.parametrize("shape", ["", "3x32", "axbxc", "3x0x32", "3x-1x32", "1x2x3x4x5", "3.5x3x3", "³x32x32"])
def test_nonsense_shapes_are_refused(shape: str) -> None:
    with pytest.raises(UserError, match="CxHxW"):
        example("m", nn.Identity(), shape)
