"""What data tells of itself before training: counted by hand."""

from __future__ import annotations

from everloop.data import Conditions, Parallel, ParallelConfig, Strokes, StrokesConfig, Tagged, TaggedConfig


def test_texts() -> None:
    data = Conditions([("a", "xy"), ("a", "xyz"), ("b", "xyxyxyxyxy")], [("b", "x")])
    # each text has one symbol more, its end; 3 and 4 come together, 11 does not
    assert data.notes(2) == [
        "train: 3 texts, 18 symbols, padding 5.3%",
        "valid: 1 texts, 2 symbols, padding 0.0%",
    ]


def test_tagged_words() -> None:
    some, few = (["a", "b", "a"], ["X", "Y", "X"]), (["a", "c", "d"], ["X", "Y", "Y"])
    data = Tagged({"train": [some, some, ([], [])], "valid": [few, some, few]}, TaggedConfig(min_freq=2))
    assert data.notes(2) == [
        "train: 2 sequences, 6 steps, padding 0.0%, 0 words unknown (0.00%)",
        "valid: 3 sequences, 9 steps, padding 0.0%, 4 words unknown (44.44%)",
    ]


def test_pairs() -> None:
    data = Parallel([("a b", "x"), ("a b", "x"), ("c b a", "x y")], config=ParallelConfig(min_freq=2))
    # 3, 3 and 5 pieces
    assert data.notes(3) == ["train: 3 pairs, 11 pieces, padding 0.0%, unknown 1 in the source and 1 in the target"]
    assert data.notes(2) == data.notes(3)


def test_long_drawings_are_left_out_of_training_alone() -> None:
    short, long = ("a", [[[0, 0], [1, 1]]]), ("a", [[[n, n * n % 5] for n in range(12)]])
    data = Strokes({"train": [short, long], "valid": [short, long]}, StrokesConfig(tolerance=0, max_length=3))
    assert [lengths.tolist() for lengths in data.lengths.values()] == [[2], [2, 12]]
    assert data.notes(2) == [
        "train: 1 drawings, 2 steps, padding 0.0%",
        "valid: 2 drawings, 14 steps, padding 0.0%",
    ]
