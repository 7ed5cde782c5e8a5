"""The public face: its names, and that every Python block of the README and the pages runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import everloop

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [("steps=5_000", "steps=3"), ("hidden=512", "hidden=8"), ("length=256", "length=16"), ("=300", "=9")]


def test_public_names() -> None:
    assert set(everloop.__all__) == {
        "GRU",
        "LSTM",
        "RNN",
        "Bidirectional",
        "Cell",
        "EverloopError",
        "H",
        "I",
        "Recurrent",
        "Stack",
        "VariationalDropout",
        "WeightDrop",
        "Zoneout",
        "accelerate",
        "bias",
        "cells",
        "param",
        "size",
        "state",
    }
    for name in everloop.__all__:
        assert getattr(everloop, name) is not None


def shrunk(block: str) -> str:
    for large, small in SMALL:
        block = block.replace(large, small)
    return block


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shakespeare.txt").write_text("ROMEO: But soft, what light through yonder window breaks?\n" * 200)
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(shrunk(block), str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
