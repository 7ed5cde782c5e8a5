"""A failure as a script that can be pasted: the class, the layer, the inputs, and what differs."""

from __future__ import annotations

from tests.random_cells.build import HEAD
from tests.random_cells.cases import Case
from tests.random_cells.check import Outcome
from tests.random_cells.source import LETTERS, Drawn

ALSO = """from everloop import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout, cells
from everloop.diagnose import agree
from everloop.layers.extras import example
from everloop.layers.nested import map_state
"""


def script(drawn: Drawn, case: Case, outcome: Outcome) -> str:
    """Return the failing cell with its call, ready to run, with the numbers of the check."""
    names = {d.name for d in drawn.used()[1]}
    options = {k: v for k, v in drawn.options if k in names} | {LETTERS[x]: case.sizes[x] for x in drawn.letters}
    given = "".join(f", {k}={v!r}" for k, v in options.items())
    dtype = "torch.float64" if case.double else "torch.float32"
    shape = f"{case.steps}, {case.batch}, layer.input_size"
    lines = [
        f"\ndef make(input_size):\n    cell = Drawn(input_size, {case.sizes['H']}{given})",
        *(f"    cell.{name}.requires_grad_(False)" for name in drawn.frozen if name in names),
        "    return cell\n\n",
        f"torch.manual_seed({case.seed})",
        f"layer = Recurrent({_layer(drawn, case)}).to({dtype}).train({case.training})",
        *(["for start in layer.start:\n    nn.init.uniform_(start, -0.5, 0.5)"] if case.learned else []),
        f"x = torch.randn({shape}, dtype={dtype}).requires_grad_({case.x_grad})",
    ]
    if drawn.told():
        lines.append("given = example(layer, x)")
    call = "layer, x.transpose(0, 1)" if case.batch_first else "layer, x"
    if case.state:
        draw = f"lambda s: s.uniform_(-0.7, 0.7).requires_grad_({case.state_grad})"
        lines.append(f"state = map_state({draw}, layer.cell.zeros({case.batch}, x.detach()))")
        call += ", state=state"
    if case.resets is not None:
        lines.append(f"reset = torch.zeros({case.steps}, {case.batch}, dtype=torch.bool)")
        lines += [f"reset[{t}, {b}] = True" for t, b in case.resets]
        call += ", reset=reset.T" if case.batch_first else ", reset=reset"
    if case.lengths is not None:
        call += f", lengths={list(case.lengths)}"
    call += ", **given" if drawn.told() else ""
    lines.append(f"print(agree({call}))")
    lines.append(f"# called as: {case.how}; loss over: {case.loss}; compiled: {outcome.compiled}")
    lines.append(f"# wrong against the loop: {outcome.text}")
    return HEAD.rstrip() + "\n" + ALSO + "\n\n" + drawn.source() + "\n" + "\n".join(lines) + "\n"


def _layer(drawn: Drawn, case: Case) -> str:
    first, width = f"make({case.sizes['I']})", drawn.output_dim.value(case.sizes)
    rates = ", ".join(f"{name}=0.3" for name, _ in drawn.states[:2])
    core = {
        "stack": f"Stack([{first}, make({width})])",
        "residual": f"Stack([{first}, make({width})], residual=True)",
        "under GRU": f"Stack([{first}, cells.GRU({width}, 3)])",
        "over GRU": f"Stack([cells.GRU(2, {case.sizes['I']}), {first}])",
        "zoneout": f"Zoneout({first}, {rates})",
        "weight drop": f"WeightDrop({first}, 0.4)",
        "variational dropout": f"VariationalDropout({first}, inputs=0.3, recurrence=0.4)",
    }.get(case.around, first)
    if case.bidirectional:
        core = f"Bidirectional({core}, {core}, merge={case.merge!r})"
    layers = ", layers=2" if case.around == "layers" else ""
    given = "".join(f", {name}=True" for name, on in _switches(case) if on)
    given += f", recompute={case.recompute}" if case.recompute is not None else ""
    return core + layers + given


def _switches(case: Case) -> list[tuple[str, bool]]:
    return [("batch_first", case.batch_first), ("learned_state", case.learned)]
