"""check=True: the first call of each kind verifies what was compiled, on the user's own data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import hardsigmoid, hardswish
from torch.utils.checkpoint import checkpoint

from everloop import Bidirectional, Cell, H, I, Recurrent, Stack, cells, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.program import InferenceKernel, Program
from everloop.compiler.targets import llvm
from everloop.compiler.time_axis import TimeAxis
from everloop.diagnose import agree
from everloop.errors import MismatchError
from everloop.layers import check, guards
from tests.layers.wrong import forget_programs, spoil_gradient, spoil_steps
from tests.zoo import NAMES, given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
TABLE = torch.full((4, 4), 0.1)  # a constant in float32


@pytest.fixture(autouse=True)
def _new_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_programs(monkeypatch)


class Uneven(Cell):
    """Jumps, poles, and constants of every kind."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = torch.linspace(0.5, 1.0, self.hidden_size)
        self.offset: Tensor
        self.register_buffer("offset", torch.linspace(-0.1, 0.1, self.hidden_size))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x / x.norm(dim=-1, keepdim=True) @ self.W.T + h @ self.R.T + (h[:, :4] @ TABLE).sum(-1, keepdim=True)
        return self.scale * torch.where(u > 0, torch.floor(8 * u) / 8, u.tanh()) + self.offset


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cell_is_right(name: str, dtype: torch.dtype) -> None:
    layer = Recurrent(make(name, 3, 5).to(dtype), check=True)
    x = torch.randn(6, 3, 3, dtype=dtype)
    layer(x, lengths=[4, 0, 6], reset=torch.rand(6, 3) < 0.3, **given(layer, x).at())
    told = layer.explain()
    assert "checked against float64, on 6 step(s) of 3 sequence(s), with lengths and reset" in told
    assert ", gradient " in told


def test_stacks_directions_states_and_frozen_parameters() -> None:
    inner = Stack([cells.GRU(3, 4), Bidirectional(cells.LSTM(4, 2))], residual=True)
    layer = Recurrent(inner, layers=2, dropout=0.5, learned_state=True, batch_first=True, check=True)
    x = torch.randn(5, 7, 3, requires_grad=True)
    _, after = layer(x, lengths=[7, 0, 1, 3, 7])
    layer.cell.members[0].members[0].R.requires_grad_(False)
    y, _ = layer(x, after)
    y.sum().backward()
    sections = layer.explain().split("target llvm")[1:]
    assert len(sections) == 6
    for section in sections:
        lines = [line for line in section.splitlines() if line.startswith("checked")]
        assert all(", gradient " in line for line in lines)
        assert {"with lengths" in line for line in lines} == {True, False}
    assert sum("reverse" in section for section in sections) == 4  # both directions are one program


def test_jumps_poles_and_constants_are_no_fault() -> None:
    with torch.random.fork_rng():
        layer = Recurrent(Uneven(3, 6), check=True, target="llvm")
        for _ in range(3):
            guards.programs.clear()
            layer(torch.randn(12, 6, 3))
    assert "checked against float64, on 12" in layer.explain()


class Hard(Cell):
    """PyTorch's own gradients of these are off by 1e-8 in float64."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return hardsigmoid(x @ self.W.T) * hardswish(h @ self.R.T + 1)


def test_gradients_that_pytorch_itself_rounds_are_no_fault() -> None:
    layer, x = Recurrent(Hard(3, 4, dtype=torch.float64), check=True, target="llvm"), torch.randn(5, 2, 3).double()
    layer(x)
    assert "checked against float64" in layer.explain().splitlines()[1]
    assert "not checked" not in layer.explain().splitlines()[1]
    assert agree(layer, x, reference="loop")


def test_a_gradient_off_by_a_thousandth_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_gradient(monkeypatch, "d(p_i)")
    layer, x = Recurrent(cells.PeepholeLSTM(3, 4), check=True), torch.randn(5, 2, 3)
    with torch.no_grad():
        layer(x)
    for _ in range(2):
        with pytest.raises(MismatchError, match=r"PeepholeLSTM.* 5 step.* of 2 seq.*: gradient of p_i by .*eager"):
            layer(x)
    layer.check = False
    layer(x)
    layer.check = True
    for p in layer.parameters():
        p.requires_grad_(False)
    layer(x)


def test_an_output_off_by_a_thousandth_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Program.inference

    def inference(self: Program) -> InferenceKernel:
        found = real(self)

        def kernel(time: TimeAxis, buffers: Any, **rest: Any) -> None:
            found.kernel(time, buffers, **rest)
            rest["final"]["h"].mul_(1.001)

        return replace(found, kernel=kernel)  # type: ignore[arg-type]

    monkeypatch.setattr(Program, "inference", inference)
    with torch.no_grad(), pytest.raises(MismatchError, match="this call: state h by"):
        Recurrent(cells.GRU(3, 4), check=True)(torch.randn(5, 2, 3))


def test_what_a_kernel_does_not_write_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Program.inference

    def inference(self: Program) -> InferenceKernel:
        found = real(self)

        def kernel(*args: Any, final: dict[str, Tensor], **rest: Any) -> None:
            found.kernel(*args, final={name: torch.zeros_like(t) for name, t in final.items()}, **rest)

        return replace(found, kernel=kernel)  # type: ignore[arg-type]

    monkeypatch.setattr(Program, "inference", inference)
    before = torch.get_deterministic_debug_mode()
    with torch.no_grad(), pytest.raises(MismatchError, match="this call: state h by inf"):
        Recurrent(cells.GRU(3, 4), check=True)(torch.randn(5, 2, 3))
    assert torch.get_deterministic_debug_mode() == before


def test_a_wrong_step_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Stack([cells.GRU(3, 4), cells.LSTM(4, 4)])
    layer, x = Recurrent(core, check=True, learned_state=True).requires_grad_(False), torch.randn(2, 3)
    _, after = layer.step(x)
    layer.step(x[0])
    assert "checked against float64, on a single step of 2 row(s)" in layer.explain()
    spoil_steps(monkeypatch)
    layer.float()  # the step is made anew
    with pytest.raises(MismatchError, match=r"Stack.*a single step of 2 row"):
        layer.step(x, after)


def test_the_piece_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    x, lengths = torch.randn(20, 9, 3), [1, 20, 3, 5, 2, 0, 20, 8, 9]
    for most, said in ((2**20, "12 step(s) of 6 sequence(s)"), (10, "4 step(s) of 3 sequence(s)")):
        monkeypatch.setattr(check, "LARGE_CELL", most)
        guards.programs.clear()
        layer = Recurrent(cells.GRU(3, 4), check=True)
        layer(x, lengths=lengths)
        assert f"checked against float64, on {said}, with lengths" in layer.explain()
    values = Bindings(dict(layer.cell.named_parameters()))
    piece = check._piece(Call.of(values, x, (torch.zeros(9, 4),), lengths=torch.tensor(lengths)))
    assert piece.time.lengths is not None
    assert piece.time.lengths.tolist() == [4, 4, 0]  # the longest, one between, the shortest


def test_each_kind_of_call_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Cell] = []
    real = check._results

    def results(run: Any, cell: Cell, *rest: Any) -> Any:
        runs.append(cell)
        return real(run, cell, *rest)

    monkeypatch.setattr(check, "_results", results)
    layer, x = Recurrent(cells.GRU(3, 4), check=True), torch.randn(5, 2, 3)
    before = torch.get_rng_state()
    for _ in range(3):
        layer(x)
    assert len(runs) == 2  # the reference and the kernel
    for _ in range(2):
        layer(x, lengths=[5, 2])
        layer(x.clone().requires_grad_())
        layer(x[:1])
    assert len(runs) == 8
    assert torch.equal(torch.get_rng_state(), before)
    layer.check = False
    layer.double()(x.double())
    assert len(runs) == 8
    assert "not checked against float64; Recurrent(…, check=True)" in layer.explain()


def test_what_tells_nothing_is_not_called_checked() -> None:
    layer = Recurrent(cells.GRU(3, 4, bias=False), check=True)
    layer(torch.full((5, 2, 3), torch.nan))
    layer(torch.randn(5, 2, 3), lengths=[0, 0])
    layer(torch.zeros(5, 2, 3))
    assert "not checked" in layer.explain().splitlines()[1]
    layer(torch.randn(5, 2, 3))
    assert "not checked" not in layer.explain().splitlines()[1]


def test_results_are_those_without_a_check() -> None:
    cell, x = make("variational", 3, 4), torch.randn(20, 9, 3)
    results = []
    for is_checked in (True, False):
        torch.manual_seed(5)
        y, _ = Recurrent(cell, check=is_checked)(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(cell.parameters()))])
    assert all(map(torch.equal, *results))


def test_under_checkpoints_compile_and_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 2, 3)
    layer = Recurrent(cells.GRU(3, 4), check=True)
    checkpoint(layer, x, use_reentrant=False)[0].sum().backward()
    assert ", gradient " in layer.explain()
    with torch.inference_mode():
        layer(x)
    spoil_gradient(monkeypatch, "d(p_i)")
    compiled = torch.compile(Recurrent(cells.PeepholeLSTM(3, 4), check=True), backend="eager", fullgraph=True)
    y, _ = compiled(x)
    with pytest.raises(MismatchError, match="gradient of p_i"):
        y.sum().backward()
