"""Plans on disk: the same plan again, without a pass, for every cell; never that of another step or compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler import disk_cache, passes, plan_cache
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.plan import TrainingPlan
from everloop.compiler.program import Program
from everloop.compiler.targets import eager
from everloop.compiler.targets.llvm.target import TARGET
from everloop.compiler.trace import trace
from everloop.layers import Recurrent
from everloop.layers.autograd_function import compute
from everloop.layers.single_step import Stepper
from tests import zoo


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path))
    return tmp_path


def no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = passes.PASSES
    fail = [replace(p, run=lambda *_: pytest.fail("a pass ran again")) for p in others]
    monkeypatch.setattr(passes, "PASSES", [first, *fail])


def gradients(program: Program, values: Bindings, x: Tensor, state: list[Tensor]) -> list[Tensor]:
    y, final = compute(program, Call.of(values, x, tuple(state)))
    leaves = [t for t in (*values.fixed.values(), *state) if t.requires_grad]
    grads = torch.autograd.grad(y.square().sum() + sum(f.sum() for f in final), leaves, allow_unused=True)
    return [y, *final, *(g for g in grads if g is not None)]


# in evaluation only what draws noise is another step
@pytest.mark.parametrize(("name", "training"), [(n, True) for n in zoo.NAMES] + [(n, False) for n in zoo.NOISY])
def test_a_second_process_has_the_same_plan_without_a_pass(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = zoo.make(name, 3, 4).train(training)
    values = zoo.values(cell, 5, 2)
    x, start = torch.randn(5, 2, 3), [torch.rand(2, n, requires_grad=True) for n in cell.state_sizes.values()]
    first = Program.of(cell, values, torch.float32, TARGET)
    want = gradients(first, values, x, start)
    with torch.no_grad():
        compute(first, Call.of(values, x, tuple(start)))
    no_pass(monkeypatch)
    second = Program.of(cell, values, torch.float32, TARGET)
    torch.testing.assert_close(gradients(second, values, x, start), want, rtol=0, atol=0)
    with torch.no_grad():
        compute(second, Call.of(values, x, tuple(start)))
    assert str(second.split.prologue) == str(first.split.prologue)
    assert str(second.split.loop) == str(first.split.loop)
    for wanted in first._trained:
        plans = first.training(wanted).plan, second.training(wanted).plan
        for field in fields(TrainingPlan):
            one, other = (getattr(plan, field.name) for plan in plans)
            assert field.name == "forward" or one == other, field.name
        assert [p.forward.loop for p in plans[:1]] == [p.forward.loop for p in plans[1:]]
    assert second.inference().plan.loop == first.inference().plan.loop


def noting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the passes that run from now on, as they run."""
    ran: list[str] = []

    def noted(each: passes.Pass) -> passes.Pass:
        def run(*args: Any) -> Any:
            ran.append(each.name)
            return each.run(*args)

        return replace(each, run=run)

    monkeypatch.setattr(passes, "PASSES", list(map(noted, passes.PASSES)))
    return ran


class OneLine(Cell):
    """Two states in one line."""

    h, v = state(H), state(H)

    def step(self, x: Tensor, h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h, v = 0.5 * h + x, 0.5 * v + x
        return h, v


class TwoLines(OneLine):
    """The same in two, which is another loop to what counts turns."""

    def step(self, x: Tensor, h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = 0.5 * h + x
        v = 0.5 * v + x
        return h, v


def test_which_values_share_a_line_is_part_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = OneLine(3, 3), TwoLines(3, 3)
    Program.of(one, zoo.values(one, 5, 2), torch.float32, TARGET)
    ran = noting(monkeypatch)
    Program.of(one, zoo.values(one, 5, 2), torch.float32, TARGET)
    assert ran == ["trace"]
    Program.of(two, zoo.values(two, 5, 2), torch.float32, TARGET)
    assert len(ran) > 2


def test_a_single_step_runs_the_passes_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = noting(monkeypatch)
    with torch.no_grad():
        Recurrent(cells.Elman(3, 7)).step(torch.randn(2, 3))
    assert ran == ["trace", *(p.name for p in passes.PASSES if p.name.endswith(" single"))]


def test_a_streamed_step_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Recurrent(cells.GRU(3, 4), layers=2), torch.randn(2, 3)
    with torch.no_grad():
        want = layer.step(x)
        no_pass(monkeypatch)
        monkeypatch.setattr("everloop.layers.guards.programs._entries", {})
        layer._stepper = Stepper()
        got = layer.step(x)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


class Opaque(Cell):
    """What PyTorch computes of parameters before the loop, and a tensor the step brings along."""

    h = state(H)
    W, R = param(H, I), param(H, H)
    function: Any = None
    offset: float = 0.0

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        matrix = self.function(self.R)
        return torch.tanh(x @ self.W.T + h @ matrix.T + torch.full((matrix.shape[0],), self.offset))


def opaque(function: Callable[[Tensor], Tensor], offset: float) -> Cell:
    torch.manual_seed(5)
    return Opaque(3, 4, dtype=torch.float64, function=function, offset=offset)


def test_steps_that_differ_in_what_no_pass_sees_share_a_plan_but_not_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, start = torch.randn(5, 2, 3, dtype=torch.float64), [torch.zeros(2, 4, dtype=torch.float64)]
    for k, (function, offset) in enumerate([(torch.linalg.matrix_exp, 0.5), (torch.linalg.inv, -2.0)]):
        if k == 1:
            no_pass(monkeypatch)
        cell = opaque(function, offset)
        values = Bindings(dict(cell.named_parameters()))
        program = Program.of(cell, values, torch.float64, TARGET)
        y, _ = compute(program, Call.of(values, x, tuple(start)))
        want, _ = eager.TARGET.run(cell, Call.of(values, x, start))
        torch.testing.assert_close(y, want)


def plan_files(folder: Path) -> set[str]:
    return {f.name for f in folder.glob("*.plan")}


def program(cell: Cell) -> Program:
    return Program.of(cell, Bindings(dict(cell.named_parameters())), torch.float32, TARGET)


def test_other_sizes_constants_and_names_are_other_plans(folder: Path) -> None:
    class Scaled(Cell):
        """A number in the step."""

        h = state(H)
        W, R = param(H, I), param(H, H)
        scale: float = 1.0

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.scale * (x @ self.W.T) + h @ self.R.T)

    seen: set[str] = set()
    for cell in (
        cells.Elman(3, 4), cells.Elman(3, 5), cells.Elman(2, 4), cells.Elman(3, 4, nonlinearity="relu"),
        Scaled(3, 4), Scaled(3, 4, scale=0.5),
    ):  # fmt: skip
        program(cell)
        found = plan_files(folder)
        assert len(found - seen) == 1
        seen = found


def test_another_compiler_makes_its_own_plans(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "passes"
    copy.mkdir()
    for path in Path(plan_cache.__file__).parent.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert {"simplify.py", "rules.py", "plan.py", "placement.py", "ir.py"} <= {p.name for p in copy.iterdir()}
    plan_cache.sources.cache_clear()
    same = plan_cache.sources(copy)
    assert same == plan_cache.sources()
    for path in sorted(copy.iterdir()):
        plan_cache.sources.cache_clear()
        before = path.read_text()
        path.write_text(before + "\n")
        assert plan_cache.sources(copy) != same, path.name
        path.write_text(before)
    plan_cache.sources.cache_clear()
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert plan_cache.sources(copy) != same
    program(cells.Elman(3, 4))
    old = plan_files(folder)
    monkeypatch.setattr(plan_cache, "sources", lambda: "other")
    program(cells.Elman(3, 4))
    assert len(plan_files(folder) - old) == 1


def test_sources_that_cannot_be_read_vouch_for_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan_cache.sources(tmp_path / "nowhere") == ""
    monkeypatch.setattr(plan_cache, "sources", lambda: "")
    assert program(cells.Elman(3, 4)).split.loop_inputs
    assert not plan_files(folder)


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-7], lambda d: b"", lambda d: b"foreign" + d, lambda d: d[:-1] + b"\x01\x02"]
)
def test_a_damaged_plan_is_made_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    program(cells.Elman(3, 4))
    (file,) = folder.glob("*.plan")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert program(cells.Elman(3, 4)).split.loop_inputs
    assert file.read_bytes() == whole


def test_a_plan_under_the_name_of_another_is_made_again(folder: Path) -> None:
    class Scaled(Cell):
        """A number in the step."""

        h = state(H)
        W = param(H, I)
        scale: float = 1.0

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return self.scale * torch.tanh(x @ self.W.T + h)

    program(Scaled(3, 4))
    (first,) = folder.glob("*.plan")
    want = str(program(Scaled(3, 4, scale=0.5)).split.loop)
    (second,) = (f for f in folder.glob("*.plan") if f != first)
    whole = second.read_bytes()
    second.write_bytes(first.read_bytes())
    assert str(program(Scaled(3, 4, scale=0.5)).split.loop) == want
    assert second.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "\xff", "[]", "3", "{}", "[[], [], [], []]", "[[[], 1], [], [], []]"])
def test_what_is_no_plan_is_made_again(folder: Path, text: str) -> None:
    program(cells.Elman(3, 4))
    (file,) = folder.glob("*.plan")
    whole = file.read_bytes()
    assert disk_cache.write(file.name, text.encode("latin-1"))
    assert program(cells.Elman(3, 4)).split.loop_inputs
    assert file.read_bytes() == whole


def test_a_module_inside_a_cell_is_traced_before_it_is_looked_up() -> None:
    """The same class and sizes, another step: what a subclass or an option changes is in the graph."""

    class Inside(Cell):
        """A function chosen per object."""

        h = state(H)
        W, R = param(H, I), param(H, H)

        def __init__(self, activation: nn.Module) -> None:
            super().__init__(3, 4)
            self.activation = activation

        def step(self, x: Tensor, h: Tensor) -> Any:
            return self.activation(x @ self.W.T + h @ self.R.T)

    texts = {str(program(Inside(a)).split.loop) for a in (nn.Tanh(), nn.Sigmoid(), nn.Hardtanh(-0.5, 0.5))}
    assert len(texts) == 3
    assert len({str(trace(Inside(a), dict(Inside(a).named_parameters()))) for a in (nn.Tanh(), nn.ReLU())}) == 2
