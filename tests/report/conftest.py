"""Runs of all kinds and their pages, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.cli.options import CheckpointOptions
from everloop.report.report import report
from tests.report.runs import KINDS, train, write_data


@pytest.fixture(scope="package")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    write_data(folder)
    found = {}
    for kind in KINDS:
        run = train(kind, folder)
        found[kind] = folder / f"{kind}.html"
        found[kind].write_text(report(CheckpointOptions().opened(run)), encoding="utf-8")
    return found
