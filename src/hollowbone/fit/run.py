"""`fit`: data and a budget in; a trained, exported, measured model and its report out.

Read `_pipeline` first: it is the whole job, a phase a line. Every phase takes the clock's figures from the journal, so a
killed run goes on where it was and a replay decides the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hollowbone.errors import BudgetImpossible, UserError
from hollowbone.fit.context import Context
from hollowbone.fit.folder import RunFolder
from hollowbone.fit.journal import VERSION, Journal
from hollowbone.fit.settings import Settings
from hollowbone.measure.budget import Budget

if TYPE_CHECKING:
    from rich.table import Table

    from hollowbone.tasks.base import Data


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and everything in `result.json`. Prints as a summary; shows as a table in a notebook."""

    folder: Path
    result: dict[str, Any] = field(repr=False)

    @property
    def met(self) -> bool:
        """Whether the shipped file is within the budget."""
        return bool(self.result["budget"]["met"])

    @property
    def artifact(self) -> Path:
        """The shipped file."""
        return self.folder / self.result["model"]["artifact"]

    def summary(self) -> Table:
        """The result as a table for the terminal."""
        from hollowbone.report.terminal import summary

        return summary(self.result)

    def _repr_html_(self) -> str:
        from hollowbone.report.terminal import summary_html

        return summary_html(self.result)


def fit(
    data: str | Path | Data,
    budget: str | Budget,
    *,
    task: str = "classification",
    start: str | None = None,
    teacher: str | None = None,
    device: str = "local",
    runtime: str = "onnxruntime",
    threads: int = 1,
    format: str = "onnx",
    out: str | Path | None = None,
    candidates: str = "efficientformer,mobilenetv2",
    reference: str = "mobilenetv2_100",
    int8_loss: float = 0.5,
    seed: int = 0,
    epochs: int | None = None,
    replay: str | Path | None = None,
    engine: str = "local",
    devices: int = 1,
    quiet: bool = False,
) -> Run:
    """Search, train, compress, export and measure a model for `data` within `budget`; resumable.

    `data` is anything the task's reader takes (a bundled name, a folder, a manifest, shards). `budget` is the text of a
    `Budget`. `start` fine-tunes a model of the user's; `teacher` distils from one. `out` is the run's folder: called again with
    the same arguments it goes on where it was. `replay` takes every measurement from a journal and checks every decision.

    Raises `UserError` where an argument cannot be used, `BudgetImpossible` where nothing meets the budget (with the fastest
    candidate's figure), `NotMeasurable` where a limit cannot be measured on the device.
    """
    settings = Settings(
        data=_source(data),
        budget=str(Budget(budget) if isinstance(budget, str) else budget),
        task=task,
        start=start,
        teacher=teacher,
        reference=reference,
        device=device,
        runtime=runtime,
        threads=threads,
        format=format,
        candidates=candidates,
        int8_loss=int8_loss,
        seed=seed,
        epochs=epochs,
        devices=devices,
    )
    out = Path(out) if out is not None else Path("runs") / _stem(settings.data)
    if replay is not None and not Path(replay).is_file():
        raise UserError(f"there is no journal at {replay}; a run's journal is DIR/journal.jsonl")
    with RunFolder(out) as folder:
        if replay is not None and folder.journal.exists() and folder.journal.resolve() == Path(replay).resolve():
            raise UserError(f"a replay needs a folder of its own; {out} holds the journal that is to be replayed")
        journal = Journal(folder.journal, source=Path(replay) if replay is not None else None)
        try:
            return _pipeline(settings, folder, journal, engine=engine, quiet=quiet)
        finally:
            journal.close()


def _pipeline(settings: Settings, folder: RunFolder, journal: Journal, *, engine: str, quiet: bool) -> Run:
    from hollowbone.fit import candidates, finish, reference, result, start

    context = _open(settings, folder, journal, engine=engine, quiet=quiet)
    baseline = reference.measure(context)
    limits = context.budget.resolve(baseline.cost)
    found = start.find(context, limits, baseline) if settings.start else candidates.find(context, limits)
    if context.budget.relative:
        baseline = reference.train(context, baseline)
    winner = candidates.halve(context, found)
    shipped = finish.ship(context, winner, limits, baseline, found)
    report = result.write(context, baseline, found, winner, shipped)
    run = Run(folder.path, report)
    if not run.met:
        missed = "; ".join(row["text"] for row in report["budget"]["limits"] if not row["met"])
        raise BudgetImpossible(f"the shipped file misses the budget: {missed}; {candidates.REMEDY}")
    return run


def _open(settings: Settings, folder: RunFolder, journal: Journal, *, engine: str, quiet: bool) -> Context:
    """Check everything that can be checked before work starts, and read the data."""
    import os

    import torch
    from rich.console import Console

    from hollowbone.measure import require_measurable
    from hollowbone.runtime import get_device
    from hollowbone.tasks import get_task
    from hollowbone.train.engines import get_engine

    if "settings" in journal:
        settings.check_same(journal["settings"]["settings"], str(folder.path))
    budget = Budget(settings.budget)
    task = get_task(settings.task)
    device = get_device(settings.device)
    require_measurable(budget, device, settings.runtime, settings.format)
    from hollowbone.fit import brought
    from hollowbone.fit.trial import read_data

    console = Console(quiet=quiet)
    data = read_data(settings.task, settings.data, settings.seed)
    describe(console, task, data)
    opened = brought.open_all(settings, data)
    resumed = "settings" in journal
    journal.note("settings", {"version": VERSION, "settings": settings.to_dict()})
    journal.result("data/digest", lambda: data.digest)
    if journal["data/digest"] != data.digest:
        raise UserError(f"the data at {settings.data} are not those of the run in {folder.path}; give another --out")
    given = brought.keep_all(opened, folder, journal)
    journal.clock("device", lambda: {"facts": device.facts(), "fingerprint": device.fingerprint()})
    # Small networks on small pictures gain nothing from a second thread, and lose a lot where the cores are not idle.
    wanted = 1 if max(data.preprocessing.resolution) <= 64 else 4
    threads = journal.clock("training/threads", lambda: min(wanted, len(os.sched_getaffinity(0))))
    torch.set_num_threads(threads)
    if resumed:
        console.print(f"going on with the run in {folder.path} ({len(journal.keys())} records)", highlight=False)
    return Context(settings, budget, task, data, device, journal, folder, get_engine(engine), console, threads, **given)


def describe(console: Any, task: Any, data: Data) -> None:
    """Print what the reader found."""
    console.print(task.describe(data))


def _source(data: Any) -> str:
    """The dataset as text that a resume, a replay or another process can read again."""
    if isinstance(data, str | Path):
        return str(data)
    source = getattr(data, "source", "")
    if not source:
        raise UserError("fit needs data that it can read again after a kill: a bundled name, a folder, a manifest or shards")
    return source


def _stem(data: str) -> str:
    return Path(data).stem or "data"


def parse_patterns(text: str, known: Sequence[str]) -> list[str]:
    """Names that match any of the comma-separated glob patterns, in the order known."""
    from fnmatch import fnmatchcase

    from hollowbone.errors import unknown

    patterns = [p.strip() for p in text.split(",") if p.strip()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise unknown("family of candidates", pattern, known)
    if not patterns:
        raise UserError(f"--candidates names at least one family, for example {shlex.quote(','.join(known))}")
    return [name for name in known if any(fnmatchcase(name, p) for p in patterns)]
