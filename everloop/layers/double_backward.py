"""Gradients of gradients: the loop once more, in plain PyTorch, where every gradient has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.evaluate import evaluate
from everloop.compiler.ir import Graph, Value
from everloop.compiler.program import Program
from everloop.compiler.target import reference


class _LoopCell(nn.Module):
    """The loop's part of a step as a cell of its own. Its output is all that is exposed, side by side.

    The loop inputs are attributes input0, input1, …
    """

    is_shaped: ClassVar[bool] = False
    noises: ClassVar[dict[str, Any]] = {}

    def __init__(self, graph: Graph, loop_inputs: Sequence[str], exposed: Sequence[str]) -> None:
        super().__init__()
        self.graph, self.exposed = graph, exposed
        self.attribute = {name: f"input{k}" for k, name in enumerate(loop_inputs)}
        sizes = {name: value.width for name, value in graph.outputs.items()}
        self.input_sizes: dict[str, int] = {}
        self.output_sizes: dict[str, int] = {}
        self.output_width = sum(sizes[name] for name in exposed)
        self.state_sizes = {"": self.output_width, **sizes}

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.state_sizes, states, strict=True))

        def leaf(value: Value) -> Tensor:
            found: Tensor = given[value.name] if value.group == "state" else getattr(self, self.attribute[value.name])
            return found

        found = evaluate(self.graph, leaf, like=x)
        return torch.cat([found[name] for name in self.exposed], -1), *found.values()


def differentiable(program: Program, call: Call, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of the loop inputs, the states and the restart vectors, each with a graph of its own."""
    x, state, restart, time = call.x, call.state, call.restart, call.time
    widths = [program.split.loop.outputs[name].width for name in program.split.exposed]
    cell = _LoopCell(program.split.loop, program.loop_inputs, program.split.exposed)
    loop_inputs = program.in_turns(program.prologue(call.values, x, batch_major=time.batch_major, compact=time.compact))
    kinds = {name: leaf.group for name, leaf in program.split.loop_inputs.items()}
    inputs = [*loop_inputs.values(), *state, *(r for r in restart if r is not None)]

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        parts: dict[str, dict[str, Tensor]] = {"fixed": {}, "row": {}, "sequence": {}}
        for name in program.loop_inputs:
            kind = kinds[name] if kinds[name] in parts else "fixed"
            tensor = next(given)
            if time.compact is not None and kind == "sequence" and tensor.dim() == 2:
                tensor = time.compact.pad(tensor)
            parts[kind][cell.attribute[name]] = tensor
        start = [x.new_zeros(time.batch, cell.output_width), *(next(given) for _ in state)]
        origin = [None, *(None if r is None else next(given) for r in restart)]
        no_input = x.new_zeros(time.steps, time.batch, 0)
        values = Bindings(parts["fixed"], parts["row"], parts["sequence"])
        call = Call(values, no_input, tuple(start), tuple(origin), time)
        y, final = reference().run(cell, call)  # type: ignore[arg-type]
        sequences = torch.split(y, widths, -1)
        if time.compact is not None:  # all but the output have compact rows
            names = program.split.exposed
            sequences = tuple(t if name == program.output else time.compact.at(t, time.compact.place)
                              for name, t in zip(names, sequences, strict=True))  # fmt: skip
        return (*sequences, *final[1:])

    results, pull = torch.func.vjp(outputs, *inputs)[:2]
    found = iter(pull(tuple(torch.zeros_like(r) if g is None else g for g, r in zip(grads, results, strict=True))))
    first = [next(found) for _ in (*program.loop_inputs, *state)]
    return [*first, *(None if r is None else next(found) for r in restart)]
