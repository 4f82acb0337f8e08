"""The page as text: everything escaped, nothing fetched, no figure without where it was taken."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hollowbone.errors import UserError
from hollowbone.report.page import render, write_report
from tests.report import samples


class Outline(HTMLParser):
    """Tags with their attributes, the text of each section, and the unbalanced tags."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._section = "header"
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["aria-labelledby"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts.append(data)
        elif "style" not in self._open:
            self.texts[self._section] = self.texts.get(self._section, "") + data


@pytest.fixture(scope="module")
def full() -> Outline:
    return Outline(render(samples.full()))


@pytest.fixture(scope="module")
def bare() -> Outline:
    return Outline(render(samples.bare()))


def test_the_headline_says_whether_the_budget_is_met(full: Outline, bare: Outline) -> None:
    assert "Budget met" in full.texts["header"]
    assert "NOT met" not in full.texts["header"]
    assert "Budget NOT met" in bare.texts["header"]
    assert "size 1.23 MB is over 1MB" in bare.texts["header"]


def test_names_of_classes_and_files_are_text_never_markup(full: Outline) -> None:
    for name in samples.CLASSES:
        assert name in full.texts["data"]
        assert name in full.texts["misclassified"]
    assert "Größe & Maß/kaputt<1>.png" in full.texts["data"]
    assert [tag for tag, _ in full.tags].count("script") == 3
    assert all(attributes["src"].startswith("data:image/png;base64,") for tag, attributes in full.tags if tag == "img")


def test_the_figures_are_json_that_cannot_close_its_element(full: Outline) -> None:
    text = full.scripts[0]
    assert "<" not in text
    assert set(json.loads(text)) == {"tried", "slimming", "training", "waterline", "confusion"}


def test_every_figure_has_its_place_and_a_description(full: Outline) -> None:
    places = {a["id"]: a for tag, a in full.tags if tag == "div" and (a.get("id") or "").startswith("figure-")}
    assert set(places) == {f"figure-{name}" for name in json.loads(full.scripts[0])}
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in places.values())
    assert all(len(a["alt"] or "") > 10 for tag, a in full.tags if tag == "img")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("header", ("local", "onnxruntime", "1 thread", "1 seed", "n = 600", "report split")),
        ("cost", ("local", "onnxruntime", "1 thread", "1 seed", "n = 600", "report split", "441 runs", "select split")),
        ("tried", ("local", "onnxruntime", "1 thread", "1 seed", "n = 255", "select split")),
        ("slimming", ("local", "onnxruntime", "1 thread", "1 seed", "select split", "Predicted")),
        ("halving", ("local", "onnxruntime", "1 thread", "1 seed", "n = 255", "select split")),
        ("training", ("PyTorch", "2 threads", "1 seed", "n = 255", "select split")),
        ("export", ("local", "onnxruntime", "1 thread", "1 seed", "n = 255", "select split", "loses 1.86 points")),
        ("waterline", ("PyTorch", "1 thread", "1 seed", "not the times of the shipped file")),
        ("confusion", ("local", "onnxruntime", "1 thread", "1 seed", "n = 600", "report split")),
        ("misclassified", ("local", "onnxruntime", "1 thread", "1 seed", "n = 600", "report split")),
    ],
)
def test_no_section_gives_figures_without_where_they_were_taken(full: Outline, section: str, said: tuple[str, ...]) -> None:
    assert [words for words in said if words not in " ".join(full.texts[section].split())] == []


def test_metrics_stand_beside_the_reference_with_intervals(full: Outline, bare: Outline) -> None:
    text = full.texts["cost"]
    assert all(words in text for words in ("92.50%", "90.09 to 94.36", "88.17%", "85.37 to 90.49", "+4.33 points", "0.472×"))
    assert "not trained in this run" in bare.texts["cost"]
    assert "the runner has no clock" in bare.texts["cost"]


def test_the_slimming_table_shows_what_was_not_taken_too(full: Outline) -> None:
    path = samples.full()["slimming"]["path"]
    text = full.texts["slimming"]
    assert all(action["detail"] in text for step in path for action in step["considered"])
    assert text.count("taken") >= len(path)
    assert "not scored: saves nothing" in text


def test_attending_blocks_of_the_architecture_are_marked(full: Outline) -> None:
    assert "3 blocks, 2 attending" in " ".join(full.texts["architecture"].split())
    assert sum(tag == "b" and a.get("class") == "attends" for tag, a in full.tags) == 2


def test_a_sparse_result_says_what_there_was_not(bare: Outline) -> None:
    assert "slimming" not in bare.texts
    assert "one candidate" in bare.texts["halving"]
    assert "not tried: no eight-bit tool for executorch" in bare.texts["export"]
    assert "not verified" in bare.texts["export"]
    assert "No layers were timed" in bare.texts["waterline"]
    assert "no wrong answer" in bare.texts["confusion"]


def test_command_and_hashes_are_there_to_repeat_it(full: Outline) -> None:
    result = samples.full()
    assert result["command"] in full.texts["repeat"]
    assert result["model"]["sha256"] in full.texts["repeat"]
    assert result["model"]["weights_sha256"] in full.texts["repeat"]


def test_nothing_on_the_page_names_another_address(full: Outline) -> None:
    links = [a.get(key) or "" for _, a in full.tags for key in ("href", "src", "srcset", "action") if key in a]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    targets = {a["id"] for _, a in full.tags if "id" in a}
    assert all(link[1:] in targets for link in links if link.startswith("#"))
    [policy] = [a["content"] for tag, a in full.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy or "")
    assert not re.search(r"url\(|@import", (Path(render.__code__.co_filename).parent / "templates" / "report.css").read_text())


def test_a_file_name_that_is_no_utf8_is_written_out(tmp_path: Path) -> None:
    write_report(samples.full(), tmp_path / "report.html")
    assert "bytes/\\udcff.jpg" in html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_an_earlier_report_survives_what_cannot_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("earlier")
    result = samples.full()
    result["tried"][0]["latency_ms"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(result, path)
    assert path.read_text() == "earlier"


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(samples.bare(), tmp_path / "file" / "report.html")


def test_warning_stands_in_the_header_and_only_where_there_is_one() -> None:
    warned = render({**samples.full(), "warnings": ["learnt <nothing>"]})
    assert "learnt &lt;nothing&gt;" in warned.split("</header>")[0]
    assert 'class="warning"' not in render(samples.full())
