"""The loop itself, against torch.nn and packed sequences; and that a cell's number says which cell it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from everloop import Bidirectional, Stack, cells
from tests.random_cells.campaign import drawn
from tests.random_cells.loop import Noise, over_sequence


def test_the_loop_is_torch_nn_in_both_directions_over_ragged_sequences() -> None:
    theirs = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    ours = Stack(
        [Bidirectional(cells.LSTM(3, 4, dtype=torch.float64)), Bidirectional(cells.LSTM(8, 4, dtype=torch.float64))]
    )
    for level, pair in enumerate(ours.members):
        assert isinstance(pair, Bidirectional)
        for cell, suffix in ((pair.ahead, f"l{level}"), (pair.back, f"l{level}_reverse")):
            with torch.no_grad():
                cell.W.copy_(getattr(theirs, f"weight_ih_{suffix}"))
                cell.R.copy_(getattr(theirs, f"weight_hh_{suffix}"))
                cell.b.copy_(getattr(theirs, f"bias_ih_{suffix}") + getattr(theirs, f"bias_hh_{suffix}"))
    x, lengths = torch.randn(5, 3, 3, dtype=torch.float64), torch.tensor([2, 5, 1])
    packed, (h, c) = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed)
    for b, n in enumerate(lengths.tolist()):
        zeros = ours.zeros(1, x)
        rows, state = over_sequence(ours, list(x[:n, b : b + 1]), zeros, zeros, [False] * n, Noise())
        torch.testing.assert_close(torch.cat(rows), expected[:n, b])
        found = [direction for level in state for direction in level]
        torch.testing.assert_close(torch.cat([s[0] for s in found]), h[:, b])
        torch.testing.assert_close(torch.cat([s[1] for s in found]), c[:, b])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_reset_begins_a_sequence_anew(backwards: bool) -> None:
    cell = cells.GRU(3, 4, dtype=torch.float64)
    x, start = torch.randn(6, 1, 3, dtype=torch.float64), (torch.randn(1, 4, dtype=torch.float64),)
    given = (torch.randn(1, 4, dtype=torch.float64),)

    def run(rows: Tensor, state: tuple[Tensor, ...], resets: list[bool]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        return over_sequence(cell, list(rows), state, start, resets, Noise(), backwards)

    whole, last = run(x, given, [False, False, True, False, False, False])
    first, after_first = run(x[:2], start if backwards else given, [False] * 2)
    second, after_second = run(x[2:], given if backwards else start, [False] * 4)
    torch.testing.assert_close(whole, first + second, rtol=0, atol=0)
    torch.testing.assert_close(last, after_first if backwards else after_second, rtol=0, atol=0)


def test_a_cell_of_a_number_is_always_the_same() -> None:
    here = "\n".join(f"{cell.source()} {case}" for cell, case in (drawn(3, n) for n in range(40)))
    code = """
from tests.random_cells.campaign import drawn
for n in range(40):
    cell, case = drawn(3, n)
    print(cell.source(), case)
"""
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == here.strip()
