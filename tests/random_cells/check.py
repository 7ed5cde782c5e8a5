"""Runs one case with the layer and with the loop, and tells what differs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from everloop import Bidirectional, Stack
from everloop.cell import Cell
from everloop.errors import EverloopError
from everloop.layers.dispatch import why
from everloop.layers.dropout import Wrapper, Zoneout, values_of
from everloop.layers.extras import example, example_extras
from tests.random_cells.build import Call, build, exactly, flat
from tests.random_cells.cases import Case
from tests.random_cells.inside import Inside
from tests.random_cells.loop import Noise, Told, over_sequence
from tests.random_cells.source import Drawn

ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    EverloopError,
)
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """kind: "right", "wrong" or "void" (plain PyTorch refuses, or its numbers are not finite)."""

    kind: str
    compiled: bool = True
    reason: str = ""  # of a step that is not compiled
    text: str = ""  # what differs


def check(drawn: Drawn, case: Case) -> Outcome:
    """Return whether the layer computes in this case what the loop does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _constants(case.double):
                call = build(drawn, case)
                noise = _noise(call, case)
            expected = reference(exactly(call), case, noise, drawn.local_names())
        except ERRORS as error:
            return Outcome("void", text=f"{type(error).__name__}: {error}")
        if not all(
            torch.isfinite(value).all() and value.abs().amax() < 1e8 for value in expected.values() if value.numel()
        ):
            return Outcome("void", text="not finite")
        try:
            with _constants(case.double), _poisoned():
                came = layered(call, case, [n.removeprefix("record ") for n in expected if n.startswith("record ")])
            reason, shared = why_not(call), shared_gradients(call)
        except ERRORS as error:
            return Outcome("wrong", text=f"raises {type(error).__name__}: {error}")
        text = shared or difference(drawn, call, case, came, expected, noise)
    return Outcome("wrong" if text else "right", not reason, reason, text)


def reference(call: Call, case: Case, noise: dict[str, Tensor], names: Sequence[str] = ()) -> Results:
    """Return outputs, states and gradients by the loop, and where a case records, those local names that are rows."""
    with _constants(double=True):
        return _reference(call, case, noise, names)


def _reference(call: Call, case: Case, noise: dict[str, Tensor], names: Sequence[str]) -> Results:
    layer, x = call.layer, call.x
    zeros = layer.cell.zeros(1, x)
    start = flat(zeros)
    if layer.start is not None:
        start = [s.view_as(z) for s, z in zip(layer.start, start, strict=True)]
    initial = _like(start, zeros)
    with torch.set_grad_enabled(not case.how.endswith("no_grad")):
        columns, lasts, inside = [], [], Inside(layer.cell, case, names)
        for b in range(case.batch):
            n = case.steps if case.lengths is None else case.lengths[b]
            state = initial if call.state is None else _like([s[b : b + 1] for s in flat(call.state)], zeros)
            resets = [False] * n if call.reset is None else call.reset[:n, b].tolist()
            rows = [x[t, b : b + 1] for t in range(n)]
            told = Told(call.told, {n.removeprefix("own "): t for n, t in noise.items() if n.startswith("own ")})
            at = Noise({n: t for n, t in noise.items() if not n.startswith("own ")}, b, told)
            with inside:
                output, last = over_sequence(layer.cell, rows, state, initial, resets, at)
            output += [x.new_zeros(1, _width(layer.cell))] * (case.steps - n)
            columns.append(torch.cat(output))
            lasts.append(flat(last))
        y, after = torch.stack(columns, 1), [torch.cat(parts) for parts in zip(*lasts, strict=True)]
        recorded = inside.sequences()
        results = _values(y, after, recorded)
        total = loss(case, y, after, recorded)
    if total.requires_grad:
        torch.autograd.backward(total)
    doubled = 2 if case.how in ("twice", "retain") else 1
    return results | {name: doubled * grad for name, grad in _gradients(call).items()}


def layered(call: Call, case: Case, names: Sequence[str] = ()) -> Results:
    """Return outputs, states and gradients by the layer, and what it records."""
    layer = call.layer
    if case.how == "other":
        other = torch.randn(case.steps + 1, case.batch + 2, layer.input_size, dtype=call.x.dtype)
        told = given(example(layer.cell, other), case)
        y = beside(layer(other.transpose(0, 1) if case.batch_first else other, **told)[0])
        if y.requires_grad:
            torch.autograd.backward(y.sum())
        layer.zero_grad()
    torch.manual_seed(case.seed)
    with torch.set_grad_enabled(not case.how.endswith("no_grad")):
        y, after, recorded = _run(call, case, names)
        results = _values(y, after, recorded)
        total = loss(case, y, after, recorded)
        if case.how == "twice":
            torch.manual_seed(case.seed)
            total = total + loss(case, *_run(call, case, names))
    if total.requires_grad:
        torch.autograd.backward(total, retain_graph=case.how == "retain")
        if case.how == "retain":
            torch.autograd.backward(total)
    return results | _gradients(call)


def _run(call: Call, case: Case, names: Sequence[str]) -> tuple[Tensor, list[Tensor], Results]:
    layer, x, state, reset = call.layer, call.x, call.state, call.reset
    if case.how.startswith("step"):
        outputs, inputs = [], {name for cell in _outer_cells(layer.cell) for name in cell.input_sizes}
        for t in range(case.steps):
            told: dict[str, Any] = {n: v[t] if n in inputs else v for n, v in call.told.items()}
            y, state = layer.step(x[t], state, **told)
            outputs.append(beside(y))
        return torch.stack(outputs), flat(state), {}
    lengths = None if case.lengths is None else torch.tensor(case.lengths, dtype=torch.long)
    recorded: dict[str, Any] = {}
    told = given(call.told, case)
    if case.batch_first:
        x, reset = x.transpose(0, 1), None if reset is None else reset.T
    if case.how == "record":
        y, after, recorded = layer.record(x, *names, state=state, lengths=lengths, reset=reset, **told)
    else:
        y, after = layer(x, state, lengths=lengths, reset=reset, **told)
    if case.batch_first:
        return beside(y).transpose(0, 1), flat(after), {n: t.transpose(0, 1) for n, t in recorded.items()}
    return beside(y), flat(after), recorded


def given(told: dict[str, Tensor], case: Case) -> dict[str, Any]:
    """Return what a layer is given by name, in the form of x."""
    return {n: v.transpose(0, 1) if n.startswith("t_") and case.batch_first else v for n, v in told.items()}


def beside(y: Any) -> Tensor:
    """Return several outputs side by side."""
    return torch.cat(list(y), -1) if isinstance(y, tuple) else y


def _width(module: nn.Module) -> int:
    """Return how wide all outputs of a core are together."""
    if isinstance(module, Bidirectional):
        return _width(module.ahead) + (_width(module.back) if module.merge == "concat" else 0)
    if isinstance(module, Stack):
        return _width(module.members[-1])
    assert isinstance(module, Cell)
    return sum(module.output_sizes.values()) or module.output_size


def loss(case: Case, y: Tensor, after: list[Tensor], recorded: Results) -> Tensor:
    """Return a number that depends on what the case says is used."""
    generator = torch.Generator().manual_seed(case.seed)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (y, *after)]
    sums = [(t * w).sum() for t, w in zip((y, *after), weights, strict=True)]
    chosen = {"all": sum(sums[1:], sums[0]), "output": sums[0], "state": sum(sums[2:], sums[1]), "last": sums[-1]}
    own = [(t * torch.cos(torch.arange(t.numel()).view(t.shape))).sum() for t in recorded.values()]
    return sum(own, chosen[case.loss])


def difference(drawn: Drawn, call: Call, case: Case, came: Results, expected: Results, noise: dict[str, Tensor]) -> str:
    """Return what differs by more than rounding explains, "" if nothing does."""
    eps = torch.finfo(call.x.dtype).eps
    if case.double and re.search("hardsigmoid|hardswish", drawn.source()):
        eps = torch.finfo(torch.float32).eps / 500  # PyTorch computes their gradients with a float32 sixth
    far = {}
    for name, want in expected.items():
        got = came[name].double()
        assert got.shape == want.shape, f"{name}: {list(got.shape)} instead of {list(want.shape)}"
        by = (got - want).abs().amax().item() if want.numel() else 0.0
        allowed = 500 * (case.steps + 3) * eps * max(1.0, want.abs().amax().item() if want.numel() else 0.0)
        if not by <= allowed:  # NaN too
            far[name] = by
    if far:
        loose = _sensitivity(call, case, expected, noise)
        far = {name: by for name, by in far.items() if not by <= 1000 * (case.steps + 3) * eps * loose[name]}
    return ", ".join(f"{name} by {by:.2g} of {expected[name].abs().amax().item():.2g}" for name, by in far.items())


class Coarse(TorchFunctionMode):
    """Rounds every result much more than the processor does, so that a comparison that rounding decides shows."""

    def __init__(self, change: float) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if not isinstance(result, Tensor) or not result.is_floating_point() or name.endswith("_") or name == "detach":
            return result
        with torch._C.DisableTorchFunction():
            return result * (1 + self.change * torch.randn(result.shape, dtype=result.dtype))


def _sensitivity(call: Call, case: Case, expected: Results, noise: dict[str, Tensor]) -> dict[str, float]:
    """Return how much each result changes with relative changes of everything that goes in, per unit of change."""
    change = 1e-9 if case.double else 1e-5
    found = dict.fromkeys(expected, 0.0)
    for _ in range(3):
        twin = exactly(call)
        with torch.no_grad():
            given = [] if twin.state is None else flat(twin.state)
            read = [t for t in twin.told.values() if t.is_floating_point()]
            for tensor in (twin.x, *given, *read, *twin.layer.parameters()):
                tensor.grad = None
                tensor += change * torch.randn_like(tensor) * (tensor.abs() + 0.01)
        with Coarse(change):
            came = reference(twin, case, noise)
        for name, value in came.items():
            by = (value - expected[name]).abs()
            found[name] = max(found[name], by.amax().item() / change if by.numel() else 0.0)
    return {name: by if by == by else float("inf") for name, by in found.items()}


def shared_gradients(call: Call) -> str:
    """Return which gradients lie in the same memory, where adding to one changes the other."""
    seen: dict[int, str] = {}
    for name, leaf in call.layer.named_parameters():
        if leaf.grad is not None and leaf.numel():
            other = seen.setdefault(leaf.grad.data_ptr(), name)
            if other != name:
                return f"d {other} and d {name} share memory"
    return ""


def why_not(call: Call) -> str:
    """Return why one of the cells is not compiled, "" if all are."""
    cells = list(_outer_cells(call.layer.cell))
    x = [call.x.new_empty(1, 1, c.input_size) for c in cells]
    reasons = (why(c, values_of(c, 1, 1, example_extras(c, one)), one) for c, one in zip(cells, x, strict=True))
    return next((reason for reason in reasons if reason), "")


def _outer_cells(module: nn.Module) -> Iterator[Cell]:
    if isinstance(module, Cell):
        yield module
    else:
        for child in module.children():
            yield from _outer_cells(child)


def _noise(call: Call, case: Case) -> dict[str, Tensor]:
    """Return what the regulariser will draw in this call, or how it mixes in evaluation."""
    cell = call.layer.cell  # both directions of a noisy cell would draw: a case has one
    if not isinstance(cell, Wrapper):
        if not isinstance(cell, Cell) or not cell.drawn():
            return {}
        torch.manual_seed(case.seed)
        like = torch.empty(0, dtype=torch.float64 if case.double else torch.float32)
        shapes = {n: (case.steps, case.batch) if s.per == "step" else (case.batch,) for n, s in cell.drawn().items()}
        own = {n: s.draw(*shapes[n], s.size(cell.sizes), like=like) for n, s in cell.drawn().items()}
        return {f"own {name}": value.double() for name, value in own.items()}
    if isinstance(cell, Zoneout) and not case.training:
        return {f"rate_{name}": torch.tensor(rate) for name, rate in cell.rates.items()}
    torch.manual_seed(case.seed)
    with torch.no_grad():
        at_once, calls = (1, case.steps) if case.how.startswith("step") else (case.steps, 1)
        values = [cell.draw(at_once, case.batch) for _ in range(calls)]
        drawn = dict(values[0].rows) | {name: torch.cat([v.steps[name] for v in values]) for name in values[0].steps}
        for name, value in values[0].fixed.items() if case.training and case.around == "weight drop" else ():
            drawn[f"keep {name.removeprefix('cell.')}"] = value / cell.get_parameter(name)
    return {name: value.double() for name, value in drawn.items()}


def _values(y: Tensor, after: list[Tensor], recorded: Results) -> Results:
    found = {"output": y} | {f"state {i}": s for i, s in enumerate(after)}
    found |= {f"record {name}": t for name, t in recorded.items()}
    return {name: t.detach().clone() for name, t in found.items()}


def _gradients(call: Call) -> Results:
    leaves = {"x": call.x, **dict(call.layer.named_parameters())}
    leaves |= {f"told {name}": t for name, t in call.told.items()}
    leaves |= {f"given state {i}": s for i, s in enumerate([] if call.state is None else flat(call.state))}
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    return {f"d {name}": torch.zeros_like(t) if t.grad is None else t.grad for name, t in wanted.items()}


def _like(leaves: list[Tensor], state: Any) -> Any:
    """Return the tensors nested as `state` is."""
    rest = iter(leaves)

    def fill(s: Any) -> Any:
        return tuple(fill(part) for part in s) if isinstance(s, tuple) else next(rest)

    return fill(state)


@contextmanager
def _constants(double: bool) -> Iterator[None]:
    """Let numbers that a step makes out of none, such as `mask * 0.3`, be of the dtype of all the others."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _poisoned() -> Iterator[None]:
    """Fill memory that PyTorch hands out with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
