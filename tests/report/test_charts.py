"""The figures as plotly JSON: what is in the result is in the figure, and nothing that a name says is read as HTML."""

from __future__ import annotations

import pytest

from hollowbone.report import charts
from hollowbone.report.words import Words
from tests.report import samples


def test_every_point_tried_is_in_the_plot_and_says_whether_it_was_measured() -> None:
    result = samples.full()
    traces = charts.tried(result, Words.of(result))["data"]
    assert sorted(x for t in traces for x in t["x"]) == sorted(p["latency_ms"] for p in result["tried"])
    by_name = {t["name"]: t for t in traces}
    assert all("predicted" in text for text in by_name["slimming (predicted)"]["hovertext"])
    [shipped] = by_name["shipped file"]["hovertext"]
    assert samples.NAME in shipped.replace("<br>", " ")
    assert "0.411 ms, measured" in shipped
    assert "91.83% on select after 12 epochs" in shipped


def test_what_was_only_timed_has_no_place_on_the_axis_of_accuracy() -> None:
    result = samples.full()
    figure = charts.tried(result, Words.of(result))
    [timed] = [t for t in figure["data"] if t["name"] == "timed only"]
    assert len(timed["x"]) == 3
    assert timed["yaxis"] == "y2"
    assert all("not scored" in text and "predicted before" in text for text in timed["hovertext"])


def test_the_budget_line_stands_at_the_absolute_limit_of_a_relative_budget() -> None:
    result = samples.full()
    lines = [s for s in charts.tried(result, Words.of(result))["layout"]["shapes"] if s["type"] == "line"]
    assert [(line["x0"], line["x1"]) for line in lines] == [(0.43565, 0.43565)]


def test_a_budget_without_latency_draws_no_line() -> None:
    result = samples.full()
    result["budget"]["limits"] = result["budget"]["limits"][1:]
    assert charts.tried(result, Words.of(result))["layout"]["shapes"] == []


def test_latencies_far_apart_share_a_logarithmic_axis_with_the_limit_in_view() -> None:
    result = samples.full()
    result["tried"][0]["latency_ms"] = 40.0
    layout = charts.tried(result, Words.of(result))["layout"]
    low, high = layout["xaxis"]["range"]
    assert layout["xaxis"]["type"] == "log"
    assert low < layout["annotations"][0]["x"] < high


def test_slimming_starts_where_the_first_step_began() -> None:
    result = samples.full()
    way = charts.slimming(result, Words.of(result))["data"][0]
    path = result["slimming"]["path"]
    assert way["x"] == [1.2, *(step["after"] for step in path)]
    assert way["y"][0] == pytest.approx(100 * (path[0]["score"] + path[0]["drop"]))


def test_whiskers_of_the_waterline_end_at_what_is_attainable() -> None:
    result = samples.full()
    layers = {row["name"]: row for row in result["waterline"]}
    for trace in charts.waterline(result)["data"][1:]:
        for y, whisker, text in zip(trace["y"], trace["error_y"]["array"], trace["hovertext"], strict=True):
            row = layers[text.split("<b>")[1].split("</b>")[0]]
            assert y == pytest.approx(2 * row["macs"] / row["measured_ms"] / 1e6)
            assert y + whisker == pytest.approx(2 * row["macs"] / row["attainable_ms"] / 1e6)
            assert row["memory_bound"] == ("below" in trace["name"])


def test_rows_of_the_confusion_matrix_are_shares_and_its_labels_counts() -> None:
    result = samples.full()
    [heat] = charts.confusion(result)["data"]
    assert [sum(row) for row in heat["z"]] == pytest.approx([1.0] * 6)
    assert heat["text"][0][0] == str(result["confusion"][0][0])


def test_many_classes_thin_out_the_names_but_not_the_hover() -> None:
    result = samples.full()
    names = [f"class {i}" for i in range(100)]
    result["model"]["classes"] = names
    result["confusion"] = [[int(i == j) for j in range(100)] for i in range(100)]
    figure = charts.confusion(result)
    assert len(figure["layout"]["xaxis"]["ticktext"]) <= charts.TICKS
    assert "class 99" in figure["data"][0]["hovertext"][99][99]


def test_names_are_never_html_to_plotly() -> None:
    result = samples.full()
    figure = charts.confusion(result)
    texts = [*figure["layout"]["xaxis"]["ticktext"], *(text for row in figure["data"][0]["hovertext"] for text in row)]
    left = "".join(texts).replace("<b>", "").replace("</b>", "").replace("<br>", "")
    assert "<" not in left
    assert "&lt;script&gt;" in left


def test_what_was_not_found_has_no_figure() -> None:
    result = samples.bare()
    assert set(charts.figures(result, Words.of(result))) == {"confusion"}
