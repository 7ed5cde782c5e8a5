"""Random cells, in random calls, against the loop over single rows: four hundred, and five hundred more if slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.random_cells.campaign import Tally, run
from tests.random_cells.quick import cache_in

CHUNKS, QUICK, CELLS = 9, 4, 100


@pytest.mark.parametrize(
    "chunk", [*range(QUICK), *(pytest.param(k, marks=pytest.mark.slow) for k in range(QUICK, CHUNKS))]
)
def test_a_layer_computes_what_the_loop_does(chunk: int, tmp_path: Path) -> None:
    with cache_in(tmp_path):
        total = sum(run(2026, range(chunk * CELLS, (chunk + 1) * CELLS)), Tally())
    failures = "\n".join(f"# cell {number} of seed 2026\n{text}" for number, text in total.failures.items())
    assert not total.failures, failures
    assert total.share > 0.7, total.reasons
    assert total.void < 0.05 * CELLS
