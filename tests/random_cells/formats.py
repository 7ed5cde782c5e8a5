"""Runs one case in less than float32, bfloat16, float16 or int8, and tells what differs from float64."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from everloop import quantize
from everloop.cell import Cell
from everloop.diagnose import agree
from everloop.errors import CellError, OptionError, UnsupportedError
from everloop.layers.compare import rounding
from everloop.layers.recurrent import Recurrent
from tests.layers.test_quantize import allowed, each_output
from tests.random_cells.build import build
from tests.random_cells.campaign import Tally, drawn
from tests.random_cells.cases import Case
from tests.random_cells.check import Outcome
from tests.random_cells.quick import cache_in, unoptimised
from tests.random_cells.source import Drawn

Form = Literal["bfloat16", "float16", "int8"]


def run(seed: int, numbers: Iterable[int], form: Form) -> Iterator[Tally]:
    """Yield the tally of each cell in turn; void: what has no plan in this format, or no product."""
    with tempfile.TemporaryDirectory() as folder, cache_in(Path(folder)), unoptimised():
        for number in numbers:
            outcome = check(*drawn(seed, number), form)
            failures = {number: outcome.text} if outcome.kind == "wrong" else {}
            is_void = outcome.kind == "void"
            yield Tally(compiled=not is_void, void=is_void, failures=failures)


def check(cell: Drawn, case: Case, form: Form) -> Outcome:
    """Return whether a layer in this format computes what the step in float64 does, as the format allows.

    Each target is compared by `agree`. A layer in 8 bits is so compared with its own step in float64, and beside it
    with that of the floats it was made of, where both factors of each product are wrong at random.
    """
    call = build(cell, replace(case, double=False, batch_first=False, how="train"))
    layer, x = call.layer.eval(), call.x.detach()
    told: dict[str, Any] = {name: t.detach() for name, t in call.told.items()}
    time = {} if case.lengths is None else {"lengths": torch.tensor(case.lengths)}
    time |= {} if call.reset is None else {"reset": call.reset}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form != "int8":
                return _agreed(layer, x, told, time, getattr(torch, form))
            small = quantize(layer, lambda own: own(x, **told))
            text = _told(small, x, told, time) or _noisy(layer, small, x, told)
    except (CellError, OptionError, UnsupportedError) as error:
        return Outcome("void", text=f"{type(error).__name__}: {error}")
    return Outcome("wrong" if text else "right", text=text)


def _agreed(layer: Recurrent, x: Tensor, told: dict[str, Any], time: dict[str, Any], low: torch.dtype) -> Outcome:
    told = {name: t.to(low) if t.is_floating_point() else t for name, t in told.items()}
    with _constants(low):
        text = _told(layer.to(low), x.to(low), told, time)
    return Outcome("wrong" if text else "right", text=text)


def _told(layer: Any, x: Tensor, told: dict[str, Any], time: dict[str, Any]) -> str:
    """Return what does not agree; numbers of a step are of the size of 1, and what is left of them may be less."""
    least = rounding(x.dtype) * max(len(x), 1) ** 0.5
    found = agree(layer, x, reference="float64", **time, **told)
    return "\n".join(str(c) for c in found.comparisons if not c.difference <= max(c.allowed, least))


def _noisy(layer: Recurrent, small: Any, x: Tensor, told: dict[str, Any]) -> str:
    if not isinstance(layer.cell, Cell) or layer.start is not None:
        return ""
    with _constants(torch.float64):
        y, tolerance = allowed(layer, small, x, **told)
    with torch.no_grad():
        found = each_output(small(x, **told))[0]
    decided = y.isfinite()
    if not decided.any():
        return ""
    far = float((found - y)[decided].abs().max())
    tolerance += 1e-5 * max(1.0, float(y[decided].abs().max()))  # float32
    return "" if far <= tolerance else f"the layer in floats differs by {far:.2g}, allowed {tolerance:.2g}"


@contextmanager
def _constants(dtype: torch.dtype) -> Iterator[None]:
    """Let numbers that a step makes out of none be of the dtype of all the others."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
