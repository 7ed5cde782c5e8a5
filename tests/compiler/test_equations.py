"""A graph prints itself as the equations of the textbook."""

from __future__ import annotations

import re

import pytest

from everloop import cells
from everloop.cli.show import STAGES, example, show
from everloop.compiler.equations import FORMS, symbol
from everloop.errors import OptionError

PEEPHOLE = """\
i', f', g, o' = x @ W.T + h[t-1] @ R.T + b
f = sigmoid(f' + p_f * c[t-1])
i = sigmoid(i' + p_i * c[t-1])
c = f * c[t-1] + i * tanh(g)
o = sigmoid(o' + p_o * c)
h = o * tanh(c)"""

GRU = r"""\begin{aligned}
\left[r_x, z_x, n_x\right] &= x_t W^{\top} + b \\
\left[r_h, z_h, n_h\right] &= h_{t-1} R^{\top} + d \\
z &= \sigma(z_x + z_h) \\
r &= \sigma(r_x + r_h) \\
n &= \tanh(n_x + r \odot n_h) \\
h_t &= z \odot h_{t-1} + \left(1 - z\right) \odot n \\
\end{aligned}"""


def test_text() -> None:
    assert show("peephole-lstm") == PEEPHOLE


def test_latex_and_markdown() -> None:
    assert show("gru", form="latex") == GRU
    assert show("gru", form="markdown") == f"$$\n{GRU}\n$$"


def test_products_and_factors_do_not_mix() -> None:
    assert "(r * h[t-1]) @ R_n.T" in show("reset-before-gru")
    assert "mean(" in show("layer-norm-lstm")


@pytest.mark.parametrize("name", cells.names())
@pytest.mark.parametrize("form", FORMS)
def test_every_cell_in_every_form(name: str, form: str) -> None:
    shown = show(name, form=form)
    for output in example(cells.named(name)).state_sizes:
        assert re.search(rf"^{output}(_t &)? ?= ?", shown, re.MULTILINE) or output in shown
    assert shown.count("{") == shown.count("}")
    assert not re.search(r"_\w_|_\{[^}]*\}_", shown), "a double subscript is an error in LaTeX"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage(stage: str) -> None:
    assert len(show("lstm", stage).splitlines()) > 2


def test_unknown_names_say_the_nearest() -> None:
    for wrong, right in (("lstn", "lstm"), ("gruu", "gru")):
        with pytest.raises(OptionError, match=f"did you mean '{right}'"):
            show(wrong)
    with pytest.raises(OptionError, match="did you mean 'plan'"):
        show("lstm", "plam")
    with pytest.raises(OptionError, match="did you mean 'latex'"):
        show("lstm", form="latx")


def test_symbols() -> None:
    assert [symbol(n) for n in ("p_i", "gain_h", "alpha", "d(h)", "u1", "i'")] == [
        "p_i", r"\mathrm{gain}_h", r"\alpha", r"\partial h", "u_1", "i'"
    ]  # fmt: skip


def test_a_last_underscore_keeps_names_apart() -> None:
    assert [symbol(n) for n in ("f_", "f", "p_i_")] == [r"\underline{f}", "f", r"\underline{p}_i"]


@pytest.mark.parametrize("stage", ["plan", "llvm"])
def test_forms_are_for_equations(stage: str) -> None:
    with pytest.raises(OptionError, match="only form is text"):
        show("gru", stage, "latex")
