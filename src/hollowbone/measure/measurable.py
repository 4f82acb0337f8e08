"""What a budget may ask of a device, a runtime and a format: refused at the door, before anything is trained."""

from __future__ import annotations

from hollowbone.errors import NotMeasurable, UserError, unknown
from hollowbone.measure.budget import Budget, Limit
from hollowbone.measure.energy import energy_available
from hollowbone.runtime.base import Device
from hollowbone.runtime.runner import FORMATS as RUN_HERE

RUNTIME_OF = {"onnx": "onnxruntime", "executorch": "executorch"}
"""The runtime of each format that is run and timed."""

FORMAT_OF = {runtime: format for format, runtime in RUNTIME_OF.items()}
"""The format that each runtime runs."""

RUNTIMES = ("torch", *FORMAT_OF)


def check_runtime(runtime: str, device: str) -> None:
    """Raise `UserError` for an unknown runtime, `NotMeasurable` for PyTorch on a device behind a command."""
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    if runtime == "torch" and device != "local":
        raise NotMeasurable(f"{device} runs exported files and no PyTorch: give the runtime onnxruntime or executorch")


def require_measurable(budget: Budget, device: Device, runtime: str, format: str) -> None:
    """Raise unless every limit of the budget can be measured on the file that would ship.

    `UserError` where the runtime does not run the format; `NotMeasurable` for energy without a counter, for latency and
    memory of a format that is not run here, and for limits on training or on an entry point that a file does not have.
    """
    check_runtime(runtime, device.name)
    if runtime != "torch" and format in RUNTIME_OF and RUNTIME_OF[format] != runtime:
        raise UserError(
            f"{runtime} does not run the format {format}: give --runtime {RUNTIME_OF[format]} or --format {FORMAT_OF[runtime]}"
        )
    for limit in budget.limits:
        if (reason := _obstacle(limit, device, format)) is not None:
            raise NotMeasurable(f"{limit} cannot be judged: {reason}")


def _obstacle(limit: Limit, device: Device, format: str) -> str | None:
    if limit.mode == "train":
        return "it limits training, and the budget is judged on the file that ships, which does not train"
    if limit.entry != "forward":
        return f"it limits the entry point {limit.entry}, and the file that ships has one, forward"
    if limit.metric in ("latency", "memory", "energy") and format not in RUN_HERE:
        return f"files in the format {format} are written here and not run; run and timed are {' and '.join(RUN_HERE)}"
    if limit.metric == "energy":
        if device.name != "local":
            return f"energy is read on this machine only, not on {device.name}"
        available, reason = energy_available()
        return None if available else reason
    return None
