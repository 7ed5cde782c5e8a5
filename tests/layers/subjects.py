"""A cell with everything it reads, and what may be done to both without changing what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from tests import zoo
from tests.compiler.random_cells import Case
from tests.layers.calls import run

D = torch.float64
Results = tuple[Tensor, ...]  # the output [T, B, n] and the final states [B, n]


def own(tensor: Tensor) -> Tensor:
    """Return the same numbers as a leaf."""
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def each(function: Callable[[Tensor], Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: function(t) for name, t in tensors.items()}


@dataclass(frozen=True)
class Subject:
    """One call: x [T, B, I], states [B, n], values as the cell reads them, lengths [B]."""

    cell: Cell
    x: Tensor
    state: Results
    values: Bindings
    lengths: Tensor | None = None

    @property
    def leaves(self) -> list[Tensor]:
        values = self.values
        read = [*values.fixed.values(), *values.rows.values(), *values.steps.values()]
        return [self.x, *self.state, *(t for t in read if t.is_floating_point())]

    def run(self, *, reverse: bool = False) -> Results:
        y, final = run(self.cell, self.values, self.x, self.state, lengths=self.lengths, reverse=reverse, target="llvm")
        return y, *final

    def slopes(self, results: Results, scale: float = 1.0) -> list[Tensor]:
        """Return the gradients of a sum over all results, which no order of sequences, steps or features changes."""
        loss = scale * torch.stack([*(r.sin().sum() for r in results[:1]), *(r.cos().sum() for r in results[1:])]).sum()
        if not loss.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        return list(torch.autograd.grad(loss, self.leaves, allow_unused=True, materialize_grads=True))

    def changed(
        self,
        of_steps: Callable[[Tensor], Tensor] = own,
        of_rows: Callable[[Tensor], Tensor] = own,
        of_fixed: Callable[[Tensor], Tensor] = own,
    ) -> Subject:
        """Return the subject with leaves of its own, made by these functions of what each sequence or step has."""
        values = self.values
        new = Bindings(
            each(lambda t: own(of_fixed(t)), values.fixed),
            each(lambda t: own(of_rows(t)), values.rows),
            each(lambda t: own(of_steps(t)), values.steps),
        )
        state = tuple(own(of_rows(s)) for s in self.state)
        return replace(self, x=own(of_steps(self.x)), state=state, values=new)

    def ended(self) -> Tensor:
        """Return bool [T, B, 1]: where a sequence has ended."""
        assert self.lengths is not None
        return (torch.arange(len(self.x))[:, None] >= self.lengths)[..., None]


def of_zoo(name: str, steps: int, batch: int, wide: int, units: int) -> Subject:
    torch.manual_seed(3)
    cell = zoo.make(name, wide, units, dtype=D)
    values = zoo.values(cell, steps, batch)
    state = tuple(torch.randn(batch, n, dtype=D) for n in cell.state_sizes.values())
    return Subject(cell, torch.randn(steps, batch, wide, dtype=D), state, values).changed()


def of_case(case: Case) -> Subject:
    cell = case.cell()
    torch.manual_seed(case.seed)
    values = Bindings(*case.values(cell))
    state = tuple(torch.randn(case.batch, n, dtype=D) for n in case.sizes)
    return Subject(cell, torch.randn(case.steps, case.batch, case.inputs, dtype=D), state, values).changed()
