"""The arguments and options that commands share: their types, and what `--help` says about them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer


class Scale(StrEnum):
    """How long a reproduction may take."""

    laptop = "laptop"
    study = "study"
    paper = "paper"


class Engine(StrEnum):
    """Where candidates are trained."""

    local = "local"
    ray = "ray"


class Split(StrEnum):
    """The parts of a dataset."""

    train = "train"
    select = "select"
    report = "report"


class Format(StrEnum):
    """What can be written."""

    onnx = "onnx"
    executorch = "executorch"
    coreml = "coreml"
    pt2 = "pt2"


def argument(help: str, **options: Any) -> Any:
    """A required argument."""
    return typer.Argument(help=help, show_default=False, **options)


def option(help: str, *names: str, **options: Any) -> Any:
    """An option, named like its parameter unless `names` say otherwise."""
    return typer.Option(*names, help=help, **options)


MODEL = (
    "A model of the catalogue (see `hollowbone models`), NAME@FILE with a checkpoint, timm:NAME, a hub id (hub:ORG/NAME), "
    "FILE.py:FUNCTION[@FILE] (your own Python, which is executed), or the path of an exported artifact."
)
NETWORK = "A model of the catalogue, NAME@FILE, timm:NAME, hub:ORG/NAME or FILE.py:FUNCTION[@FILE]."
DATA = (
    "digits or photo_patches (bundled), a folder of class folders with or without splits, a CSV or Parquet manifest "
    "(path,label[,split]), or WebDataset shards."
)
BUDGET = (
    "Limits, separated by commas: [ENTRY.|train.]METRIC[.p95]<=NUMBER UNIT, or <=0.5x of the reference. METRIC is latency, "
    "size, params, macs, memory or energy. Example: 'latency<=3ms, size<=2MB'."
)
DEVICE = "local, or 'command:...', any command that starts the one-file runner, as 'command:ssh pi python3 runner.py'."

Model = Annotated[str, argument(MODEL)]
Network = Annotated[str, argument(NETWORK)]
Data = Annotated[str, argument(DATA)]
Task = Annotated[str, option("What is learnt from the data.")]
Budget = Annotated[str, option(BUDGET, show_default=False)]
Teacher = Annotated[str | None, option("Distil from this model: " + NETWORK)]
Device = Annotated[str, option(DEVICE)]
Runtime = Annotated[str | None, option("torch, onnxruntime or executorch; else the artifact's own, or torch for a network.")]
Threads = Annotated[int, option("Threads of the runtime.")]
Devices = Annotated[int, option("Processes that train one model (DDP).")]
Epochs = Annotated[int | None, option("Passes over the train split; else the method's default.")]
Seed = Annotated[int, option("Seed of everything random.")]
Input = Annotated[str | None, option("Shape of the input, as 3x224x224; else the model's own.", metavar="[B]xCxHxW")]
Json = Annotated[bool, option("Print JSON for programs instead of text for people.", "--json")]
