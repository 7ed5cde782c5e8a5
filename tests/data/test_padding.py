"""Padding of lists of numbers at once, beside PyTorch's padding of one tensor each."""

from __future__ import annotations

import random

import pytest
import torch

from everloop.data.batching.padding import padded, padded_numbers


@pytest.mark.parametrize("sizes", [[1], [2], [3, 1, 2], [1, 1, 1], [0, 4, 0], [63, 7, 64], [5] * 40])
def test_lists_of_numbers_are_padded_as_tensors_are(sizes: list[int]) -> None:
    source = random.Random(len(sizes))
    rows = [[source.randrange(-9, 2**40) for _ in range(size)] for size in sizes]
    expected, lengths = padded([torch.tensor(row, dtype=torch.int64) for row in rows])
    found, found_lengths = padded_numbers(rows)
    assert torch.equal(found, expected)
    assert torch.equal(found_lengths, lengths)
    assert found.dtype == found_lengths.dtype == torch.int64
    assert found.is_contiguous()


def test_no_lists_are_an_empty_batch() -> None:
    empty: list[list[list[int]]] = [[], [[]], [[], []]]
    for rows in empty:
        found, lengths = padded_numbers(rows)
        assert found.shape == (0, len(rows))
        assert lengths.tolist() == [0] * len(rows)
