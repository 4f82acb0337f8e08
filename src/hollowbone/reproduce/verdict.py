"""The verdict: every sub-claim judged, the arms, and the conditions of each figure; prints as tables, here and in notebooks."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, UNKNOWN, Finding, Reproduction
from hollowbone.reproduce.study import ArmRow, Study, arm_rows, judge, unchanged
from hollowbone.reproduce.where import Conditions, conditions

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from hollowbone.runtime.base import Device
    from hollowbone.tasks.base import Metric

STYLES = {HOLDS: "green", PARTLY: "yellow", FAILS: "red", UNKNOWN: "dim"}


@dataclass(frozen=True)
class Verdict:
    """What held. `exact` findings were measured now, `learned` ones in the study, whose conditions are in `study`.

    `fresh` says that the whole study was made by this call; otherwise its findings are shown as those of `study.date`, and
    `code_unchanged` says whether the code that made it is still the same.
    """

    slug: str
    title: str
    scale: str
    exact: tuple[Finding, ...]
    learned: tuple[Finding, ...]
    arms: tuple[ArmRow, ...]
    now: Conditions
    study: Conditions | None
    fresh: bool
    code_unchanged: bool
    notes: tuple[str, ...]
    metric: Metric
    minutes: int

    @property
    def claims(self) -> tuple[Finding, ...]:
        """All findings, what was measured now first."""
        return (*self.exact, *self.learned)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        when = "no study" if self.study is None else ("now" if self.fresh else f"study of {self.study.date}")
        return {
            "slug": self.slug,
            "title": self.title,
            "scale": self.scale,
            "claims": [
                *({**f.to_dict(), "when": "now"} for f in self.exact),
                *({**f.to_dict(), "when": when} for f in self.learned),
            ],
            "arms": [asdict(row) for row in self.arms],
            "metric": self.metric.name,
            "now": self.now.to_dict(),
            "study": self.study and self.study.to_dict(),
            "study_made_now": self.fresh,
            "code_unchanged_since_study": self.code_unchanged,
            "notes": list(self.notes),
        }

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        arms = [_arm_table(self)] if self.arms else []
        return Group(_claim_table(self), *arms, *map(Text, _lines(self)))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=160, color_system=None, legacy_windows=False)
        console.print(self)
        return console.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        from hollowbone.measure.table import as_html

        arms = as_html(_arm_table(self)) if self.arms else ""
        return as_html(_claim_table(self)) + arms + "".join(f"<p>{escape(line)}</p>" for line in _lines(self))


def judged(found: Reproduction, scale: str, study: Study | None, *, device: Device | None = None) -> Verdict:
    """Measure what is exact now, judge the study's runs, and put both together."""
    from hollowbone.catalogue import system
    from hollowbone.tasks import get_task

    if device is None:
        from hollowbone.runtime.device import get_device

        device = get_device()
    start = time.perf_counter()
    exact = found.exact(device)
    seconds = time.perf_counter() - start
    runs = study.runs if study else {}
    metric = get_task(found.task).metric
    return Verdict(
        slug=found.slug,
        title=system(found.slug).title,
        scale=scale,
        exact=tuple(exact),
        learned=tuple(judge(contrast, runs, metric) for contrast in found.contrasts),
        arms=tuple(arm_rows(found, runs)),
        now=conditions(device, runtime=found.runtime, threads=found.threads, seconds=seconds),
        study=study.conditions if study else None,
        fresh=study is not None and study.fresh,
        code_unchanged=study is not None and unchanged(found, study),
        notes=found.notes,
        metric=metric,
        minutes=found.minutes,
    )


def _claim_table(verdict: Verdict) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{verdict.title}: what holds here", title_justify="left")
    for column in ("claim", "stated", "measured", "verdict", "how"):
        table.add_column(column)
    for finding in verdict.claims:
        claim = finding.claim
        where = "a condition of this comparison" if claim.ours else claim.place
        text = f"{claim.text} ({where})" if where else claim.text
        how = finding.how if finding in verdict.exact else _dated(verdict, finding.how)
        stated = f"{claim.stated} (recalled, not read)" if claim.recalled else claim.stated
        cells = [Text(cell) for cell in (text, stated, finding.measured, finding.verdict, how)]
        cells[3].stylize(STYLES[finding.verdict])
        table.add_row(*cells)
    return table


def _dated(verdict: Verdict, how: str) -> str:
    """A study that was not made by this call is never shown as measured now."""
    if verdict.study is None:
        return how
    return f"{how}; trained {'now' if verdict.fresh else f'on {verdict.study.date}, not now'}"


def _arm_table(verdict: Verdict) -> Table:
    from rich.table import Table
    from rich.text import Text

    from hollowbone.measure.units import human

    assert verdict.study is not None
    made = "now" if verdict.fresh else f"on {verdict.study.date}, not now"
    table = Table(title=f"the arms, trained {made}", title_justify="left")
    for column in ("arm", f"{verdict.metric.name} on {verdict.study.split}", "latency", "params", "MACs", "seeds"):
        table.add_column(column)
    for row in verdict.arms:
        reached = verdict.metric.format(row.accuracy)
        if row.interval is not None:
            reached += f" ({' to '.join(map(verdict.metric.format, row.interval))})"
        low, high = row.latency_range
        latency = f"{human('latency', row.latency_ms)} ({low:.3g} to {high:.3g})"
        costs = (human("params", round(row.params)), human("macs", round(row.macs)))
        table.add_row(*map(Text, (f"{row.name}: {row.text}", reached, latency, *costs, str(len(row.seeds)))))
    return table


def _lines(verdict: Verdict) -> list[str]:
    """What stands under the tables: conditions, and what a reader must know."""
    lines = [f"measured now: {verdict.now}"]
    if verdict.study is None:
        lines.append(f"no study yet: hollowbone reproduce {verdict.slug} --scale study (about {verdict.minutes} minutes)")
        return lines
    lines.append(f"study{' (now)' if verdict.fresh else ''}: {verdict.study}")
    if not verdict.fresh and not verdict.code_unchanged:
        lines.append("the code or the settings have changed since that study; --scale study makes it again")
    return [*lines, "intervals are 95%: t over seeds for what is trained, the median's own for times", *verdict.notes]
