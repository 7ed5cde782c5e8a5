"""Noise inside a cell: wrappers that are cells again, correct in training and absent in evaluation.

A wrapper's `draw` makes the tensors of one call (masks, dropped weights); its `step` reads them by name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from everloop import torch_private
from everloop.cell import Cell, bind, step_results
from everloop.compiler.bindings import Bindings
from everloop.errors import CellError, OptionError, unknown
from everloop.layers.extras import NOTHING, Extras
from everloop.layers.masked_matrix import MaskedMatrix
from everloop.layers.rows import drawn, is_whole_batch


def values_of(cell: Cell, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
    """Return what the step of `cell` sees in one call over `steps` steps of `batch` sequences."""
    if isinstance(cell, Wrapper):
        return cell.draw(steps, batch, extras)
    if cell._modules:
        own: dict[str, Tensor] = dict(cell.named_parameters())
    else:  # the same, at a tenth of the cost
        own = {name: p for name, p in cell._parameters.items() if p is not None}
    kind = type(cell)
    if not (kind.step_inputs or kind.contexts or kind.noises):
        return Bindings(own)
    rows = {name: extras.contexts[name] for name in kind.contexts}
    rows |= {f"{n}_mask": extras.contexts[f"{n}_mask"] for n, c in kind.contexts.items() if c.free}
    at_steps: dict[str, Tensor] = {name: extras.inputs[name] for name in cell.input_sizes}
    like = next(iter(own.values()), torch.empty(0))
    for name, spec in cell.drawn().items():
        group, shape = (at_steps, (steps, batch)) if spec.per == "step" else (rows, (batch,))
        draw = partial(spec.draw, like=like, generator=extras.generator)
        group[name] = drawn(draw, (*shape, spec.size(cell.sizes)))
    return Bindings(own, rows, at_steps)


class Wrapper(Cell):
    """A cell around a cell: the same states and sizes, a step that does a little more.

    inference_only: there are no gradients through it.
    """

    inference_only = False

    def __init__(self, cell: Cell) -> None:
        nn.Module.__init__(self)
        if not isinstance(cell, Cell):
            raise CellError(f"{type(self).__name__} got {type(cell).__name__}; expected a Cell (not a Stack)")
        self.cell = cell
        self.sizes = cell.sizes

    @property
    def state_sizes(self) -> dict[str, int]:
        return self.cell.state_sizes

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.cell.state_shapes

    @property
    def output_sizes(self) -> dict[str, int]:
        return self.cell.output_sizes

    @property
    def output_type(self) -> Any:
        return self.cell.output_type

    def recurrent_matrices(self) -> dict[str, list[slice]]:
        return {f"cell.{name}": spans for name, spans in self.cell.recurrent_matrices().items()}

    def reset_parameters(self, *, orthogonal: bool = False, forget_bias: float | None = None) -> None:
        self.cell.reset_parameters(orthogonal=orthogonal, forget_bias=forget_bias)

    def like(self, input_size: int) -> Cell:
        twin = copy.deepcopy(self)
        twin.cell = self.cell.like(input_size)
        twin.sizes = twin.cell.sizes
        return twin

    @property
    def lasts(self) -> bool:
        """Whether a draw holds for a whole sequence, so that single steps cannot share it."""
        return False

    def draw(self, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
        """Return the tensors of one call. Masks have the dtype and device of the first parameter, if there is one."""
        return values_of(self.cell, steps, batch, extras).under("cell")

    def told(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"cell.{name}": t for name, t in self.cell.told(x, given).items()}

    def step(self, x: Tensor, *states: Tensor) -> Any:
        return step_results(self.cell, x, states)

    def summary(self, start: Sequence[Tensor] = ()) -> str:
        """Return what `explain` says of it besides; start: its first states, where they are learned."""
        return ""

    def _keep(self, extras: Extras, rate: float, *shape: int) -> Tensor:
        like = next(self.parameters(), torch.empty(0))

        def kept(*shape: int) -> Tensor:
            fresh = torch.zeros(shape, dtype=like.dtype, device=like.device)
            return fresh.bernoulli_(1 - rate, generator=extras.generator)

        return drawn(kept, shape)

    def extra_repr(self) -> str:
        return ""


class VariationalDropout(Wrapper):
    """Dropout with one mask a sequence, the same at every step, on the inputs and on the recurrence.

    The recurrent mask applies to whatever the recurrent matrices multiply, and only there.
    Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016.
    """

    def __init__(self, cell: Cell, *, inputs: float = 0.0, recurrence: float = 0.0) -> None:
        super().__init__(cell)
        self.inputs, self.recurrence = checked_rate("inputs", inputs), checked_rate("recurrence", recurrence)
        self.mask_x: Tensor | None = None
        self.mask_h: Tensor | None = None

    @property
    def lasts(self) -> bool:
        return bool(self.inputs or self.recurrence)

    def draw(self, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
        values = super().draw(steps, batch, extras)
        rows = dict(values.rows)
        if self.training and self.inputs:
            rows["mask_x"] = self._keep(extras, self.inputs, batch, self.input_size) / (1 - self.inputs)
        if self.training and self.recurrence:
            rows["mask_h"] = self._keep(extras, self.recurrence, batch, next(iter(self.state_sizes.values()))) / (
                1 - self.recurrence
            )
        return replace(values, rows=rows)

    def step(self, x: Tensor, *states: Tensor) -> Any:
        cell = self.cell
        if self.mask_x is not None:
            x = x * self.mask_x
        if self.mask_h is not None:
            masked = {
                name: MaskedMatrix(attrgetter(name)(cell), spans, self.mask_h)
                for name, spans in cell.recurrent_matrices().items()
            }
            cell = bind(cell, masked)
        return step_results(cell, x, states)

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, recurrence={self.recurrence}"


class Zoneout(Wrapper):
    """Each unit of a state keeps its old value with the rate given for that state: `Zoneout(cell, h=0.05, c=0.5)`.

    In evaluation the state is the expectation, new + rate * (old - new), as in the paper.
    Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    """

    def __init__(self, cell: Cell, **rates: float) -> None:
        super().__init__(cell)
        for name in rates:
            if name not in cell.state_sizes:
                raise OptionError("Zoneout: " + unknown("state", name, cell.state_sizes))
        self.rates = {name: checked_rate(name, rate) for name, rate in rates.items()}

    def draw(self, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
        values = super().draw(steps, batch, extras)
        if not self.training:
            return values
        sizes = self.state_sizes
        masks = {f"new_{k}": self._keep(extras, rate, steps, batch, sizes[k]) for k, rate in self.rates.items()}
        return replace(values, steps=values.steps | masks)

    def step(self, x: Tensor, *states: Tensor) -> Any:
        results = step_results(self.cell, x, states)
        after = dict(zip(self.state_sizes, results, strict=False))
        before = dict(zip(self.state_sizes, states, strict=True))
        for name, rate in self.rates.items():
            new, old = after[name], before[name]
            if self.training:
                mask = getattr(self, f"new_{name}", None)
                mask = _bernoulli(new, 1 - rate) if mask is None else mask
                after[name] = torch.where(mask > 0.5, new, old)
            else:
                after[name] = new + rate * (old - new)
        return *after.values(), *results[len(after) :]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={rate}" for name, rate in self.rates.items())


class WeightDrop(Wrapper):
    """Dropout on the recurrent matrices, one mask a call. The raw weights stay and receive the gradient.

    Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", ICLR 2018.
    """

    def __init__(self, cell: Cell, rate: float) -> None:
        super().__init__(cell)
        self.rate = checked_rate("rate", rate)

    @property
    def lasts(self) -> bool:
        return bool(self.rate)

    def draw(self, steps: int, batch: int, extras: Extras = NOTHING) -> Bindings:
        values = super().draw(steps, batch, extras)
        if not (self.training and self.rate):
            return values
        fixed = dict(values.fixed)
        for name, spans in self.recurrent_matrices().items():
            keep = torch.ones_like(fixed[name])
            for columns in spans:
                keep[..., columns] = dropped(keep[..., columns], self.rate, extras.generator)
            fixed[name] = fixed[name] * keep
        return replace(values, fixed=fixed)

    def extra_repr(self) -> str:
        return f"{self.rate}"


def _bernoulli(rows: Tensor, probability: float) -> Tensor:
    if is_whole_batch():
        return torch.bernoulli(torch.full_like(rows, probability))
    return drawn(lambda *shape: torch.bernoulli(rows.new_full(shape, probability)), tuple(rows.shape))


def dropped(values: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Return dropout of numbers, drawn by a generator where one is given."""
    if not rate:
        return values
    if values.device.type == "cpu" and not torch.compiler.is_compiling() and not torch_private.has_transforms():
        return values * _kept(values.shape, 1 - rate, generator).to(values.dtype).mul_(1 / (1 - rate))
    if generator is None:
        return dropout(values, rate)
    return values * torch.zeros_like(values).bernoulli_(1 - rate, generator=generator).div_(1 - rate)


def _kept(shape: torch.Size, probability: float, generator: torch.Generator | None) -> Tensor:
    """Return 1 where a number is kept, else 0, int32, from words of random bits: bernoulli_ takes three times as long.

    In place, since making truth values and then numbers of them takes four times as long.
    """
    count = shape.numel()
    words = torch.zeros(-(-count // 2), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    below = min(round(probability * 2**32) - 2**31, 2**31 - 1)
    return words.view(torch.int32)[:count].view(shape).lt_(below)


def row_dropout(rows: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Return dropout of rows [..., B, n], the same for a sequence whichever process of several has it."""
    if is_whole_batch():
        return dropped(rows, rate, generator)
    return rows * drawn(lambda *shape: dropped(rows.new_ones(shape), rate, generator), tuple(rows.shape))


def checked_rate(name: str, rate: float) -> float:
    """Return `rate`, a probability below one."""
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise OptionError(f"dropout rate {name} is {rate!r}; expected a number from 0 up to, not including, 1")
    return float(rate)
