"""BLEU against the figures of sacrebleu 2.5 for the same sentences."""

from __future__ import annotations

import pytest

from everloop.decode.bleu import bleu, tokens
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


def test_tokens() -> None:
    assert tokens("It's 3.5-inch, (no)!") == ["It's", "3.5", "-", "inch", ",", "(", "no", ")", "!"]


def test_one_reference_each() -> None:
    with pytest.raises(DataError, match="2 translations for 1"):
        bleu(["a", "b"], ["a"])
