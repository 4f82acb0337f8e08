"""What importing costs: heavy libraries come in when they are used, and not before."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "sklearn",
    "skimage",
    "kornia",
    "ray",
    "plotly",
    "lightning",
    "lightning_fabric",
    "transformers",
    "timm",
    "torchvision",
    "executorch",
    "coremltools",
    "pyarrow",
    "webdataset",
    "rich",
)

COMMAND = """
import sys
sys.argv = ["hollowbone", *{arguments!r}]
from hollowbone.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""
REPORT = "\nimport sys; print('LOADED', *sorted({m.partition('.')[0] for m in sys.modules}))"


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    done = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_import_brings_nothing_but_the_standard_library_and_the_package_itself() -> None:
    assert loaded("import hollowbone") - loaded("pass") - sys.stdlib_module_names == {"hollowbone"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["fit", "--help"], ["systems", "--json"], ["cite", "mobilenetv2"]], ids=" ".join
)
def test_command_answers_without_heavy_imports(arguments: list[str]) -> None:
    assert loaded(COMMAND.format(arguments=arguments)).isdisjoint(HEAVY)


def test_every_module_keeps_optional_and_slow_libraries_for_when_they_are_used() -> None:
    allowed = {"torch", "numpy", "rich"} | loaded("import torch")
    code = "import pkgutil, hollowbone\nfrom importlib import import_module\n"
    code += "for m in pkgutil.walk_packages(hollowbone.__path__, 'hollowbone.'):\n"
    code += "    m.name == 'hollowbone.__main__' or import_module(m.name)\n"
    found = loaded(code)
    assert "torch" in found, "the walk imported nothing"
    assert (found & set(HEAVY)) - allowed == set()
