"""Writes docs/compiler.md, docs/cells.md and the operations in docs/your-own-cell.md: `python docs/make.py`."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path

import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell, H, I, param, size, state
from everloop.cli.show import example, show
from everloop.compiler.equations import text
from everloop.compiler.passes import PASSES, plan_training, split_step
from everloop.compiler.plan import plan_forward
from everloop.compiler.report import after_text, hoisted, loop_text, saved_text
from everloop.compiler.simplify import simplify
from everloop.compiler.symbol import functions
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace

HERE = Path(__file__).parent
FORMS_START, FORMS_END = "<!-- forms: made by docs/make.py -->", "<!-- end of forms -->"
START, END = "<!-- operations: made by docs/make.py -->", "<!-- end of operations -->"
CELL = "reset-before-gru"
K = size("outputs")

PAGE = """\
# The compiler, followed through one cell

This page is printed by the compiler itself (`python docs/make.py`); a test holds that it is up to date. The cell is the
gated recurrent unit with the reset before the product, with 3 inputs and 4 units. The same for any cell, yours
included: `everloop show CELL --stage equations|graph|gradient|plan|step|llvm`.

A step is ordinary PyTorch. The passes turn it into one native function for a whole sequence and one for its gradient:

| pass | file | makes of it |
|---|---|---|
{passes}
| target | `targets/llvm/` | one native function a loop |

## Trace

`step` is called once with symbols in place of tensors. `h[t-1]` is the state of the step before.

```
{equations}
```

As LaTeX (`--format latex`), for a paper or a notebook:

```latex
{latex}
```

## Simplify

Nothing is left to do in this cell. In a textbook's minimal gated unit, `W_f [h, x]` is split, and the parts that
multiply x become one product outside the loop. Before:

```
{unit}
```

After:

```
{simple}
```

## Hoist

What depends on no state leaves the loop and runs once for all steps, as one large product. Element-wise mathematics
and normalisations of that product stay in the loop, where its rows are at hand:

```
{hoisted}
```

## The forward loop

What is left, as stages. A product multiplies rows by a matrix; a map does everything else in one pass over the
features. `h` is the state, `h[t]` its whole sequence, the output.

```
{forward}
```

## The gradient of a step

From the results back, one rule an operation. `d(h)` on the right is the gradient that arrives from the step behind,
`d(h[t])` the one from the output. A matrix has no gradient here: `left` and `right` are kept for every step, and one
product over all steps after the loop gives it.

```
{gradient}
```

## What is saved

The gradient needs values of the forward loop. To save one costs memory, to compute it again costs time, and products
are never recomputed: a minimum cut finds the cheapest set. Saved values move into the memory of the sequence they
were computed from, where nobody else needs it.

```
{saved}
```

## The gradient loop

```
{backward}
```

After it, once for all steps:

```
{after}
```

## Sink

A state that no step reads back, such as the output of a network with an output layer, needs no loop. Where that takes
a product out of the loop, it runs after it, once for all steps, and PyTorch's own gradient comes before the gradient
loop. Of a state that is not the output only the last row is computed. An Elman network with
`y = softmax(h @ V.T + c)`, first before the loop:

```
{before_readout}
```

in it:

```
{in_readout}
```

and after it:

```
{after_readout}
```

It comes right after the trace, so that no other pass joins the product to one that must stay.

## The machine's text

The loop becomes LLVM text, and llvmlite turns that into a function of this processor. The first lines of the last map,
for AVX2:

```llvm
{llvm}
```
"""


CELLS = """\
# The cells

Each is a few lines of mathematics in `everloop/cells/`, with its source, its shapes and how its rows are ordered in its
docstring; all run compiled. By name: `--cell gru` on the command line and in configurations; in Python the class,
`Recurrent(cells.GRU(64, 128))`. Sizes besides I and H are given by keyword, `cells.MLSTM(64, 128, heads=4)` or
`--options heads 4`; states as `state(…)` declares them. Where a cell reads something beside x, the layer takes it by
name, `layer(x, dt=dt)`, and draws noise itself in training. What surrounds a cell in its paper, such as short
convolutions and residual connections, is left to the model around it.

{rows}
"""


class Readout(Cell):
    """Elman's network with an output layer."""

    y, h = state(K), state(H)
    W, R, b = param(H, I), param(H, H), param(H)
    V, c = param(K, H), param(K)

    def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x @ self.W.T + h @ self.R.T + self.b)
        y = torch.softmax(h @ self.V.T + self.c, -1)
        return y, h


def page() -> str:
    """Return docs/compiler.md."""
    cell = example(cells.named(CELL))
    parts = split_step(trace(cell, dict(cell.named_parameters()), names=True))
    training = plan_training(parts, frozenset(parts.loop_inputs))
    unit = example(cells.MinimalGatedUnit)
    graph = trace(unit, dict(unit.named_parameters()), names=True)
    machine = llvm.ir(plan_forward(parts).loop, "avx2")
    readout = example(Readout)
    three = split_step(trace(readout, dict(readout.named_parameters()), names=True))
    last = machine[machine.index("define internal void @map_3(") :].splitlines()[:24]
    return PAGE.format(
        passes="\n".join(f"| {p.name} | {', '.join(f'`{f}`' for f in p.files)} | {p.makes} |" for p in PASSES),
        equations=show(CELL),
        latex=show(CELL, form="latex"),
        unit=text(graph),
        simple=text(simplify(graph)),
        hoisted=hoisted(parts),
        forward=loop_text(plan_forward(parts).loop),
        gradient=show(CELL, "gradient"),
        saved=saved_text(training),
        backward=loop_text(training.gradient),
        after=after_text(training),
        before_readout=hoisted(three),
        in_readout=text(three.loop),
        after_readout=text(three.epilogue),
        llvm="\n".join(last),
    )


def operations() -> str:
    """Return the functions a step may call, as Markdown."""
    hidden = re.compile(
        "r?(add|sub|mul|div|truediv|pow|matmul|and|or|xor)|getitem|t|pos|invert|"
        "gather|take_along_dim|scatter|outer|ger|rand_like|randn_like|normal|bernoulli|poisson|multinomial"  # refused
        "|with_custom_gradient"  # ours
    )
    shown = {"add", "sub", "mul", "div", "pow", "matmul"}
    names = sorted(n for n in functions() if n in shown or not hidden.fullmatch(n))
    lines = [
        "By name, as functions of `torch` or `torch.nn.functional` and as methods, where PyTorch has them; along",
        "features (`dim=-1`) where they reduce, split or join:",
        "",
        ", ".join(f"`{n}`" for n in names) + ".",
        "",
        "Besides: the operators `+ - * / ** @ < <= > >= == != & | ~`, slices such as `a[..., 2:5]`, the queries",
        "`shape`, `size`, `dim`, `dtype`, and any PyTorch function at all of parameters and constants alone, but not",
        "of integers of any size; it runs before the loop.",
    ]
    return "\n".join(lines)


def table_of_cells() -> str:
    """Return docs/cells.md: every cell with its states and its source, as its class says."""
    rows = ["| name, class | what it is | states | beside x | source |", "|---|---|---|---|---|"]
    for name in cells.names():
        kind = cells.named(name)
        first, second = (re.sub(r"\s+", " ", part) for part in inspect.cleandoc(kind.__doc__ or "").split("\n\n")[:2])
        source = re.match(r".*?(19|20)\d\d", second)
        states = ", ".join(f"{s}: {' × '.join(map(str, spec.shape))}" for s, spec in kind.states.items())
        beside = [f"{key}: {spec.size}" for key, spec in [*kind.step_inputs.items()][1:]]
        beside += [f"{key}: {' × '.join(map(str, spec.shape))} a sequence" for key, spec in kind.contexts.items()]
        beside += [f"noise {key}: {spec.size}" for key, spec in kind.noises.items()]
        told = ", ".join(beside)
        rows.append(f"| `{name}`, {kind.__name__} | {first} | {states} | {told} | {source and source[0]} |")
    return CELLS.format(rows="\n".join(rows))


def with_operations(page: str) -> str:
    """Return docs/your-own-cell.md with the list of operations and the table of forms between their marks."""
    if START not in page:
        page = page.replace("@@OPERATIONS@@", f"{START}\n{END}")
    head, _, rest = page.partition(START)
    page = f"{head}{START}\n{operations()}\n{END}{rest.partition(END)[2]}"
    head, _, rest = page.partition(FORMS_START)
    table = runpy.run_path(str(HERE / "forms.py"))["table"]()
    return f"{head}{FORMS_START}\n{table}\n{FORMS_END}{rest.partition(FORMS_END)[2]}"


if __name__ == "__main__":
    (HERE / "compiler.md").write_text(page(), encoding="utf-8")
    (HERE / "cells.md").write_text(table_of_cells(), encoding="utf-8")
    own = HERE / "your-own-cell.md"
    own.write_text(with_operations(own.read_text(encoding="utf-8")), encoding="utf-8")
