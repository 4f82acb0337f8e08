"""Under what a figure was taken: date, machine, runtime, threads, data, split, seeds, commit. No figure goes without."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hollowbone.runtime.base import Device

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Conditions:
    """What was used. `seconds` is the work in all, `versions` those of the libraries that matter for the figures.

    `date` is one day (UTC), or `FIRST to LAST` where the work was spread over several.
    """

    date: str
    device: str
    processor: str
    cores: int
    runtime: str
    threads: int
    commit: str
    data: str = ""
    split: str = ""
    seeds: tuple[int, ...] = ()
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def last_date(self) -> str:
        """The day of the newest figure."""
        return self.date.split()[-1]

    def __str__(self) -> str:
        where = f"{self.device} ({self.processor}, {_many(self.cores, 'core')})"
        parts = [
            self.date,
            where,
            f"{self.runtime} {self.versions.get(self.runtime, '')}".strip(),
            _many(self.threads, "thread"),
        ]
        if self.data:
            parts += [f"{self.data}, {self.split} split", f"seeds {' '.join(map(str, self.seeds))}"]
        return ", ".join([*parts, f"commit {self.commit}", f"{self.seconds:.0f} s"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "seeds": list(self.seeds), "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Conditions:
        """The inverse of `to_dict`."""
        return cls(**{**value, "seeds": tuple(value["seeds"])})


def conditions(device: Device, *, runtime: str, threads: int, seconds: float = 0.0) -> Conditions:
    """Those of this moment on a device, without data."""
    facts = device.facts()
    versions = {name: facts[name] for name in ("python", "torch", "onnxruntime") if facts.get(name)}
    return Conditions(
        date=today(),
        device=device.name,
        processor=facts["processor"],
        cores=facts["cores"],
        runtime=runtime,
        threads=threads,
        commit=commit(),
        seconds=seconds,
        versions=versions,
    )


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).date().isoformat()


def commit() -> str:
    """The commit of the checkout that this package is part of, "+" where its files differ from it; else the version."""
    from hollowbone import __version__

    if _git("ls-files", "--error-unmatch", "errors.py") is None:
        return f"of release {__version__}"
    return (_git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", PACKAGE, *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
