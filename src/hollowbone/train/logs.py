"""What a training shows while it runs: a line of progress, `log.csv`, and TensorBoard events where asked for."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hollowbone.errors import UserError
from hollowbone.files import write_text

if TYPE_CHECKING:
    from rich.progress import Progress


def shown(progress: Progress | bool | None) -> Progress | None:
    """The progress display to use: the one given, one of our own on a terminal (or if True), none for False."""
    from rich.console import Console
    from rich.progress import Progress

    if isinstance(progress, Progress):
        return progress
    console = Console(stderr=True)
    if progress is False or (progress is None and not console.is_terminal):
        return None
    return Progress(console=console, transient=True)


class Line:
    """One line of a progress display; with no display it does nothing."""

    def __init__(self, progress: Progress | bool | None, title: str, total: int, done: int) -> None:
        self.progress = shown(progress)
        self.mine = self.progress is not None and self.progress is not progress
        if self.progress is not None:
            if self.mine:
                self.progress.start()
            self.task = self.progress.add_task(title, total=total, completed=done)
        self.title = title

    def at(self, step: int, text: str = "") -> None:
        """Show that `step` steps are done."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step, description=f"{self.title} {text}" if text else None)

    def say(self, sentence: str) -> None:
        """Print a sentence above the line; where there is none, on standard error."""
        if self.progress is not None:
            self.progress.console.print(sentence)
        else:
            from rich.console import Console

            Console(stderr=True).print(sentence)

    def close(self) -> None:
        """Take the line away."""
        if self.progress is not None:
            self.progress.remove_task(self.task)
            if self.mine:
                self.progress.stop()


class Log:
    """`log.csv` (one row an epoch) and, if wanted, TensorBoard events under `out`; nothing without a folder."""

    def __init__(self, out: Path | None, history: list[dict[str, Any]], *, tensorboard: bool) -> None:
        self.path = out / "log.csv" if out else None
        self.columns: list[str] = []
        self.events = _events(out, history) if out and tensorboard else None
        if self.path is not None:
            self._rewrite(history)  # rows after the last checkpoint will be written again

    def epoch(self, history: list[dict[str, Any]]) -> None:
        """Add the last entry."""
        entry = history[-1]
        if self.events is not None:
            for key, value in entry.items():
                self.events.add_scalar(key, value, entry["step"])
            self.events.flush()
        if self.path is None:
            return
        if not set(entry) <= set(self.columns):
            self._rewrite(history)
            return
        row = io.StringIO()
        csv.DictWriter(row, self.columns).writerow(entry)
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(row.getvalue())
        except OSError as error:
            said = f"cannot write {self.path}: {error.strerror or error}"
            raise UserError(f"{said}; the checkpoint beside it is whole") from error

    def close(self) -> None:
        """Close the event file."""
        if self.events is not None:
            self.events.close()

    def _rewrite(self, history: list[dict[str, Any]]) -> None:
        assert self.path is not None
        self.columns = list(dict.fromkeys(key for entry in history for key in entry))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path, text.getvalue() if history else "")


def _events(out: Path, history: list[dict[str, Any]]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        said = "TensorBoard logs need tensorboard: pip install 'hollowbone[train]'"
        raise UserError(f"{said}, or leave tensorboard=False") from error
    # `purge_step` hides what an interrupted run wrote after its last checkpoint.
    return SummaryWriter(str(out / "tensorboard"), purge_step=history[-1]["step"] + 1 if history else 0)
