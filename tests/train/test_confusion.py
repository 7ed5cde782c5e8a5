"""The confusion matrix: counted by hand, the rare labels together."""

from __future__ import annotations

import torch

from everloop.train import Confusion

COUNTS = torch.tensor([[5, 1, 0, 0], [2, 7, 0, 1], [0, 0, 1, 0], [0, 0, 1, 1]])


def test_rare_labels_are_one() -> None:
    found = Confusion(("a", "b", "c", "d"), COUNTS).most(3)
    assert found.names == ("a", "b", "2 others")
    assert found.counts.tolist() == [[5, 1, 0], [2, 7, 1], [0, 0, 3]]
    assert Confusion(("a", "b", "c", "d"), COUNTS).most(4).counts is COUNTS
