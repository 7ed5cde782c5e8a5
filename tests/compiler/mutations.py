"""Wrong plans, made from right ones by one small change each: what a defect of the planner could look like.

`python -m tests.compiler.mutations` lists them with what the verifier says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch

from everloop.compiler.hoist import Split
from everloop.compiler.loop import Instruction, Loop, Map, Product
from everloop.compiler.passes import plan_training, split_step
from everloop.compiler.plan import DerivedTraining, FactorPart
from everloop.compiler.trace import trace
from everloop.compiler.verify import verified_training
from everloop.errors import PlanError
from tests.zoo import make, values

Mutant = tuple[str, DerivedTraining]
Stage = Product | Map


def split_of(name: str) -> Split:
    """Return a cell of the zoo, cut at its loop."""
    cell = make(name, 3, 4, dtype=torch.float64).eval()
    read = values(cell, 2, 3)
    return split_step(trace(cell, read.fixed, read.rows, read.steps, torch.float64))


def mutants(plan: DerivedTraining) -> Iterator[Mutant]:
    """Yield every change of every kind."""
    for what, loop in _loops(plan.forward.loop):
        yield f"forward: {what}", replace(plan, forward=replace(plan.forward, loop=loop))
    for what, loop in _loops(plan.gradient):
        yield f"gradient: {what}", replace(plan, gradient=loop)
    yield from _memories(plan)
    yield from _factors(plan)
    yield from _forms(plan)


def _loops(loop: Loop) -> Iterator[tuple[str, Loop]]:
    stages = loop.stages
    for n, stage in enumerate(stages):
        yield f"stage {n} is lost", replace(loop, stages=(*stages[:n], *stages[n + 1 :]))
        if n:
            swapped = (*stages[: n - 1], stage, stages[n - 1], *stages[n + 1 :])
            yield f"stages {n - 1} and {n} are swapped", replace(loop, stages=swapped)
        for what, changed in _products(stage, stages) if isinstance(stage, Product) else _maps(stage):
            yield f"stage {n}, {what}", replace(loop, stages=(*stages[:n], changed, *stages[n + 1 :]))


def _products(stage: Product, stages: Iterable[Stage]) -> Iterator[tuple[str, Stage]]:
    yield "the matrix is transposed", replace(stage, transposed=not stage.transposed)
    for other in stages:
        if isinstance(other, Product) and other.matrix.name != stage.matrix.name:
            yield f"another matrix, {other.matrix.name}", replace(stage, matrix=other.matrix)
        if isinstance(other, Product) and other.source.name != stage.source.name:
            yield f"another row, {other.source.name}", replace(stage, source=other.source)


def _maps(stage: Map) -> Iterator[tuple[str, Stage]]:
    if stage.width > 1:
        yield "the last feature is left out", replace(stage, width=stage.width - 1)
    stores = [i.buffer for i in stage.body if i.op == "store"]
    for n, i in enumerate(stage.body):

        def changed(by: Instruction, n: int = n) -> Stage:
            return replace(stage, body=(*stage.body[:n], by, *stage.body[n + 1 :]))

        if i.op in ("store", "accumulate", "sum", "max"):
            yield f"line {n}: {i.op} is lost", replace(stage, body=(*stage.body[:n], *stage.body[n + 1 :]))
        if i.op == "accumulate":
            yield f"line {n}: a total takes its last value", changed(replace(i, args=(i.args[0] - 1,)))
        if i.buffer is not None and i.buffer.width > stage.width:
            for by in (-1, 1, stage.width, -stage.width):
                yield f"line {n}: {i.op} of {i.buffer.name} {by} features on", changed(replace(i, offset=i.offset + by))
        if i.op == "store" and len(i.args) == 1 and i.args[0]:
            yield f"line {n}: another line is stored", changed(replace(i, args=(i.args[0] - 1,)))
        if i.op == "load":
            for other in stores:
                if other is not None and other != i.buffer and i.buffer and other.width == i.buffer.width:
                    yield f"line {n}: reads {other.name} for {i.buffer.name}", changed(replace(i, buffer=other))
        if i.op == "constant":
            yield f"line {n}: another number", changed(replace(i, number=i.number + 1))
        if i.op in ("sub", "div", "less", "less_equal") and i.args[0] != i.args[1]:
            yield f"line {n}: {i.op} the other way round", changed(replace(i, args=i.args[::-1]))


def _memories(plan: DerivedTraining) -> Iterator[Mutant]:
    widths = {b.name: b.width for b in plan.gradient.buffers} | plan.emits | plan.forward.emits
    for emit, width in plan.emits.items():
        for name in sorted(set(plan.reads.values())):
            if widths.get(name) == width and plan.in_place.get(emit) != name:
                yield f"{emit} in the memory of {name}", replace(plan, in_place=plan.in_place | {emit: name})
    names = [n for n in plan.reads if n in widths]
    for a, b in pairwise(names):
        if widths[a] == widths[b]:
            swapped = plan.reads | {a: plan.reads[b], b: plan.reads[a]}
            yield f"{a} and {b} are read in each other's memory", replace(plan, reads=swapped)
    forward = plan.forward
    for name, width in forward.emits.items():
        for buffer in forward.loop.buffers:
            if (buffer.kind, buffer.width) == ("sequence", width) and forward.in_place.get(name) != buffer.name:
                changed = replace(forward, in_place=forward.in_place | {name: buffer.name})
                yield f"forward: {name} in the memory of {buffer.name}", replace(plan, forward=changed)


def _factors(plan: DerivedTraining) -> Iterator[Mutant]:
    for matrix, pairs in plan.pairs.items():
        for k, (left, right) in enumerate(pairs):

            def changed(
                pair: tuple[tuple[FactorPart, ...], tuple[FactorPart, ...]], matrix: str = matrix, k: int = k
            ) -> DerivedTraining:
                whole = [*plan.pairs[matrix]]
                whole[k] = pair
                return replace(plan, pairs=plan.pairs | {matrix: whole})

            yield f"factors {k} of {matrix} are swapped", changed((right, left))
            yield (
                f"factor {k} of {matrix} is shorter",
                changed(((*left[:-1], replace(left[-1], stop=left[-1].stop - 1)), right)),
            )
            if right[0].of:
                yield (
                    f"factor {k} of {matrix} is not one step back",
                    changed((left, (replace(right[0], of=""), *right[1:]))),
                )


def _forms(plan: DerivedTraining) -> Iterator[Mutant]:
    yield "the gradient loop runs forward", replace(plan, gradient=replace(plan.gradient, is_gradient=False))
    yield "a state is forgotten", replace(plan, gradient=replace(plan.gradient, states=plan.gradient.states[1:]))
    for matrix, pairs in plan.pairs.items():
        yield f"{matrix} has no gradient", replace(plan, pairs={m: p for m, p in plan.pairs.items() if m != matrix})
        yield f"a pair of {matrix} counts twice", replace(plan, pairs=plan.pairs | {matrix: [*pairs, pairs[0]]})
    for name, total in plan.totals.items():
        other = replace(total, height=1 - total.height)
        yield f"{name} in another form", replace(plan, totals=plan.totals | {name: other})
    for emit, of in plan.forward.in_place.items():
        if emit in plan.reads:
            yield f"{emit} is read as {of}", replace(plan, reads=plan.reads | {emit: of})


def verdict(plan: DerivedTraining) -> str:
    """Return what the verifier says of a plan; "" where it finds nothing."""
    try:
        verified_training(plan)
    except PlanError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    for name in ("lstm", "gru", "reset-before-gru", "layer-norm-lstm", "counter", "highway"):
        split = split_of(name)
        for what, plan in mutants(plan_training(split, frozenset(split.loop_inputs))):
            print(f"{name}: {what}: {verdict(plan) or 'nothing'}")
