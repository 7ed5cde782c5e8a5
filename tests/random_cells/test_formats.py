"""Random cells in bfloat16, float16 and int8 against float64, within what these formats explain."""

from __future__ import annotations

from typing import Any

import pytest

from everloop.compiler.targets.llvm import gemm
from tests.diagnose.test_agree_in_less import spoil_products
from tests.random_cells.campaign import Tally
from tests.random_cells.formats import run

CELLS = 16


@pytest.mark.parametrize("form", ["bfloat16", "float16", "int8"])
def test_a_random_cell_is_right_as_the_format_allows(form: Any) -> None:
    total = sum(run(7, range(CELLS), form), Tally())
    assert not total.failures, total.failures
    assert total.compiled > CELLS // 2


@pytest.mark.parametrize("form", ["bfloat16", "float16", "int8"])
def test_a_wrong_product_is_seen(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_products(monkeypatch, 1.1)
    right = gemm.linear
    monkeypatch.setattr(gemm, "linear", lambda *args: right(*args) * 1.1)
    assert sum(run(7, range(4), form), Tally()).failures
