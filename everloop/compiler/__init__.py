"""How a step is run: the passes, in their order, from a cell to the loops a target makes kernels of.

trace          a step, called once on symbols          -> Graph
sink           the step, and what runs after it       -> Sunk
simplify       the same with less to do                -> Graph
split          before the loop, and the loop           -> Split
differentiate  the gradient of one step                -> Gradient
rematerialise         what is saved, what is recomputed   -> Rematerialisation
plan_forward   the loop as stages                      -> ForwardPlan
plan_training  both loops as stages                    -> TrainingPlan
verify         raises where a loop does not do what its graph says
Program        all of it for one cell, with kernels, each made when it is first needed
"""

from everloop.compiler.gradient import differentiate
from everloop.compiler.hoist import split
from everloop.compiler.plan import plan_forward
from everloop.compiler.program import Program
from everloop.compiler.rematerialisation import rematerialise
from everloop.compiler.simplify import simplify
from everloop.compiler.sink import sink
from everloop.compiler.trace import trace
from everloop.compiler.training import plan_training

PASSES = (trace, sink, simplify, split, differentiate, rematerialise, plan_forward, plan_training)

__all__ = [
    "PASSES",
    "Program",
    "differentiate",
    "plan_forward",
    "plan_training",
    "rematerialise",
    "simplify",
    "sink",
    "split",
    "trace",
]
