"""A study: every arm trained with every seed, resumable, kept as figures; what they mean is worked out when it is shown.

So a study that was made last month is judged by the claims as they are worded now, and says whether the code that made
it has changed since.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hollowbone.files import cache_dir, write_json
from hollowbone.reproduce.base import SEEDS_NEEDED, UNKNOWN, Contrast, Finding, Reproduction
from hollowbone.reproduce.ledger import Ledger
from hollowbone.reproduce.sources import digest
from hollowbone.reproduce.statistics import judge_gain, t_interval
from hollowbone.reproduce.where import Conditions, commit, conditions, today
from hollowbone.runtime.base import Device
from hollowbone.tasks.base import Metric

VERSION = 1
COMMITTED = Path(__file__).with_name("studies")
"""Studies that come with the package, `SLUG.json`."""

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """Figures by arm and seed, and how they came about; `sources` is the digest of the code that made them.

    `fresh` says that every run was made by the call that returned the study; what is read from a file never is.
    """

    slug: str
    conditions: Conditions
    settings: Mapping[str, Any]
    sources: str
    runs: Mapping[str, Mapping[int, Figures]]
    fresh: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the format of the files under `studies`."""
        return {
            "version": VERSION,
            "slug": self.slug,
            "conditions": self.conditions.to_dict(),
            "settings": dict(self.settings),
            "sources": self.sources,
            "runs": {arm: {str(seed): dict(f) for seed, f in by_seed.items()} for arm, by_seed in self.runs.items()},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Study:
        """The inverse of `to_dict`; raises `ValueError` for another version."""
        if value["version"] != VERSION:
            raise ValueError(f"a study of version {value['version']}")
        runs = {arm: {int(seed): f for seed, f in by_seed.items()} for arm, by_seed in value["runs"].items()}
        return cls(value["slug"], Conditions.from_dict(value["conditions"]), value["settings"], value["sources"], runs)


def run_study(found: Reproduction, *, device: Device | None = None, folder: Path | None = None) -> Study:
    """Train every arm with every seed, as far as that is not done, and keep the study in the cache.

    Seeds come one after the other, each with all arms, so that what is compared was trained close together in time. Progress
    goes to standard error.
    """
    if device is None:
        from hollowbone.runtime.device import get_device

        device = get_device()
    folder = folder or study_folder(found.slug)
    ledger = Ledger(folder / "ledger.jsonl", identity(found, device))
    wanted = [(seed, arm.name) for seed in found.seeds for arm in found.arms]
    done = sum(f"{arm}/{seed}" in ledger for seed, arm in wanted)
    _say(f"study of {found.slug}: {len(wanted)} runs, {done} of them finished earlier; kept in {folder}")
    runs: dict[str, dict[int, Figures]] = {arm.name: {} for arm in found.arms}
    for number, (seed, arm) in enumerate(wanted, 1):
        new = f"{arm}/{seed}" not in ledger
        figures = ledger.once(f"{arm}/{seed}", lambda arm=arm, seed=seed: _timed(found, arm, seed, ledger, device))  # type: ignore[misc]
        runs[arm][seed] = figures
        if new:
            _say(f"  {number}/{len(wanted)} {arm}, seed {seed}: {figures['accuracy']:.2%}, {figures['seconds']:.0f} s")
    there = _conditions(found, device, [figures for by_seed in runs.values() for figures in by_seed.values()])
    study = Study(found.slug, there, _plain(found.settings), digest(*found.sources), runs, fresh=done == 0)
    write_json(folder / "study.json", study.to_dict())
    return study


def stored_study(slug: str) -> Study | None:
    """The newest of the user's own last study and the one that comes with the package; None if there is neither."""
    read = [_read(study_folder(slug) / "study.json"), _read(COMMITTED / f"{slug}.json")]
    return max((s for s in read if s is not None), key=lambda s: s.conditions.last_date, default=None)


def study_folder(slug: str) -> Path:
    """Where a study's ledger and result are kept."""
    return cache_dir() / "studies" / slug


def identity(found: Reproduction, device: Device) -> str:
    """Digest of all that decides a run: code, settings, and the machine with its libraries."""
    parts = [digest(*found.sources), dict(found.settings), found.data, device.fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def unchanged(found: Reproduction, study: Study) -> bool:
    """Whether the code and settings that made the study are still the same."""
    return study.sources == digest(*found.sources) and study.settings == _plain(found.settings)


def judge(contrast: Contrast, runs: Mapping[str, Mapping[int, Figures]], metric: Metric) -> Finding:
    """A learning claim, from the differences of the two arms paired by seed."""
    ours, theirs = runs.get(contrast.better, {}), runs.get(contrast.worse, {})
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    sign = 1.0 if metric.higher_is_better else -1.0
    gains = [sign * (ours[s]["accuracy"] - theirs[s]["accuracy"]) for s in seeds]
    if len(gains) < SEEDS_NEEDED:
        said = f"{len(gains)} seeds" if gains else "no study yet"
        return Finding(contrast.claim, UNKNOWN, said, f"a study needs {SEEDS_NEEDED} seeds: --scale study", seeds=seeds)
    gain, low, high = t_interval(gains)
    points = [f"{metric.scale * value:+.2f}" for value in (gain, low, high)]
    measured = f"{points[0]} points (95% interval {points[1]} to {points[2]})"
    verdict = judge_gain(gain, low, high, contrast.stated)
    how = f"{metric.name} on report, {len(seeds)} seeds, paired"
    return Finding(contrast.claim, verdict, measured, how, gain, (low, high), seeds)


@dataclass(frozen=True)
class ArmRow:
    """What an arm reached: mean and t interval of the metric over seeds, mean cost, range of the latency."""

    name: str
    text: str
    seeds: tuple[int, ...]
    accuracy: float
    interval: tuple[float, float] | None
    latency_ms: float
    latency_range: tuple[float, float]
    params: float
    macs: float


def arm_rows(found: Reproduction, runs: Mapping[str, Mapping[int, Figures]]) -> list[ArmRow]:
    """One row for each arm that has runs."""
    rows = []
    for arm in found.arms:
        by_seed = runs.get(arm.name, {})
        if not by_seed:
            continue
        column = {key: [f[key] for f in by_seed.values()] for key in ("accuracy", "latency_ms", "params", "macs")}
        values, times = column["accuracy"], column["latency_ms"]
        interval = t_interval(values)[1:] if len(values) > 1 else None
        costs = {"params": fmean(column["params"]), "macs": fmean(column["macs"])}
        span = (min(times), max(times))
        rows.append(ArmRow(arm.name, arm.text, tuple(sorted(by_seed)), fmean(values), interval, fmean(times), span, **costs))
    return rows


def _timed(found: Reproduction, arm: str, seed: int, ledger: Ledger, device: Device) -> dict[str, Any]:
    start = time.perf_counter()
    figures = found.run(arm, seed, ledger, device)
    return {**figures, "seconds": round(time.perf_counter() - start, 1), "date": today(), "commit": commit()}


def _conditions(found: Reproduction, device: Device, figures: Sequence[Figures]) -> Conditions:
    """Those of the runs, of which some may have been made on another day, at another commit with the same code."""
    dates = sorted({f["date"] for f in figures})
    return replace(
        conditions(device, runtime=found.runtime, threads=found.threads),
        date=dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        commit=" ".join(dict.fromkeys(f["commit"] for f in figures)),
        data=found.data,
        split="report",
        seeds=found.seeds,
        seconds=sum(f["seconds"] for f in figures),
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: tuples as lists."""
    return json.loads(json.dumps(dict(settings)))


def _read(path: Path) -> Study | None:
    """A study in a file; one that is not there, or not of this version, is none."""
    try:
        return Study.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
