"""Errors that are sentences to the user.

Every mistake a user can make (a path, a name, a budget, a file of the wrong kind) is raised as a `UserError` at the door
where the value enters. The command line prints its sentence and exits with code 2; nothing else is caught there, so a
traceback always means a defect of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HollowboneError(Exception):
    """Base of every error that hollowbone raises on purpose."""


class UserError(HollowboneError):
    """The user can mend this: the sentence says what was wrong, what was given and what would do."""


class BudgetImpossible(UserError):
    """No candidate meets the budget; the sentence gives the fastest candidate's measured figure."""


class NotMeasurable(UserError):
    """The figure cannot be taken on this device; the sentence says why."""


class ReplayDiverged(HollowboneError):
    """A replayed run computed something else than its journal says."""


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a name that does not exist, naming the nearest ones that do.

    >>> str(unknown("model", "mobilenetv2_10", ["mobilenetv2_100", "efficientformer_l1"]))
    "there is no model named 'mobilenetv2_10'; the nearest is 'mobilenetv2_100'"
    """
    known = sorted(known)
    near = get_close_matches(given, known, n=3, cutoff=0.5)
    if near:
        hint = f"the nearest is {near[0]!r}" if len(near) == 1 else "near are " + ", ".join(map(repr, near))
    else:
        hint = "known are " + ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return UserError(f"there is no {kind} named {given!r}; {hint}")
