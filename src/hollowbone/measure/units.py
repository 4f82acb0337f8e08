"""Units of the metrics: reading what a user types, and the shortest text that reads back as the same number.

All arithmetic is in fractions of what was typed, rounded once: `0.1us` is exactly the float nearest to 0.0001 ms, so that
a budget printed and read again is the same budget.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

from hollowbone.errors import UserError

_TIME = {"ms": Fraction(1), "us": Fraction(1, 1000), "s": Fraction(1000)}
_BYTES = {
    "B": Fraction(1),
    "kB": Fraction(10**3),
    "MB": Fraction(10**6),
    "GB": Fraction(10**9),
    "KiB": Fraction(2**10),
    "MiB": Fraction(2**20),
    "GiB": Fraction(2**30),
}
_COUNT = {"": Fraction(1), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9)}
_ENERGY = {"J": Fraction(1), "mJ": Fraction(1, 10**3), "uJ": Fraction(1, 10**6)}

UNITS: dict[str, dict[str, Fraction]] = {
    "latency": _TIME,
    "size": _BYTES,
    "params": _COUNT,
    "macs": _COUNT,
    "memory": _BYTES,
    "energy": _ENERGY,
}
"""Units of each metric, in multiples of its base unit (`cost.METRICS`); the base unit comes first."""

_SPELLINGS = {"µs": "us", "μs": "us", "µJ": "uJ", "μJ": "uJ", "KB": "kB", "K": "k"}
_VALUE = re.compile(r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*(?P<unit>[A-Za-zµμ×]*)")
_EXAMPLE = {"latency": "3ms", "size": "2MB", "params": "3.5M", "macs": "300M", "memory": "64MB", "energy": "5mJ"}


def shown(text: str) -> str:
    """The user's text as it appears inside a sentence: quoted, on one line, of bearable length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def example(metric: str) -> str:
    """A limit on the metric as a user would type it."""
    return f"{metric}<={_EXAMPLE[metric]}"


def parse_value(metric: str, text: str) -> tuple[float, bool]:
    """`3ms` as (number in the metric's base unit, False); `0.5x` as (0.5, True).

    Raises `UserError` for what is no number, is not finite, is not more than 0, or has a unit that the metric does not have.
    """
    match = _VALUE.fullmatch(text)
    if match is None or len(match["number"]) > 40:
        raise UserError(
            f"{shown(text)} is not a number with a unit: write a limit on {metric} like {example(metric)} or {metric}<=0.5x"
        )
    unit = _SPELLINGS.get(match["unit"], match["unit"])
    relative = unit in ("x", "×")
    factor = Fraction(1) if relative else _factor(metric, unit, match["number"])
    try:
        number = float(Fraction(match["number"]) * factor)
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise UserError(
            f"the limit on {metric} must be a finite number more than 0, not {shown(text)}: write for example {example(metric)}"
        )
    return number, relative


def _factor(metric: str, unit: str, number: str) -> Fraction:
    units = UNITS[metric]
    if unit in units:
        return units[unit]
    takes = ", ".join(u for u in units if u)
    if not unit:
        raise UserError(f"the limit {number} on {metric} needs a unit: {takes}, or x for a share of the reference")
    others = [m for m, table in UNITS.items() if unit in table]
    if others:
        raise UserError(f"{unit} is a unit of {' and '.join(others)}, not of {metric}; {metric} takes {takes}")
    same = [u for u in units if u.lower() == unit.lower()]
    hint = f"did you mean {same[0]}?" if same else f"{metric} takes {takes}"
    raise UserError(f"there is no unit {shown(unit)} of {metric}; {hint}")


def shortest(metric: str, number: float) -> str:
    """The shortest text that `parse_value` reads as exactly `number` base units of the metric.

    >>> shortest("size", 2e6), shortest("latency", 0.1), shortest("macs", 300774272)
    ('2MB', '0.1ms', '300774272')
    """
    exact = Fraction(Decimal(repr(float(number))))
    base = next(iter(UNITS[metric]))
    candidates = [_plain(float(number)) + base]
    for unit, factor in UNITS[metric].items():
        with suppress(OverflowError, UserError):  # a number at the edge of a float may not exist in this unit
            text = _plain(float(exact / factor)) + unit
            if parse_value(metric, text) == (number, False):
                candidates.append(text)
    return min(candidates, key=len)


def _plain(number: float) -> str:
    """`3.0` as `3`; other floats as Python writes them, which reads back exactly."""
    return repr(number).removesuffix(".0")


def share(number: float) -> str:
    """A relative limit as a user would type it: `0.5x`."""
    return _plain(number) + "x"


def human(metric: str, number: float | None) -> str:
    """A measured figure for people: three significant digits and the unit that fits; a dash where there is none.

    >>> human("latency", 0.08123), human("macs", 300774272), human("size", 1_934_000)
    ('0.0812 ms', '301 M', '1.93 MB')
    """
    if number is None:
        return "–"
    units = {u: f for u, f in UNITS[metric].items() if not u.endswith("iB")}
    if metric == "latency":
        units = {"ms": units["ms"]}  # one unit in a column of times reads better than three
    fitting = [u for u in sorted(units, key=lambda u: units[u]) if number >= units[u]]
    unit = fitting[-1] if fitting else min(units, key=lambda u: units[u])
    value = float(Fraction(number) / units[unit])
    text = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".rstrip()
