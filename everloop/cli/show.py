"""`everloop show CELL`: a cell as equations, and at each stage of the compiler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import torch
import tyro

from everloop.cell import Cell
from everloop.cells import named
from everloop.cli.options import parse, write
from everloop.compiler.equations import FORMS, text
from everloop.compiler.gradient import differentiate
from everloop.compiler.ir import Graph
from everloop.compiler.passes import PASSES, run, split_step
from everloop.compiler.plan import plan_forward
from everloop.compiler.report import plan_text, step_text
from everloop.compiler.simplify import LOCAL, simplify
from everloop.compiler.target import LoopTarget, find, names
from everloop.compiler.trace import trace
from everloop.data.settings import setting
from everloop.errors import OptionError, unknown
from everloop.layers.explanation import equations, example_call

Form = Literal["text", "latex", "markdown"]
AFTER = {
    "text": "# after the loop, once for all steps",
    "latex": "% after the loop, once for all steps",
    "markdown": "After the loop, once for all steps:\n",
}
TURNS = {
    "text": "# one turn of {} in each step",
    "latex": "% one turn of {} in each step",
    "markdown": "One turn of {} in each step:\n",
}
STAGES = tuple(each.stage for each in PASSES if each.stage)


@dataclass(frozen=True)
class Options:
    """The options of `everloop show`."""

    cell: Annotated[str, tyro.conf.Positional]
    """A cell of the library (lstm, gru, peephole-lstm, …) or your own: file.py:Class."""
    stage: str = "equations"
    """equations: as written; graph: simplified; gradient: of one step; plan: what runs where; step: a single step,
    compiled on its own; llvm (or another target that compiles): the code of the kernel."""
    format: Form = setting("text", old="form")
    """How equations are written."""


def main(args: Sequence[str]) -> int:
    """Run `everloop show`."""
    options = parse(
        Options, args, command="show", description="Print a cell as equations or at a stage of the compiler."
    )
    if Path(options.cell).is_dir():
        hint = f"of a run: everloop draw network {quote(options.cell)}, or everloop report"
        raise OptionError(f"{options.cell} is a folder; expected a cell; {hint}")
    write(show(options.cell, options.stage, options.format) + "\n")
    return 0


def show(cell: str, stage: str = "equations", form: str = "text") -> str:
    """Return a cell at one stage of the compiler.

    Args:
        cell: a name of the library or file.py:Class.
        stage: equations, graph, gradient, plan, or the name of a target that compiles.
        form: text, latex or markdown, for equations, graph and gradient.

    Raises:
        OptionError: an argument is unknown, or the stage has no such form.
        UnsupportedError: the compiler cannot read the step; the message names the operation and its line.
    """
    compiling = [name for name in names() if isinstance(find(name), LoopTarget)]
    if stage not in (*STAGES, *compiling):
        raise OptionError(unknown("stage", stage, [*STAGES, *compiling]))
    if form not in FORMS:
        raise OptionError(unknown("form", form, FORMS))
    if form != "text" and stage in ("plan", "step", *compiling):
        raise OptionError(f"the stage {stage} has no form {form}; its only form is text")
    return show_cell(example(named(cell)), stage, form)


def example(kind: type[Cell], inputs: int = 3, hidden: int = 4) -> Cell:
    """Return a small cell of a class, with 2 of every other size, or 1 where 2 does not go into its quotients."""
    twos, ones = (dict[str, Any](dict.fromkeys(kind.letters(), each)) for each in (2, 1))
    try:
        return kind(inputs, hidden, **twos)
    except OptionError:
        return kind(inputs, hidden, **ones)


def show_cell(cell: Cell, stage: str = "equations", form: str = "text") -> str:
    """Return one cell at one stage; arguments as in `show`."""
    if stage == "equations":
        return equations(cell, form)
    _, given = example_call(cell)
    graph = trace(cell, given.fixed, given.rows, given.steps, torch.float32, names=True)
    write_graph = FORMS[form]
    if stage == "graph":
        sunk = run("simplified", step=graph)
        late = f"\n\n{AFTER[form]}\n{write_graph(sunk.epilogue)}" if sunk.epilogue.outputs else ""
        return _often(sunk.turns, form) + write_graph(sunk.loop) + late
    parts = split_step(graph)
    if stage == "gradient":
        return _often(parts.turns, form) + _gradient(
            differentiate(parts.loop, list(parts.exposed), frozenset(parts.loop_inputs)), form
        )
    if stage == "plan":
        return plan_text(parts)
    if stage == "step":
        return step_text(run("single split", step=graph), run("single plan", step=graph).loop)
    target = find(stage)
    assert isinstance(target, LoopTarget), "`show` has checked the stage"
    return target.compile(plan_forward(parts).loop).source


def _often(turns: int, form: str) -> str:
    """Return a line that says how many turns a step takes; nothing where it is one."""
    return f"{TURNS[form].format(turns)}\n" if turns > 1 else ""


def _gradient(gradient: Any, form: str) -> str:
    graph: Graph = gradient.graph
    whole = dict(graph.outputs)
    for matrix, pairs in gradient.pairs.items():
        for k, (left, right) in enumerate(pairs):
            whole |= {f"left {k} of {matrix}": left, f"right {k} of {matrix}": right}
    simple = simplify(Graph(whole, gradient.forward.names), is_source=lambda v: v.op == "input", passes=LOCAL)
    return text(simple) if form == "text" else FORMS[form](simple)
