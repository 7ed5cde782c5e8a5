"""Outputs that are no state: what a declaration says, what layers, stacks and directions return, and all gradients."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, tanh

from everloop import cells
from everloop.cell import Cell, H, I, context, output, param, state
from everloop.data import Vocabulary
from everloop.diagnose import agree
from everloop.errors import CellError, OptionError
from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from everloop.models import LanguageModel
from tests.layers.single_steps import is_single
from tests.zoo import Difference, Heads

D = torch.float64
T, B, I_, H_, K_ = 7, 4, 3, 5, 2


def heads(inputs: int = I_, **kwargs: Any) -> Heads:
    return Heads(inputs, H_, keys=K_, dtype=D, **kwargs)


CORES: dict[str, Any] = {
    "cell": heads,
    "difference": lambda: Difference(I_, H_, dtype=D),
    "stack": lambda: Stack([Difference(I_, I_, dtype=D), heads()], residual=True, dropout=0.3),
    "stack of several": lambda: Stack([heads(), heads(K_)]),
    "both": lambda: Bidirectional(heads()),
    "sum": lambda: Bidirectional(heads(), merge="sum"),
    "zoneout": lambda: Zoneout(heads(), h=0.3, c=0.1),
    "variational": lambda: VariationalDropout(heads(), inputs=0.2, recurrence=0.3),
    "weight drop": lambda: WeightDrop(heads(), 0.3),
}


def by_hand(cell: Heads, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return both sequences of outputs, and the final states, as formulas."""
    h = c = x.new_zeros(x.shape[1], H_)
    ys, choices = [], []
    for x_t in x:
        scores = torch.einsum("kh,bh->bk", cell.U, h).exp()
        choice = scores / scores.sum(1, keepdim=True)
        gates = x_t.matmul(cell.W.t()) + h.matmul(cell.R.t()) + cell.b
        c = torch.sigmoid(gates[:, :H_]) * tanh(gates[:, H_:]) + c / 2
        h = tanh(c) * (1 + choice[:, 0, None])
        ys.append(h.matmul(cell.V.t()))
        choices.append(choice)
    return [torch.stack(ys), torch.stack(choices)], [h, c]


def test_outputs_by_name_then_the_states() -> None:
    cell, x = heads(), torch.randn(T, B, I_, dtype=D)
    (y, choice), (h, c) = by_hand(cell, x)
    outputs, state = Recurrent(cell, target="llvm")(x)
    assert isinstance(outputs, Heads.Outputs)
    torch.testing.assert_close(outputs, Heads.Outputs(y=y, choice=choice))
    torch.testing.assert_close(state, (h, c))
    assert pickle.loads(pickle.dumps(outputs))._fields == ("y", "choice")


def test_one_output_is_the_sequence_itself() -> None:
    layer, x = Recurrent(Difference(I_, H_, dtype=D)), torch.randn(T, B, I_, dtype=D)
    y, (h,) = layer(x)
    assert isinstance(y, Tensor)
    torch.testing.assert_close(y.sum(0), h)  # changes from zero on
    assert layer.output_size == H_


@pytest.mark.parametrize("name", CORES)
def test_every_target_agrees(name: str) -> None:
    layer = Recurrent(CORES[name]())
    x = torch.randn(T, B, I_, dtype=D)
    found = agree(layer, x, lengths=[7, 0, 3, 5], reset=torch.rand(T, B) > 0.7)
    assert found, found
    found = agree(layer, x, reference="loop")
    assert found, found
    assert "llvm" in {c.target for c in found.comparisons}


@pytest.mark.parametrize("name", ["cell", "difference", "stack", "stack of several", "zoneout"])
def test_single_steps(name: str) -> None:
    layer = Recurrent(CORES[name](), check=True).eval()
    x = torch.randn(T, B, I_, dtype=D)
    whole, last = layer(x)
    for rows, expected in ((x, whole), (x[:, 0], tuple(o[:, 0] for o in whole) if isinstance(whole, tuple) else None)):
        after = None
        with torch.no_grad():
            assert is_single(layer, rows[0])
            for t in range(T):
                y, after = layer.step(rows[t], after)
                if expected is not None:
                    assert type(y) is type(whole)
                    torch.testing.assert_close(
                        list(y), [o[t] for o in expected] if type(y) is not Tensor else list(expected[t])
                    )
        if rows.dim() == 3:
            torch.testing.assert_close(after, last)
    y, _ = layer.step(x[0])  # with gradients
    torch.testing.assert_close(list(y), [o[0] for o in whole] if isinstance(whole, tuple) else list(whole[0]))


def test_forms_of_x() -> None:
    layer, x = Recurrent(heads(), batch_first=True), torch.randn(B, T, I_, dtype=D)
    y, choice = layer(x)[0]
    assert y.shape == (B, T, K_)
    single = layer(x[0])[0]
    torch.testing.assert_close(single, type(single)(y[0], choice[0]))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 5, 3, 1]), batch_first=True)
    again = Recurrent(layer.cell)(packed)[0]
    for sequence, part in zip((y, choice), again, strict=True):
        torch.testing.assert_close(torch.nn.utils.rnn.pad_packed_sequence(part)[0][:5, 1], sequence[1, :5])


def test_the_cell_and_a_stack_give_one_step() -> None:
    cell, x = heads(), torch.randn(B, I_, dtype=D)
    y, _ = cell(x)
    torch.testing.assert_close(y, Recurrent(cell)(x[None])[0]._make(y), rtol=0, atol=0)
    outputs, _ = Stack([Difference(I_, I_, dtype=D), cell])(x)
    assert outputs._fields == ("y", "choice")


def test_gradients_of_gradients() -> None:
    layer = Recurrent(heads(), target="llvm")
    x = torch.randn(3, 2, I_, dtype=D, requires_grad=True)

    def of(x: Tensor, R: Tensor) -> Any:
        outputs, state = torch.func.functional_call(layer, {"cell.R": R}, (x,))
        return (*outputs, *state)

    R = layer.cell.R.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(of, (x, R))
    assert torch.autograd.gradgradcheck(of, (x, R))


@pytest.mark.filterwarnings("ignore")
def test_in_graphs() -> None:
    layer, x = Recurrent(heads(), bidirectional=True), torch.randn(T, B, I_, dtype=D)
    lengths = torch.tensor([7, 0, 3, 5])
    torch._dynamo.reset()
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    expected = layer(x, lengths=lengths)
    found = compiled(x, lengths=lengths)
    torch.testing.assert_close(found, expected)
    slopes = [
        torch.autograd.grad(sum(o.square().sum() for o in r[0]), list(layer.parameters())) for r in (found, expected)
    ]
    torch.testing.assert_close(*slopes)
    both = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program: Any = torch.export.export(
        layer.eval(), (x,), {"lengths": lengths}, dynamic_shapes={"x": both, "lengths": {0: torch.export.Dim.DYNAMIC}}
    )
    longer, more = torch.randn(9, 2, I_, dtype=D), torch.tensor([9, 4])
    torch.testing.assert_close(program.module()(longer, lengths=more), layer(longer, lengths=more))


def test_a_check_of_the_user_sees_outputs() -> None:
    layer = Recurrent(heads(), check=True)
    layer(torch.randn(T, B, I_, dtype=D))
    assert "checked against float64" in layer.explain()


def test_what_is_declared_wrongly() -> None:
    with pytest.raises(CellError, match="Twice: h is declared as state and as param; give one another name"):
        type("Twice", (Difference,), {"h": param(H)})
    short = type("Short", (Difference,), {"step": lambda self, x, h: h})(I_, H_)
    with pytest.raises(CellError, match=r"Short.step returned 1 value\(s\); expected 2: h, then the outputs change"):
        short(torch.randn(2, I_))
    with pytest.raises(
        CellError, match=r"Short.step returned None; expected h, then the outputs change, in this order"
    ):
        type("Short", (Difference,), {"step": lambda self, x, h: None})(I_, H_)(torch.randn(2, I_))
    wide = type("Wide", (Difference,), {"step": lambda self, x, h: (h, x)})(I_, H_)
    with pytest.raises(CellError, match=r"Wide.step returned row\[3\] for change; expected row\[5\]"):
        Recurrent(wide)(torch.randn(2, 1, I_))
    with pytest.raises(CellError, match="outputs of the two cells are y, choice and one; expected the same"):
        Bidirectional(heads(), Difference(I_, H_))


def test_a_model_reads_one_output() -> None:
    with pytest.raises(OptionError, match="several outputs, y, choice; a model reads one"):
        LanguageModel(Vocabulary("ab"), cell=Heads, hidden=8, options={"keys": 2})


def test_the_size_above_is_that_of_the_first_output() -> None:
    layer = Recurrent(heads(), layers=3)
    assert [member.input_size for member in layer.cell.members] == [I_, K_, K_]
    assert layer(torch.randn(T, B, I_, dtype=D))[0].choice.shape == (T, B, 3)
    stack = Stack([heads(), cells.GRU(K_, 4, dtype=D)])
    assert Recurrent(stack)(torch.randn(T, B, I_, dtype=D))[0].shape == (T, B, 4)


class _Apart(Cell):
    """What is read beside a product of the state, and does not depend on it: of a context, of parameters alone."""

    h, s = state(H), state(3)
    y = output(3)
    about = context(I)
    W, Q, b = param(3, H), param(3, I), param(3)

    def step(self, x: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        beside = torch.cat([h @ self.W.T, self.about @ self.Q.T, self.b.expand(x.shape[0], 3)], -1)
        return tanh(h + x.sum(-1, keepdim=True)), beside[:, 6:], tanh(beside[:, 3:6])


@pytest.mark.parametrize("lengths", [None, [T, T, T], [1, T, 2], [0, T, 1]])
def test_an_output_that_is_the_same_at_every_step(lengths: list[int] | None) -> None:
    layer, x = Recurrent(_Apart(I_, H_, dtype=D)), torch.randn(T, 3, I_, dtype=D)
    found = agree(layer, x, reference="loop", lengths=lengths, about=torch.randn(3, I_, dtype=D))
    assert found, found
    assert not found.absent
