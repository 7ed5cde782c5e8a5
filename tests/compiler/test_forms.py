"""What the documentation says about forms of a step is so: each runs compiled as on eager, or says why it does not."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.compiler.targets import llvm
from everloop.diagnose import agree
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
FORMS: list[Any] = list(runpy.run_path(str(Path(__file__).parents[2] / "docs" / "forms.py"))["FORMS"])


def named(form: Any) -> str:
    return str(form.what)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.says], ids=named)
def test_compiled_it_is_what_it_is_on_eager(form: Any) -> None:
    torch.manual_seed(0)
    layer = Recurrent(form.kind()(3, 6)).double()
    found = agree(layer, torch.randn(4, 3, 3, dtype=torch.float64), lengths=[4, 0, 2])
    assert found, str(found)
    assert not found.absent


@pytest.mark.parametrize("form", [form for form in FORMS if form.says], ids=named)
def test_it_says_why_not_and_eager_runs_it(form: Any) -> None:
    batch = 1 if "[:, 0]" in form.code else 2  # Python asks for the value of one sequence
    cell, x = form.kind()(3, 6), torch.randn(2, batch, 3)
    assert form.says in form.reason()
    with pytest.raises(UnsupportedError):
        Recurrent(cell, target="llvm")(x)
    y, _ = Recurrent(cell, target="eager")(x)
    y.sum().backward()
    assert cell.W.grad.isfinite().all()


def test_dropout_in_evaluation_is_compiled() -> None:
    (form,) = (form for form in FORMS if form.what == "dropout inside")
    layer = Recurrent(form.kind()(3, 6)).eval()
    assert not agree(layer, torch.randn(4, 2, 3)).absent
