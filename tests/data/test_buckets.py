"""Batches by length: nothing lost, padding bounded, the same every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.batching.buckets import buckets, padding_fraction
from everloop.errors import OptionError

LENGTHS = [1 + (i * 7919) % 97 for i in range(1000)]


@given(
    st.lists(st.integers(1, 300), max_size=400),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(0, 9)),
    st.floats(0, 0.9),
)
def test_every_sequence_once_and_padding_bounded(
    lengths: list[int], batch: int, seed: int | None, bound: float
) -> None:
    groups = buckets(lengths, batch, seed=seed, padding=bound)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(1 <= len(group) <= batch for group in groups)
    assert all(padding_fraction([group], lengths) <= bound + 1e-9 for group in groups)


def test_equal_lengths_fill_batches() -> None:
    assert sorted(map(len, buckets([5] * 25, 8, seed=1, padding=0))) == [1, 8, 8, 8]


def test_a_seed_is_an_order() -> None:
    assert buckets(LENGTHS, 16, seed=3) == buckets(LENGTHS, 16, seed=3)
    assert buckets(LENGTHS, 16, seed=3) != buckets(LENGTHS, 16, seed=4)
    lengths = [LENGTHS[group[-1]] for group in buckets(LENGTHS, 16, seed=3)]
    assert lengths != sorted(lengths)


def test_a_lower_bound_makes_more_batches() -> None:
    few, many = (buckets(LENGTHS, 16, seed=3, padding=bound) for bound in (0.5, 0.01))
    assert len(many) > len(few)
    assert padding_fraction(many, LENGTHS) < padding_fraction(few, LENGTHS)


def test_padding_share_by_hand() -> None:
    assert padding_fraction([[0, 1], [2]], [1, 3, 5]) == pytest.approx(2 / 11)
    assert padding_fraction([], []) == 0


@pytest.mark.parametrize(("batch", "padding"), [(0, 0.1), (4, 1.0), (4, -0.1)])
def test_options_that_make_no_sense(batch: int, padding: float) -> None:
    with pytest.raises(OptionError, match="expected"):
        buckets([1], batch, padding=padding)
