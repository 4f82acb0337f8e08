"""`report.html`: one file, readable without a network, drawn from what `result.json` holds and from nothing else.

Every text of the user's (names of classes and files, the command) is escaped by the template engine, figures travel as JSON
that cannot close its element, and the page's own policy forbids the browser any request.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hollowbone.files import write_text
from hollowbone.measure.units import human
from hollowbone.report import sections
from hollowbone.report.charts import figures
from hollowbone.report.words import Words, of_cost, of_latency, of_metric, of_select, plural, where

TEMPLATES = Path(__file__).parent / "templates"


def write_report(result: dict[str, Any], path: str | Path) -> None:
    """Write the page of a result (the dictionary of `result.json`) to `path`, atomically.

    Raises `UserError` where the file cannot be written.
    """
    # A file name that is not UTF-8 reaches us with surrogates in it; they are written out, not lost.
    write_text(path, render(result).encode("utf-8", "backslashreplace").decode())


def render(result: dict[str, Any]) -> str:
    """The page as HTML."""
    words = Words.of(result)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            r=result,
            w=words,
            figures=figures(result, words),
            limits=sections.limits(result),
            costs=sections.costs(result, words),
            metrics=sections.metrics(result, words),
            architecture=sections.architecture(result),
            halving=sections.halving(result, words),
            steps=sections.steps(result, words),
            layers=sections.layers(result),
            slowest=sections.SLOWEST,
            confused=sections.confused(result),
            classes=sections.classes(result),
            on_latency=of_latency(result),
            on_select=of_select(result),
            css=_asset("report.css"),
            js=_asset("report.js"),
            plotly=_plotly(),
        )
    )


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "of_cost": of_cost,
        "of_metric": of_metric,
        "where": where,
        "plural": plural,
        "fact": _fact,
        "human": human,
    }
    return environment


def _fact(value: Any) -> str:
    """A value of a configuration, a recipe or a device's facts, as a person would write it."""
    match value:
        case None:
            return "not known"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(_fact, value)) or "none"
        case dict():
            return ", ".join(f"{key}: {_fact(inner)}" for key, inner in value.items())
        case _:
            return str(value)


def _asset(name: str) -> Any:
    from markupsafe import Markup

    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def _plotly() -> Any:
    """plotly.js, safe inside a script element."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script"))
