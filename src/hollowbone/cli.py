"""The command line: parse, call a verb, print.

Nothing is decided here. A `UserError` becomes its sentence on standard error and exit code 2; Ctrl-C becomes a sentence on
how to go on and exit code 130. What imports PyTorch is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hollowbone.cli_options import (
    MODEL,
    NETWORK,
    Budget,
    Data,
    Device,
    Devices,
    Engine,
    Epochs,
    Format,
    Input,
    Json,
    Model,
    Network,
    Runtime,
    Scale,
    Seed,
    Split,
    Task,
    Teacher,
    Threads,
    argument,
    option,
)
from hollowbone.errors import HollowboneError, UserError

GO_ON = {
    "fit": "the same command goes on from here",
    "train": "the same command goes on from here",
    "reproduce": "the same command begins again",
}


class _Sentences(TyperGroup):
    """Turns what the user can mend, and Ctrl-C, into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HollowboneError as error:
            typer.echo(f"hollowbone: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, UserError) else 1) from error
        except KeyboardInterrupt:
            how = GO_ON.get(ctx.invoked_subcommand or "", "nothing is left half written")
            typer.echo(f"\nhollowbone: stopped; {how}", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="hollowbone",
    cls=_Sentences,
    help="Make a neural network fit: into milliseconds, megabytes, joules or multiply-adds, on a device that you name.",
    epilog="A first run: hollowbone fit digits --budget 'latency<=0.1ms' --out runs/digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time that `--help` takes
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, option("Print the version and stop.", "--version")] = False) -> None:
    """The options before the command."""
    if version:
        from hollowbone import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command(short_help="Data and a budget in; a trained, exported, measured model out.")
def fit(
    data: Data,
    budget: Budget,
    task: Task = "classification",
    start: Annotated[str | None, option("Fine-tune this model instead of training from scratch: " + NETWORK)] = None,
    teacher: Teacher = None,
    device: Device = "local",
    runtime: Annotated[str, option("What runs the shipped file: onnxruntime or executorch.")] = "onnxruntime",
    threads: Threads = 1,
    format: Annotated[str, option("What is shipped: onnx or executorch.")] = "onnx",
    out: Annotated[str | None, option("The run's folder; given again, the run goes on.", show_default="runs/DATA")] = None,
    candidates: Annotated[str, option("Families that may win, separated by commas.")] = "efficientformer,mobilenetv2",
    reference: Annotated[str, option("What a relative budget is relative to.")] = "mobilenetv2_100",
    int8_loss: Annotated[float, option("Points of the metric on the select split that int8 may cost.")] = 0.5,
    seed: Seed = 0,
    epochs: Annotated[int | None, option("Epochs of the final training; else chosen by the size of the data.")] = None,
    replay: Annotated[
        str | None, option("Take every measurement from this journal.jsonl; needs a new --out.", metavar="JOURNAL")
    ] = None,
    engine: Annotated[Engine, option("Where candidates are trained: here, or over a Ray cluster.")] = Engine.local,
    devices: Devices = 1,
    json: Json = False,
    quiet: Annotated[bool, option("No progress.", "--quiet", "-q")] = False,
) -> None:
    """Data and a budget in; a trained, exported, measured model out, with a report.

    The folder holds the artifact, result.json, labels.txt, report.html and the journal. Interrupted at any moment, the same
    command goes on. Exit code 2 with one sentence if the budget cannot be met or an argument cannot be used.
    """
    from hollowbone.fit import fit as verb

    run = verb(
        data,
        budget,
        task=task,
        start=start,
        teacher=teacher,
        device=device,
        runtime=runtime,
        threads=threads,
        format=format,
        out=out,
        candidates=candidates,
        reference=reference,
        int8_loss=int8_loss,
        seed=seed,
        epochs=epochs,
        replay=replay,
        engine=engine.value,
        devices=devices,
        quiet=quiet or json,
    )
    _show(run.result if json else run.summary(), json)


@app.command(short_help="Plain training, without a budget.")
def train(
    model: Network,
    data: Data,
    out: Annotated[Path, option("Folder of checkpoints, log and weights; given again, training goes on.", show_default=False)],
    task: Task = "classification",
    epochs: Epochs = None,
    batch_size: Annotated[int | None, option("Samples a step; else the recipe's.")] = None,
    lr: Annotated[float | None, option("Peak learning rate; else the recipe's.")] = None,
    precision: Annotated[str | None, option("32-true, bf16-mixed or 16-mixed; else the recipe's.")] = None,
    teacher: Teacher = None,
    devices: Devices = 1,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Plain training, without a budget. What comes out is used as MODEL@OUT/weights.safetensors."""
    from hollowbone.models.checkpoint import save_checkpoint
    from hollowbone.models.given import network
    from hollowbone.tasks import get_task
    from hollowbone.train import Recipe
    from hollowbone.train import train as verb

    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision}
    recipe = Recipe(seed=seed).with_(**{key: value for key, value in given.items() if value is not None})
    read = get_task(task).read(data, seed=seed)
    sizes = {"num_classes": len(read.classes), "in_chans": read.preprocessing.in_chans}
    guide = network(teacher, **sizes) if teacher else None
    trained = verb(network(model, **sizes), read, task=task, recipe=recipe, teacher=guide, out=out, devices=devices)
    weights = out / "weights.safetensors"
    save_checkpoint(trained.ema_model or trained.model, weights, metadata={"model": model, "classes": list(read.classes)})
    metric = get_task(task).metric
    result = {
        "metric": metric.name,
        "split": "select",
        "value": trained.metric,
        "steps": trained.steps,
        "weights": str(weights),
    }
    text = f"{metric.name} {metric.format(trained.metric)} on select after {trained.steps} steps, seed {seed}; {weights}"
    _show(result if json else text, json)


@app.command(short_help="The metric of a model or exported artifact on a split.")
def evaluate(
    model: Model,
    data: Data,
    task: Task = "classification",
    split: Annotated[Split, option("Which part of the data.")] = Split.report,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The metric of a model or exported artifact on a split, with its 95% interval."""
    from hollowbone.models.given import artifact_at, network
    from hollowbone.tasks import get_task
    from hollowbone.train import evaluate as verb

    read = get_task(task).read(data, seed=seed)
    sizes = {"num_classes": len(read.classes), "in_chans": read.preprocessing.in_chans}
    _show(verb(artifact_at(model) or network(model, **sizes), read, split.value, task=task), json)


@app.command(short_help="What the artifact of a finished run says about pictures.")
def predict(
    folder: Annotated[Path, argument("The folder of a finished run.", metavar="DIR")],
    images: Annotated[list[Path], argument("Pictures, in any format that Pillow reads.", metavar="IMAGE...")],
    json: Json = False,
) -> None:
    """What the artifact of a finished run says about pictures. It uses the shipped file alone."""
    from hollowbone.fit import predict_folder

    rows = predict_folder(folder, images)
    _show(rows if json else "\n".join(map(_prediction, rows)), json)


@app.command(short_help="What a model costs: counts, bytes, time, memory, energy.")
def measure(
    model: Model,
    input: Input = None,
    device: Device = "local",
    runtime: Runtime = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """What a model costs: parameters, multiply-adds, bytes, memory, latency, energy, share of the roofline."""
    from hollowbone.measure import measure as verb
    from hollowbone.models.given import artifact_at, example, network

    subject = artifact_at(model) or network(model)
    _show(verb(subject, example(model, subject, input), device=device, runtime=runtime, threads=threads), json)


@app.command(short_help="The costs of several models side by side.")
def compare(
    models: Annotated[list[str], argument("Two or more; the first is the baseline. " + MODEL, metavar="MODEL MODEL...")],
    input: Input = None,
    device: Device = "local",
    runtime: Runtime = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """The costs of several models side by side, timed in one run."""
    from hollowbone.measure import compare as verb
    from hollowbone.models.given import artifact_at, example, network

    if len(set(models)) < 2:
        raise UserError("compare needs two or more different models; for one, use `hollowbone measure`")
    subjects = {name: artifact_at(name) or network(name) for name in models}
    shown = example(models[0], subjects[models[0]], input)
    _show(verb(subjects, shown, device=device, runtime=runtime, threads=threads), json)


@app.command(short_help="Write a model in a runtime's format, checked against PyTorch.")
def export(
    model: Network,
    path: Annotated[Path, argument("The file to write.")],
    format: Annotated[Format, option("coreml is not verified on this machine; pt2 is only ever written.")] = Format.onnx,
    input: Input = None,
    json: Json = False,
) -> None:
    """Write a model in a runtime's format, with batch normalisation folded, and check its output against PyTorch's."""
    from hollowbone.models.fold import fold
    from hollowbone.models.given import example, network
    from hollowbone.runtime import export as verb

    made = network(model).eval()
    written = verb(fold(made), example(model, made, input), path, format=format.value)
    error = written.verified and written.verified.error
    result = {"path": str(written.path), "format": written.format, "size": written.nbytes, "error": error, "note": written.note}
    checked = f"differs from PyTorch by {error:.2g} at most" if written.verified else written.note
    _show(result if json else f"{written.path}: {written.format}, {written.nbytes} bytes; {checked}", json)


@app.command(short_help="Search one family for a network within a latency budget.")
def search(
    space: Annotated[str, argument("The family: efficientformer or mobilenetv2.")],
    data: Data,
    budget: Annotated[str, option("One limit on the median latency, as 'latency<=3ms'.", show_default=False)],
    task: Task = "classification",
    device: Device = "local",
    runtime: Annotated[str, option("What the candidates are timed in: onnxruntime or executorch.")] = "onnxruntime",
    threads: Threads = 1,
    epochs: Epochs = None,
    out: Annotated[Path | None, option("Folder of the supernet's checkpoints; given again, its training goes on.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Search one family for a network within a latency budget; print its configuration and how it was reached.

    `fit` does this and all the rest: it trains the network, exports it, and measures what it exported.
    """
    from hollowbone.search import search as verb
    from hollowbone.train.recipe import Recipe

    recipe = Recipe(epochs=epochs, seed=seed) if epochs else None
    options: dict[str, Any] = {"task": task, "device": device, "runtime": runtime, "threads": threads, "seed": seed, "out": out}
    found: Any = verb(space, budget=budget, data=data, recipe=recipe, **options).found
    steps = [
        {"action": step.action.kind, "detail": step.action.detail, "latency_ms": step.latency_ms, "score": step.accuracy}
        for step in getattr(found, "path", ())
    ]
    result = {"config": dict(getattr(found, "config", found)), "steps": steps}
    lines = [f"{s['latency_ms']:.4g} ms, {s['score']:.4g} after {s['action']}: {s['detail']}" for s in steps]
    _show(result if json else "\n".join([*lines, f"configuration: {result['config']}"]), json)


@app.command("models", short_help="The networks that can be created by name.")
def list_models(
    pattern: Annotated[str, typer.Argument(help="A glob pattern, as 'mobilenetv2*'.")] = "*",
    task: Annotated[str | None, option("Only models of this task.")] = None,
    json: Json = False,
) -> None:
    """The networks that can be created by name (in Python: `list_models`)."""
    from hollowbone.models.base import list_models as verb

    names = verb(pattern, task=task)
    if not names and not json:
        raise UserError(
            f"no model matches {pattern!r}" + (f" for the task {task!r}" if task else "") + "; see `hollowbone models`"
        )
    _show(names if json else "\n".join(names), json)


@app.command(short_help="The catalogue of published systems: what is built, what is planned.")
def systems(
    pattern: Annotated[str, typer.Argument(help="A glob pattern over the slugs, as '*vit*'.")] = "*",
    task: Annotated[str | None, option("Only systems of this task.")] = None,
    json: Json = False,
) -> None:
    """The catalogue: published systems, where they come from, what they claim, and which are built."""
    from hollowbone.catalogue import systems as verb

    found = verb(pattern, task=task)
    if not found and not json:
        raise UserError(
            f"no system matches {pattern!r}" + (f" for the task {task!r}" if task else "") + "; see `hollowbone systems`"
        )
    _show(str(found[0]) if len(found) == 1 and not json else found, json)


@app.command(short_help="Re-run a paper's headline comparison; say what held here.")
def reproduce(
    slug: Annotated[str, argument("A built system of the catalogue, as mobilenetv2.")],
    scale: Annotated[
        Scale, option("laptop: a minute, what is exact is measured now; study: 5-30 minutes, with training; paper: all.")
    ] = Scale.laptop,
    json: Json = False,
) -> None:
    """Re-run a paper's headline comparison and say, claim by claim, what held here."""
    from hollowbone.reproduce import reproduce as verb

    _show(verb(slug, scale.value), json)


@app.command(short_help="BibTeX of what a system, model or run rests on.")
def cite(what: Annotated[str, argument("A system, a model, or the folder of a run.", metavar="NAME")]) -> None:
    """BibTeX of what a system, model or run rests on."""
    from hollowbone.cite import cite as verb

    typer.echo(verb(what))


@app.command(short_help="What is installed, missing and measurable here.")
def doctor(json: Json = False) -> None:
    """What is installed, what is missing and how to get it, and what can be measured on this machine."""
    from hollowbone.doctor import doctor as verb

    _show(verb(), json)


def _show(value: Any, as_json: bool) -> None:
    """Print a verb's result: JSON from plain values or `to_dict`, text as the result shows itself."""
    if as_json:
        typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str))
    elif hasattr(value, "__rich__") or hasattr(value, "__rich_console__"):
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 160).print(value)
    else:
        typer.echo(str(value))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, str) or not hasattr(value, "__iter__") else [_plain(item) for item in value]


def _prediction(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['path']}: {row['error']}"
    return f"{row['path']}: {row['label']} ({row['probability']:.1%})"


def main() -> None:
    """The entry point of the `hollowbone` command."""
    app(prog_name="hollowbone")
