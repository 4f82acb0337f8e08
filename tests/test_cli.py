"""The command line: what it accepts, what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import hollowbone as hb
from hollowbone.cli import app
from hollowbone.errors import HollowboneError, ReplayDiverged, UserError
from tests.support import refused

COMMANDS = {
    "fit",
    "train",
    "evaluate",
    "predict",
    "measure",
    "compare",
    "export",
    "search",
    "models",
    "systems",
    "reproduce",
    "cite",
    "doctor",
}

FIT = {
    "--budget",
    "--task",
    "--start",
    "--teacher",
    "--device",
    "--runtime",
    "--threads",
    "--format",
    "--out",
    "--candidates",
    "--reference",
    "--int8-loss",
    "--seed",
    "--epochs",
    "--replay",
    "--engine",
    "--devices",
    "--json",
    "--quiet",
}


def ran(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def commands() -> dict[str, Any]:
    return get_command(app).commands  # type: ignore[attr-defined]


def test_commands_are_the_verbs() -> None:
    assert set(commands()) == COMMANDS
    in_python = {name for name in hb.__all__ if name[0].islower()} - {"create_model"}
    assert {"models" if name == "list_models" else name for name in in_python} == COMMANDS


def test_fit_takes_its_documented_options_and_no_others() -> None:
    options = [o for p in commands()["fit"].params for o in p.opts if o.startswith("--")]
    assert set(options) - {"--help"} == FIT


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_every_parameter_explains_itself(name: str) -> None:
    command = commands()[name]
    assert command.help
    assert command.short_help
    assert all(p.help for p in command.params), [p.name for p in command.params if not p.help]
    shown = ran(name, "--help")
    assert shown.exit_code == 0
    assert f"hollowbone {name}" in shown.output or name in shown.output


def test_defaults_of_fit_are_those_of_the_verb() -> None:
    import inspect

    given = {p.name: p.default for p in commands()["fit"].params}
    verb = inspect.signature(hb.fit).parameters
    for name, parameter in verb.items():
        if parameter.default is not inspect.Parameter.empty:
            assert getattr(given[name], "value", given[name]) == parameter.default, name


def test_nothing_given_prints_help_and_fails() -> None:
    shown = ran()
    assert shown.exit_code == 2
    assert "Commands:" in shown.output


def test_version() -> None:
    assert ran("--version").output.strip() == hb.__version__


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["fit"], ["fit", "digits"], ["cite", "--nosuch"], ["measure", "m", "--threads", "x"]]
)
def test_misuse_ends_with_exit_code_2(arguments: list[str]) -> None:
    assert ran(*arguments).exit_code == 2


def test_user_error_is_one_sentence_and_exit_code_2() -> None:
    assert refused("cite", "mobilenetv2_10") == (
        "hollowbone: there is no system, model or run folder named 'mobilenetv2_10'; near are "
        "'mobilenetv2_140', 'mobilenetv2_100', 'mobilenetv2_120d'"
    )


@pytest.mark.parametrize(
    ("raised", "code"),
    [(UserError("mend it"), 2), (ReplayDiverged("differs"), 1), (HollowboneError("no"), 1), (KeyboardInterrupt(), 130)],
)
def test_what_a_verb_raises_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int) -> None:
    def verb() -> None:
        raise raised

    monkeypatch.setattr("hollowbone.doctor.doctor", verb)
    done = ran("doctor")
    assert done.exit_code == code
    assert done.stdout == ""
    assert str(raised) in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_defects_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hollowbone.doctor.doctor", lambda: 1 / 0)
    assert isinstance(ran("doctor").exception, ZeroDivisionError)


def test_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hollowbone.fit.fit", stopped)
    done = ran("fit", "digits", "--budget", "latency<=1ms")
    assert done.exit_code == 130
    assert "the same command goes on from here" in done.stderr


def test_fit_passes_every_option_on_and_prints_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Run:
        result: ClassVar = {"budget": {"met": True}}

        def summary(self) -> str:
            return "a summary"

    def verb(*arguments: Any, **options: Any) -> Run:
        seen.update(options, arguments=arguments)
        return Run()

    monkeypatch.setattr("hollowbone.fit.fit", verb)
    values = {
        "task": "classification",
        "start": "a@b",
        "teacher": "c",
        "device": "command:x",
        "runtime": "executorch",
        "threads": 2,
        "format": "executorch",
        "out": "o",
        "candidates": "mobilenetv2",
        "reference": "r",
        "int8_loss": 0.25,
        "seed": 3,
        "epochs": 4,
        "replay": "j",
        "engine": "ray",
        "devices": 2,
    }
    words = [w for key, value in values.items() for w in ("--" + key.replace("_", "-"), str(value))]
    done = ran("fit", "digits", "--budget", "latency<=1ms", *words)
    assert done.output == "a summary\n"
    assert seen == {**values, "arguments": ("digits", "latency<=1ms"), "quiet": False}
    as_json = ran("fit", "digits", "--budget", "latency<=1ms", "--json")
    assert json.loads(as_json.stdout) == Run.result
    assert seen["quiet"], "progress would spoil the JSON"


def test_lists_are_json_on_request() -> None:
    assert json.loads(ran("models", "mobilenetv2_1*", "--json").stdout) == hb.list_models("mobilenetv2_1*")
    found = json.loads(ran("systems", "mobilenetv2", "--json").stdout)
    assert found[0]["status"] == "built"
    assert found[0]["claims"][0]["source"] == "memory"


def test_models_are_listed_one_a_line() -> None:
    assert ran("models", "mobilenetv2_1*").stdout.split() == hb.list_models("mobilenetv2_1*")


@pytest.mark.parametrize("command", ["models", "systems"])
def test_pattern_that_matches_nothing_is_refused(command: str) -> None:
    done = ran(command, "nosuch*")
    assert done.exit_code == 2
    assert "'nosuch*'" in done.stderr


def test_doctor_says_what_is_there_and_how_to_get_what_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import metadata

    version = metadata.version

    def without_ray(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_ray)
    monkeypatch.setenv("HOLLOWBONE_CACHE", str(tmp_path / "cache"))
    found = json.loads(ran("doctor", "--json").stdout)
    by_name = {(f["section"], f["name"]): f for f in found["findings"]}
    assert by_name["core", "torch"]["ok"]
    assert not by_name["extras", "cluster"]["ok"]
    assert 'for ray: pip install "hollowbone[cluster]"' in found["remedies"]
    assert by_name["cache", str(tmp_path / "cache")]["ok"]
    assert not (tmp_path / "cache").exists(), "looking changes nothing"
    assert by_name["device", "processor"]["detail"]
    assert {f["section"] for f in found["findings"]} >= {"device", "native kernels", "energy", "threads", "programs"}
    assert not [f for f in found["findings"] if "could not be looked at" in f["remedy"]]


def test_doctor_reports_a_part_that_fails_instead_of_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libfoo.so: cannot open")

    monkeypatch.setattr("hollowbone.doctor._device", broken)
    found = hb.doctor()
    assert any("libfoo.so" in f.detail and f.section == "device" for f in found.findings)
    assert "libfoo.so" in str(found)
    assert "libfoo.so" in found._repr_html_()


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "hollowbone", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hb.__version__


MINE = """
from torch import nn

def small(num_classes=10, in_chans=1):
    return net(4, num_classes, in_chans)

def large(num_classes=10, in_chans=1):
    return net(32, num_classes, in_chans)

def net(width, num_classes, in_chans):
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 5, stride=4, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, num_classes)
    )
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(MINE)
    return path


def printed(*arguments: str) -> Any:
    """JSON that a command prints on standard output, and nothing else there."""
    done = ran(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_own_network_is_trained_evaluated_exported_and_evaluated_again(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = printed("train", f"{mine}:large", "digits", "--epochs", "2", "--lr", "0.01", "--out", str(out))
    assert trained["split"] == "select"
    assert trained["value"] > 0.4, "it learnt nothing"
    weights = f"{mine}:large@{out / 'weights.safetensors'}"
    judged = printed("evaluate", weights, "digits", "--split", "select")
    assert judged["value"] == pytest.approx(trained["value"])
    file = tmp_path / "mine.onnx"
    written = printed("export", weights, str(file), "--input", "1x32x32")
    assert written["error"] < 1e-5
    assert written["size"] == file.stat().st_size
    assert printed("evaluate", str(file), "digits", "--split", "select")["value"] == pytest.approx(judged["value"])


def test_costs_are_measured_and_compared(mine: Path) -> None:
    cost = printed("measure", f"{mine}:small", "--input", "1x32x32")
    assert cost["macs"] == 64 * 25 * 4 + 256 * 10
    assert cost["latency"]["median_ms"] > 0
    both = printed("compare", f"{mine}:large", f"{mine}:small", "--input", "1x32x32", "--runtime", "onnxruntime")
    assert both["baseline"] == f"{mine}:large"
    assert both["ratios"][f"{mine}:small"]["size"][0] < 0.5


def test_compare_needs_two_models() -> None:
    done = ran("compare", "mobilenetv2_100", "mobilenetv2_100")
    assert done.exit_code == 2
    assert "two or more" in done.stderr
