"""Weights from the Hugging Face hub, or from its cache on this disk; their licence travels with them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hollowbone.errors import UserError

_ID = re.compile(r"(hub:)?(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pickle", ".pkl", ".onnx")


@dataclass(frozen=True)
class Download:
    """A weights file, with the licence of its model card ("" where none is stated) and its `config.json`."""

    weights: Path
    licence: str = ""
    architecture: str = ""
    num_classes: int | None = None


def is_hub_id(source: str | Path) -> bool:
    """Whether `hub:ORG/NAME`, or `ORG/NAME[@REVISION]` that is no path on this disk and does not end like a weights file."""
    text = str(source)
    if text.startswith("hub:"):
        return True
    return isinstance(source, str) and bool(_ID.fullmatch(text)) and not text.endswith(_FILES) and not Path(text).exists()


def download(hub_id: str) -> Download:
    """Weights, licence and architecture of a hub id: from the local cache if it has them, else from the network.

    The cache first: a run is then repeatable and works offline; `@REVISION` says which version is meant. Raises `UserError`
    where neither has the repository or the file.
    """
    match = _ID.fullmatch(hub_id)
    if not match:
        raise UserError(f"a hub id looks like ORG/NAME or ORG/NAME@REVISION, not {hub_id!r}")
    repo, revision = match["repo"], match["revision"]
    weights = next((p for name in _WEIGHTS if (p := _file(repo, name, revision, local=True))), None)
    weights = weights or next((p for name in _WEIGHTS if (p := _file(repo, name, revision, local=False))), None)
    if weights is None:
        raise UserError(f"the hub repository {repo} has neither {' nor '.join(_WEIGHTS)}")
    config = _config(_either(repo, "config.json", revision))
    classes = config.get("num_classes")
    return Download(weights, _licence(_either(repo, "README.md", revision)), str(config.get("architecture", "")), classes)


def _either(repo: str, name: str, revision: str | None) -> Path | None:
    """A file that a repository may lack: cached, else fetched, else None."""
    if path := _file(repo, name, revision, local=True):
        return path
    try:
        return _file(repo, name, revision, local=False)
    except UserError:  # offline, with the weights in the cache
        return None


def _file(repo: str, name: str, revision: str | None, *, local: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=local))
    except LocalEntryNotFoundError as error:
        if local:
            return None
        raise UserError(
            f"{repo} is not in the local hub cache and the hub cannot be reached; give the weights as a file"
        ) from error
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError as error:
        raise UserError(f"there is no hub repository {repo}, or it is not public") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{repo} cannot be read from the hub: {first}") from error


def _config(path: Path | None) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text()) if path else {}
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _licence(path: Path | None) -> str:
    """`license:` of the YAML front matter of a model card."""
    if path is None:
        return ""
    front = re.match(r"---\r?\n(.*?)\r?\n---", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    line = re.search(r"^license:[ \t]*(\S.*?)[ \t]*$", front[1], re.MULTILINE) if front else None
    return line[1].strip("'\"") if line else ""
