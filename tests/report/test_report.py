"""The page of a run: complete, the same each time, well formed, and nothing of the data becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.cli.options import CheckpointOptions
from everloop.errors import UnsupportedError
from everloop.kinds.examples import Example
from everloop.report import sections
from everloop.report.html import element, table
from everloop.report.opened import open_run
from everloop.report.page import missing
from everloop.report.report import report
from tests.report.runs import EVIL, KINDS, train, write_data

SECTIONS = [
    "findings",
    "training",
    "examples",
    "tree",
    "attention",
    "labels",
    "gradients",
    "gates",
    "states",
    "dependence",
    "network",
    "cells",
    "configuration",
    "data",
    "environment",
]
# what a kind has no content for, and says so
LACKS = {
    "language-model": {"attention", "labels"},
    "classifier": {"tree"},
    "tagger": {"tree", "attention"},
    "forecaster": {"tree", "attention", "labels"},
    "translator": {"labels"},
    "generator": {"attention", "labels"},
}


class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed, and remembers elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.missing: set[str | None] = set()
        self.filled: set[str | None] = set()
        self.section: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "section":
            self.section = given["id"]
        elif tag != "h2":
            self.filled.add(self.section)
        if given.get("class") == "missing":
            self.missing.add(self.section)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text("utf-8"))
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_is_there_or_says_why_not(pages: dict[str, Path], kind: str) -> None:
    reader = read(pages[kind])
    ids = [given["id"] for _, given in reader.elements if "id" in given]
    assert [one for one in ids if one in SECTIONS] == SECTIONS
    assert len(ids) == len(set(ids))
    assert reader.missing == LACKS[kind]
    assert reader.filled >= set(SECTIONS), "a title stands alone"
    links = {given["href"] for tag, given in reader.elements if tag == "a"}
    assert links == {f"#{name}" for name in [*SECTIONS, "content"]}
    pictures = [given for tag, given in reader.elements if tag == "svg"]
    assert len(pictures) >= 6
    assert all(given.get("aria-label") for given in pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_no_data_becomes_markup(pages: dict[str, Path], kind: str) -> None:
    text = pages[kind].read_text("utf-8")
    reader = read(pages[kind])
    assert text.count("<script") == 1
    assert EVIL not in text
    assert not {tag for tag, _ in reader.elements} & {"img", "iframe", "link", "object", "u"}
    assert not any(name.startswith("on") for _, given in reader.elements for name in given)
    outside = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s)>]+)', text)
    assert all(link.startswith("#") for link in outside)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_same_run_gives_the_same_page(pages: dict[str, Path]) -> None:
    for kind in ("language-model", "translator"):
        run = pages[kind].with_suffix("")
        assert report(open_run(run)) == pages[kind].read_text("utf-8")


def test_where_a_translator_writes_nothing_its_attention_is_over_the_data(pages: dict[str, Path]) -> None:
    opened = CheckpointOptions().opened(pages["translator"].with_suffix(""))
    silent = [Example("ein hund", wanted="a dog"), Example("zwei katzen", wanted="two cats", answer="a")]
    first, second = map(str, sections.attention(opened, silent, "valid"))
    assert "ein hund → a dog (in the data; the model writes nothing)" in first
    assert "zwei katzen → a<" in second
    with pytest.raises(UnsupportedError, match="nothing is written"):
        list(sections.attention(opened, [Example("ein hund")], "valid"))


def test_the_verb_writes_a_page_also_where_the_data_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    run = train("classifier", tmp_path)
    (tmp_path / "t.tsv").unlink()
    (run / "metrics.jsonl").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["report", "classifier"]) == 0
    assert capsys.readouterr().out == "classifier/report.html\n"
    page = tmp_path / "classifier" / "report.html"
    reader = read(page)
    gone = {"findings", "training", "examples", "labels", "gradients", "gates", "states", "dependence", "data"}
    assert reader.missing == {*gone, "tree", "attention"}
    assert "The data that the run was trained with is not there" in page.read_text("utf-8")
    assert main(["report", "nowhere"]) == 2
    assert "there is no such run folder" in capsys.readouterr().err

    def refused(path: Path, content: bytes) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("everloop.cli.report.write_atomically", refused)
    assert main(["report", "classifier"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "report.html cannot be written: Read-only file system; name a file elsewhere with --out" in said


def test_what_is_a_string_is_escaped() -> None:
    found = element("p", '<b>"&\0', element("b", "in"), data_x='"><', open=True, hidden=False, title=None, class_="c")
    assert str(found) == '<p data-x="&quot;&gt;&lt;" open class="c">&lt;b&gt;&quot;&amp;�<b>in</b></p>'
    assert '<th scope="row">&lt;</th><td>&gt;</td>' in str(table(["a", "b"], [["<", ">"]], "c"))
    assert str(missing("no data here.")) == '<p class="missing">No data here.</p>'


def test_where_a_run_was_trained_is_on_its_page(tmp_path: Path) -> None:
    write_data(tmp_path)
    run = train("classifier", tmp_path)
    for name, expected in (
        ("history.jsonl", "Where it was trained last"),
        ("gone", "does not say where it was trained"),
    ):
        history = run / "history.jsonl"
        assert main(["report", str(run), "--out", str(tmp_path / f"{name}.html")]) == 0
        assert expected in (tmp_path / f"{name}.html").read_text("utf-8")
        history.unlink(missing_ok=True)


@pytest.mark.parametrize("verb", [("report",), ("compare", "another")])
def test_a_page_ends_in_html(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb[0], "run", *verb[1:], "--out", "page.pdf"]) == 2
    assert "out is page.pdf; expected a name that ends in .html" in capsys.readouterr().err
