"""The page in a real browser: silent, offline, readable on a telephone and on a desk, by day and by night."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hollowbone.report.page import write_report
from tests.report import samples
from tests.support import needs

pytestmark = needs("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LEAST_CONTRAST = 4.5
"""Of WCAG 2 AA, for text of normal size."""

CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const luminance = (colour) => colour.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0.99) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest('script, noscript, .heatmaplayer') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const text = rgba(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(text), luminance(background(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(samples.full(), path)
    return path.as_uri()


def _open(browser: Any, address: str, width: int = 1400, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """The page with its figures drawn, what it said on the console, and what it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("html[data-drawn]", state="attached")
    return page, said, asked


def _until(page: Any, condition: str) -> None:
    """Wait up to ten seconds; asked from outside, since the page's policy forbids it to evaluate text."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_readable_silent_and_offline(browser: Any, address: str, width: int, scheme: str) -> None:
    page, said, asked = _open(browser, address, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert page.locator(".plot svg.main-svg").count() >= 5
    wide = "[...document.querySelectorAll('.plot')].filter((p) => p.querySelector('svg').clientWidth > p.clientWidth).length"
    assert page.evaluate(wide) == 0
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert [pair for pair in contrasts if pair[0] < LEAST_CONTRAST] == []
    page.mouse.wheel(0, 20_000)
    assert said == []
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    page.close()


def test_the_pointer_over_a_point_shows_what_it_is(browser: Any, address: str) -> None:
    page, _, _ = _open(browser, address)
    plot = page.locator("#figure-tried")
    plot.scroll_into_view_if_needed()
    # The page's own axes say where the shipped file's mark lies.
    x, y = page.evaluate("""() => {
      const plot = document.getElementById('figure-tried');
      const { xaxis, yaxis } = plot._fullLayout;
      const box = plot.getBoundingClientRect();
      return [box.left + xaxis._offset + xaxis.d2p(0.4114), box.top + yaxis._offset + yaxis.d2p(91.83)];
    }""")
    page.mouse.move(x, y)
    label = plot.locator(".hoverlayer .hovertext")
    label.wait_for()
    text = label.text_content()
    assert "efficientformer" in text
    assert "stage: shipped" in text
    assert "0.411 ms, measured" in text
    assert "91.83% on select" in text
    page.close()


def test_hostile_names_are_shown_as_they_are(browser: Any, address: str) -> None:
    page, _, _ = _open(browser, address)
    shown = page.evaluate("[...document.querySelectorAll('#figure-confusion .ytick text')].map((t) => t.textContent)")
    assert sorted(shown) == sorted(name if len(name) <= 14 else name[:13] + "…" for name in samples.CLASSES)
    page.close()


def test_figures_follow_a_change_of_scheme_and_of_width(browser: Any, address: str) -> None:
    page, _, _ = _open(browser, address)
    colour = "getComputedStyle(document.querySelector('#figure-tried .xtick text')).fill"
    by_day = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    _until(page, f"{colour} !== '{by_day}'")
    assert page.evaluate(f"{colour} === getComputedStyle(document.body).color")
    page.set_viewport_size({"width": 400, "height": 800})
    _until(page, "document.querySelector('#figure-tried svg').clientWidth < 400")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.close()


def test_a_sparse_result_draws_without_error(browser: Any, tmp_path: Path) -> None:
    write_report(samples.bare(), tmp_path / "report.html")
    page, said, _ = _open(browser, (tmp_path / "report.html").as_uri(), 400)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.close()
