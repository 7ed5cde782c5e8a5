"""The README in Chinese says what the English one says: the same headings, code, links, tables, names and figures."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
NAME = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)*", re.ASCII)
ROW = re.compile(r"^(?:\||- |\*\*\d)", re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def sections(name: str) -> list[str]:
    return re.split(r"^(?=#+ )", CODE.sub("", page(name)), flags=re.MULTILINE)


def levels(name: str) -> list[str]:
    return re.findall(r"^#+(?= )", CODE.sub("", page(name)), re.MULTILINE)


def test_code_blocks_are_the_same_to_the_byte() -> None:
    assert CODE.findall(page("README.zh.md")) == CODE.findall(page("README.md"))
    assert CODE.findall(page("README.md"))


def test_headings_have_the_same_levels() -> None:
    assert levels("README.zh.md") == levels("README.md")


def test_each_links_to_the_other_at_its_top() -> None:
    assert LINK.findall(page("README.md"))[0] == "README.zh.md"
    assert LINK.findall(page("README.zh.md"))[0] == "README.md"


def facts(text: str) -> dict[str, list[str]]:
    """Return what does not depend on the language."""
    return {
        "links": sorted(link for link in LINK.findall(text) if link not in ("README.md", "README.zh.md")),
        "names": sorted(" ".join(name.split()) for name in NAME.findall(text)),
        "figures": sorted(FIGURE.findall(NAME.sub("", text))),
        "rows and points": ROW.findall(text),
    }


def test_each_section_says_the_same() -> None:
    for english, chinese in zip(sections("README.md"), sections("README.zh.md"), strict=True):
        assert facts(chinese) == facts(english), chinese.splitlines()[0]


def test_the_version_to_install_is_the_one_that_the_constraints_pin() -> None:
    pinned = re.search(r"^torch==\S+$", page("constraints.txt"), re.MULTILINE)
    assert pinned is not None
    assert re.findall(r"torch==\S+", page("README.md")) == [pinned[0]]
