"""Reproductions: for each built system, one command that re-runs its paper's headline comparison and says what held here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hollowbone.errors import UserError, unknown

if TYPE_CHECKING:
    from hollowbone.reproduce.base import Reproduction
    from hollowbone.reproduce.verdict import Verdict

SYSTEMS: dict[str, str] = {
    "efficientformer": "hollowbone.reproduce.efficientformer",
    "mobilenetv2": "hollowbone.reproduce.mobilenetv2",
}
"""The module of each reproduction, which names it `REPRODUCTION`; one line a system."""

SCALES = ("laptop", "study", "paper")


def list_reproductions() -> list[str]:
    """Slugs of the systems that can be reproduced."""
    return sorted(SYSTEMS)


def get_reproduction(slug: str) -> Reproduction:
    """The reproduction of a system.

    Raises `UserError` for a slug that the catalogue does not have, naming the nearest, and for a system that is planned.
    """
    from hollowbone.catalogue import system

    found = system(slug)
    if slug not in SYSTEMS:
        said = "planned, not built" if found.status == "planned" else "built, but has no reproduction yet"
        raise UserError(f"{found.name} is {said}; what can be reproduced is {', '.join(list_reproductions())}")
    return import_module(SYSTEMS[slug]).REPRODUCTION


def reproduce(slug: str, scale: str = "laptop", *, out: str | Path | None = None) -> Verdict:
    """Re-run the headline comparison of a system and judge its claims one by one.

    `laptop` takes about a minute: what is exact (counts, identities, time ratios) is measured now, and what is learned is
    shown from the last study, with its date, machine and commit. `study` (some minutes) trains every arm with every seed;
    finished runs are kept in the cache folder, so the same call goes on where it was stopped. `paper` says what it would
    need. With `out` the verdict is also written there as JSON.

    Raises `UserError` for an unknown or planned system, an unknown scale, the scale `paper`, and an unwritable `out`.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    found = get_reproduction(slug)
    if scale == "paper":
        raise UserError(f"the scale 'paper' of {slug} needs {found.paper}; what runs here is 'laptop' and 'study'")
    if out is not None and Path(out).is_dir():
        raise UserError(f"out is the JSON file that the verdict is written to, and {out} is a folder")

    from hollowbone.files import write_json
    from hollowbone.reproduce.study import run_study, stored_study
    from hollowbone.reproduce.verdict import judged

    study = run_study(found) if scale == "study" else stored_study(slug)
    verdict = judged(found, scale, study)
    if out is not None:
        write_json(out, verdict.to_dict())
    return verdict


__all__ = ["SCALES", "SYSTEMS", "get_reproduction", "list_reproductions", "reproduce"]
