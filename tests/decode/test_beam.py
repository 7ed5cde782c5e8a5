"""Greedy, sampling and beam search against lists of everything that a tiny model can write."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from everloop.data import Vocabulary
from everloop.decode.beam import beam
from everloop.decode.generate import Beam, Greedy, Sampling, generate
from everloop.decode.single import draw, greedy
from everloop.errors import OptionError
from everloop.models import LanguageModel
from everloop.models.encoder_decoder import EncoderDecoder
from tests.decode.exact import Tiny, everything
from tests.models.small_pairs import backwards

LENGTH = 5


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wide_beam_is_exhaustive(penalty: float, seed: int) -> None:
    model = Tiny(seed)
    found = beam(model, [4, 7], width=400, length=LENGTH, length_penalty=penalty, n_best=20)
    for source, hypotheses in zip([4, 7], found, strict=True):
        known = everything(model, source, LENGTH)
        score = {s: logp / ((5 + len(s) + 1) / 6) ** penalty for s, logp in known.items()}
        best = sorted(score, key=lambda s: -score[s])[:20]
        assert [h.symbols for h in hypotheses] == best
        assert all(h.finished for h in hypotheses)
        for h in hypotheses:
            assert h.logp == pytest.approx(known[h.symbols], abs=1e-9)
            assert h.score == pytest.approx(score[h.symbols], abs=1e-9)
            assert h.text == model.text(h.symbols)


def test_the_penalty_favours_long_ones() -> None:
    model = Tiny(1)
    lengths = [
        sum(len(h.symbols) for (h,) in beam(model, list(range(9)), width=30, length=8, length_penalty=penalty))
        for penalty in (0.0, 1.0, 2.0)
    ]
    assert lengths[0] < lengths[1] <= lengths[2]


@pytest.mark.parametrize("length", [1, 3, 12])
def test_width_one_is_greedy(length: int) -> None:
    for seed in range(4):
        model, sources = Tiny(seed), list(range(9))
        narrow = [h for (h,) in beam(model, sources, width=1, length=length)]
        plain = greedy(model, sources, length=length)
        assert [(h.symbols, h.finished) for h in narrow] == [(h.symbols, h.finished) for h in plain]
        for a, b in zip(narrow, plain, strict=True):
            assert a.logp == pytest.approx(b.logp, abs=1e-9)
            assert b.logp == pytest.approx(
                model.logp(sources[plain.index(b)], [*b.symbols, *([3] if b.finished else [])]), abs=1e-9
            )


def test_sources_do_not_disturb_each_other() -> None:
    model = Tiny(2)
    together = beam(model, list(range(9)), width=3, length=7, n_best=3)
    alone = [beam(model, [source], width=3, length=7, n_best=3)[0] for source in range(9)]
    assert [[h.symbols for h in some] for some in together] == [[h.symbols for h in some] for some in alone]


def test_what_is_never_written_is_not() -> None:
    model = Tiny(0)
    model.never = (0,)
    for some in beam(model, [1, 2], width=4, length=4, n_best=4):
        assert all(0 not in h.symbols for h in some)
        assert sum(math.exp(h.logp) for h in some) <= 1 + 1e-9
    assert all(0 not in h.symbols for h in draw(model, [1] * 50, seed=0, length=5))


def test_draws_come_as_often_as_they_are_probable() -> None:
    model = Tiny(3)
    drawn = Counter(h.symbols for h in draw(model, [5] * 4000, length=20, seed=1))
    known = everything(model, 5, 4)
    for symbols in sorted(known, key=lambda s: -known[s])[:5]:
        share = math.exp(known[symbols])
        assert drawn[symbols] / 4000 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 4000))


def test_one_interface() -> None:
    model = Tiny(0)
    assert [h.symbols for (h,) in generate(model, [1, 2])] == [h.symbols for h in greedy(model, [1, 2])]
    assert [len(some) for some in generate(model, [1, 2], Beam(4, n_best=3))] == [3, 3]
    twice = [generate(model, [1, 2], Sampling(num_samples=6, seed=3)) for _ in range(2)]
    assert [len(some) for some in twice[0]] == [6, 6]
    assert twice[0] == twice[1]
    assert generate(model, [1, 2], Sampling(temperature=0)) == generate(model, [1, 2], Greedy())
    assert generate(model, []) == []


def test_a_translator_in_a_beam() -> None:
    data = backwards(60)
    torch.manual_seed(2)
    model = EncoderDecoder(data.source, data.target, hidden=8, embedding=6, dropout=0.5).double()
    sources = [source for source, _ in data.sentences["valid"]]
    model.train()
    found = generate(model, sources, Beam(4, n_best=4), length=6)
    assert model.training
    model.eval()
    for source, some in zip(sources[:3], found, strict=False):
        numbers, lengths = model.read_in([source])
        for h in some:
            inputs = torch.tensor([2, *h.symbols, *([3] if h.finished else [])])
            with torch.no_grad():
                logits, _ = model(numbers, lengths, inputs[:-1, None])
                logits[..., list(model.never)] = -torch.inf
                chances = logits[:, 0].log_softmax(-1)
            expected = float(chances.gather(1, inputs[1:, None]).sum())
            assert h.logp == pytest.approx(expected, abs=1e-9)


def test_a_language_model_continues_prompts_of_any_length() -> None:
    torch.manual_seed(0)
    model = LanguageModel(Vocabulary("\nabcd"), hidden=6).double()
    prompts = ["abc", "\n", "dd", "a"]
    together = generate(model, prompts, Beam(3, n_best=2), length=5)
    for prompt, some in zip(prompts, together, strict=True):
        (alone,) = generate(model, [prompt], Beam(3, n_best=2), length=5)
        assert [h.text for h in some] == [h.text for h in alone]
        for h in some:
            assert not h.finished
            assert h.logp == pytest.approx(-model.score(h.text, prompt).nats, abs=1e-9)


def test_senseless_widths_are_refused() -> None:
    with pytest.raises(OptionError, match="width"):
        beam(Tiny(), [1], width=2, n_best=3)
    with pytest.raises(OptionError, match="length"):
        generate(Tiny(), [1], length=0)
