"""The pages in a real browser: no error, no request, no sideways scroll; the tree opens by keys; both themes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser, browsing, installed
from tests.report.runs import KINDS

PHONE = 360


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = installed()
    if binary is None:
        pytest.skip("no browser here: the package chromium of a system has one")
    with browsing(binary, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_quiet_and_fits_a_phone(pages: dict[str, Path], browser: Browser, kind: str) -> None:
    for width, dark in ((1200, False), (PHONE, True)):
        browser.open(pages[kind], width=width, dark=dark)
        assert browser.errors == []
        assert browser.requests == [pages[kind].as_uri()], "a page needs nothing but itself"
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("document.title") == str(pages[kind].with_suffix("")), "no script of the data has run"
        assert browser.run("document.scripts.length") == 1
        assert browser.run("document.querySelectorAll('main > section > h2').length") == 15


def test_curves_and_examples_fit_a_phone_with_their_names(pages: dict[str, Path], browser: Browser) -> None:
    fits = "e => e.clientWidth > 0 && e.scrollWidth <= e.clientWidth"
    names = "[...document.querySelectorAll('figure .narrow text')].map(e => e.getBoundingClientRect().right)"
    for kind in ("language-model", "translator"):
        browser.open(pages[kind], width=PHONE)
        curves = "[...document.querySelectorAll('figure .narrow')]"
        assert browser.run(f"{curves}.length") == 3
        assert browser.run(f"{curves}.every({fits})")
        assert max(browser.run(names)) <= PHONE
        assert browser.run("[...document.querySelectorAll('.wide')].every(e => e.clientWidth === 0)")
        assert browser.run(f"[...document.querySelectorAll('#examples .scroll')].every({fits})")
        assert browser.run("getComputedStyle(document.querySelector('.examples td'), '::before').content") != "none"
        browser.open(pages[kind])
        assert browser.run(f"{curves}.every(e => e.clientWidth === 0)")
        assert browser.run("[...document.querySelectorAll('.wide')].every(e => e.clientWidth > 0)")


@pytest.mark.parametrize("kind", KINDS)
def test_text_in_figures_can_be_read_on_a_phone(pages: dict[str, Path], browser: Browser, kind: str) -> None:
    browser.open(pages[kind], width=390)
    shown = "[...document.querySelectorAll('figure svg')].filter(s => s.clientWidth > 0)"
    texts = "[...s.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize))"
    scale = "s.getBoundingClientRect().width / s.viewBox.baseVal.width"
    sizes = browser.run(f"{shown}.flatMap(s => {texts}.map(size => size * {scale}))")
    assert len(sizes) > 50
    assert min(sizes) > 9.9
    wide = f"{shown}.map(s => s.parentElement).filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.run(f"{wide}.length") > 0, "they scroll inside"
    assert browser.run("document.documentElement.scrollWidth") <= 390, "the page does not"


def test_colours_follow_the_scheme(pages: dict[str, Path], browser: Browser) -> None:
    colours = []
    for dark in (False, True):
        browser.open(pages["translator"], dark=dark)
        body = browser.run("getComputedStyle(document.body).backgroundColor")
        line = browser.run("getComputedStyle(document.querySelector('#training svg polyline')).stroke")
        cells = "[...document.querySelectorAll('#attention svg rect')].map(one => getComputedStyle(one).fill)"
        heat = browser.run(f"{cells}.slice(1)")  # the first is the paper
        assert len(heat) > 4
        colours.append((body, line, *heat))
    assert all(light != dark for light, dark in zip(*colours, strict=True)), colours
    assert [body for body, *_ in colours] == ["rgb(255, 255, 255)", "rgb(18, 24, 31)"]


def test_the_tree_opens_by_keys_and_by_its_buttons(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["language-model"])
    count = "document.querySelectorAll('.tree details[open]').length"
    assert browser.run(count) == 0
    browser.run("document.querySelector('.tree details:has(details) > summary').focus()")
    browser.press("Enter")
    assert browser.run(count) == 1
    browser.press("Tab")  # to the first branch inside
    assert browser.run("document.activeElement.matches('.tree details details > summary')")
    browser.press(" ")
    assert browser.run(count) == 2
    browser.run("document.querySelector('button[data-open=yes]').focus()")
    browser.press("Enter")
    assert browser.run(count) == browser.run("document.querySelectorAll('.tree details').length") > 2
    browser.run("document.querySelector('button[data-open=no]').click()")
    assert browser.run(count) == 0


def test_all_that_moves_can_be_reached_by_the_keyboard(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["classifier"], width=PHONE)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    scrolled = "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
    scrolled += "getComputedStyle(e).overflowX === 'auto')"
    assert browser.run(f"{scrolled}.length") > 0
    assert browser.run(f"{scrolled}.filter(e => e.tabIndex < 0 && e.tagName !== 'PRE').length") == 0
    assert browser.run("[...document.querySelectorAll('[tabindex]')].every(e => e.getAttribute('aria-label'))")


def test_paper_is_white(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["tagger"], dark=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[scheme])
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="", features=[scheme])
