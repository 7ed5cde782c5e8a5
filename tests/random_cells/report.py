"""A failure as a script that can be pasted: the class, the layer, the inputs, and what differs."""

from __future__ import annotations

from tests.random_cells.build import HEAD
from tests.random_cells.cases import Case
from tests.random_cells.check import Outcome
from tests.random_cells.source import Drawn


def script(drawn: Drawn, case: Case, outcome: Outcome) -> str:
    """Return the failing cell with its call, ready to run."""
    declared = {d.name: d for d in drawn.used()[1]}
    options = {k: v for k, v in drawn.options if k in declared}
    options |= {"keys": case.sizes["K"]} if drawn.has_keys else {}
    given = "".join(f", {k}={v!r}" for k, v in options.items())
    dtype = "float64" if case.double else "float32"
    made = f"Drawn({case.sizes['I']}, {case.sizes['H']}{given})"
    shape = f"{case.steps}, {case.batch}, {case.sizes['I']}"
    frozen = [name for name in drawn.frozen if name in declared]
    lines = [
        HEAD + drawn.source(),
        "",
        f"torch.manual_seed({case.seed})",
        f"cell = {made}.to(torch.{dtype})",
        *(f"cell.{name}.requires_grad_(False)" for name in frozen),
        f"layer = Recurrent({_around(case)}{', learned_state=True' if case.learned else ''}).train({case.training})",
        f"x = torch.randn({shape}, dtype=torch.{dtype}, requires_grad={case.x_grad})",
    ]
    lengths = "" if case.lengths is None else f", lengths={list(case.lengths)}"
    lines.append(f"y, after = layer(x{lengths}{', reset=reset' if case.resets is not None else ''})")
    told = {
        "resets (t, b)": case.resets,
        "state is given": case.state or None,
        "batch_first": case.batch_first or None,
        "bidirectional": case.merge if case.bidirectional else None,
        "around the cell": case.around or None,
        "how": case.how,
        "loss over": case.loss,
        "compiled": outcome.compiled,
        "wrong": outcome.text,
    }
    lines += [f"# {name}: {value}" for name, value in told.items() if value is not None]
    return "\n".join(lines).replace("import Cell, H, I", "import Cell, H, I, Recurrent") + "\n"


def _around(case: Case) -> str:
    return "Bidirectional(cell)" if case.bidirectional else "cell"
