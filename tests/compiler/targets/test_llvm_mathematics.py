"""Every element-wise operation against PyTorch in float64: accuracy, range, infinities and NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from everloop.compiler.loop import Buffer, Instruction, Loop, Map
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm.formats import FORMATS
from everloop.compiler.time_axis import TimeAxis
from tests.compiler.targets.test_llvm_lstm import ISAS

CORE = {name: row for name, row in OPERATIONS.items() if row.core and name != "cast"}
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-8,
    -1e-8,
    1000.0,
    -1000.0,
    88.0,
    -88.0,
    745.0,
    -745.0,
    math.inf,
    -math.inf,
    math.nan,
]
# Units in the last place that an operation may be off; the others must be exact.
LOOSE = dict.fromkeys(("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "rsqrt", "erfc"), 8) | {
    "sqrt": 1,
    **dict.fromkeys(("atan", "atan2", "cos", "erf", "exp2", "log2", "log10", "sin"), 4),
}

# Operations whose zeros have PyTorch's sign.
KEEP_SIGN = ("sin", "atan", "atan2", "erf", "expm1", "log1p", "sqrt", "floor", "trunc", "round", "neg")


def evaluate(op: str, args: list[Tensor], isa: str, *, is_narrow: bool = False) -> Tensor:
    n = args[0].numel()
    names = [Buffer(f"x{k}", "vector", n) for k in range(len(args))]
    body = [Instruction("load", (), b) for b in names]
    body += [Instruction(op, tuple(range(len(args)))), Instruction("store", (len(args),), Buffer("y", "emit", n))]
    result = torch.full((1, 1, n), math.nan, dtype=args[0].dtype)
    buffers = {b.name: x for b, x in zip(names, args, strict=True)} | {"y": result}
    llvm.compile(Loop((Map(n, tuple(body)),), ()).of(args[0].dtype), isa, is_narrow)(TimeAxis(1, 1), buffers)
    return result[0, 0]


def test_the_table_is_the_compilers() -> None:
    assert llvm.operations() == CORE.keys()


def numbers(op: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    arity = CORE[op].arity
    special = torch.tensor(SPECIAL, dtype=dtype)
    grid = [g.flatten() for g in torch.meshgrid(*[special] * arity, indexing="ij")]
    wide = [torch.randn(301, generator=generator, dtype=torch.float64) * 10.0 ** (n % 4 - 2) for n in range(arity * 4)]
    return [torch.cat([g, *(w.to(dtype) for w in wide[a::arity])]) for a, g in enumerate(grid)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("op", sorted(CORE))
def test_operation(op: str, dtype: torch.dtype, isa: str) -> None:
    args = numbers(op, dtype)
    got = evaluate(op, args, isa)
    want = CORE[op].meaning(*(a.double() for a in args)).to(dtype)
    finite = want.isfinite()
    torch.testing.assert_close(got[~finite], want[~finite], rtol=0, atol=0, equal_nan=True)
    tiny, eps = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    error = (got[finite] - want[finite]).abs() / (want[finite].abs() + tiny) / eps
    worst = int(error.argmax())
    assert error[worst] <= LOOSE.get(op, 0.51), f"{op}{[float(a[finite][worst]) for a in args]} is {got[finite][worst]}"
    if op in KEEP_SIGN:
        assert torch.equal(got[want == 0].signbit(), want[want == 0].signbit())


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["exp", "sigmoid", "tanh"])
def test_operation_of_loops_that_store_bfloat16(
    op: str, isa: str, divides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relative error is below 2^-15, a hundredth of what rounding a result to bfloat16 brings."""
    monkeypatch.setattr(llvm, "doubles", lambda: divides)
    steps = torch.cat([torch.linspace(-100, 100, 40_001), torch.logspace(-12, 2, 4001), -torch.logspace(-12, 2, 4001)])
    x = torch.cat([*numbers(op, torch.float32), steps])
    got, want = evaluate(op, [x], isa, is_narrow=True), CORE[op].meaning(x.double())
    finite, tiny = want.float().isfinite(), torch.finfo(torch.float32).tiny
    torch.testing.assert_close(got[~finite], want[~finite].float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got[finite].double(), want[finite], rtol=2.0**-15, atol=tiny)
    assert got[x == 0].tolist() == want[x == 0].tolist()
    if op != "exp":
        assert got[finite].abs().max() <= 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("op", ["sin", "cos"])
def test_angles_near_their_zeros_and_beyond_the_series(op: str, dtype: torch.dtype, isa: str) -> None:
    quarters = torch.arange(-30_000, 30_000, dtype=torch.float64) * math.pi / 2
    x = torch.cat([quarters, torch.linspace(-40, 40, 4001), torch.logspace(-30, 30, 601)]).to(dtype)
    got, want = evaluate(op, [x], isa), CORE[op].meaning(x.double())
    if dtype == torch.float32:
        assert ((got.double() - want).abs() / want.abs().clamp(min=1e-30)).max() < 2 * torch.finfo(dtype).eps
    else:  # PyTorch's own last bit
        torch.testing.assert_close(got, want, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert torch.equal(evaluate(op, [x[:5]], isa), got[:5])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("op", ["erf", "erfc", "exp2", "log2", "log10"])
def test_dense_numbers(op: str, dtype: torch.dtype, isa: str) -> None:
    """Where one polynomial follows another, and far out, where the result is small."""
    steps = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    x = torch.cat([steps, torch.logspace(-30, 30, 601, dtype=torch.float64), 1 + 1e-4 * steps]).to(dtype)
    got, want = evaluate(op, [x], isa), CORE[op].meaning(x.double())
    finite = want.to(dtype).isfinite()
    tiny, eps = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    error = ((got - want).abs() / (want.abs() + tiny) / eps)[finite]
    assert error.max() <= (8 if op == "erfc" else 4), x[finite][error.argmax()]
