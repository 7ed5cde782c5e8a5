"""Known words alone are written: every way of decoding, against all words that pieces can spell."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from everloop.data.tokenize.lexicon import KnownWord, Lexicon
from everloop.data.tokenize.pieces import END, Pieces, split
from everloop.decode.generate import Beam, Greedy, Method, Sampling, generate
from everloop.models import EncoderDecoder

TEXT = ["the cat's mats sat", "a rat, a mat", "cats that eat rats", "at the tea-mate's"] * 3
PIECES = Pieces.learn(TEXT, merges=6)
KNOWN = {word for sentence in TEXT for word in split(sentence)}


@pytest.mark.parametrize("words", [[(5,)], [(5, 6), (5,)], [(5, 6), (6, 5), (6,)], [(4, 4, 4), (4,), (5, 4)]])
def test_what_may_follow(words: list[tuple[int, ...]]) -> None:
    lexicon, known = Lexicon((KnownWord(word, True, False) for word in words), 7, END), set(words)

    def splits(pieces: tuple[int, ...], whole: bool) -> bool:
        """Return whether pieces are known words, the last of which may be a beginning if not `whole`."""
        if not pieces or (not whole and any(word[: len(pieces)] == pieces for word in known)):
            return True
        return any(pieces[: len(word)] == word and splits(pieces[len(word) :], whole) for word in known)

    for length in range(5):
        for pieces in product((4, 5, 6), repeat=length):
            if not splits(pieces, whole=False):
                continue
            place = 0
            for piece in pieces:
                assert lexicon.allowed([place])[0, piece]
                place = lexicon.after(place, piece)
            allowed = lexicon.allowed([place])[0]
            for piece in (4, 5, 6):
                assert bool(allowed[piece]) == splits((*pieces, piece), whole=False), (pieces, piece)
            assert bool(allowed[END]) == splits(pieces, whole=True)
            assert not bool(allowed[[0, 1, 2]].any())


METHODS = [Greedy(), Beam(3, n_best=2), Sampling(temperature=1.5, num_samples=3, seed=2)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("context", ["attention", "every-step", "initial"])
def test_only_known_words_are_written(method: Method, context: str) -> None:
    torch.manual_seed(2)
    model = EncoderDecoder(PIECES, PIECES, hidden=8, embedding=6, context=context)
    sources = ["the cat", "rats, mats", "a tea", "at the mate's"]
    answers = [one for some in generate(model, sources, method, length=40) for one in some]
    # what is cut off may end within a word
    written = [word for one in answers for word in split(one.text)[: None if one.finished else -1]]
    assert written
    assert set(written) <= KNOWN
    free = EncoderDecoder(PIECES, PIECES, hidden=8, embedding=6, context=context, known_words=False)
    free.load_state_dict(model.state_dict())
    others = [one for some in generate(free, sources, Sampling(seed=2, num_samples=3), length=40) for one in some]
    assert not {word for one in others for word in split(one.text)} <= KNOWN


def test_words_are_kept_with_the_pieces(tmp_path: Path) -> None:
    PIECES.save(tmp_path / "p.json")
    assert set(Pieces.load(tmp_path / "p.json").words) == KNOWN
    whole = Pieces.learn(TEXT)
    assert whole.words == ()
    assert whole.lexicon() is None
    assert Pieces(PIECES.symbols[4:], PIECES.merges).lexicon() is None  # as saved before there were words
