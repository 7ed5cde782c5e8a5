"""The parts of a page about one run that tell of its inside: gradients, gates, units, its network and its cells."""

from __future__ import annotations

from collections.abc import Iterator

from everloop.cell import Cell
from everloop.diagnose import Activity, Connectivity, Diagnosis
from everloop.diagnose.gradients import learned_reach
from everloop.diagnose.jacobians import disagreements, pace
from everloop.draw import draw_cell, draw_network
from everloop.errors import EverloopError, UnsupportedError
from everloop.layers import Recurrent, Stack
from everloop.layers.dropout import Wrapper
from everloop.layers.explanation import equations
from everloop.models.model import Model
from everloop.report import figures
from everloop.report.html import Html, element, figure, folded, paragraph, table
from everloop.report.page import missing

GATES, UNITS = 4, 3  # of the last layer that are shown
UNROLLED = 4


def gradients(found: Diagnosis) -> Iterator[Html]:
    """Yield how far back gradients reach."""
    if not found.gradients:
        raise UnsupportedError("no gradient comes to a state")
    told = "The loss of single steps, followed back through the states; dashed, the norm of products of step Jacobians."
    yield figure(figures.gradients(found.gradients, found.jacobians), told)
    yield element("ul", *(element("li", str(one)) for one in found.gradients))
    yield paragraph(learned_reach(found.gradients))
    rows = [
        (
            one.layer,
            pace(one.rate),
            f"{one.exponents[0]:+.3f} ({one.steps} steps)",
            f"{one.smallest:.3g} to {one.largest:.3g}",
        )
        for one in found.jacobians
    ]
    heads = ["layer", "norm of their product", "first Lyapunov exponent", "largest singular value"]
    yield table(heads, rows, "Jacobians of steps: with an exponent above 0 nearby states move apart")
    yield from map(paragraph, disagreements(found.jacobians, found.gradients))


def gates(found: Diagnosis, active: list[Activity], read: dict[str, list[str]]) -> Iterator[Html]:
    """Yield what gates do: over all data in numbers, and over one sequence step by step."""
    if not found.gates:
        raise UnsupportedError("this model has no gates, or the compiler cannot read its cell")
    rows = [(one.layer, one.name, f"{one.low:.0%}", f"{one.high:.0%}", _histogram(one.shares)) for one in found.gates]
    heads = ["layer", "gate", "below 0.1", "above 0.9", "from 0 to 1"]
    yield table(heads, rows, "Gates over the data: shut below 0.1, open above 0.9")
    last = [one for one in active if one.is_gate and one.layer == active[-1].layer][:GATES]
    for number, one in enumerate(last):
        drawn = figure(figures.heat(one, read.get(one.lane, [])), "A row is a unit, a column a step of one sequence.")
        yield drawn if not number else folded(f"gate {one.name} of {one.layer}", drawn)


def _histogram(shares: tuple[float, ...]) -> Html:
    marks = "▁▂▃▄▅▆▇█"
    return element("span", "".join(marks[min(7, int(8 * share))] for share in shares), class_="bars")


def states(found: Diagnosis, active: list[Activity], read: dict[str, list[str]]) -> Iterator[Html]:
    """Yield what states do: their rank and memory, and single units over one sequence."""
    rows = []
    for one in found.states:
        lives = one.half_lives
        middle, longest = ("–", "–") if lives is None else (f"{float(x):.3g}" for x in (lives.median(), lives.max()))
        rows.append([one.layer, one.name, str(one.size), f"{one.rank:.1f}", f"{one.still:.0%}", middle, longest])
    heads = ["layer", "state", "units", "rank", "still", "half-life, median", "longest"]
    yield table(heads, rows, "States over the data: directions used, units that never change, half-lives in steps")
    memory = [one for one in active if not one.is_gate][-1]
    for unit in memory.liveliest(UNITS):
        yield figure(figures.unit(memory, read.get(memory.lane, []), unit))


def dependence(found: list[Connectivity], read: dict[str, list[str]]) -> Iterator[Html]:
    """Yield which inputs outputs depend on."""
    if not found:
        raise UnsupportedError("no gradient comes from an output to the inputs of the layers")
    for one in found:
        yield figure(figures.dependence(one, read.get(one.lane, [])), f"{one}.")


def network(model: Model) -> Iterator[Html]:
    """Yield the figures of the network, rolled up and unrolled."""
    yield figure(draw_network(model), "Rolled up, with a loop at each layer.")
    yield figure(draw_network(model, steps=UNROLLED), "Unrolled over time.")


def cells(model: Model) -> Iterator[Html]:
    """Yield each kind of cell of a model: its data flow and its equations."""
    found: dict[str, Cell] = {}
    for layers in [module for module in model.modules() if isinstance(module, Recurrent)]:
        for module in layers.modules():
            if isinstance(module, Cell) and not isinstance(module, Wrapper | Stack):
                found.setdefault(type(module).__name__, module)
    for name, cell in found.items():
        yield element("h3", name)
        try:
            yield figure(draw_cell(cell))
            yield paragraph("Its equations; NAME[t-1] is a state of the step before, @ a product of matrices.")
            yield element("pre", equations(cell))
        except EverloopError as error:
            yield missing(f"no figure of it: {error}")
