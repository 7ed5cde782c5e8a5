"""Examples that are in memory: lists, arrays, frames and datasets of others give the same batches as files do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.data import Examples, ExamplesConfig
from everloop.data.in_memory import pairs
from everloop.errors import DataError

TEXTS = ["a good film", "a bad film", "good", "bad bad", "a film of good people", "nothing but bad"]
LABELS = ["1", "0", "1", "0", "1", "0"]
CONFIG = ExamplesConfig(hold_out=(0.0, 0.0))


def _batch(data: Examples) -> Any:
    return data.collate([data["train"][i] for i in range(len(data["train"]))])


@pytest.fixture
def from_file(tmp_path: Path) -> Any:
    """The batch that a file of the same examples gives."""
    path = tmp_path / "films.csv"
    path.write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(TEXTS, LABELS, strict=True)))
    return _batch(Examples.from_config(ExamplesConfig(train=path, hold_out=(0.0, 0.0))))


def _same(one: Any, other: Any) -> bool:
    return all(bool((getattr(one, name) == getattr(other, name)).all()) for name in ("x", "lengths", "y"))


def test_lists_are_what_a_file_is(from_file: Any) -> None:
    assert _same(_batch(Examples.of((TEXTS, LABELS), config=CONFIG)), from_file)


@pytest.mark.parametrize("labels", [[1, 0, 1, 0, 1, 0], np.array([1, 0, 1, 0, 1, 0]), torch.tensor([1, 0, 1, 0, 1, 0])])
def test_labels_may_be_numbers(labels: Any, from_file: Any) -> None:
    assert _same(_batch(Examples.of((TEXTS, labels), config=CONFIG)), from_file)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str, from_file: Any) -> None:
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"review": TEXTS, "stars": [int(y) for y in LABELS]})
    if library == "pandas":
        frame.index = range(10, 16)  # its rows are counted from 0 all the same
    data = Examples.of(frame, config=ExamplesConfig(text="review", label="stars", hold_out=(0.0, 0.0)))
    assert _same(_batch(data), from_file)
    with pytest.raises(DataError, match=r"column 'text'.*review"):
        Examples.of(frame)


def test_a_mapping_of_columns(from_file: Any) -> None:
    assert _same(_batch(Examples.of({"label": LABELS, "text": TEXTS}, config=CONFIG)), from_file)


def test_hugging_face_datasets(from_file: Any) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict({"text": TEXTS, "label": [int(y) for y in LABELS]})
    assert _same(_batch(Examples.of(found, config=CONFIG)), from_file)


class _OfPyTorch(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> Any:
        return TEXTS[index], int(LABELS[index])


def test_datasets_of_pytorch(from_file: Any) -> None:
    assert _same(_batch(Examples.of(_OfPyTorch(), config=CONFIG)), from_file)


def test_an_array_is_a_sequence_each_row() -> None:
    x = np.random.default_rng(1).normal(size=(4, 7, 3))
    batch = _batch(Examples.of((x, [0, 1, 0, 1]), config=CONFIG))
    assert torch.equal(batch.x, torch.from_numpy(x).float().transpose(0, 1))
    assert batch.lengths.tolist() == [7, 7, 7, 7]


def test_one_axis_is_a_number_each_step() -> None:
    batch = _batch(Examples.of(([[1.0, 2.0], np.array([3, 4, 5])], "ab"), config=CONFIG))
    assert batch.lengths.tolist() == [2, 3]
    assert batch.x[:, 1, 0].tolist() == [3, 4, 5]


def test_splits_of_their_own_and_held_out_ones() -> None:
    data = Examples.of((TEXTS, LABELS), test=(TEXTS[:2], LABELS[:2]), config=ExamplesConfig(hold_out=(0.34, 0.0)))
    assert {name: len(data[name]) for name in data.splits} == {"train": 4, "valid": 2, "test": 2}


def test_fingerprints_tell_examples_apart() -> None:
    def fingerprint(*lengths: int) -> str:
        return Examples.of(([np.ones(n) for n in lengths], "ab"), config=CONFIG).fingerprint

    assert fingerprint(2, 3) == fingerprint(2, 3) != fingerprint(3, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((TEXTS, LABELS[:5]), "6 sequences and 5 labels"),
        (([*TEXTS[:5], None], LABELS), "example 6 is None; expected a text"),
        ((TEXTS, [*LABELS[:5], None]), "example 6 has no label"),
        ((TEXTS, [1.0, 0.0, 1.0, 0.0, 1.0, float("nan")]), "example 6 has no label"),
        (([torch.zeros(2, 3, 4)], "a"), "example 1 is torch.float32 \\[2, 3, 4\\]; expected numbers"),
        (([np.zeros(3), "text"], "ab"), "example 2 is 'text'; expected numbers"),
        ("a text", "examples are str; expected a pair of lists"),
        (np.zeros((3, 2)), "examples are ndarray"),
        (([], []), "no training examples"),
    ],
)
def test_what_is_wrong_is_said(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Examples.of(given, config=CONFIG)


def test_sequences_of_other_widths_are_refused() -> None:
    with pytest.raises(DataError, match="2 channels; expected 3"):
        Examples.of(([np.zeros((4, 3)), np.zeros((4, 2))], "ab"), config=CONFIG)


def test_a_tensor_with_gradients_is_only_read() -> None:
    (sequence,), _ = pairs((torch.ones(1, 4, 2, requires_grad=True), "a"), "text", "label")
    assert isinstance(sequence, torch.Tensor)
    assert not sequence.requires_grad
