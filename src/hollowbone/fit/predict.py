"""Use of a finished run: pictures in, classes out, by the shipped artifact alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hollowbone.errors import UserError
from hollowbone.tasks.base import Preprocessing

TOP = 5


def predict_folder(folder: str | Path, images: Sequence[str | Path]) -> list[dict[str, Any]]:
    """For every picture its label, probability and the five likeliest classes; of several, an unreadable one says so.

    `folder` is a run's folder or the path of an artifact that hollowbone shipped: what it needs to know is stored in the
    file. Raises `UserError` where there is no artifact, one of another origin, or a picture that cannot be read.
    """
    import torch

    from hollowbone.runtime import load, open_artifact
    from hollowbone.tasks import get_task

    artifact = open_artifact(_artifact(Path(folder)))
    said = artifact.metadata
    if "hollowbone.preprocessing" not in said:
        raise UserError(f"{artifact.path} was not shipped by hollowbone fit: it does not say how its inputs are prepared")
    preprocessing = Preprocessing.from_dict(json.loads(said["hollowbone.preprocessing"]))
    classes = json.loads(said["hollowbone.classes"])
    task = get_task(said["hollowbone.task"])
    session = load(artifact, 1)
    rows: list[dict[str, Any]] = []
    for image in images:
        try:
            picture = task.decode(image, preprocessing)  # type: ignore[attr-defined]
        except UserError as error:
            if len(images) == 1:
                raise
            rows.append({"path": str(image), "error": str(error)})
            continue
        x, _ = task.prepare((torch.as_tensor(picture)[None], torch.zeros(1, dtype=torch.long)), preprocessing)
        rows.append({"path": str(image), **_answer(session(x.numpy())[0][0], classes)})
    return rows


def _answer(logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    shares = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits))
    shares /= shares.sum()
    top = [{"label": classes[i], "probability": float(shares[i])} for i in np.argsort(-shares, kind="stable")[:TOP]]
    return {**top[0], "top": top}


def _artifact(path: Path) -> Path:
    if path.is_file():
        return path
    found = [p for p in (path / "model.onnx", path / "model.pte") if p.is_file()]
    if not found:
        raise UserError(
            f"{path} holds no shipped model (model.onnx or model.pte); run hollowbone fit --out {path} to the end first"
        )
    return found[0]
