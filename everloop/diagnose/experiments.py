"""The experiments of the textbooks, on any cells: vanishing and exploding gradients, and what a cell can remember.

Bengio, Simard and Frasconi, "Learning long-term dependencies with gradient descent is difficult", 1994; Hochreiter and
Schmidhuber, "Long short-term memory", 1997 (the adding problem); Pascanu, Mikolov and Bengio, 2013 (clipping).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.cell import Cell
from everloop.diagnose.gradients import GradientThroughTime, gradient_through_time
from everloop.errors import OptionError, unknown
from everloop.layers import Recurrent
from everloop.models.loss import Loss
from everloop.models.model import Model

GAINS = {"small": 0.5, "right": 1.0, "large": 2.0}
Make = Callable[[int, int], Cell]  # a cell from its input and hidden size
Problem = Literal["copy", "adding"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)
SYMBOLS = 8
RATE, UPDATES = 0.03, 20  # of the gradient descent that clipping is tried in
NORM, VALUE = 1.0, 0.1  # at which gradients are clipped there
CLOSE = 0.04  # a sum is right if it is so near (Hochreiter and Schmidhuber 1997)


class _LastStep(Model):
    """Layers whose last output should be a target: all of a gradient comes from there."""

    kind = "experiment"

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.layers = Recurrent(cell)

    def loss(self, batch: tuple[Tensor, Tensor], state: Any = None) -> Loss:
        y, after = self.layers(batch[0], state)
        return Loss((y[-1] - batch[1]).square().sum(), len(batch[1]), after)


@dataclass(frozen=True)
class Clipping:
    """What one kind of clipping makes of the gradient of all weights, and of some updates with it.

    norm: of the first gradient, clipped; turned: by how many degrees it points elsewhere, nan of a gradient of 0.
    losses: before each update of plain gradient descent, and after the last.
    """

    how: str
    norm: float
    turned: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class GradientRow:
    """One cell at one size of its recurrent weights: its curve, and what clipping does.

    norm: of the gradient of all weights.
    """

    cell: str
    gain: str
    curve: GradientThroughTime
    norm: float
    clippings: tuple[Clipping, ...]


def gradient_experiment(
    cells: Mapping[str, Make], *, hidden: int = 32, steps: int = 50, seed: int = 0
) -> Iterator[GradientRow]:
    """Yield, for each cell and each size of the recurrent weights, how the gradient of the last step goes back in time.

    The recurrent matrices are orthogonal times 0.5, 1 or 2, gate by gate; inputs are small random numbers.

    Args:
        cells: what makes each cell, by name.
        hidden: units; steps: T, how long the sequences are; seed: of weights and inputs.
    """
    for name, make in cells.items():
        for label, gain in GAINS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = _LastStep(scaled(make(4, hidden), gain))
                batch = 0.1 * torch.randn(steps, 8, 4), torch.randn(8, model.layers.output_size)
            curve = gradient_through_time(model, batch)[0]
            clippings = tuple(_updates(copy.deepcopy(model), batch, how) for how in _CLIPPINGS)
            yield GradientRow(name, label, curve, clippings[0].norm, clippings)


def _updates(model: Model, batch: Any, how: str) -> Clipping:
    """Train a model on one batch, by gradient descent with one kind of clipping."""
    learned = [p for p in model.parameters() if p.requires_grad]
    losses: list[float] = []
    firsts: list[Tensor] = []  # the first gradient, before and after clipping
    for _ in range(UPDATES):
        loss = model.loss(batch).mean
        losses.append(float(loss.detach()))
        model.zero_grad()
        torch.autograd.backward(loss)
        before = _gradient(learned)
        _CLIPPINGS[how](learned)
        firsts = firsts or [before, _gradient(learned)]
        with torch.no_grad():
            for weight in learned:
                if weight.grad is not None:
                    weight.sub_(RATE * weight.grad)
    losses.append(float(model.loss(batch).mean.detach()))
    return Clipping(how, float(firsts[1].norm()), _degrees(*firsts), tuple(losses))


def scaled(cell: Cell, gain: float) -> Cell:
    """Return the cell with recurrent matrices that are orthogonal times `gain`, gate by gate, and biases of 0."""
    cell.reset_parameters(orthogonal=True)
    with torch.no_grad():
        for name, spans in cell.recurrent_matrices().items():
            for columns in spans:
                cell.get_parameter(name)[..., columns] *= gain
        for name, spec in type(cell).params.items():
            if spec.is_bias and name in cell._parameters:
                cell.get_parameter(name).zero_()
    return cell


def _gradient(weights: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]).double()


def _degrees(a: Tensor, b: Tensor) -> float:
    both = float(a.norm() * b.norm())
    return math.degrees(math.acos(max(-1.0, min(1.0, float((a * b).sum()) / both)))) if both else math.nan


@dataclass(frozen=True)
class MemoryRow:
    """How much of a problem a cell solves after training: accuracy from 0 to 1, at a lag."""

    cell: str
    problem: str
    lag: int
    accuracy: float
    chance: float


def memory_experiment(
    cells: Mapping[str, Make],
    *,
    problems: Sequence[Problem] = PROBLEMS,
    lags: Sequence[int] = (5, 10, 20, 40),
    hidden: int = 32,
    steps: int = 300,
    seed: int = 0,
) -> Iterator[MemoryRow]:
    """Train each cell on each problem and lag and yield how often it is right on sequences it has not seen.

    "copy": the first of `lag` + 1 steps shows one of eight symbols, random others follow; it is asked at the end.
    "adding": of `lag` + 1 numbers two are marked, one of them in the first tenth; the answer is their sum, right within
    0.04.

    Args:
        cells: what makes each cell, by name; the readout of the last output is linear.
        problems: which of the two.
        lags: steps that must be bridged; hidden: units; steps: updates with 64 sequences each; seed: of everything.

    Raises:
        OptionError: there is no such problem, or a lag is below 1.
    """
    for problem in problems:
        if problem not in _PROBLEMS:
            raise OptionError(unknown("problem", problem, _PROBLEMS))
    for lag in lags:
        if lag < 1:
            raise OptionError(f"lag is {lag}; expected at least 1")
    for problem, (name, make) in product(problems, cells.items()):
        for lag in lags:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                yield _trained(name, make, problem, lag, hidden, steps)


def _trained(name: str, make: Make, problem: str, lag: int, hidden: int, steps: int) -> MemoryRow:
    draw, inputs, outputs, loss, is_right, chance = _PROBLEMS[problem]
    layers = Recurrent(make(inputs, hidden))
    readout = nn.Linear(layers.output_size, outputs)
    learned = [*layers.parameters(), *readout.parameters()]
    optimiser = torch.optim.Adam(learned, lr=5e-3)
    for _ in range(steps):
        x, target = draw(lag, 64)
        error = loss(readout(layers(x)[0][-1]), target)
        optimiser.zero_grad()
        torch.autograd.backward(error)
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
    with torch.no_grad():
        x, target = draw(lag, 512)
        accuracy = float(is_right(readout(layers(x)[0][-1]), target).double().mean())
    return MemoryRow(name, problem, lag, accuracy, chance)


def _copy(lag: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return (x [lag + 1, batch, 2 * SYMBOLS], the first symbol [batch]); what follows it is in the other half of x."""
    first, rest = torch.randint(SYMBOLS, (1, batch)), torch.randint(SYMBOLS, (lag, batch))
    return F.one_hot(torch.cat([first, rest + SYMBOLS]), 2 * SYMBOLS).float(), first[0]


def _adding(lag: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return (numbers and marks [lag + 1, batch, 2], the sum [batch, 1] of the two that are marked)."""
    numbers, marks = torch.rand(lag + 1, batch), torch.zeros(lag + 1, batch)
    rows = torch.arange(batch)
    marks[torch.randint(max(1, (lag + 1) // 10), (batch,)), rows] = 1
    marks[torch.randint((lag + 1) // 2, lag + 1, (batch,)), rows] = 1
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(0)[:, None]


def _same(y: Tensor, target: Tensor) -> Tensor:
    return y.argmax(-1) == target


def _near(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).abs()[:, 0] < CLOSE


_CLIPPINGS: dict[str, Callable[[Sequence[nn.Parameter]], Any]] = {
    "no clipping": lambda weights: None,
    "by norm": lambda weights: nn.utils.clip_grad_norm_(weights, NORM),
    "by value": lambda weights: nn.utils.clip_grad_value_(weights, VALUE),
}
# what draws a batch, sizes of input and output, loss, what is right, how often a guess is
_PROBLEMS: dict[str, tuple[Any, int, int, Any, Any, float]] = {
    "copy": (_copy, 2 * SYMBOLS, SYMBOLS, F.cross_entropy, _same, 1 / SYMBOLS),
    "adding": (_adding, 2, 1, F.mse_loss, _near, 2 * CLOSE - CLOSE**2),
}
