"""The pages that a script writes are what it writes today."""

from __future__ import annotations

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
    own = (DOCS / "your-own-cell.md").read_text(encoding="utf-8")
    assert own == made["with_operations"](own), again
