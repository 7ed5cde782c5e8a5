"""The pages that a script writes are what it writes today."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from everloop.compiler.targets import llvm

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_the_compilers_page_is_what_the_compiler_prints() -> None:
    made = runpy.run_path(str(DOCS / "make.py"))
    again = "run `python docs/make.py`"
    assert (DOCS / "compiler.md").read_text(encoding="utf-8") == made["page"](), again
    assert (DOCS / "cells.md").read_text(encoding="utf-8") == made["table_of_cells"](), again
    own = (DOCS / "your-own-cell.md").read_text(encoding="utf-8")
    assert own == made["with_operations"](own), again


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_the_picture_of_the_house_is_what_the_code_says() -> None:
    made = runpy.run_path(str(DOCS / "architecture.py"))
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert text == made["page"](text), "run `python docs/architecture.py`"


def test_the_page_of_the_house_names_files_that_are_there() -> None:
    missing, room, house = [], "", DOCS.parent / "everloop"
    for line in (DOCS / "architecture.md").read_text(encoding="utf-8").splitlines():
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", line):
            room = name if (house / name).is_dir() else room  # files are named without the folder told before
            homes = (DOCS.parent, house, house / room)
            missing += [] if any((home / name).exists() for home in homes) else [name]
    assert missing == []
