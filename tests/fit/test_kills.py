"""A run killed at random moments ends like one that was not: same decisions, same bits.

HOLLOWBONE_KILLS (3) and HOLLOWBONE_KILL_EPOCHS (2) make the test longer; with 10 kills and 60 epochs it is a full demo run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = int(os.environ.get("HOLLOWBONE_KILLS", "3"))
EPOCHS = os.environ.get("HOLLOWBONE_KILL_EPOCHS", "2")
LONGEST = float(os.environ.get("HOLLOWBONE_KILL_SECONDS", "10"))
BASE = [sys.executable, "-m", "hollowbone", "fit", "digits", "--budget", "latency<=0.3ms", "--epochs", EPOCHS, "--quiet"]
BASE += ["--candidates", "efficientformer"]


def fit(out: Path, *more: str) -> None:
    done = subprocess.run([*BASE, "--out", str(out), *more], capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr


def fit_and_kill(out: Path, seconds: float) -> bool:
    """Start (or go on with) the run and kill it after a while; False if it had ended by then."""
    process = subprocess.Popen([*BASE, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def records(out: Path, kind: str) -> dict[str, object]:
    """The journal's records of a kind: what was computed (`result`) or what was measured (`clock`)."""
    lines = (json.loads(line) for line in (out / "journal.jsonl").read_text().split("\n") if line)
    return {r["key"]: r["value"] for r in lines if r["kind"] == kind}


def test_killed_run_and_its_uninterrupted_replay_are_the_same_run(tmp_path: Path) -> None:
    killed, replayed = tmp_path / "killed", tmp_path / "replayed"
    moments = random.Random(7)
    kills = sum(fit_and_kill(killed, moments.uniform(2, LONGEST)) for _ in range(KILLS))
    assert kills >= 1, "the run had ended before the first kill"
    fit(killed)
    fit(replayed, "--replay", str(killed / "journal.jsonl"))
    assert records(killed, "result") == records(replayed, "result")
    # A replay asks for fewer measurements: an entry of the table that is itself replayed needs none of those it was made of.
    measured, taken = records(killed, "clock"), records(replayed, "clock")
    assert taken == {key: measured[key] for key in taken}
    assert any(key.startswith("table:") for key in taken)
    a, b = (json.loads((out / "result.json").read_text()) for out in (killed, replayed))
    assert a["model"]["weights_sha256"] == b["model"]["weights_sha256"]
    assert a["model"]["sha256"] == b["model"]["sha256"]
    assert a["metrics"] == b["metrics"]
