"""What the benchmarks draw is the same in every run."""

from __future__ import annotations

from benchmarks.options import spread


def test_lengths_are_spread_evenly_and_mixed() -> None:
    lengths = spread(5, 50)
    assert sorted(lengths.tolist()) == [10, 20, 30, 40, 50]
    assert lengths.tolist() != sorted(lengths.tolist())
    assert spread(64, 90).equal(spread(64, 90))
    assert spread(1, 50).tolist() == [30]
