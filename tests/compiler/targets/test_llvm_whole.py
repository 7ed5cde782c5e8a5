"""Products of whole numbers of 8 bits: exact, whatever the instructions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.compiler.loop import Buffer, Loop, Product
from everloop.compiler.targets.llvm import machine, single, whole
from everloop.compiler.targets.llvm.formats import FORMATS
from everloop.compiler.targets.llvm.layout import Layout, normalise
from everloop.compiler.targets.llvm.vector import ISAS, Isa
from everloop.errors import UnsupportedError

FORM = FORMATS[torch.float32]
SIZES = [(1, 1, 1), (2, 3, 5), (31, 8, 1), (33, 17, 4), (64, 16, 9), (100, 40, 6), (512, 70, 1), (130, 7, 70)]


def loop_of(k: int, n: int, dtype: torch.dtype = torch.float32) -> Loop:
    x, y = Buffer("x", "sequence", k, dtype=dtype), Buffer("y", "state", n, dtype=dtype)
    return Loop((Product(y, x, Buffer("M", "matrix", k, n, dtype=torch.int8)),), (y,))


def numbers(k: int, n: int, batch: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(k + n)
    matrix = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    rows = torch.randint(-127, 128, (batch, k)).float()
    matrix[0], rows[0] = 127, -127  # the largest sums
    return rows, matrix


def multiplied(kernel: Any, rows: Tensor, matrix: Tensor) -> Tensor:
    result = torch.full((len(rows), len(matrix)), torch.nan)
    kernel.over(len(rows), {"M": matrix}, ["x", "final y"])(rows.data_ptr(), result.data_ptr())
    return result


@pytest.mark.parametrize("isa", [name for name in ISAS if machine.runs(name)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_are_exact(size: tuple[int, int, int], isa: str) -> None:
    rows, matrix = numbers(*size)
    kernel = single.compile(loop_of(*size[:2]), isa)
    assert torch.equal(multiplied(kernel, rows, matrix), rows @ matrix.float().T)


DOT = """
define internal <8 x i32> @written_out(<8 x i32> %sums, <8 x i32> %a, <8 x i32> %b) #0 {
{lines}
  ret <8 x i32> %sum3
}
"""
PART = """
  %a{n} = shl <8 x i32> %a, splat (i32 {left})
  %u{n} = lshr <8 x i32> %a{n}, splat (i32 24)
  %b{n} = shl <8 x i32> %b, splat (i32 {left})
  %s{n} = ashr <8 x i32> %b{n}, splat (i32 24)
  %p{n} = mul <8 x i32> %u{n}, %s{n}
  %sum{n} = add <8 x i32> {before}, %p{n}"""


@pytest.mark.skipif(not machine.runs("avx2"), reason="the text is for AVX2")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_dot_product_of_vnni_written_out(
    size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = [PART.format(n=n, left=24 - 8 * n, before=f"%sum{n - 1}" if n else "%sums") for n in range(4)]

    def written_out(isa: Isa, form: Any) -> str:
        text = whole.whole(replace(isa, features=isa.features + ",+avxvnni"), form)
        declared, text = text.split("\n", 1)
        assert declared.startswith("declare <8 x i32> @llvm.x86.avx512.vpdpbusd.256(")
        return text.replace("@llvm.x86.avx512.vpdpbusd.256(", "@written_out(") + DOT.replace("{lines}", "".join(parts))

    monkeypatch.setattr(single, "whole", written_out)
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(single, "_kernels", {})
    rows, matrix = numbers(*size)
    assert torch.equal(multiplied(single.compile(loop_of(*size[:2]), "avx2"), rows, matrix), rows @ matrix.float().T)


SIGNED = """
define internal <4 x i32> @written_out(<4 x i32> %sums, <16 x i8> %small_a, <16 x i8> %small_b) #0 {
  %a = sext <16 x i8> %small_a to <16 x i32>
  %b = sext <16 x i8> %small_b to <16 x i32>
  %sum0 = mul <16 x i32> %a, %b
{lines}
  %sum = add <4 x i32> %sums, %total3
  ret <4 x i32> %sum
}
"""
LANES = """
  %part{n} = shufflevector <16 x i32> %sum0, <16 x i32> poison, <4 x i32> <i32 {n}, i32 {n4}, i32 {n8}, i32 {n12}>
  %total{n} = add <4 x i32> {before}, %part{n}"""


@pytest.mark.skipif(not machine.runs("sse2"), reason="the text is for vectors of SSE")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_dot_product_of_neon_written_out(
    size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = [
        LANES.format(n=n, n4=n + 4, n8=n + 8, n12=n + 12, before=f"%total{n - 1}" if n else "zeroinitializer")
        for n in range(4)
    ]

    def written_out(isa: Isa, form: Any) -> str:
        text = whole.whole(replace(isa, features=isa.features + ",+dotprod"), form)
        assert "@llvm.aarch64.neon.sdot.v4i32.v16i8(" in text
        text = text.replace("@llvm.aarch64.neon.sdot.v4i32.v16i8(", "@written_out(")
        return text + SIGNED.replace("{lines}", "".join(parts))

    monkeypatch.setattr(single, "whole", written_out)
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(single, "_kernels", {})
    rows, matrix = numbers(*size)
    assert torch.equal(multiplied(single.compile(loop_of(*size[:2]), "sse2"), rows, matrix), rows @ matrix.float().T)


@pytest.mark.parametrize("isa", [name for name in ISAS if machine.runs(name)])
def test_said_which_instruction_it_is(isa: str) -> None:
    kernel = single.compile(loop_of(40, 20), isa)
    found = whole.instruction(machine.dotted(ISAS[isa])) or "wider products"
    assert kernel.description == f"{isa}, torch.float32, matrices of int8 where they are ({found})"


@pytest.mark.parametrize(
    ("isa", "feature"),
    [(isa, "") for isa in ISAS] + [("avx512", "avx512vnni"), ("avx2", "avxvnni"), ("neon", "dotprod")],
)
def test_machine_code_for_every_instruction_set(isa: str, feature: str) -> None:
    used = ISAS[isa]
    used = replace(used, features=used.features + f",+{feature}") if feature else used
    code = machine.generate(single.text(Layout(normalise(loop_of(64, 32)), FORM, used)), used)
    assert b"llvm." not in code, "an intrinsic that nobody has"


def test_of_what_is_no_number_every_result_is_none() -> None:
    rows, matrix = numbers(40, 20, 3)
    rows[1, 7] = torch.nan
    found = multiplied(single.compile(loop_of(40, 20)), rows, matrix)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], (rows @ matrix.float().T)[[0, 2]])


def test_no_number_beside_the_matrix_is_read() -> None:
    rows, matrix = numbers(37, 19, 2)
    around = torch.full((21, 64), 100, dtype=torch.int8)
    around[1:20, 3:40] = matrix
    found = multiplied(single.compile(loop_of(37, 19)), rows, around[1:20, 3:40])
    assert torch.equal(found, rows @ matrix.float().T)


def test_other_floats_take_the_way_of_a_sequence() -> None:
    with pytest.raises(UnsupportedError, match="float32"):
        single.compile(loop_of(4, 4, torch.float64))
