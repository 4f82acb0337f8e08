"""What is installed, what is missing and how to get it, and what can be measured on this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hollowbone.files import cache_dir

if TYPE_CHECKING:
    from rich.console import Group

CORE = (
    "torch",
    "numpy",
    "safetensors",
    "pillow",
    "rich",
    "typer",
    "jinja2",
    "plotly",
    "lightning-fabric",
    "torch-pruning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "huggingface-hub",
    "jaxtyping",
)
"""Distributions without which hollowbone is not installed; the same as the project's `dependencies`."""

EXTRAS: dict[str, tuple[str, ...]] = {
    "demo": ("scikit-learn", "scikit-image"),
    "train": ("kornia", "tensorboard"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
    "cluster": ("ray",),
    "parquet": ("pyarrow",),
}
"""Distributions that an extra brings; the same as the project's optional dependencies."""

PROGRAMS = {
    "c++": "builds the fast CPU kernels",
    "cmake": "builds the fast CPU kernels (pip brings its own where it is missing)",
    "nvidia-smi": "speaks to an NVIDIA GPU",
    "torchrun": "trains over several machines",
}
"""Programs that something uses, and what for."""


@dataclass(frozen=True)
class Finding:
    """One line of the check-up. `ok` is None for a plain fact; `remedy` says what would mend what is not ok."""

    section: str
    name: str
    ok: bool | None
    detail: str
    remedy: str = ""

    @property
    def sign(self) -> str:
        """As shown to people."""
        return {True: "yes", False: "no", None: ""}[self.ok]


@dataclass(frozen=True)
class Checkup:
    """All findings; prints as a table."""

    findings: tuple[Finding, ...]

    @property
    def remedies(self) -> list[str]:
        """What would mend what is missing, each once."""
        return list(dict.fromkeys(f.remedy for f in self.findings if f.ok is False and f.remedy))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"findings": [asdict(f) for f in self.findings], "remedies": self.remedies}

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table

        table = Table("", "what", "there", "detail")
        last = ""
        for f in self.findings:
            if last and f.section != last:
                table.add_section()
            table.add_row(
                "" if f.section == last else f.section, f.name, f.sign, f.detail, style="yellow" if f.ok is False else ""
            )
            last = f.section
        return Group(table, *self.remedies)

    def __str__(self) -> str:
        lines = [f"{f.section}: {f.name}: {' '.join(filter(None, (f.sign, f.detail)))}" for f in self.findings]
        return "\n".join([*lines, *self.remedies])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in (f.section, f.name, f.sign, f.detail, f.remedy)) + "</tr>"
            for f in self.findings
        )
        return f"<table><tbody>{rows}</tbody></table>"


def doctor() -> Checkup:
    """Look at this installation and this machine. Nothing is installed, timed or changed; a part that fails is a finding."""
    sections: dict[str, Callable[[], list[Finding]]] = {
        "hollowbone": _hollowbone,
        "core": _core,
        "extras": _extras,
        "device": _device,
        "native kernels": _native,
        "energy": _energy,
        "programs": _programs,
        "cache": _cache,
        "threads": _threads,
    }
    return Checkup(tuple(f for section, look in sections.items() for f in _looked(section, look)))


def _looked(section: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A broken installation is what a doctor is for: whatever a look raises is what it found."""
    try:
        return look()
    except Exception as error:
        return [
            Finding(section, section, False, f"{type(error).__name__}: {error}", f"{section} could not be looked at: {error}")
        ]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _hollowbone() -> list[Finding]:
    from hollowbone import __version__

    where = str(Path(__file__).parent)
    return [
        Finding("hollowbone", "version", None, f"{__version__} in {where}"),
        Finding("hollowbone", "python", None, f"{platform.python_version()} on {platform.platform()}"),
    ]


def _core() -> list[Finding]:
    remedy = "a part of the core is missing: pip install hollowbone"
    return [
        Finding("core", name, (v := _version(name)) is not None, v or "not installed", "" if v else remedy) for name in CORE
    ]


def _extras() -> list[Finding]:
    found = []
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        detail = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
        remedy = f'for {", ".join(missing)}: pip install "hollowbone[{extra}]"' if missing else ""
        found.append(Finding("extras", extra, not missing, detail, remedy))
    return found


def _device() -> list[Finding]:
    from hollowbone.runtime.device import get_device

    return [Finding("device", key, None, _text(value)) for key, value in get_device("local").facts().items()]


def _native() -> list[Finding]:
    from hollowbone.ops import status

    said = status()
    built, reason = bool(said["built"]), str(said["reason"] or "")
    rest = [Finding("native kernels", key, None, _text(said[key])) for key in said if key not in ("built", "reason")]
    return [Finding("native kernels", "built", built, "" if built else "the reference operators are used", reason), *rest]


def _energy() -> list[Finding]:
    from hollowbone.measure.energy import energy_available

    there, what = energy_available()
    return [Finding("energy", "counter", there, what)]


def _programs() -> list[Finding]:
    found = []
    for name, purpose in PROGRAMS.items():
        path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))  # a venv need not be active
        remedy = "for the fast CPU kernels: apt install g++ python3-dev, then install hollowbone again" if name == "c++" else ""
        found.append(
            Finding(
                "programs",
                name,
                path is not None,
                f"{purpose}: {_first_line(path)}" if path else purpose,
                "" if path else remedy,
            )
        )
    return found


def _first_line(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return program
    return (done.stdout or done.stderr).strip().partition("\n")[0] or program


def _cache() -> list[Finding]:
    folder = cache_dir()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    free = shutil.disk_usage(there).free / 2**30
    remedy = "" if writable else f"{folder} cannot be written: set HOLLOWBONE_CACHE to a folder that can"
    return [
        Finding("cache", str(folder), writable, f"{'writable' if writable else 'not writable'}, {free:.1f} GiB free", remedy)
    ]


def _threads() -> list[Finding]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("threads", "usable cores", None, str(usable)),
        Finding("threads", "torch", None, str(torch.get_num_threads())),
        Finding("threads", "OMP_NUM_THREADS", None, os.environ.get("OMP_NUM_THREADS", "not set")),
        Finding(
            "threads",
            "cuda",
            torch.cuda.is_available(),
            torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        ),
    ]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
