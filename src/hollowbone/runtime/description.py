"""Specs and metadata of an artifact as JSON, for formats that have no place of their own for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hollowbone.runtime.base import Artifact, TensorSpec


def to_dict(artifact: Artifact) -> dict[str, Any]:
    """Plain JSON values; the path is left out, since files move."""
    return {
        "format": artifact.format,
        "inputs": [asdict(spec) for spec in artifact.inputs],
        "outputs": [asdict(spec) for spec in artifact.outputs],
        "metadata": dict(artifact.metadata),
    }


def from_dict(path: Path, value: Mapping[str, Any], *, note: str = "") -> Artifact:
    """The inverse; raises ValueError, KeyError or TypeError when `value` is something else."""
    inputs, outputs = (
        tuple(TensorSpec(s["name"], tuple(s["shape"]), s["dtype"]) for s in value[k]) for k in ("inputs", "outputs")
    )
    return Artifact(path, value["format"], inputs, outputs, dict(value["metadata"]), note=note)
