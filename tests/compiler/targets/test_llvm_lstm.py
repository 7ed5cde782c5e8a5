"""The LSTM's forward and gradient loops, written by hand, against autograd of the formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import machine, memory
from everloop.compiler.time_axis import TimeAxis
from tests.compiler.targets import loops, references

ISAS = [name for name in ("avx512", "avx2", "sse2", "neon") if machine.runs(name)]


@pytest.fixture(autouse=True)
def _poison() -> None:
    """Working memory starts full of NaN."""
    memory._free[:] = [torch.full((1 << 21,), float("nan"), dtype=torch.float64).view(torch.uint8)]


def poisoned(*shape: int, dtype: torch.dtype, batch_first: bool = False) -> Tensor:
    """NaN everywhere; with other strides when `batch_first`."""
    if batch_first:
        return torch.full((shape[1], shape[0], *shape[2:]), float("nan"), dtype=dtype).transpose(0, 1)
    return torch.full(shape, float("nan"), dtype=dtype)


def spaced(x: Tensor) -> Tensor:
    """The same numbers with room between rows and batch before time."""
    T, B, n = x.shape
    wide = torch.full((B, T, n + 3), float("nan"), dtype=x.dtype)
    wide[:, :, 1 : n + 1] = x.transpose(0, 1)
    return wide.transpose(0, 1)[:, :, 1 : n + 1]


def check(
    H: int,
    B: int,
    T: int,
    isa: str,
    dtype: torch.dtype,
    *,
    ragged: bool = False,
    resets: bool = False,
    reverse: bool = False,
    strides: bool = False,
) -> None:
    """Run forward and gradient and compare outputs, states and all gradients."""
    x64, R64 = torch.randn(T, B, 4 * H, dtype=torch.float64), torch.randn(4 * H, H, dtype=torch.float64) / H**0.5
    start64 = tuple(torch.randn(B, H, dtype=torch.float64) for _ in "hc")
    again64 = tuple(torch.randn(H, dtype=torch.float64) for _ in "hc")
    lengths = torch.randint(0, T + 1, (B,)) if ragged else None
    reset = torch.rand(T, B) < 0.3 if resets else None
    leaves = [x64, R64, *start64, *again64]
    x64, R64, *rest = (v.to(dtype).double().requires_grad_() for v in leaves)
    start64, again64 = tuple(rest[:2]), tuple(rest[2:])
    ends = lengths.tolist() if lengths is not None else [T] * B
    want, want_final = references.run(references.lstm(R64), x64, start64, again64, ends, reset, reverse, 2 * H)

    forward = llvm.compile(loops.lstm(H).of(dtype), isa)
    x = spaced(x64.detach().to(dtype)) if strides else x64.detach().to(dtype)
    R, start, again = (
        R64.detach().to(dtype),
        [s.detach().to(dtype) for s in start64],
        [s.detach().to(dtype) for s in again64],
    )
    hs, cs, a = (poisoned(T, B, n, dtype=dtype, batch_first=strides) for n in (H, H, 4 * H))
    final = {"h": poisoned(B, H, dtype=dtype), "c": poisoned(B, H, dtype=dtype)}
    forward(
        TimeAxis(T, B, lengths, reset, reverse),
        {"x": x, "R": R, "hs": hs, "cs": cs, "a": a},
        first=dict(zip("hc", start, strict=True)),
        final=final,
        restart=dict(zip("hc", again, strict=True)),
    )
    close(torch.cat((hs, cs), -1), want, T, H)
    close(torch.cat((final["h"], final["c"]), -1), torch.cat(want_final, -1), T, H)

    dy, dh, dc = (torch.randn(*shape, H, dtype=torch.float64).to(dtype) for shape in ((T, B), (B,), (B,)))
    loss = (want[..., :H] * dy).sum() + (want_final[0] * dh).sum() + (want_final[1] * dc).sum()
    grads = torch.autograd.grad(loss, [x64, R64, *start64, *again64], allow_unused=True, materialize_grads=True)
    G, db = poisoned(T, B, 4 * H, dtype=dtype, batch_first=strides), poisoned(4 * H, dtype=dtype)
    first = {"dh": dh, "dc": dc, "c": start[1]}
    final = {"dh": poisoned(B, H, dtype=dtype), "dc": poisoned(B, H, dtype=dtype)}
    restart = {"dh": poisoned(H, dtype=dtype), "dc": poisoned(H, dtype=dtype), "c": again[1]}
    backward = llvm.compile(loops.lstm_gradient(H).of(dtype), isa)
    buffers = {"a": a, "cs": cs, "before": cs, "dy": dy, "R": R, "G": G, "db": db}
    backward(TimeAxis(T, B, lengths, reset, reverse), buffers, first=first, final=final, restart=restart)
    got = [G, None, final["dh"], final["dc"], restart["dh"], restart["dc"]]
    for name, value, gradient in zip(("x", "R", "h", "c", "restart h", "restart c"), got, grads, strict=True):
        if value is not None:
            close(value, gradient, T, H, 8, name)
    close(db, grads[0].sum((0, 1)), T, H, 8 * max(T * B, 1) ** 0.5)


def close(got: Tensor, want: Tensor, T: int, H: int, factor: float = 1, what: str = "") -> None:
    """Rounding grows with the steps and with the terms of a product; states stay of the order of one."""
    error = torch.finfo(got.dtype).eps * 16 * factor * (1 + T) * (1 + H) ** 0.5
    torch.testing.assert_close(
        got.double(), want.detach().double(), rtol=error, atol=error, msg=lambda m: f"{what} {m}"
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("H", [1, 3, 17, 100])
@pytest.mark.parametrize(("B", "T"), [(1, 1), (2, 7), (7, 2), (33, 2)])
def test_plain(H: int, B: int, T: int, isa: str, dtype: torch.dtype) -> None:
    check(H, B, T, isa, dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(("H", "B", "T"), [(3, 7, 7), (17, 33, 3)])
def test_ragged_resets_reverse(H: int, B: int, T: int, isa: str, ragged: bool, resets: bool, reverse: bool) -> None:
    check(H, B, T, isa, torch.float64, ragged=ragged, resets=resets, reverse=reverse, strides=True)


@pytest.mark.parametrize(("B", "T"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(B: int, T: int) -> None:
    check(5, B, T, ISAS[0], torch.float32, resets=True)
