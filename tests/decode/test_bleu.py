"""BLEU against the figures of sacrebleu 2.5 for the same sentences."""

from __future__ import annotations

import random
import sys
from importlib import import_module
from typing import Any

import pytest

from everloop.decode.bleu import bleu, sacrebleu_scores, tokens
from everloop.errors import DataError


def test_figures_of_sacrebleu() -> None:
    written = ["It's 3.5-inch, isn't it? (yes) 1,000 \"x\" &amp; y/z", "a b c"]
    wanted = ["It's 3.5 -inch , is it? (yes) 1,000 'x' & y / z!", "a d c e f"]
    assert bleu(written, wanted) == pytest.approx(39.9875652255433, abs=1e-9)
    assert bleu(["the dog runs over there now ok"], ["the cat stood on it over there"]) == pytest.approx(
        14.535768424205482, abs=1e-9
    )
    assert bleu(["a cat sat"], ["the cat stood on it"]) == 0
    assert bleu(wanted, wanted) == pytest.approx(100)


def test_short_translations_are_punished() -> None:
    whole = "the quick brown fox jumps over the lazy dog"
    assert bleu(["the quick brown fox jumps"], [whole]) == pytest.approx(100 * 2.718281828459045 ** (1 - 9 / 5))


WORDS = ["cat", "Cat", "it's", "3.5", "1,000", "a-b", "&amp;", "(no)", '"x"', "猫", "end.", "U.S.", "n't", "50%"]


@pytest.mark.parametrize("seed", range(12))
def test_random_corpora_as_sacrebleu_has_them(seed: int) -> None:
    metrics = import_module("sacrebleu.metrics")
    draw = random.Random(seed)
    wanted = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(draw.randint(1, 20))]
    written = [
        " ".join(w for w in text.split() if draw.random() > 0.2) + draw.choice(["", "!", " x"]) for text in wanted
    ]
    theirs = metrics.BLEU(force=True).corpus_score(written, [wanted]).score
    assert bleu(written, wanted) == pytest.approx(theirs, abs=1e-9)
    found = sacrebleu_scores(written, wanted, lower=False)
    assert found["chrf2"] == metrics.CHRF().corpus_score(written, [wanted]).score
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in str(found["signature"])
    assert "case:lc" in str(sacrebleu_scores(written, wanted, lower=True)["signature"])


def test_without_sacrebleu_there_is_bleu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", absent)
    assert sacrebleu_scores(["a"], ["a"], lower=False) == {}


def test_tokens() -> None:
    assert tokens("It's 3.5-inch, (no)!") == ["It's", "3.5", "-", "inch", ",", "(", "no", ")", "!"]


def test_one_reference_each() -> None:
    with pytest.raises(DataError, match="2 translations for 1"):
        bleu(["a", "b"], ["a"])
