"""The kernels are optional, chosen at run time, and checked by tools that need no Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hollowbone import ops
from hollowbone.errors import UserError
from hollowbone.ops import native
from tests.support import needs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the package was installed without a compiler."""
    monkeypatch.setitem(sys.modules, "hollowbone.ops._native", None)
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@pytest.mark.skipif(os.environ.get("HOLLOWBONE_REQUIRE_ALL") != "1", reason="kernels are optional on a user's machine")
def test_kernels_are_built_where_everything_is_required() -> None:
    assert ops.status()["built"], ops.status()["reason"]


@pytest.mark.usefixtures("without_extension")
def test_without_kernels_operators_run_on_the_reference_and_status_says_why() -> None:
    status = ops.status()
    assert not status["built"]
    assert status["isa"] == "reference"
    assert "g++ python3-dev" in status["reason"]
    x, weight = torch.randn(1, 3, 9, 9), torch.randn(3, 1, 3, 3)
    expected = torch.nn.functional.conv2d(x, weight, padding=1, groups=3)
    assert torch.equal(ops.depthwise_conv2d(x, weight), expected)
    with pytest.raises(UserError, match="needs the compiled kernels"):
        native.use("avx2")


@pytest.mark.skipif(not native.available(), reason="the package was built without its kernels")
def test_every_instruction_set_can_be_chosen_and_the_choice_ends_with_its_block() -> None:
    before = native.isa()
    assert "portable" in native.available()
    for isa in (*native.available(), "reference"):
        with native.using(isa):
            assert native.isa() == ops.status()["isa"] == isa
        assert native.isa() == before
    with pytest.raises(UserError, match=r"isa='sse9' is not an instruction set of this machine; .*reference would do"):
        native.use("sse9")


@pytest.mark.skipif(not native.available(), reason="the package was built without its kernels")
@pytest.mark.parametrize("isa", ["portable", "reference"])
def test_the_environment_chooses_the_instruction_set_and_status_needs_no_torch(isa: str) -> None:
    code = "import sys, hollowbone.ops as o; print(o.status()['isa'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HOLLOWBONE_ISA": isa}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [isa, "False"]


def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    code = """if True:
        import os, torch
        from hollowbone.ops import depthwise_conv2d
        torch.set_num_threads(2)
        x, weight = torch.randn(2, 48, 56, 56), torch.randn(48, 1, 3, 3)
        y = depthwise_conv2d(x, weight)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(depthwise_conv2d(x, weight), y) else 1)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    # The reference would hang here: a fork after torch's own thread pool has started is not safe. Ours is.
    if not native.available():
        pytest.skip("the package was built without its kernels")
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def make(target: str, build: Path) -> str:
    command = ["make", "-f", str(ROOT / "native" / "native.mk"), target, f"NATIVE_BUILD={build}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@needs("make", "cmake", "g++")
def test_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    assert "100% tests passed" in make("asan", tmp_path)


@needs("make", "cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
def test_neon_kernels_equal_the_naive_loop(tmp_path: Path) -> None:
    assert "100% tests passed" in make("neon", tmp_path)


@pytest.mark.slow
@needs("make", "cmake", "g++")
def test_threads_are_clean_under_the_thread_sanitizer(tmp_path: Path) -> None:
    assert "100% tests passed" in make("tsan", tmp_path)


@needs("cmake", "ninja")
def test_package_builds_without_a_compiler_and_works(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("cmake", "ninja"):
        (tools / program).symlink_to(shutil.which(program))  # type: ignore[arg-type]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("native", "src", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)  # type: ignore[operator]
    code = "from scikit_build_core.build import build_wheel; print(build_wheel('wheels'))"
    hidden = {"PATH": str(tools), "CC": "/nonexistent", "CXX": "/nonexistent", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=source, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installed without its compiled kernels" in done.stdout
    (wheel,) = (source / "wheels").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [n for n in archive.namelist() if n.endswith(".so")]
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
        "import torch, hollowbone.ops as o\n"
        "print(o.__file__, o.status()['reason'], o.depthwise_conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).sum())"
    )
    used = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert used.returncode == 0, used.stderr
    assert str(tmp_path) in used.stdout
    assert "without its compiled kernels" in used.stdout
    assert "tensor(49.)" in used.stdout
