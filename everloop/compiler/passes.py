"""The passes in their order: this list is executed, shown by `everloop show` and printed in docs/compiler.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from everloop.compiler.gradient import differentiate
from everloop.compiler.hoist import Split, split
from everloop.compiler.ir import Graph
from everloop.compiler.plan import DerivedTraining, plan_forward
from everloop.compiler.rematerialisation import rematerialise
from everloop.compiler.roll import roll
from everloop.compiler.simplify import simplify
from everloop.compiler.single import plan_single, simplify_single, split_single
from everloop.compiler.sink import Sunk, sink
from everloop.compiler.trace import trace
from everloop.compiler.training import plan_gradient
from everloop.compiler.verify import verified_forward, verified_training


@dataclass(frozen=True)
class Pass:
    """One pass: `run` makes what it `gives` of what it `takes`.

    stage: the name under which `everloop show` prints the result; files: where it is written; makes: for documentation.
    """

    name: str
    takes: tuple[str, ...]
    gives: str
    run: Callable[..., Any]
    files: tuple[str, ...]
    makes: str
    stage: str = ""


def _simplified(sunk: Sunk) -> Sunk:
    epilogue = simplify(sunk.epilogue, is_source=lambda _: False)
    return replace(sunk, loop=simplify(sunk.loop), epilogue=epilogue)


PASSES = (
    Pass(
        "trace", ("cell", "bindings", "dtype"), "step",
        lambda cell, given, dtype: trace(cell, given.fixed, given.rows, given.steps, dtype),
        ("trace.py", "symbol.py", "torch_function.py", "functions.py", "features.py"),
        "a graph: what one step computes", "equations",
    ),
    Pass("sink", ("step",), "sunk", sink, ("sink.py",), "the step, and what can run after the loop"),
    Pass(
        "roll", ("step", "sunk"), "rolled", roll, ("roll.py",),
        "the same, or one turn of the loop that a step is, and how many it has",
    ),
    Pass(
        "simplify", ("rolled",), "simplified", _simplified, ("simplify.py", "rules.py"),
        "a graph that does less, with what needs no state gathered", "graph",
    ),
    Pass(
        "hoist", ("simplified",), "split",
        lambda sunk: split(sunk.loop, epilogue=sunk.epilogue, exposed=sunk.exposed, turns=sunk.turns),
        ("hoist.py", "hoisted.py"), "what runs before the loop, and the loop",
    ),
    Pass(
        "plan inference", ("split",), "inference plan", plan_forward, ("plan.py", "placement.py", "schedule.py"),
        "the loop as stages: products, and maps between them",
    ),
    Pass(
        "verify inference", ("inference plan",), "inference", verified_forward, ("verify.py",),
        "nothing, or an error: the loop runs on fingerprints, which must be those of its graph",
    ),
    Pass(
        "differentiate", ("split", "wanted"), "gradient",
        lambda parts, wanted: differentiate(parts.loop, list(parts.exposed), wanted),
        ("gradient.py", "sums.py"), "the gradient of one step, a graph again", "gradient",
    ),
    Pass(
        "rematerialise", ("gradient", "split"), "rematerialisation",
        lambda gradient, parts: rematerialise(gradient, parts.exposed, parts.owned),
        ("rematerialisation.py",), "which values the forward loop keeps: a minimum cut",
    ),
    Pass(
        "plan training", ("gradient", "rematerialisation", "split"), "training plan",
        lambda gradient, choice, parts: plan_gradient(gradient, choice, parts.owned),
        ("training.py", "placement.py", "schedule.py"), "both loops, and the products that are left for afterwards",
        "plan",
    ),
    Pass(
        "verify training", ("training plan",), "training", verified_training, ("verify.py",),
        "nothing, or an error, as of the loop of inference",
    ),
    Pass(
        "simplify single", ("step",), "single", simplify_single, ("single.py", "simplify.py"),
        "for a single step: a graph that does less, with no matrices joined",
    ),
    Pass(
        "split single", ("single",), "single split", split_single, ("single.py", "hoist.py"),
        "what runs before each step, and the step",
    ),
    Pass(
        "plan single", ("single split",), "single plan", plan_single, ("single.py", "plan.py", "placement.py"),
        "the step as stages", "step",
    ),
    Pass("verify single", ("single plan",), "single step", verified_forward, ("verify.py",), "nothing, or an error"),
)  # fmt: skip


def run(goal: str, **known: Any) -> Any:
    """Return what a pass gives, by running those that lead there from what is known; both by the names in the table."""
    if goal not in known:
        each = next(p for p in PASSES if p.gives == goal)
        for name in each.takes:
            known[name] = run(name, **known)
        known[goal] = each.run(*(known[name] for name in each.takes))
    return known[goal]


def split_step(step: Graph) -> Split:
    """Return what runs before the loop, in it, and after it."""
    found: Split = run("split", step=step)
    return found


def plan_training(parts: Split, wanted: frozenset[str]) -> DerivedTraining:
    """Return the loops that compute with gradients of the states and of the `wanted` loop inputs."""
    found: DerivedTraining = run("training plan", split=parts, wanted=wanted)
    return found
