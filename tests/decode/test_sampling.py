"""Sampling: the distribution that is drawn from, and that it is drawn from."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everloop import cells
from everloop.data import Vocabulary
from everloop.decode import probabilities, sample, stream
from everloop.errors import DataError, OptionError
from everloop.models import LanguageModel

LOGITS = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0], dtype=torch.float64)


class Dice:
    """Says the same logits whatever came before, and remembers what it was told."""

    def __init__(self, logits: Tensor, symbols: str = "abcde") -> None:
        self.vocabulary = Vocabulary(symbols)
        self.logits, self.heard = logits, list[int]()

    def begin(self, prompt: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self.heard += prompt[:, 0].tolist()
        return self.logits[None], 0

    def step(self, symbols: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self.heard += symbols.tolist()
        return self.logits[None], state + 1


def by_hand(temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    chances = [float(v) for v in torch.exp(LOGITS / temperature)]
    order = sorted(range(5), key=lambda i: -chances[i])[:top_k]
    total = sum(chances[i] for i in order)
    kept, reached = [], 0.0
    for i in order:
        if top_p is not None and reached >= top_p:
            break
        kept.append(i)
        reached += chances[i] / total
    mass = sum(chances[i] for i in kept)
    return [chances[i] / mass if i in kept else 0.0 for i in range(5)]


CHOICES = [
    (1.0, None, None),
    (0.5, None, None),
    (2.0, None, None),
    (1.0, 2, None),
    (1.0, 1, None),
    (1.0, 99, None),
    (1.0, None, 0.7),
    (1.0, None, 0.01),
    (1.0, None, 1.0),
    (0.7, 3, 0.9),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CHOICES)
def test_probabilities(temperature: float, top_k: int | None, top_p: float | None) -> None:
    got = probabilities(LOGITS, temperature, top_k, top_p)
    torch.testing.assert_close(got, torch.tensor(by_hand(temperature, top_k, top_p), dtype=torch.float64))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CHOICES)
def test_what_is_drawn_has_these_frequencies(temperature: float, top_k: int | None, top_p: float | None) -> None:
    count = 4000
    text = sample(Dice(LOGITS), "a", length=count, temperature=temperature, top_k=top_k, top_p=top_p, seed=5)
    for symbol, chance in zip("abcde", by_hand(temperature, top_k, top_p), strict=True):
        seen = text.count(symbol)
        # five standard deviations of a binomial count; nothing at all where the chance is zero
        assert abs(seen - count * chance) <= 5 * (count * chance * (1 - chance)) ** 0.5


def test_temperature_zero_takes_the_most_likely() -> None:
    assert sample(Dice(LOGITS), "e", length=20, temperature=0) == "a" * 20


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_temperatures_near_zero_take_the_most_likely(temperature: float) -> None:
    found = probabilities(torch.tensor([3.0, -900.0, 5.0], dtype=torch.float64), temperature)
    assert found.tolist() == [0.0, 0.0, 1.0]


def test_ties_are_not_widened_by_top_k() -> None:
    assert (probabilities(torch.zeros(6), top_k=2) > 0).sum() == 2


def test_probabilities_work_on_batches() -> None:
    rows = torch.stack([LOGITS, LOGITS.flip(0), LOGITS * 3])
    together = probabilities(rows, 0.7, 3, 0.9)
    for row, alone in zip(rows, together, strict=True):
        torch.testing.assert_close(probabilities(row, 0.7, 3, 0.9), alone)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=12),
    st.floats(0.05, 20),
    st.none() | st.integers(1, 15),
    st.none() | st.floats(1e-6, 1),
)
def test_always_a_distribution_with_the_most_likely(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    row = torch.tensor(logits, dtype=torch.float64)
    chances = probabilities(row, temperature, top_k, top_p)
    assert float(chances.sum()) == pytest.approx(1)
    assert bool((chances >= 0).all())
    assert float(chances[row.argmax()]) == float(chances.max()) > 0


def test_the_model_hears_the_prompt_and_then_itself() -> None:
    dice = Dice(LOGITS)
    text = sample(dice, "bead", length=6, seed=3)
    assert dice.vocabulary.decode(dice.heard) == "bead" + text[:-1]


def test_seed() -> None:
    texts = [sample(Dice(LOGITS), "a", length=50, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert sample(Dice(LOGITS), "a", length=50) != sample(Dice(LOGITS), "a", length=50)


def test_the_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample(Dice(LOGITS), "a", length=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_stream_is_lazy_and_endless() -> None:
    dice = Dice(LOGITS)
    pieces = stream(dice, "a", seed=1)
    assert dice.heard == []
    assert "".join(islice(pieces, 30)) == sample(Dice(LOGITS), "a", length=30, seed=1)
    assert len(dice.heard) == 30


def test_nothing_wanted_nothing_computed() -> None:
    dice = Dice(LOGITS)
    assert sample(dice, "a", length=0) == ""
    assert dice.heard == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"length": -1}, "length is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_out_of_range(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        sample(Dice(LOGITS), "a", **setting)


def test_prompts_that_cannot_be_read() -> None:
    with pytest.raises(DataError, match=r"'x'.* at position 1, line 1 of the prompt"):
        stream(Dice(LOGITS), "ax")
    with pytest.raises(DataError, match="the prompt is empty"):
        stream(Dice(LOGITS), "")


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_sampled_without_dropout_and_left_as_it_was(training: bool) -> None:
    model = LanguageModel(Vocabulary("\nabc"), cell=cells.GRU, hidden=8, layers=2, dropout=0.5).train(training)
    assert sample(model, length=40, seed=1) == sample(model, length=40, seed=1)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_greedy_text_is_what_the_whole_sequence_predicts() -> None:
    model = LanguageModel(Vocabulary("\nabc"), cell=cells.LSTM, hidden=8, layers=2).double()
    prompt = "ab\nc"
    text = sample(model, prompt, length=20, temperature=0)
    logits, _ = model(model.vocabulary.encode(prompt + text).long()[:, None])
    assert model.vocabulary.decode(logits[len(prompt) - 1 : -1, 0].argmax(-1)) == text
