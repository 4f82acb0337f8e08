"""BibTeX of what a system, a model or a run rests on."""

from __future__ import annotations

import json
from pathlib import Path

from hollowbone.catalogue import System, catalogue, system
from hollowbone.errors import UserError, unknown

PROCEEDINGS = {"NeurIPS", "ICLR", "ICML", "CVPR", "ICCV", "ECCV", "WACV", "IJCAI", "ICASSP", "FPGA", "Euro-Par"}
"""Venues whose papers are `@inproceedings`, beside workshops and conferences; arXiv is `@misc`; the rest are journals."""

_LATEX = {"&": r"\&", "%": r"\%", "á": r"{\'a}", "é": r"{\'e}", "·": r"{\textperiodcentered}"}


def cite(what: object) -> str:
    """BibTeX entries for a slug (`mobilenetv2`), a model's name (`mobilenetv2_100`) or a run's folder, blank lines between.

    A run rests on the shipped model's system, on every family that it tried, and on reference and teacher; anything with a
    `folder` is taken as that folder. Models from elsewhere (timm, the hub, the user's own) have no entry here.
    Raises `UserError` naming the nearest slug or model if there is none.
    """
    given = str(getattr(what, "folder", what))
    path = Path(given)
    slugs = _run_slugs(path) if path.is_dir() else [_slug(given)]
    return "\n\n".join(bibtex(system(slug)) for slug in slugs)


def bibtex(s: System) -> str:
    """One entry, keyed by slug and year."""
    venue = {"arXiv": "misc"}.get(s.venue, "inproceedings" if _is_proceedings(s.venue) else "article")
    fields = {
        "title": "{" + s.title + "}",  # the inner braces keep the capitals of names
        "author": s.authors,
        "year": str(s.year),
        {"misc": "howpublished", "inproceedings": "booktitle", "article": "journal"}[venue]: s.venue,
        "volume": s.volume,
        "number": s.number,
        "pages": s.pages,
        "doi": s.doi,
        "eprint": s.arxiv,
        "archivePrefix": "arXiv" if s.arxiv else "",
    }
    lines = [f"  {key} = {{{_escaped(value)}}}," for key, value in fields.items() if value]
    return "\n".join([f"@{venue}{{{s.slug}_{s.year},", *lines, "}"])


def _is_proceedings(venue: str) -> bool:
    return venue in PROCEEDINGS or venue.endswith(("Workshop", "Workshops")) or "Conference" in venue


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _slug(given: str) -> str:
    slug = _known_slug(given)
    if slug is None:
        from hollowbone.models.base import cards

        raise unknown("system, model or run folder", given, [*catalogue(), *cards()])
    return slug


def _known_slug(name: str) -> str | None:
    if name in catalogue():
        return name
    from hollowbone.models.base import cards  # only now: this imports PyTorch

    card = cards().get(name.partition("@")[0])
    return card.system if card else None


def _run_slugs(folder: Path) -> list[str]:
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        config, settings = result["model"]["config"], result["settings"]
        names = [config["space"], config.get("name"), *settings["candidates"].split(","), settings["reference"]]
        names += [settings["start"], settings["teacher"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is no finished run: it has no result.json that says which models it used") from error
    slugs = [slug for name in names if name and (slug := _known_slug(name.strip()))]
    return list(dict.fromkeys(slugs))
