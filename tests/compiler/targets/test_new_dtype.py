"""A dtype that kernels store and compute in is one row of the table of formats."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from everloop import cells
from everloop.compiler import dtypes
from everloop.compiler import target as targets
from everloop.compiler.loop import Loop
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import machine, vector
from everloop.compiler.targets.llvm.formats import FORMATS, FloatFormat
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.compiler.targets.llvm.target import LLVM
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not machine.runs("avx2"), reason="this processor has no avx2, whose float16 is tested")
SINGLE = FORMATS[torch.float32]  # whose polynomials are exact enough
HALF = FloatFormat(
    torch.float16, "half", "i16", 2, 10, 15, "f16", "f16", "e", ("ph", "i32 -1"),
    (0.6875, 0.00564718), (1 / 24, 1 / 6, 1 / 2), 3, -17.5, 11.1, 8.4,
    SINGLE.arctangent, SINGLE.error_near, SINGLE.error_far, (0.30078125, 0.000248745),
)  # fmt: skip


class Half(LLVM):
    """The target llvm with the instructions that convert float16."""

    name = "half"

    def compile(self, loop: Loop) -> NativeKernel:
        return llvm.compile(loop, "avx2")


@pytest.fixture(autouse=True)
def _half(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(FORMATS, torch.float16, HALF)
    monkeypatch.delitem(dtypes._ARITHMETIC, torch.float16)
    avx2 = vector.ISAS["avx2"]
    monkeypatch.setitem(vector.ISAS, "avx2", replace(avx2, features=f"{avx2.features},+f16c"))
    targets.register(Half())
    yield
    targets.unregister("half")


@pytest.mark.parametrize("kind", [cells.GRU, cells.LSTM])
def test_float16_is_one_row(kind: type) -> None:
    torch.manual_seed(1)
    half = Recurrent(kind(5, 19, dtype=torch.float16), target="half")
    single = copy.deepcopy(half).float()
    single.target = "eager"
    x = torch.randn(7, 3, 5).half()
    lengths = [7, 0, 4]
    y, want = half(x, lengths=lengths)[0], single(x.float(), lengths=lengths)[0]
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), want, rtol=0, atol=8 * torch.finfo(torch.float16).eps)
    y.float().square().sum().backward()
    want.square().sum().backward()
    for found, expected in zip(half.parameters(), single.parameters(), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        assert float((found.grad.float() - expected.grad).abs().max() / expected.grad.abs().max()) < 0.02
