"""The course: both editions say the same, links lead somewhere, and what is printed is what the code prints today."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from everloop.compiler.targets import llvm

LEARN = Path(__file__).parent.parent / "docs" / "learn"
MADE: dict[str, Any] = runpy.run_path(str(LEARN / "make.py"))
LESSONS: list[Path] = MADE["lessons"]()
PAIRS = [(lesson, lesson.with_suffix(".zh.md")) for lesson in [*LESSONS, LEARN / "README.md"]]
PAGES = [page for pair in PAIRS for page in pair]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$[^$\n]+\$")
AGAIN = "run `python docs/learn/make.py`"


def name(path: Any) -> str:
    return path.name if isinstance(path, Path) else ""


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def other(page: Path) -> str:
    """Return the name of the other edition of a page."""
    stem = page.name.partition(".")[0]
    return f"{stem}.md" if page.name.endswith(".zh.md") else f"{stem}.zh.md"


def without_spans(text: str) -> str:
    """Return a text without formulas on lines of their own and without code in lines."""
    return re.sub(r"^\$\$.*?^\$\$$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_both_editions_have_the_same_code_formulas_headings_and_figures(english: Path, chinese: Path) -> None:
    a, b = (page.read_text(encoding="utf-8") for page in (english, chinese))
    assert FENCE.findall(a) == FENCE.findall(b)
    a, b = prose(english), prose(chinese)
    for same in (r"^\$\$.*?^\$\$$", r"^#+(?= )", r"^<!--.*?-->$", r"(?<=\]\()figures/[^)]*", r"^</?details>$"):
        found = [re.findall(same, text, re.MULTILINE | re.DOTALL) for text in (a, b)]
        assert found[0] == found[1], same
    assert sorted(INLINE.findall(without_spans(a))) == sorted(INLINE.findall(without_spans(b)))
    targets = [sorted(set(re.findall(r"\]\((http[^)]*)\)", text))) for text in (a, b)]
    assert targets[0] == targets[1]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_formulas_stand_where_github_finds_them(page: Path) -> None:
    for line in without_spans(prose(page)).splitlines():
        rest = re.sub(r"(?<!\S)\$[^$\s](?:[^$]*[^$\s])?\$(?=[\s.,;:?!)，。；：、？！）]|$)", "", line)
        assert "$" not in rest, f"a space before, and a space or a mark behind: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", prose(page))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
    chinese, local = page.name.endswith(".zh.md"), [link for link in links if re.fullmatch(r"[\w.-]+\.md", link)]
    assert {link for link in local if link.endswith(".zh.md") != chinese} == {other(page)}


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@pytest.mark.parametrize("lesson", LESSONS, ids=name)
def test_a_lesson_is_what_its_code_prints_and_draws(lesson: Path) -> None:
    for path, text in MADE["made"](lesson).items():
        assert path.exists(), f"{path.name} is missing: {AGAIN}"
        written = path.read_text(encoding="utf-8")
        assert MADE["alike"](text, written), f"{path.name}: {AGAIN}"


def test_the_index_lists_all_lessons() -> None:
    for page in PAIRS[-1]:
        assert page.read_text(encoding="utf-8") == MADE["index"](page), AGAIN


def test_no_figure_is_left_over() -> None:
    used = {link for page in PAGES for link in re.findall(r"\]\((figures/[^)]*)\)", page.read_text(encoding="utf-8"))}
    assert {f"figures/{path.name}" for path in (LEARN / "figures").iterdir()} == used
