"""Models of words: what they write reads as text, and the unknown word is never written."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from everloop.data import WordVocabulary
from everloop.decode import Beam, Greedy, Sampling, generate, sample, stream, tree
from everloop.errors import DataError, OptionError
from everloop.models import LanguageModel
from everloop.models.language_model import LanguageModelConfig

SYMBOLS = ("<unknown>", "\n", "cat", "'s", ", ", " (", ") ", "sat")


def model_of_words() -> LanguageModel:
    """Return an untrained model that would like best to write the unknown word."""
    torch.manual_seed(1)
    model = LanguageModel(WordVocabulary(SYMBOLS), hidden=6).double().eval()
    with torch.no_grad():
        model.head.weight.mul_(5)
        model.head.bias[0] = 9
    return model


@pytest.mark.parametrize("prompt", ["cat", "cat ", "cat\n", "sat (", "cat, dog"])
@pytest.mark.parametrize("how", [Greedy(), Sampling(seed=3, num_samples=3), Beam(4, n_best=4)])
def test_a_prompt_and_what_follows_read_as_one_text(how: Greedy | Sampling | Beam, prompt: str) -> None:
    model = model_of_words()
    for one in generate(model, [prompt], how, length=9)[0]:
        assert 0 not in one.symbols
        numbers = model.vocabulary.encode(prompt).tolist() + list(one.symbols)
        joined = model.vocabulary.decode(one.symbols, prompt)
        assert one.text == joined
        if prompt[-1] not in " \n":
            whole = model.vocabulary.decode(numbers)
            assert whole.endswith(joined)
            assert whole.removesuffix(joined) == model.vocabulary.decode(model.vocabulary.encode(prompt))


def test_sources_keep_their_own_prompts() -> None:
    model = model_of_words()
    prompts = ["cat", "sat (", "cat sat ", "\n"]
    for how in (Greedy(), Beam(2)):
        together = [best.text for best, *_ in generate(model, prompts, how, length=4)]
        assert together == [generate(model, [prompt], how, length=4)[0][0].text for prompt in prompts]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_unknown_word_is_not_drawn(temperature: float) -> None:
    model = model_of_words()
    pieces = list(stream(model, "cat", length=50, temperature=temperature, seed=0))
    assert len(pieces) == 50
    assert "<unknown>" not in "".join(pieces)
    assert "".join(pieces) == sample(model, "cat", length=50, temperature=temperature, seed=0)


def test_probabilities_of_a_tree_leave_the_unknown_word_out() -> None:
    model = model_of_words()
    found = tree(model, "cat", width=8, depth=2, min_probability=0)
    assert sum(p for _, p in found.paths()) == pytest.approx(1, abs=1e-9)
    assert len(found) == 7 + 49
    texts = {branch.symbol: branch.text for branch in found.children}
    assert texts == {1: "\n", 2: " cat", 3: "'s", 4: ",", 5: " (", 6: ")", 7: " sat"}
    after = {branch.symbol: [child.text for child in branch.children if child.symbol == 2] for branch in found.children}
    assert after == {1: ["cat"], 2: [" cat"], 3: [" cat"], 4: [" cat"], 5: ["cat"], 6: [" cat"], 7: [" cat"]}


@torch.no_grad()
def test_unknown_words_are_scored_as_one_and_the_same() -> None:
    model = model_of_words()
    numbers = torch.tensor([1, 2, 3, 0, 4, 1])[:, None]
    logits, _ = model(numbers[:-1])
    expected = -float(logits.log_softmax(-1)[:, 0].gather(1, numbers[1:]).sum())
    score = model.score("cat's dog,\n")
    assert score.count == 5
    assert score.nats == pytest.approx(expected, rel=1e-12)
    assert model.score("cat's fish,\n") == score
    assert score.perplexity == pytest.approx(math.exp(expected / 5))
    assert model.target == "word"


def test_neighbours_are_words() -> None:
    model = model_of_words()
    with torch.no_grad():
        model.embedding.weight[7] = model.embedding.weight[2] * 3
    names = [name for name, _ in model.neighbours("cat", count=9)]
    assert names[0] == "sat"
    assert sorted(names) == sorted(set(SYMBOLS) - {"<unknown>", "cat"})
    with pytest.raises(DataError, match="not 'cats'; did you mean 'cat'"):
        model.neighbours("cats")


@pytest.mark.parametrize("nothing", ["", "  "])
def test_what_holds_no_word_is_empty(nothing: str) -> None:
    model = model_of_words()
    for ask in (stream, tree, lambda model, prompt: generate(model, [prompt])):
        with pytest.raises(DataError, match="the prompt is empty"):
            ask(model, nothing)
    with pytest.raises(DataError, match="the text to score is empty"):
        model.score(nothing)
    with pytest.raises(OptionError, match="context is empty"):
        model.score("cat", nothing)


def test_lower_case_is_asked_in_any_case() -> None:
    counts = Counter({"cat": 2, "sat": 2})
    model = LanguageModel.from_config(
        WordVocabulary.learn(counts, lower=True), LanguageModelConfig(hidden=5, layers=1, cell="elman")
    )
    assert model.score("CAT sat") == model.score("cat SAT")
