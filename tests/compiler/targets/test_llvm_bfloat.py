"""The product of narrow loops: every way of it against sums in float64 of the rounded factors."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import bfloat, machine, vector
from everloop.compiler.targets.llvm.machine import Library
from everloop.compiler.targets.llvm.product import panel_width
from everloop.compiler.targets.llvm.vector import Isa
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
UNIT = torch.finfo(torch.bfloat16).eps
BFDOT = replace(vector.ISAS["neon"], features="+neon,+bf16")
WRITTEN_OUT = """
define internal <4 x float> @written_out(<4 x float> %sums, <8 x bfloat> %a, <8 x bfloat> %b) #0 {
  %words_a = bitcast <8 x bfloat> %a to <4 x i32>
  %words_b = bitcast <8 x bfloat> %b to <4 x i32>
  %even_a = shl <4 x i32> %words_a, splat (i32 16)
  %even_b = shl <4 x i32> %words_b, splat (i32 16)
  %odd_a = and <4 x i32> %words_a, splat (i32 -65536)
  %odd_b = and <4 x i32> %words_b, splat (i32 -65536)
  %f0 = bitcast <4 x i32> %even_a to <4 x float>
  %f1 = bitcast <4 x i32> %even_b to <4 x float>
  %f2 = bitcast <4 x i32> %odd_a to <4 x float>
  %f3 = bitcast <4 x i32> %odd_b to <4 x float>
  %even = fmul <4 x float> %f0, %f1
  %odd = fmul <4 x float> %f2, %f3
  %both = fadd <4 x float> %even, %odd
  %total = fadd <4 x float> %sums, %both
  ret <4 x float> %total
}
"""


def ways() -> dict[str, Isa]:
    """Return what this processor can do: registers of each width, dot products, tiles; and `bfdot`, written out."""
    if not llvm.is_available():
        return {}
    found = {name: isa for name, isa in vector.ISAS.items() if machine.runs(name)}
    best = machine.narrow(machine.host())
    found |= {isa.features.rpartition("+")[2]: isa for isa in (machine.without_tiles(best), best)}
    return found if BFDOT in found.values() else found | {"bfdot written out": BFDOT}


WAYS = ways()


@cache
def library(isa: Isa) -> Library:
    text = machine.module(isa, bfloat.functions(isa))
    if isa == BFDOT != machine.narrow(machine.host()):
        text = text.replace(machine.triple(isa), machine.need().get_process_triple()) + WRITTEN_OUT
        text = text.replace("@llvm.aarch64.neon.bfdot.v4f32.v8bf16(", "@written_out(")
        isa = machine.host()
    return Library(machine.generate(text, isa), ("everloop_product", "everloop_pack"))


def multiply(isa: Isa, x: Tensor, w: Tensor, *, back: bool = False) -> Tensor:
    """Return x @ w.T by the product, into memory with NaN in it."""
    (rows, k), n = x.shape, w.shape[0]
    product, pack = (
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(library(isa).address[name])
        for name, count in (("everloop_product", 12), ("everloop_pack", 8))
    )
    memory = torch.full(((n + 64) * (k + 64),), math.nan)
    packed = -(-memory.data_ptr() // 64) * 64
    down, across = w.stride()
    pack(w.data_ptr(), across * 4, down * 4, k, n, packed, 0, -(-n // isa.lanes(4)))
    out = torch.full((rows, n + 16), math.nan)
    table = torch.tensor([[a.data_ptr(), b.data_ptr()] for a, b in zip(x, out, strict=True)])
    place, panels = table.data_ptr(), -(-n // panel_width(isa, 4))
    product(place, 0, place + 8, 0, 16, rows, packed, k, n, 0, panels, back)
    return out[:, :n]


SIZES = [
    (1, 32, 16),
    (2, 33, 5),
    (3, 47, 70),
    (16, 64, 64),
    (17, 100, 130),
    (33, 40, 48),
    (70, 257, 300),
    (300, 65, 33),
    (300, 4096, 40),
    (70, 1300, 17),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", [lambda w: w, lambda w: w.T.contiguous().T, lambda w: w.repeat(1, 2)[:, ::2]])
def test_against_float64(way: str, layout: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    for n, (rows, k, columns) in enumerate(SIZES):
        x, w = torch.randn(rows, k), layout(torch.randn(columns, k))
        expected = x.bfloat16().double() @ w.bfloat16().double().T
        found = multiply(WAYS[way], x, w, back=bool(n % 2))
        most = x.bfloat16().double().abs() @ w.bfloat16().double().abs().T
        assert ((found - expected).abs() <= k * torch.finfo(torch.float32).eps * most).all(), (rows, k, columns)


@pytest.mark.parametrize("way", WAYS)
def test_odd_numbers(way: str) -> None:
    x, w = torch.ones(5, 40), torch.ones(20, 40)
    x[0, 3], x[1, 39], x[2, 0] = math.nan, math.inf, -math.inf
    x[3] = torch.tensor(0x7F800001, dtype=torch.int32).view(torch.float32)  # NaN in the bits that rounding drops
    w[7, 2] = math.nan
    expected = (x.bfloat16().double() @ w.bfloat16().double().T).float()
    assert torch.equal(multiply(WAYS[way], x, w).nan_to_num(5e5), expected.nan_to_num(5e5))


@pytest.fixture
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with nothing for bfloat16."""
    monkeypatch.setattr(llvm, "narrow", lambda isa: isa)


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("batch", [1, 9])
def test_a_processor_without_the_instructions(batch: int) -> None:
    torch.manual_seed(1)
    layer = Recurrent(cells.LSTM(40, 200)).bfloat16()
    x = torch.randn(12, batch, 40).bfloat16()
    assert "widened in registers" in layer.explain()
    y = layer(x)[0]
    exact = Recurrent(layer.cell, target="eager").double()(x.double())[0]
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2 * UNIT)


def test_kernels_of_float32_are_not_narrow() -> None:
    assert "products in the loop" not in Recurrent(cells.LSTM(40, 64)).explain()
    assert "products in the loop" in Recurrent(cells.LSTM(40, 64)).bfloat16().explain()
    assert "products in the loop" not in Recurrent(cells.LSTM(40, 31)).bfloat16().explain()
