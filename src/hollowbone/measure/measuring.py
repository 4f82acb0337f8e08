"""The verb `measure`: everything that one model or exported file costs, taken on the thing that runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hollowbone.errors import NotMeasurable, UserError, unknown
from hollowbone.measure.cost import METRICS, Cost
from hollowbone.measure.counters import Counts, count
from hollowbone.measure.energy import Meter, joules, measure_energy, nvml, rapl
from hollowbone.measure.measurable import FORMAT_OF, RUNTIME_OF, check_runtime
from hollowbone.measure.memory import peak_bytes
from hollowbone.measure.roofline import peaks
from hollowbone.measure.subject import as_example, call_of, check_mode, entry_point, home, pinned_threads
from hollowbone.measure.table import NOT_ASKED
from hollowbone.runtime.base import Artifact, Device, Example, TensorSpec, Timing
from hollowbone.runtime.clock import time_call, time_calls_interleaved
from hollowbone.runtime.device import get_device
from hollowbone.runtime.export import export, format_module, open_artifact
from hollowbone.runtime.session import LocalSession, check_runnable

Measurable = nn.Module | Artifact | str | Path
"""What can be measured: a module, an artifact, or the path of an exported file."""


@dataclass(frozen=True)
class Subject:
    """What is measured, ready to run: the model, the file (None under torch), and what is fed to it."""

    model: nn.Module | None
    artifact: Artifact | None
    runtime: str
    example: Example
    inputs: list[np.ndarray]
    entry: str
    mode: str

    @contextmanager
    def call(self, threads: int) -> Iterator[Callable[[], Any]]:
        """A function of no arguments that does the work once on this machine, at a number of threads."""
        if self.artifact is not None:
            yield LocalSession(self.artifact, threads).bind(self.inputs)
            return
        assert self.model is not None
        with pinned_threads(threads), call_of(self.model, self.example, entry=self.entry, mode=self.mode) as run:
            run()  # whatever the model keeps from its first call must not be made of inference tensors
            with torch.inference_mode(self.mode == "infer"):
                yield _waited_for(run, home(self.model))


def measure(
    subject: Measurable,
    example: Any = None,
    *,
    entry: str = "forward",
    mode: str = "infer",
    device: str | Device = "local",
    runtime: str | None = None,
    threads: int = 1,
    metrics: Sequence[str] | None = None,
) -> Cost:
    """What one call of an entry point costs on a device, in a runtime, at a number of threads.

    `subject` is a module, an `Artifact` or the path of an exported file; `example` an `Example`, a tensor or a tuple of
    arguments (an artifact does without: it is fed random numbers of its own shapes). `runtime` is torch, onnxruntime or
    executorch, else the file's own, or torch; a module under another runtime than torch is exported to a temporary file,
    and that file is measured. `metrics` limits the work to some of `cost.METRICS`; the share of the roofline is taken when
    all are. What cannot be measured is None, and `reasons` says why.

    Raises `UserError` for a name that does not exist, and for a file that its runtime refuses.
    """
    for metric in metrics or ():
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
    machine = get_device(device) if isinstance(device, str) else device
    with prepared(subject, example, entry=entry, mode=mode, device=machine, runtime=runtime) as ready:
        return cost_of(ready, machine, threads, tuple(metrics or METRICS))


@contextmanager
def prepared(
    subject: Measurable, example: Any, *, entry: str, mode: str, device: Device, runtime: str | None
) -> Iterator[Subject]:
    """Check what the user gave and make it ready; an export that this needs lives as long as the block."""
    check_mode(mode)
    if isinstance(subject, (str, Path)):
        subject = open_artifact(subject)
    if isinstance(subject, Artifact):
        yield _file(subject, example, entry, mode, runtime)
        return
    if not isinstance(subject, nn.Module):
        raise UserError(f"what is measured is a module, an Artifact or a path, not {type(subject).__name__}")
    runtime = runtime or ("torch" if device.name == "local" else "onnxruntime")
    check_runtime(runtime, device.name)
    entry_point(subject, entry)
    example = as_example(example)
    if runtime == "torch":
        yield Subject(subject, None, runtime, example, [], entry, mode)
        return
    if (entry, mode) != ("forward", "infer"):
        raise UserError(
            f"an exported file runs forward for inference, not {entry} ({mode}): measure that under runtime='torch'"
        )
    format = FORMAT_OF[runtime]
    with tempfile.TemporaryDirectory(prefix="hollowbone-") as folder:
        artifact = export(subject, example, Path(folder) / f"model{format_module(format).SUFFIX}", format=format)
        yield Subject(subject, artifact, runtime, example, _arrays(example), entry, mode)


def _file(artifact: Artifact, example: Any, entry: str, mode: str, runtime: str | None) -> Subject:
    own = RUNTIME_OF.get(artifact.format, artifact.format)
    if runtime not in (None, own):
        raise UserError(f"{artifact.path.name} is a file for {own}, not for {runtime}")
    if (entry, mode) != ("forward", "infer"):
        raise UserError(f"an exported file runs forward for inference, not {entry} ({mode})")
    if example is None:
        inputs = [_random(spec) for spec in artifact.inputs]
        units = inputs[0].shape[0] if inputs and inputs[0].ndim > 1 else 1
        return Subject(None, artifact, own, Example(units=units), inputs, entry, mode)
    example = as_example(example)
    return Subject(None, artifact, own, example, _arrays(example), entry, mode)


def _random(spec: TensorSpec) -> np.ndarray:
    """Numbers for an input: an open first axis (the batch) is 1, other open axes need an example."""
    if any(length is None for length in spec.shape[1:]):
        raise UserError(f"the input {spec.name} has open axes {spec.shape}: give an example that says how long they are")
    shape = [1 if length is None else length for length in spec.shape]
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return np.random.default_rng(0).standard_normal(shape).astype(spec.dtype)
    return np.zeros(shape, spec.dtype)


def _arrays(example: Example) -> list[np.ndarray]:
    leaves = tree_leaves((example.args, example.kwargs))
    return [leaf.detach().cpu().numpy() for leaf in leaves if isinstance(leaf, Tensor)]


def cost_of(ready: Subject, device: Device, threads: int, wanted: Sequence[str], timing: Timing | None = None) -> Cost:
    """The cost of a subject that is ready; `timing` is its latency where that was taken beside another's."""
    figures: dict[str, Any] = {}
    reasons = {metric: NOT_ASKED for metric in METRICS if metric not in wanted}
    counts = _counts(ready, reasons) if {"params", "macs"} & set(wanted) else None
    if counts is not None:
        figures = {
            name: getattr(counts, name) for name in ("params", "macs", "elementwise", "activations", "uncounted", "intensity")
        }
    if "size" in wanted and ready.artifact is not None:
        figures["size"] = ready.artifact.nbytes
    elif "size" in wanted:
        reasons["size"] = "a module in memory is no file: give the runtime that it ships in, such as onnxruntime"
    if timing is not None:
        figures["latency"] = timing
    for metric, take in (("memory", _memory), ("latency", _latency), ("energy", _energy)):
        if metric in wanted and metric not in figures:
            try:
                figures[metric] = take(ready, device, threads)
            except NotMeasurable as error:
                reasons[metric] = str(error)
    cost = Cost(
        entry=ready.entry,
        mode=ready.mode,
        unit=ready.example.unit,
        units=ready.example.units,
        device=device.name,
        runtime=ready.runtime,
        threads=threads,
        reasons=reasons,
        **figures,
    )
    if ready.model is not None and ready.artifact is None and home(ready.model).type == "cuda":
        return cost.with_(reasons={**reasons, "efficiency": "peak rate and bandwidth are measured on the processor only"})
    return _with_efficiency(cost, counts) if set(METRICS) <= set(wanted) else cost


def _with_efficiency(cost: Cost, counts: Counts | None) -> Cost:
    """The cost with its share of the roofline: the attainable time of its layers one after another, over the latency."""
    reason = None
    if counts is None or cost.latency is None:
        reason = "it needs both counts and a latency"
    elif counts.uncounted:
        reason = f"no formula counts {', '.join(counts.uncounted)}"
    elif cost.device != "local":
        reason = "peak rate and bandwidth are measured on this machine only"
    if reason is not None or counts is None or cost.latency is None:
        return cost.with_(reasons={**cost.reasons, "efficiency": reason or ""})
    machine = peaks(threads=cost.threads)
    attainable = sum(machine.attainable_ms(row.macs, row.bytes) for row in counts.by_module)
    return cost.with_(efficiency=min(1.0, attainable / cost.latency.median_ms))


def _counts(ready: Subject, reasons: dict[str, str]) -> Counts | None:
    if ready.model is not None:
        return count(ready.model, ready.example, entry=ready.entry, mode=ready.mode)
    for metric in ("params", "macs"):
        reasons.setdefault(metric, "an exported file does not say: measure the model that it was made from")
    return None


def _memory(ready: Subject, device: Device, threads: int) -> int:
    if ready.artifact is not None:
        check_runnable(ready.artifact)
        return device.peak_memory(ready.artifact, ready.inputs, threads=threads)
    assert ready.model is not None
    return peak_bytes(ready.model, ready.example, entry=ready.entry, mode=ready.mode)


def _latency(ready: Subject, device: Device, threads: int) -> Timing:
    if ready.artifact is not None:
        check_runnable(ready.artifact)
        return device.time(ready.artifact, ready.inputs, threads=threads)
    _refuse_meta(ready)
    with ready.call(threads) as run:
        return time_call(run)


def _energy(ready: Subject, device: Device, threads: int) -> float:
    if ready.artifact is not None:
        check_runnable(ready.artifact)
        figure, reason = measure_energy(device, ready.artifact, ready.inputs, threads=threads)
        if figure is None:
            raise NotMeasurable(reason)
        return figure
    _refuse_meta(ready)
    assert ready.model is not None
    place = home(ready.model)
    meter: Meter | str = nvml(place.index or 0) if place.type == "cuda" else rapl()
    if isinstance(meter, str):
        raise NotMeasurable(meter)
    with ready.call(threads) as run:
        return joules(run, meter)


def _refuse_meta(ready: Subject) -> None:
    if ready.model is not None and home(ready.model).type == "meta":
        raise NotMeasurable("a model on the meta device has shapes and no numbers: it is counted, not run")


def _waited_for(run: Callable[[], Any], place: torch.device) -> Callable[[], Any]:
    """On a GPU a call returns before its work is done: wait for it."""
    if place.type != "cuda":
        return run

    def synchronised() -> None:
        run()
        torch.cuda.synchronize(place)

    return synchronised


def timed_together(subjects: Sequence[Subject], threads: int) -> list[Timing]:
    """Timings of several subjects on this machine, in turn, so that a drift falls on all alike."""
    for subject in subjects:
        _refuse_meta(subject)
    with ExitStack() as stack:
        return time_calls_interleaved([stack.enter_context(s.call(threads)) for s in subjects])
