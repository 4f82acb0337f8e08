"""One training of one candidate, as a job: a dictionary of JSON values in, a dictionary out.

An engine may run the job in this process or on a Ray worker; what comes out is decided by the job alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.files import write_with
from hollowbone.fit.folder import RunFolder
from hollowbone.search.base import Config, canonical
from hollowbone.tasks import get_task
from hollowbone.tasks.base import Data, Preprocessing
from hollowbone.train import Recipe, train


@lru_cache(maxsize=2)
def read_data(task: str, source: str, seed: int) -> Data:
    """The dataset, read once a process."""
    return get_task(task).read(source, seed=seed)


def identity(*parts: Any) -> str:
    """A short digest that names a piece of work by what decides its outcome."""
    return hashlib.sha256("\n".join(map(canonical, parts)).encode()).hexdigest()[:12]


def bare(config: Config) -> Config:
    """The configuration without what says which weights it starts from: what a cost depends on."""
    return {k: v for k, v in config.items() if k not in ("init", "init_sha")}


def preprocessing_of(config: Config, data: Data) -> Preprocessing:
    """The data's preprocessing at the candidate's resolution."""
    base = data.preprocessing
    resolution = config.get("resolution", base.resolution)
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return Preprocessing((height, width), base.in_chans, base.mean, base.std)


def build(config: Config) -> nn.Module:
    """The candidate's network: freshly initialised, or from the weights file that `config["init"]` names.

    Only a job has that file's path (`Context.with_weights`); elsewhere a configuration names weights by digest, `init_sha`.
    """
    from hollowbone.models.given import network
    from hollowbone.search import get_space

    if config["space"] == "model":
        model = network(config["name"], num_classes=config["num_classes"], in_chans=config["in_chans"])
    else:
        model = get_space(config["space"]).build(config)
    if init := config.get("init"):
        from safetensors.torch import load_file

        model.load_state_dict(load_file(init))
    return model


def train_candidate(job: dict[str, Any]) -> dict[str, Any]:
    """Train and score on *select*. Job: task, data, seed, config, recipe, out, teacher (a config with `init`) or None.

    Returns `score` (the metric on *select*), `weights` (a safetensors file with the averaged weights where there is an
    average), `steps` and `history`.
    """
    from safetensors.torch import save_file

    data = read_data(job["task"], job["data"], job["seed"])
    recipe = Recipe(**{**job["recipe"], "randaugment": tuple(job["recipe"]["randaugment"])})
    torch.manual_seed(recipe.seed)
    model = build(job["config"])
    teacher = build(job["teacher"]).eval() if job.get("teacher") else None
    out = Path(job["out"])
    trained = train(
        model,
        data,
        task=job["task"],
        recipe=recipe,
        preprocessing=preprocessing_of(job["config"], data),
        teacher=teacher,
        out=out,
        devices=job.get("devices", 1),
        select_every=recipe.epochs,
    )
    final = trained.ema_model if trained.ema_model is not None else trained.model
    weights = out / "weights.safetensors"
    state = {k: v.detach().contiguous().clone() for k, v in final.state_dict().items()}
    write_with(weights, lambda path: save_file(state, path))
    return {"score": trained.metric, "weights": str(weights), "steps": trained.steps, "history": trained.history}


def digest_of_weights(path: str | Path) -> str:
    """The `digest_of_state` of a safetensors file."""
    from safetensors.torch import load_file

    return digest_of_state(load_file(path))


def keep_weights(state: Mapping[str, Tensor], folder: RunFolder) -> str:
    """Keep a state dict in the run's folder under its digest, which a configuration then names as `init_sha`."""
    from safetensors.torch import save_file

    copied = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    sha = digest_of_state(copied)
    if not folder.weights(sha).exists():
        write_with(folder.weights(sha), lambda path: save_file(copied, path))
    return sha


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of a state dict, whatever its order."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()
