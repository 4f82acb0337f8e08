"""Small helpers that several test files share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip, saying why, where a program is not installed; with HOLLOWBONE_REQUIRE_ALL=1 the test runs and so fails."""
    missing = [p for p in programs if shutil.which(p) is None]
    required = os.environ.get("HOLLOWBONE_REQUIRE_ALL") == "1"
    return pytest.mark.skipif(bool(missing) and not required, reason=f"not installed: {', '.join(missing)}")


def hollowbone(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a user would."""
    command: Sequence[str] = [sys.executable, "-m", "hollowbone", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "160", **env},
        check=False,
    )


def refused(*arguments: str | Path, cwd: Path | None = None, timeout: float = 120) -> str:
    """Run the command, assert that it ended in one sentence and exit code 2, and return the sentence."""
    done = hollowbone(*arguments, cwd=cwd, timeout=timeout)
    assert done.returncode == 2, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout
    sentence = done.stderr.strip().splitlines()
    assert sentence, "nothing was said on standard error"
    return " ".join(sentence)
