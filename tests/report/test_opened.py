"""What is read of a run folder, also where a run was killed while it wrote."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from everloop.errors import RunError
from everloop.report.opened import Opened

WHOLE = '{"split": "train", "step": 10, "loss": 1.5}'


def opened(folder: Path, metrics: str) -> Opened:
    (folder / "metrics.jsonl").write_text(metrics)
    run: Any = SimpleNamespace(folder=folder)
    nothing: Any = None
    return Opened(run, nothing, nothing)


@pytest.mark.parametrize("cut", [1, 12, len(WHOLE) - 1])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    found = opened(tmp_path, f"{WHOLE}\n{WHOLE[:cut]}").metrics
    assert found == [{"split": "train", "step": 10, "loss": 1.5}]


def test_a_line_before_it_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is no JSON"):
        _ = opened(tmp_path, f"{WHOLE}\n{WHOLE[:12]}\n{WHOLE}\n").metrics


def test_without_metrics_there_are_none(tmp_path: Path) -> None:
    assert opened(tmp_path, "").metrics == []
    run = opened(tmp_path, WHOLE)
    (tmp_path / "metrics.jsonl").unlink()
    assert run.metrics == []
