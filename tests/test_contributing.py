"""CONTRIBUTING.md: each file it names is there, and to add something takes no more files than it did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from everloop import cells
from everloop.data.readers import formats
from everloop.models import kind

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FILES = {
    title: re.findall(r"^- `([^`]+)`: ", section, re.MULTILINE)
    for title, section in re.findall(r"^## (An? .*)\n((?:(?!## ).*\n)*)", TEXT, re.MULTILINE)
}
AT_MOST = {
    "An operation": 2,
    "A cell": 4,
    "A target": 3,
    "A dtype": 2,
    "An option": 1,
    "A kind of model": 6,
    "A reader": 2,
    "A benchmark": 2,
    "A recipe": 2,
    "A lesson": 2,
}


def test_no_list_grows() -> None:
    assert {title: len(files) for title, files in FILES.items()} == AT_MOST


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/.-]+(?:\.\w+|/))`", TEXT))))
def test_what_is_named_is_there(name: str) -> None:
    found = list(ROOT.glob(name.replace("NAME/target", "llvm/target").replace("NAME", "*")))
    assert found, f"CONTRIBUTING.md names {name}, which is not there"


@pytest.mark.parametrize(
    ("names", "file"),
    [
        (kind.BUILT_IN, "models/kind.py"),
        (cells.names(), "cells/named.py"),
        ([ending for form in formats.FORMATS for ending in form.endings], "data/readers/formats.py"),
    ],
    ids=["kinds of models", "cells", "file formats"],
)
def test_one_file_alone_lists_what_there_is(names: Sequence[str], file: str) -> None:
    listing = [
        path.relative_to(ROOT / "everloop").as_posix()
        for path in (ROOT / "everloop").rglob("*.py")
        if sum(f'"{name}"' in path.read_text("utf-8") for name in names) > len(names) / 2
    ]
    assert listing == [file]
