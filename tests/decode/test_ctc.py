"""Connectionist temporal classification: decoding against the sum over all alignments."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import groupby, product

import pytest
import torch
from torch import Tensor

from everloop.data import Vocabulary, WordVocabulary
from everloop.decode import ctc
from everloop.decode.generate import Beam, Sampling, generate
from everloop.errors import DataError, OptionError
from everloop.models import LanguageModel
from everloop.models.transcriber import Transcriber


def said(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in groupby(path) if symbol != blank)


def all_alignments(chances: Tensor, blank: int) -> dict[tuple[int, ...], float]:
    """Return the probability of every text: the sum over all paths that say it."""
    found: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(chances.shape[1]), repeat=len(chances)):
        found[said(path, blank)] += math.exp(sum(float(chances[t, s]) for t, s in enumerate(path)))
    return found


def random_chances(seed: int, steps: int = 6, symbols: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return (2 * torch.randn(steps, symbols + 1).double()).log_softmax(-1)


def small(**settings: object) -> Transcriber:
    torch.manual_seed(0)
    plain = {"hidden": 6, "layers": 1, "dropout": 0.3, "mels": 5, "stacked": 2, "rate": 1000}
    return Transcriber(Vocabulary("abc"), **{**plain, **settings}).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blank", [3, 0])
def test_a_wide_beam_sums_over_all_alignments(seed: int, blank: int) -> None:
    chances = random_chances(seed)
    known = all_alignments(chances, blank)
    found = ctc.prefix_beam(chances, 2000, blank)
    assert {prefix for prefix, _, _ in found} == set(known)
    assert [prefix for prefix, _, _ in found[:20]] == sorted(known, key=lambda p: -known[p])[:20]
    for prefix, logp, score in found:
        assert math.exp(logp) == pytest.approx(known[prefix], rel=1e-9)
        assert score == logp
    assert sum(math.exp(logp) for _, logp, _ in found) == pytest.approx(1, abs=1e-9)


def test_the_loss_is_the_sum_over_all_alignments() -> None:
    chances = random_chances(1)
    known = all_alignments(chances, 3)
    for text in [(0,), (1, 1), (2, 0, 1), (0, 0, 0)]:
        loss = torch.nn.functional.ctc_loss(
            chances[:, None],
            torch.tensor([text]),
            torch.tensor([6]),
            torch.tensor([len(text)]),
            blank=3,
            reduction="sum",
        )
        assert math.exp(-float(loss)) == pytest.approx(known[text], rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("blank", [3, 0])
def test_an_alignment_is_the_likeliest_of_all(seed: int, blank: int) -> None:
    chances = random_chances(seed)
    for text in [(), (1,), (2, 2), (1, 2, 1), (2, 2, 2), (1, 2, 2, 1)]:
        paths = [path for path in product(range(4), repeat=6) if said(path, blank) == text]
        best = max(paths, key=lambda path: float(chances[range(6), path].sum()))
        found = ctc.align(chances, text, blank)
        assert [blank if place < 0 else text[place] for place in found] == list(best)
        places = [place for place, _ in groupby(place for place in found if place >= 0)]
        assert places == list(range(len(text))), "each symbol once, in order"


def test_an_alignment_needs_its_steps() -> None:
    chances = random_chances(0, steps=2)
    assert ctc.align(chances, (1, 2), 3) == [0, 1]
    for text in ((1, 1), (1, 2, 1)):
        with pytest.raises(DataError, match=f"2 steps cannot say {len(text)} symbols"):
            ctc.align(chances, text, 3)
    assert ctc.align(chances[:0], (), 3) == []
    with pytest.raises(DataError, match="0 steps cannot say 1 symbols"):
        ctc.align(chances[:0], (1,), 3)
    sure = torch.full((5, 4), -torch.inf, dtype=torch.float64)
    sure[range(5), [3, 1, 3, 1, 3]] = 0.0
    assert ctc.align(sure, (1, 1), 3) == [-1, 0, -1, 1, -1]


def test_a_narrow_beam_never_says_more_than_there_is() -> None:
    for seed in range(20):
        chances = random_chances(seed, steps=7, symbols=2)
        known = all_alignments(chances, 2)
        narrow = ctc.prefix_beam(chances, 3, 2)
        assert len(narrow) == 3
        for prefix, logp, _ in narrow:
            assert math.exp(logp) <= known[prefix] * (1 + 1e-9)


def test_the_most_probable_text_need_not_be_on_the_best_path() -> None:
    # Graves et al. 2006: both steps blank is the best path, yet "a" is more probable than nothing
    chances = torch.tensor([[0.4, 0.6], [0.4, 0.6]], dtype=torch.float64).log()
    assert said(tuple(chances.argmax(-1).tolist()), 1) == ()
    assert ctc.prefix_beam(chances, 4, 1)[0][0] == (0,)


def test_greedy_collapses_the_best_path() -> None:
    model = small()
    sources = [torch.randn(n, 5).double() for n in (9, 4, 12)]
    heard = ctc.greedy(model, sources)
    assert model.training
    model.eval()
    for source, one in zip(sources, heard, strict=True):
        with torch.no_grad():
            chances, steps = model(source[:, None], torch.tensor([len(source)]))
        best, path = chances[: int(steps), 0].max(-1)
        assert one.symbols == said(tuple(path.tolist()), model.blank)
        assert one.text == "".join("abc"[s] for s in one.symbols)
        assert one.logp == pytest.approx(float(best.sum()), abs=1e-9)


def test_one_interface_for_recordings() -> None:
    model = small()
    sources = [torch.randn(n, 5).double() for n in (9, 4)]
    for source, some in zip(sources, generate(model, sources, Beam(50, n_best=3)), strict=True):
        with torch.no_grad():
            chances, steps = model.eval()(source[:, None], torch.tensor([len(source)]))
        known = all_alignments(chances[: int(steps), 0], model.blank)
        assert [h.symbols for h in some] == sorted(known, key=lambda p: -known[p])[:3]
    with pytest.raises(OptionError, match="not sampled"):
        generate(model, sources, Sampling())


def test_a_character_model_helps() -> None:
    model = small().eval()
    torch.manual_seed(5)
    language = LanguageModel(Vocabulary("\ncba"), hidden=5).double().eval()
    fusion = ctc.ShallowFusion(language, weight=0.7, bonus=0.3)
    source = torch.randn(10, 5).double()
    with torch.no_grad():
        chances, steps = model(source[:, None], torch.tensor([len(source)]))
    known = all_alignments(chances[: int(steps), 0], model.blank)
    score = {
        p: math.log(k) + (0.7 * -language.score("".join("abc"[s] for s in p)).nats + 0.3 * len(p) if p else 0)
        for p, k in known.items()
    }
    (found,) = generate(model, [source], Beam(2000, n_best=8, fusion=fusion))
    assert [h.symbols for h in found] == sorted(score, key=lambda p: -score[p])[:8]
    for h in found:
        assert h.score == pytest.approx(score[h.symbols], abs=1e-9)
        assert h.logp == pytest.approx(math.log(known[h.symbols]), abs=1e-9)
    assert [h.symbols for h in found] != sorted(known, key=lambda p: -known[p])[:8]


def test_a_helper_must_know_the_characters() -> None:
    fusion = ctc.ShallowFusion(LanguageModel(Vocabulary("\nab"), hidden=5))
    with pytest.raises(DataError, match="unknown symbol 'c'"):
        generate(small(), [torch.randn(8, 5).double()], Beam(4, fusion=fusion))
    words = ctc.ShallowFusion(LanguageModel(WordVocabulary(("<unknown>", "\n", "a")), hidden=5))
    with pytest.raises(OptionError, match="the language model has words; expected one of characters"):
        generate(small(), [torch.randn(8, 5).double()], Beam(4, fusion=words))
    with pytest.raises(OptionError, match="shallow fusion is for a transcriber"):
        generate(LanguageModel(Vocabulary("ab"), hidden=5), ["a"], Beam(4, fusion=fusion))
