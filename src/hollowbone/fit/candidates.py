"""Which networks could meet the budget, and which of them is best: proposals, slimming, proof, successive halving.

A family proposes what its latency table predicts to meet 0.9 of every limit; EfficientFormer also trains a supernet and
slims it. Every candidate is then exported untrained and timed for real, in a fresh process; where the table was wrong it is
slimmed on. What is left is trained a little, the better half more, until one is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hollowbone.errors import BudgetImpossible, UserError
from hollowbone.fit.context import Context
from hollowbone.fit.pressure import Pressure
from hollowbone.fit.settings import AIM
from hollowbone.fit.ship import EXTENSIONS, export_artifact, inputs_of
from hollowbone.fit.trial import bare, build, identity, preprocessing_of, train_candidate
from hollowbone.measure.budget import Budget
from hollowbone.runtime.base import Timing
from hollowbone.search.base import Config, canonical

PROOF = 0.97
"""A candidate goes on when its untrained export takes at most this share of the latency limit: the rest is for drift."""
RUNGS = (1 / 8, 1 / 4)
"""Shares of the final epochs that candidates get before they are compared."""
PROPOSALS = 2
"""Proposals a family enters, beside what slimming found."""
REMEDY = "a larger budget, more threads or a faster device would help"


@dataclass(frozen=True)
class Candidate:
    """A network that may win. `ms` is its measured latency (untrained export), `predicted_ms` the table's."""

    name: str
    config: Config
    origin: str
    predicted_ms: float
    ms: float
    aim: float = AIM
    source: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Found:
    """Everything that was tried: the candidates, the slimming path, the table's size, and points for the report's plot."""

    candidates: tuple[Candidate, ...]
    tried: list[dict[str, Any]] = field(default_factory=list)
    slimming: Any = None
    tables: dict[str, int] = field(default_factory=dict)


def families(context: Context) -> list[str]:
    """Names of the spaces that `--candidates` admits."""
    from hollowbone.fit.run import parse_patterns
    from hollowbone.search import SPACES

    return parse_patterns(context.settings.candidates, sorted(SPACES))


def label(config: Config) -> str:
    """A short name for a configuration."""
    match config["space"]:
        case "mobilenetv2":
            depth = f" depth {config['depth']:g}" if config.get("depth", 1) != 1 else ""
            groups = f" of {config['groups']} groups" if config.get("groups", 7) != 7 else ""
            return f"mobilenetv2 width {config['width']:g}{depth}{groups} at {config['resolution']}"
        case "efficientformer":
            widths, depths = ("-".join(map(str, config[k])) for k in ("widths", "depths"))
            return f"efficientformer {widths} x {depths}, {config['vit_num']} attending"
        case _:
            return str(config.get("name", config["space"]))


def find(context: Context, limits: Budget) -> Found:
    """Candidates whose untrained exports are measured within the limits. Raises `BudgetImpossible` if there is none."""
    from hollowbone.search import get_space

    spaces = {name: get_space(name) for name in families(context)}
    sizes = square_sizes(context)
    check_floor(context, limits, {name: space.smallest(**sizes) for name, space in spaces.items()})
    candidates: list[Candidate] = []
    tried: list[dict[str, Any]] = []
    slimming, tables = None, {}
    for name, space in spaces.items():
        context.say(f"searching {name}")
        table = latency_table(context, space)
        pressure = Pressure(context, limits, lambda config, s=space, t=table: s.latency(config, t))  # type: ignore[misc]
        sources: list[Any] = [_Proposal(space, pressure, sizes, rank) for rank in range(PROPOSALS)]
        if hasattr(space, "supernet") and (slimmer := _slimmer(context, space, table, pressure, sizes)) is not None:
            sources.insert(0, slimmer)
        for source in sources:
            candidate = prove(context, source, pressure, tried)
            if candidate is not None and all(canonical(c.config) != canonical(candidate.config) for c in candidates):
                candidates.append(candidate)
            if isinstance(source, Slimmer):
                slimming = source
        tables[name] = len(table.entries()["entries"])
    if not candidates:
        raise BudgetImpossible(f"no candidate meets {limits}: every export was measured over it; {REMEDY}")
    return Found(tuple(candidates), tried, slimming, tables)


def halve(context: Context, found: Found) -> Candidate:
    """The best candidate, by successive halving on *select*."""
    from hollowbone.search.halving import successive_halving

    by_config = {canonical(c.config): c for c in found.candidates}
    rungs = sorted({max(1, round(share * context.epochs)) for share in RUNGS})

    winner, record = successive_halving(
        [c.config for c in found.candidates],
        lambda configs, epochs: trial_scores(context, configs, epochs),
        rungs,
        latency_ms=lambda config: by_config[canonical(config)].ms,
        higher_is_better=context.task.metric.higher_is_better,
    )
    context.journal.result("halving", lambda: [rung.to_dict() for rung in record])
    for rung in record:
        for entrant in rung.entrants:
            sign = "+" if entrant.kept else "-"
            score = context.task.metric.format(entrant.score)
            context.say(f"  {sign} {rung.epochs:3d} epochs  {score}  {entrant.latency_ms:.4f} ms  {label(entrant.config)}")
    return by_config[canonical(winner)]


def trial_scores(context: Context, configs: Sequence[Config], epochs: int) -> list[float]:
    """Scores on *select* after training each from scratch for `epochs`; those not in the journal are trained by the engine."""
    keys = [f"trial/{identity(config, context.recipe(epochs, config).to_dict())}" for config in configs]
    open_ = [i for i, key in enumerate(keys) if key not in context.journal]
    jobs = [context.job(configs[i], epochs, keys[i]) for i in open_]
    for i, done in zip(open_, context.train(jobs, train_candidate), strict=True):
        context.journal.result(keys[i], lambda d=done: d["score"])  # type: ignore[misc]
    return [context.journal[key] for key in keys]


class _Proposal:
    """The space's `rank`-th proposal for an aim (a share of every limit)."""

    def __init__(self, space: Any, pressure: Pressure, sizes: dict[str, int], rank: int) -> None:
        self._space, self.pressure, self._sizes, self._rank = space, pressure, sizes, rank

    origin = "proposal"

    def make(self, aim: float) -> Config | None:
        proposals = self._space.propose(limit_ms=aim, predict=self.pressure, **self._sizes)
        return proposals[self._rank] if self._rank < len(proposals) else None


Shrink = Callable[[float, Any, Callable[[str, Callable[[], Any]], Any]], Any]
"""`shrink(limit, after, record)`: slim to the limit from where `after` stopped (None: from the beginning)."""


class Slimmer:
    """What slimming finds for an aim; a smaller aim goes on from where the last one stopped.

    `begun` is the configuration that is slimmed, `unit` what a pressure of 1 is in milliseconds (1 without such a limit).
    """

    def __init__(
        self, context: Context, pressure: Pressure, unit: float, begun: Config, shrink: Shrink, origin: str = "slimming"
    ) -> None:
        self.origin = origin
        self._context, self.pressure, self._unit, self._begun, self._shrink = context, pressure, unit, begun, shrink
        self.last: Any = None
        self._path: list[Any] = []
        self._start_ms = 0.0
        self._aims: list[float] = []

    def make(self, aim: float) -> Config | None:
        """The configuration found; None where no action saves any more."""
        number = len(self._aims)
        try:
            found = self._shrink(
                aim * self._unit,
                self.last,
                lambda key, compute: self._context.journal.result(f"slimming/{number}/{key}", compute),
            )
        except BudgetImpossible:
            return None
        if not self._aims:
            self._start_ms = found.start_ms
        self._aims.append(aim * self._unit)
        self.last = found.selection
        self._path.extend(found.path)
        return found.config

    def record(self) -> dict[str, Any]:
        """The slimming as JSON, for the result."""
        return {
            "unit": "ms" if self.pressure.budget.limit("latency") else "share of the limits",
            "supernet": dict(self._begun),
            "begun": self.origin,
            "start": self._start_ms,
            "limits": self._aims,
            "path": [
                {
                    "kind": step.action.kind,
                    "detail": step.action.detail,
                    "score": step.accuracy,
                    "drop": step.accuracy_drop,
                    "saved": step.saved_ms,
                    "after": step.latency_ms,
                    "considered": list(step.considered),
                }
                for step in self._path
            ],
        }


class Pressed:
    """A space whose latency is the pressure of all limits, in milliseconds of the latency limit where there is one."""

    def __init__(self, space: Any, pressure: Pressure, unit: float) -> None:
        self._space, self._pressure, self._unit = space, pressure, unit

    def latency(self, config: Config, table: Any) -> float:
        """The pressure, as milliseconds."""
        return self._pressure(config) * self._unit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)


def _slimmer(context: Context, space: Any, table: Any, pressure: Pressure, sizes: dict[str, int]) -> Slimmer | None:
    """Train the supernet that fits the budget and hand back what slims it."""
    from hollowbone.search.score import scorer
    from hollowbone.search.supernet import train_supernet

    limit = pressure.budget.limit("latency")
    unit = limit.number if limit else 1.0
    whole = Pressure(context, pressure.budget, table.network)
    config = space.supernet(limit_ms=AIM, predict=whole, **sizes)
    if limit:
        table.calibrate(space.calibration(config))
    if whole(config) <= AIM:
        return None
    epochs = max(4, round(context.epochs / 4))
    recipe = context.recipe(epochs).with_(ema=0.0)
    preprocessing = preprocessing_of(config, context.data)
    key = identity(config, recipe.to_dict())
    context.say(f"training a supernet of widths {config['widths']}, depths {config['depths']} for {epochs} epochs")
    supernet = train_supernet(
        config,
        context.data,
        task=context.task,
        recipe=recipe,
        out=context.folder.work("supernet", key),
    )
    score = scorer(context.task, context.data, preprocessing, seed=context.settings.seed)
    return Slimmer(context, pressure, unit, config, slimming_of(supernet.eval(), space, table, pressure, unit, score))


def slimming_of(supernet: Any, space: Any, table: Any, pressure: Pressure, unit: float, score: Any) -> Shrink:
    """Latency-driven slimming of a supernet, under all limits."""
    from hollowbone.search.slimming import slim

    pressed: Any = Pressed(space, pressure, unit)
    return lambda limit, after, record: slim(supernet, pressed, table, limit, score, start=after, record=record)


def tighten(context: Context, candidate: Candidate, tried: list[dict[str, Any]]) -> Candidate | None:
    """The next smaller candidate of the same source, for one whose shipped file was measured over the budget after all."""
    source = candidate.source
    return None if source is None else prove(context, source, source.pressure, tried, aim=candidate.aim * 0.9)


def prove(context: Context, source: Any, pressure: Pressure, tried: list[dict[str, Any]], aim: float = AIM) -> Candidate | None:
    """Make a candidate and measure its export; tighten the aim until the measured figure is within the limit."""
    limit = pressure.budget.limit("latency")
    seen = set()
    for _ in range(8):
        config = source.make(aim)
        if config is None:
            return None
        if canonical(config) in seen:
            aim *= 0.95
            continue
        seen.add(canonical(config))
        predicted = pressure.figure(limit, config) if limit else 0.0
        timing = measured(context, config)
        ms = timing.p95_ms if limit and limit.stat == "p95" else timing.median_ms
        tried.append(
            {
                "stage": source.origin,
                "name": label(config),
                "latency_ms": timing.median_ms,
                "predicted_ms": predicted,
                "config": dict(config),
            }
        )
        context.say(
            f"  {source.origin:9s} {label(config)}: {ms:.4f} ms measured" + (f", {predicted:.4f} predicted" if limit else "")
        )
        if limit is None or ms <= PROOF * limit.number:
            return Candidate(label(config), config, source.origin, predicted, timing.median_ms, aim, source)
        aim *= min(0.95, AIM * limit.number / ms)
    return None


def measured(context: Context, config: Config) -> Timing:
    """Latency of the configuration's untrained export in a fresh process, journaled once."""
    key = f"proof/{identity(bare(config))}"

    def measure() -> dict[str, float]:
        preprocessing = preprocessing_of(config, context.data)
        path = context.folder.work("proof", f"model.{EXTENSIONS[context.settings.format]}")
        artifact = export_artifact(build(config).eval(), path, preprocessing, format=context.settings.format)
        timing = context.device.time(artifact, inputs_of(preprocessing), threads=context.settings.threads, fresh=True)
        return timing.to_dict()

    return Timing(**context.journal.clock(key, measure))


def latency_table(context: Context, space: Any) -> Any:
    """The space's latency table on the run's device, journaled."""
    from hollowbone.search.table import LatencyTable

    settings = context.settings
    return LatencyTable(space, context.device, runtime=settings.runtime, threads=settings.threads, record=context.journal.clock)


def square_sizes(context: Context) -> dict[str, int]:
    """What the data decide of a configuration. Raises `UserError` unless their pictures are square."""
    data = context.data
    height, width = data.preprocessing.resolution
    if height != width:
        raise UserError(
            f"the families searched take square pictures; the data are {width}x{height}: pass them with one side length"
        )
    return {"resolution": height, "num_classes": len(data.classes), "in_chans": data.preprocessing.in_chans}


def check_floor(context: Context, limits: Budget, smallest: dict[str, Config]) -> None:
    """Refuse at once a budget that the smallest network of every family misses, with the fastest one's figure."""
    from hollowbone.measure.units import human

    best: tuple[float, str] | None = None
    for config in smallest.values():
        timing = measured(context, config)
        pressure = Pressure(context, limits, lambda c, t=timing: t.median_ms)  # type: ignore[misc]
        worst = max(limits.limits, key=lambda x: pressure.figure(x, config) / x.number)
        figure = pressure.figure(worst, config)
        text = (
            f"the smallest candidate, {label(config)}, has {worst.name} {human(worst.metric, figure)} on {context.device.name}"
        )
        if best is None or figure / worst.number < best[0]:
            best = (figure / worst.number, text)
    if best is not None and best[0] > 1:
        raise BudgetImpossible(f"no candidate meets {limits}: {best[1]}; {REMEDY}")
