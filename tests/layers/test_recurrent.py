"""A cell over time: lengths, resets, states, streams, directions and stacks, for every cell of the zoo."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from everloop import cells
from everloop.cell import Cell, I, state
from everloop.compiler.time_axis import TimeAxis
from everloop.errors import CellError, OptionError, ShapeError
from everloop.layers import Bidirectional, Recurrent, Stack
from tests.zoo import ONE_OUTPUT, given, make

T, B, I_, H_ = 7, 4, 3, 5
LENGTHS = torch.tensor([3, 7, 0, 1])


def layer(name: str, **kwargs: Any) -> Recurrent:
    return Recurrent(make(name, I_, H_, dtype=torch.float64), **kwargs).eval()


def inputs(*shape: int) -> Tensor:
    return torch.randn(*(shape or (T, B, I_)), dtype=torch.float64, requires_grad=True)


def gradients(output: Tensor, state: Any, of: Any) -> list[Tensor]:
    total = (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum()
    for k, s in enumerate(flat(state)):
        total = total + (k + 1) * s.square().sum()
    return list(torch.autograd.grad(total, of, allow_unused=True, materialize_grads=True))


def flat(state: Any) -> list[Tensor]:
    return [leaf for part in state for leaf in flat(part)] if isinstance(state, tuple) else [state]


def close(got: Any, want: Any) -> None:
    for a, b in zip(flat(got), flat(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("target", [None, "eager"])
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_lengths_equal_sequences_run_one_by_one(name: str, target: Any) -> None:
    rnn, x = layer(name, target=target), inputs()
    told = given(rnn, x)
    y, state = rnn(x, lengths=LENGTHS, **told.at())
    leaves = [x, *rnn.parameters()]
    together = gradients(y, state, leaves)
    alone_y = torch.zeros_like(y)
    alone_state = [torch.zeros_like(s) for s in state]
    for b, n in enumerate(LENGTHS.tolist()):
        if n:
            y_b, state_b = rnn(x[:n, b], **told.at(slice(n), b))
            alone_y = alone_y.index_put((torch.arange(n), torch.tensor(b)), y_b)
            alone_state = [s.index_put((torch.tensor(b),), s_b) for s, s_b in zip(alone_state, state_b, strict=True)]
    close(y, alone_y)
    close(state, tuple(alone_state))
    close(tuple(together), tuple(gradients(alone_y, tuple(alone_state), leaves)))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_reset_equals_a_new_sequence(name: str, learned: bool) -> None:
    rnn, x = layer(name, learned_state=learned), inputs()
    if learned:
        with torch.no_grad():
            for s in rnn.start or ():
                s.normal_()
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[3, 0] = reset[5, 1] = reset[0, 2] = True
    leaves = [x, *rnn.parameters()]
    told = given(rnn, x)
    before = tuple(torch.randn(B, *shape, dtype=torch.float64) for shape in rnn.cell.state_shapes.values())
    y, state = rnn(x, reset=reset, state=before, **told.at())
    columns, finals = [], []
    for b, cut in ((0, 3), (1, 5), (2, 0), (3, 0)):
        row = slice(b, b + 1)
        start, head, tail = tuple(s[row] for s in before), told.at(slice(cut), row), told.at(slice(cut, None), row)
        first, after = rnn(x[:cut, row], start, **head) if cut else (x.new_zeros(0, 1, rnn.output_size), start)
        second, after = rnn(x[cut:, row], None if b != 3 else start, **tail)
        columns.append(torch.cat([first, second]))
        finals.append(after)
    expected = torch.cat(columns, 1)
    expected_state = tuple(torch.cat(parts) for parts in zip(*finals, strict=True))
    close(y, expected)
    close(state, expected_state)
    close(tuple(gradients(y, state, leaves)), tuple(gradients(expected, expected_state, leaves)))


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_step_by_step_equals_the_whole_sequence(name: str) -> None:
    rnn = Recurrent(Stack([make(name, I_, H_), make("gru", make(name, I_, H_).output_size, 4)])).eval()
    x = torch.randn(T, B, I_)
    told = given(rnn, x)
    y, final = rnn(x, **told.at())
    state = None
    for t in range(T):
        y_t, state = rnn.step(x[t], state, **told.at(t))
        torch.testing.assert_close(y_t, y[t], rtol=1e-5, atol=1e-6)
    for a, b in zip(flat(state), flat(final), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    outside = None
    for t in range(T) if not told.at() else ():  # a stack hands on x alone
        y_t, outside = rnn.cell(x[t], outside)
        torch.testing.assert_close(y_t, y[t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_state_carried_between_windows_equals_one_call(name: str) -> None:
    rnn, x = layer(name), inputs()
    told = given(rnn, x)
    whole, final = rnn(x, **told.at())
    first, state = rnn(x[:4], **told.at(slice(4)))
    second, state = rnn(x[4:], state, **told.at(slice(4, None)))
    close(torch.cat([first, second]), whole)
    close(state, final)
    leaves = [x, *rnn.parameters()]
    close(
        tuple(gradients(torch.cat([first, second]), state, leaves)),
        tuple(gradients(whole, final, leaves)),
    )


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_bidirectional_equals_two_layers_and_a_flip(name: str, merge: Any) -> None:
    ahead, back = make(name, I_, H_, dtype=torch.float64), make(name, I_, H_, dtype=torch.float64)
    both, x = Recurrent(Bidirectional(ahead, back, merge=merge)).eval(), inputs()
    told = given(both, x)
    y, (state_a, state_b) = both(x, lengths=LENGTHS, **told.at())
    for b, n in enumerate(LENGTHS.tolist()):
        if n == 0:
            assert not y[:, b].any()
            continue
        y_a, s_a = Recurrent(ahead)(x[:n, b], **told.at(slice(n), b))
        y_b, s_b = Recurrent(back)(x[:n, b].flip(0), **told.at(torch.arange(n).flip(0), b))
        want = torch.cat([y_a, y_b.flip(0)], -1) if merge == "concat" else y_a + y_b.flip(0)
        close(y[:n, b], want)
        close(tuple(s[b] for s in state_a), s_a)
        close(tuple(s[b] for s in state_b), s_b)
        assert not y[n:, b].any()


@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 6, 5, 7])])
def test_bidirectional_resets_keep_segments_apart(lengths: Tensor | None) -> None:
    rnn, x = layer("lstm", bidirectional=True), inputs()
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4] = True
    reset[6, 1] = True  # beyond the end of sequence 1: without effect
    y, _ = rnn(x, reset=reset, lengths=lengths)
    for b, n in enumerate([T] * B if lengths is None else lengths.tolist()):
        first, _ = rnn(x[:4, b : b + 1])
        second, _ = rnn(x[4:n, b : b + 1])
        if b == 1 and lengths is None:
            second = torch.cat([rnn(x[4:6, b : b + 1])[0], rnn(x[6:n, b : b + 1])[0]])
        close(y[:n, b : b + 1], torch.cat([first, second]))


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_batch_first_and_strides_change_nothing(name: str) -> None:
    cell = make(name, I_, H_, dtype=torch.float64)
    plain, swapped = Recurrent(cell).eval(), Recurrent(cell, batch_first=True).eval()
    x = inputs(T, B, I_)
    wide = torch.randn(T, B, 2 * I_, dtype=torch.float64)
    wide[..., ::2] = x.detach()
    told = given(plain, x)
    y, state = plain(x, **told.at())
    y_swapped, state_swapped = swapped(x.transpose(0, 1).contiguous(), **told.swapped)
    close(y_swapped.transpose(0, 1), y)
    close(state_swapped, state)
    close(plain(wide[..., ::2], **told.at())[0], y)
    close(plain(x.detach().transpose(0, 1).contiguous().transpose(0, 1), **told.at())[0], y)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_come_back_packed(bidirectional: bool) -> None:
    rnn = layer("gru", bidirectional=bidirectional, layers=2)
    sequences = [torch.randn(n, I_, dtype=torch.float64) for n in (2, 6, 1, 4)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    y, state = rnn(packed)
    padded, lengths = pad_packed_sequence(y)
    x = torch.nn.utils.rnn.pad_sequence(sequences)
    expected, expected_state = rnn(x, lengths=lengths)
    close(padded, expected)
    close(state, expected_state)
    again, _ = rnn(packed, state)
    close(pad_packed_sequence(again)[0], rnn(x, state, lengths=lengths)[0])


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (3, 0), (1, 1), (0, 0)])
@pytest.mark.parametrize("name", ["lstm", "reset-before-gru", "softmax"])
def test_empty_and_smallest_sequences(name: str, steps: int, batch: int) -> None:
    rnn, x = layer(name, bidirectional=True, layers=2), inputs(steps, batch, I_)
    y, state = rnn(x)
    assert y.shape == (steps, batch, 2 * H_)
    assert all(s.shape == (batch, H_) for s in flat(state))
    if steps:
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == x.shape


def test_residual_stack_adds_inputs_of_equal_size() -> None:
    members = [make("gru", 5, 5), make("lstm", 5, 5)]
    x = torch.randn(T, B, 5)
    y, _ = Recurrent(Stack(members, residual=True))(x, lengths=LENGTHS)
    first = Recurrent(members[0])(x, lengths=LENGTHS)[0] + x
    second = Recurrent(members[1])(first, lengths=LENGTHS)[0] + first
    alive = torch.arange(T)[:, None] < LENGTHS
    torch.testing.assert_close(y, torch.where(alive[..., None], second, 0))


def test_learned_state_is_trained() -> None:
    rnn = layer("lstm", learned_state=True)
    y, _ = rnn(inputs())
    y.sum().backward()
    assert all(s.grad is not None and s.grad.abs().sum() > 0 for s in rnn.start or ())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(torch.zeros(T, B, 4)), "x has 4 features; expected input size 3"),
        (lambda r: r(torch.zeros(3)), "x has 1 axes"),
        (
            lambda r: r(torch.zeros(T, B, 3, dtype=torch.float64)),
            "x is torch.float64, the parameters are torch.float32",
        ),
        (lambda r: r([1.0]), "x is list; expected a tensor"),
        (lambda r: r(torch.zeros(T, B, 3), lengths=[1, 2, 3]), r"lengths are torch.int64 \[3\]; expected 4 integers"),
        (lambda r: r(torch.zeros(T, B, 3), lengths=[1, 2, 3, 8]), "lengths go from 1 to 8; expected 0 to 7"),
        (lambda r: r(torch.zeros(T, B, 3), lengths=[1, 2, 3, -1]), "lengths go from -1 to 3"),
        (lambda r: r(torch.zeros(T, B, 3), lengths=[1.0, 2, 3, 4]), "expected 4 integers"),
        (
            lambda r: r(torch.zeros(T, B, 3), reset=torch.zeros(B, T) > 1),
            r"reset is torch.bool \[4, 7\]; expected bool",
        ),
        (lambda r: r(torch.zeros(T, B, 3), torch.zeros(B, 5)), "state is Tensor; expected a tuple of 2"),
        (lambda r: r(torch.zeros(T, B, 3), (torch.zeros(B, 5),)), r"state is 1 part\(s\); expected a tuple of 2"),
        (lambda r: r(torch.zeros(T, B, 3), (torch.zeros(B, 5), torch.zeros(1, 5))), r"\[1, 5\]; expected \[4, 5\]"),
        (
            lambda r: r(torch.zeros(T, B, 3), (torch.zeros(B, 5).double(),) * 2),
            "a state is torch.float64; expected torch.float32",
        ),
        (lambda r: r(torch.zeros(T, 3), (None, None)), r"a state is NoneType; expected \[5\]"),
        (lambda r: r(torch.zeros(T, 3), (torch.zeros(1, 5),) * 2), r"a state is \[1, 5\]; expected \[5\]"),
        (
            lambda r: r(pack_sequence([torch.zeros(2, 3), torch.zeros(4, 3)], False), (torch.zeros(1, 5),) * 2),
            r"a state is \[1, 5\]; expected \[2, 5\]",
        ),
        (lambda r: r(torch.zeros(T, B, 3), lengths="long"), "lengths are 'long'; expected 4 integers"),
        (lambda r: r(torch.zeros(T, 3), lengths=[1, 2]), r"lengths are torch.int64 \[2\]; expected 1 integer"),
        (lambda r: r(torch.zeros(T, B, 3), reset=[[True] * B] * T), r"reset is list; expected a tensor, bool \[7, 4\]"),
        (lambda r: r(torch.zeros(T, 3), reset=torch.tensor(True)), r"reset is torch.bool \[\]; expected bool \[7\]"),
        (lambda r: r.step([1.0]), "x_t is list; expected"),
    ],
)
def test_errors_name_layer_got_and_expected(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call(Recurrent(cells.LSTM(3, 5)))


def test_wrong_structures_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"member 1 \(LSTM\) has input size 4; expected 5"):
        Stack([cells.GRU(3, 5), cells.LSTM(4, 5)])
    with pytest.raises(ShapeError, match="cannot be summed"):
        Bidirectional(cells.GRU(3, 5), cells.GRU(3, 4), merge="sum")
    with pytest.raises(OptionError, match="whole sequence"):
        Recurrent(cells.GRU(3, 5), bidirectional=True).cell(torch.zeros(1, 3))
    with pytest.raises(OptionError, match="layers is 0"):
        Recurrent(cells.GRU(3, 5), layers=0)
    with pytest.raises(OptionError, match="dropout rate dropout is 5"):
        Recurrent(cells.GRU(3, 5), dropout=5)
    with pytest.raises(OptionError, match="did you mean 'llvm'"):
        Recurrent(cells.GRU(3, 5), target="lvm")
    for wrong in (cells.GRU, torch.nn.Linear(3, 5)):
        with pytest.raises(CellError, match="expected an instance of Cell"):
            Recurrent(wrong)  # type: ignore[arg-type]
        with pytest.raises(CellError, match="member 1 is"):
            Stack([cells.GRU(3, 3), wrong])  # type: ignore[list-item]
        with pytest.raises(CellError, match=r"forward_cell is .*; expected an instance of Cell or Stack"):
            Bidirectional(wrong)
        with pytest.raises(CellError, match=r"backward_cell is .*; expected an instance of Cell or Stack"):
            Bidirectional(cells.GRU(3, 5), wrong)
    with pytest.raises(CellError, match="forward_cell is NoneType"):
        Bidirectional(None)
    for lonely in (cells.GRU, cells.GRU(3, 3), 3):
        with pytest.raises(CellError, match=r"members is .*; expected a list of cells, as in Stack\(\["):
            Stack(lonely)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no cells"):
        Stack([])


def test_dropout_that_has_nowhere_to_be_says_so() -> None:
    with pytest.warns(UserWarning, match=r"dropout=0.2 is between layers; with layers=1 nothing is dropped") as caught:
        Recurrent(cells.GRU(3, 5), dropout=0.2)
    assert caught[0].filename == __file__
    Recurrent(cells.GRU(3, 5), layers=2, dropout=0.2)


def test_a_bidirectional_is_repeated_and_nested() -> None:
    rnn = Recurrent(Bidirectional(cells.GRU(I_, 4), cells.LSTM(I_, 4), merge="sum"), layers=2, bidirectional=True)
    first, second = rnn.cell.members
    assert [m.input_size for m in (first, second, second.ahead, second.back.back)] == [I_, 8, 8, 8]
    assert type(second.back.back) is cells.LSTM
    assert rnn(torch.zeros(T, B, I_), lengths=LENGTHS)[0].shape == (T, B, 8)


@pytest.mark.parametrize("target", [None, "eager"])
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_padding_may_hold_anything(name: str, target: Any) -> None:
    rnn, x, dirty = layer(name, target=target), inputs(), inputs()
    ended = (torch.arange(T)[:, None] >= LENGTHS)[..., None]
    dirty.data = torch.where(ended, torch.tensor([math.nan, math.inf, -math.inf]), x.data)
    told = given(rnn, x)
    (y, state), (again, same) = (rnn(each, lengths=LENGTHS, **told.at()) for each in (x, dirty))
    close(again, y)
    close(same, state)
    swapped = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert TimeAxis.of(swapped, LENGTHS).cleared(swapped).stride() == (I_, T * I_, 1)
    for got, want in zip(
        gradients(again, same, [dirty, *rnn.parameters()]), gradients(y, state, [x, *rnn.parameters()]), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("cell", [Bidirectional(cells.GRU(3, 5)), Stack([Bidirectional(cells.GRU(3, 5))])])
def test_a_bidirectional_layer_is_not_stepped(cell: Any) -> None:
    with pytest.raises(OptionError, match="needs the whole sequence"):
        Recurrent(cell).step(torch.zeros(B, 3))


def test_a_cell_without_parameters() -> None:
    class Mean(Cell):
        keep: float = 0.5
        h = state(I)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return self.keep * h + (1 - self.keep) * x

    rnn = Recurrent(Mean(3, 3), learned_state=True)
    x = torch.ones(2, B, 3, dtype=torch.float32)
    assert torch.equal(rnn(x)[0][1], torch.full((B, 3), 0.75))


def test_autocast_takes_what_a_layer_below_gives() -> None:
    rnn, below = Recurrent(cells.LSTM(3, 5)), torch.nn.Linear(3, 3)
    x = torch.randn(T, B, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, after = rnn(below(x))
        again = rnn(below(x), after)[0]
    assert y.dtype == again.dtype == after[1].dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), rnn(below(x))[0], rtol=0.05, atol=0.01)
