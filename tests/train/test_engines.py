"""Spreading jobs over a Ray cluster gives what this process gives."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hollowbone.errors import UserError
from hollowbone.train.engines import Engine, get_engine
from tests.train.toys import candidate, refuse


@pytest.fixture(scope="module")
def ray() -> Iterator[Engine]:
    engine = get_engine("ray", threads=1)
    yield engine
    engine.close()


def test_ray_gives_the_same_bits_in_the_same_order_though_a_worker_is_killed(ray: Engine, tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = [{"seed": seed} for seed in range(3)]
    here = get_engine("local", threads=1).map(candidate, jobs)
    jobs[1]["marker"] = str(tmp_path / "killed")
    there = ray.map(candidate, jobs)
    assert (tmp_path / "killed").exists()
    assert os.getpid() not in [result.pop("pid") for result in there]
    assert {result.pop("pid") for result in here} == {os.getpid()}
    assert there == here
    assert [result["seed"] for result in there] == [0, 1, 2]


def test_a_mistake_in_a_job_comes_back_as_its_sentence(ray: Engine) -> None:
    for engine in (ray, get_engine("local")):
        with pytest.raises(UserError, match=r"^epochs must be 1 or more"):
            engine.map("tests.train.toys:refuse", [{}])
    assert ray.map(refuse, []) == []


def test_wrong_engines_and_functions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nearest is 'ray'"):
        get_engine("rays")
    with pytest.raises(UserError, match="threads must be 1 or more"):
        get_engine("local", threads=0)
    with pytest.raises(UserError, match="importable as module:function"):
        get_engine("local").map(lambda job: job, [{}])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'hollowbone\[cluster\]'"):
        get_engine("ray")
