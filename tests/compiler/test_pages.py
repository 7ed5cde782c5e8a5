"""Memory without numbers comes from one module, so that the suite can fill it with NaN; and nothing reads it then."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import everloop
from everloop.compiler.target import LoopTarget
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import pages
from everloop.layers import Recurrent
from tests import zoo
from tests.layers.calls import run
from tests.poison import BYTE

ROOT = Path(everloop.__file__).parent
ALLOCATING = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_", "resize_as_",
    "UntypedStorage", "TypedStorage",
}  # fmt: skip
DESCRIBED = {"layers/custom_operator.py"}  # tensors that tell PyTorch a layout, and copies made at once


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


def allocates(call: ast.Call) -> bool:
    """Whether a call takes memory that holds anything: not of no numbers at all, and not on no device."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    is_nothing = len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    is_meta = any(k.arg == "device" and ast.unparse(k.value) == "'meta'" for k in call.keywords)
    is_of_target = ast.unparse(call.func).endswith(("target.empty", "target.empty_like"))
    is_of_target |= isinstance(call.func, ast.Name) and name == "empty"  # a target's, given as an argument
    return name in ALLOCATING and not (is_nothing or is_meta or is_of_target)


def test_no_other_module_takes_memory_without_numbers() -> None:
    files = [p for room in ("compiler", "layers") for p in (ROOT / room).rglob("*.py")]
    found = [f"{p.relative_to(ROOT)}:{c.lineno}" for p in files for c in calls(p) if allocates(c)]
    own = [place for place in found if place.startswith("compiler/targets/llvm/pages.py")]
    others = [place for place in found if place not in own and place.partition(":")[0] not in DESCRIBED]
    assert len(own) == 2
    assert others == []


def test_its_functions_are_called_by_the_modules_name() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "everloop.compiler.targets.llvm.pages"), (
                path
            )


def test_memory_is_poisoned() -> None:
    for dtype in (torch.float32, torch.float64):
        assert pages.fresh((3, 5), dtype).isnan().all()
        assert LoopTarget.empty_like(torch.zeros(2, 3, dtype=dtype)).isnan().all()
        assert pages.block(64).view(dtype).isnan().all()


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_scratch_memory_is_poisoned_again_at_every_call() -> None:
    from everloop.compiler.targets.llvm import memory

    block = memory.take(1000)
    with torch.inference_mode():  # in which it may have been made
        block.zero_()
    memory.give_back(block)
    assert (memory.take(1000) == BYTE).all()
    layer = Recurrent(zoo.make("lstm", 3, 5))
    with torch.no_grad():
        layer.step(torch.randn(3))
        ready = layer._stepper._guarded
        assert ready is not None
        free: list[Any] = [item for form in ready._forms.values() for item in vars(form.call)["_free"]]
        scratch = [item[-1] for item in free]
        assert scratch
        with torch.inference_mode():
            for each in scratch:
                each.zero_()
        layer.step(torch.randn(3))
    assert all((each == BYTE).any() for each in scratch)


SIZES = [(1, 1, 1), (3, 5, 17), (4, 9, 34)]  # steps, batch, units: vectors and tiles with rests


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_rests_of_every_size(name: str, size: tuple[int, int, int]) -> None:
    steps, batch, units = size
    torch.manual_seed(3)
    cell = zoo.make(name, 3, units)
    if sum(size) % 2:
        cell = cell.double()
    dtype = next(cell.parameters()).dtype
    x = torch.randn(steps, batch, 3, dtype=dtype, requires_grad=True)
    widths = cell.state_sizes.values()
    start = tuple((0.1 + torch.rand(batch, n, dtype=dtype)).requires_grad_() for n in widths)  # some are divided by
    leaves = [x, *start, *cell.parameters()]
    lengths = torch.arange(batch) % (steps + 1)
    ways: list[dict[str, Any]] = [
        {},
        {"reverse": True},
        {"lengths": lengths},
        {"reset": torch.rand(steps, batch) < 0.4},
    ]
    for options in ways:
        found = []
        for target in ("eager", "llvm"):
            torch.manual_seed(4)  # for the masks
            values = zoo.values(cell, steps, batch)
            y, final = run(cell, values, x, start, target=target, **options)
            found.append([y, *final, *slopes([y, *final], leaves)])
        torch.testing.assert_close(found[1], found[0], **TOLERANCE[dtype])


TOLERANCE: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"rtol": 2e-4, "atol": 2e-5},
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
}


def slopes(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    loss = torch.stack([r.sin().sum() for r in results]).sum()
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
