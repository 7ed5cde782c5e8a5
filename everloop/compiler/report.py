"""A plan as text: what left the loop, the stages inside it, what is saved and what is recomputed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from everloop.compiler.equations import EquationWriter, index_text, summed_text, text
from everloop.compiler.gradient import gradient_of
from everloop.compiler.hoist import Split
from everloop.compiler.ir import Graph
from everloop.compiler.loop import Instruction, Loop, Map
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.passes import plan_training
from everloop.compiler.plan import DerivedTraining, Factor, TrainingPlan, plan_forward


def plan_text(split: Split, *, with_gradient: bool = True) -> str:
    """Return the whole plan of a step: for inference, and for training with every gradient where there are any."""
    often = f", {split.turns} turns a step" if split.turns > 1 else ""
    after = [("after the loop, once for all steps", text(split.epilogue))] if split.epilogue.outputs else []
    sections = [
        ("before the loop, once for all steps", hoisted(split)),
        (f"the loop{often}", loop_text(plan_forward(split).loop)),
        *after,
    ]
    if with_gradient:
        training = plan_training(split, frozenset(split.loop_inputs))
        sections += [
            (f"the loop in training, which saves{often}", loop_text(training.forward.loop)),
            ("saved for the gradient", saved_text(training)),
            (f"the gradient loop, from the last step to the first{often}", loop_text(training.gradient)),
            ("after the gradient loop, once for all steps", after_text(training)),
        ]
    return "\n\n".join(f"# {title}\n{body or 'nothing'}" for title, body in sections)


def step_text(split: Split, loop: Loop) -> str:
    """Return a single step: what is computed before each, and the step."""
    sections = [("before each step", hoisted(split)), ("the step", loop_text(loop))]
    return "\n\n".join(f"# {title}\n{body or 'nothing'}" for title, body in sections)


def hoisted(split: Split) -> str:
    """Return what runs before the loop, and what the loop reads unchanged."""
    made = {n: v for n, v in split.prologue.outputs.items() if v.op != "input"}
    given = [f"{n}: {split.loop_inputs[n].type}" for n, v in split.prologue.outputs.items() if v.op == "input"]
    lines = [text(Graph(made, split.prologue.names))] if made else []
    return "\n".join([*lines, *([f"read as they are: {', '.join(given)}"] if given else [])])


def loop_text(loop: Loop) -> str:
    """Return one line a product and one line a store of a map."""
    return "\n".join(line for stage in loop.stages for line in _stage(stage))


def _stage(stage: object) -> Iterator[str]:
    if isinstance(stage, Map):
        yield f"for each of {stage.width} feature(s):"
        yield from _map(stage)
    else:
        turned = "" if stage.transposed else ".T"  # type: ignore[attr-defined]
        yield f"{stage.out.name} = {stage.source.name} @ {stage.matrix.name}{turned}"  # type: ignore[attr-defined]


def _map(stage: Map) -> Iterator[str]:
    reads = [sum(k in i.args for i in stage.body) for k in range(len(stage.body))]
    shown: list[str] = []
    for k, i in enumerate(stage.body):
        args = [shown[a] for a in i.args]
        if i.op == "load":
            line = _place(i, stage)
        elif i.op == "constant":
            line = f"{i.number:g}"
        elif i.op in ("store", "accumulate"):
            yield f"    {_place(i, stage)} {'=' if i.op == 'store' else '+='} {args[0]}"
            line = ""
        elif i.op in ("sum", "max"):
            over = f", {summed_text(i.view)}" if i.view else ""
            yield f"    {i.buffer.name if i.buffer else ''} = {i.op}({args[0]}{over})"
            line = ""
        else:
            row = OPERATIONS[i.op]
            line = row.text.format(*args) if row.binding == 9 else f"({row.text.format(*args)})"
        if reads[k] > 1 and i.op not in ("load", "constant"):
            yield f"    t{k} = {line}"
            line = f"t{k}"
        shown.append(line)


def _place(i: Instruction, stage: Map) -> str:
    assert i.buffer is not None
    if i.view:
        return f"{i.buffer.name}[{index_text(replace(i.view, offset=i.view.offset + i.offset))}]"
    whole = i.offset == 0 and i.buffer.width in (1, stage.width)
    return i.buffer.name if whole else f"{i.buffer.name}[{i.offset}:{i.offset + stage.width}]"


def saved_text(training: DerivedTraining) -> str:
    """Return what the forward loop keeps, where, and what the gradient loop recomputes."""
    forward, kept = training.derivative.forward, training.rematerialisation
    recomputed = [v for v in kept.recomputed if v.operation.cost]
    places = {f"saved {k}": v for k, v in enumerate(kept.saved)}
    again = {f"recomputed {k}": v for k, v in enumerate(recomputed)}
    lines = [f"{', '.join(kept.states)}: the whole sequence"]
    for name, shown in EquationWriter(Graph(places | again, forward.names)).equations():
        if value := places.get(name):
            lines.append(f"{name}: {forward.names.get(value, shown)}, {value.width} feature(s)")
        else:
            lines.append(f"{name}: {shown}" if name in again else f"{name} = {shown}")
    lines += [f"{emit} lies in the memory of {of}" for emit, of in training.forward.in_place.items()]
    return "\n".join(lines)


def after_text(training: TrainingPlan) -> str:
    """Return the products over all steps that give the matrices' gradients, the totals, and what may share memory."""
    lines = []
    for matrix, pairs in training.pairs.items():
        terms = []
        for left, right in pairs:
            terms.append(f"{_factor(left)}.T @ {_factor(right)}")
        lines.append(f"{gradient_of(matrix)} = {' + '.join(terms) or '0'}")
    lines += [f"{name}: summed inside the loop" for name in training.totals]
    lines += [f"{name} takes the memory of {of} where the graph is not kept" for name, of in training.in_place.items()]
    return "\n".join(lines)


def _factor(factor: Factor) -> str:
    shown = [f"{r.name}[{r.start}:{r.stop}]{' one step back' if r.of else ''}" for r in factor]
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
