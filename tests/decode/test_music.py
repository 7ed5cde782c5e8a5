"""Going on with music: odds against those of all sets of keys, streaming against whole sequences, what is refused."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data.readers.chorales import KEYS, PITCHES
from everloop.decode.music import Draw, compose, drawn_keys, plays, set_sums
from everloop.errors import DataError, OptionError
from everloop.models import Tagger

SCORES = torch.tensor([0.7, -1.2, 2.0, 0.0, -0.4], dtype=torch.float64)


def model(**settings: object) -> Tagger:
    torch.manual_seed(0)
    chosen = {"hidden": 5, "output": "several", "bidirectional": False, "dropout": 0.4} | settings
    return Tagger(KEYS, PITCHES, "lstm", **chosen)


def piece(steps: int = 3) -> Tensor:
    return (torch.rand(steps, KEYS, generator=torch.Generator().manual_seed(1)) < 0.1).float()


def sets(how: Draw, first: int = 0) -> dict[tuple[int, ...], float]:
    """Return the sum of the scores of each set of keys that may be drawn, from a key on."""
    counts = range(6) if how.voices is None else [how.voices]
    found = (keys for count in counts for keys in combinations(range(first, 5), count))
    return {k: float(SCORES[list(k)].sum()) for k in found if all(b - a >= how.apart for a, b in pairwise(k))}


@pytest.mark.parametrize("apart", [1, 2, 4])
def test_sums_over_sets_are_those_of_all_sets(apart: int) -> None:
    counted, any_number = (set_sums(SCORES, Draw(1.0, voices, apart)) for voices in (3, None))
    likeliest = set_sums(SCORES, Draw(0, None, apart))
    for first in range(6):
        for size in range(4):
            some = sets(Draw(1.0, size or None, apart), first) if size else {(): 0.0}
            wanted = math.log(sum(map(math.exp, some.values()))) if some else -math.inf
            assert counted[first][size] == pytest.approx(wanted, abs=1e-12)
        every = sets(Draw(1.0, None, apart), first).values()
        assert any_number[first][0] == pytest.approx(math.log(sum(map(math.exp, every))), abs=1e-12)
        assert likeliest[first][0] == pytest.approx(max(every), abs=1e-12)


@pytest.mark.parametrize(("voices", "apart"), [(None, 1), (None, 2), (1, 1), (2, 1), (2, 3), (3, 2), (5, 1)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_keys_are_drawn_at_their_odds(voices: int | None, apart: int, temperature: float) -> None:
    how, generator, draws = Draw(temperature, voices, apart), torch.Generator().manual_seed(3), 800
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        keys = tuple(drawn_keys(SCORES, how, generator).nonzero()[:, 0].tolist())
        counts[keys] = counts.get(keys, 0) + 1
    weights = {keys: math.exp(score / temperature) for keys, score in sets(how).items()}
    assert set(counts) <= set(weights)
    total, distance = sum(weights.values()), 0.0
    for keys, weight in weights.items():
        share = weight / total
        distance += (counts.get(keys, 0) - draws * share) ** 2 / (draws * share)
    assert distance < 2 * len(weights) + 12, "chi-squared, far above what one draw in 10,000 has"


@pytest.mark.parametrize("how", [Draw(0, v, a) for v, a in ((None, 1), (3, 1), (None, 2), (2, 2), (2, 3), (3, 2))])
def test_without_temperature_the_likeliest_keys_sound(how: Draw) -> None:
    some = sets(how)
    best = max(some, key=some.__getitem__)
    assert drawn_keys(SCORES, how, torch.Generator()).nonzero()[:, 0].tolist() == list(best)


def test_scores_that_are_far_apart_do_no_harm() -> None:
    scores = torch.tensor([900.0, -900.0, 899.0, -5000.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for voices in (1, 2, 3, 4):
        assert int(drawn_keys(scores, Draw(0.1, voices), generator).sum()) == voices
    assert drawn_keys(scores, Draw(1.0, 2), generator).tolist() == [1, 0, 1, 0]
    assert drawn_keys(scores, Draw(1.0), generator).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_music_goes_on_as_if_it_were_read_as_a_whole(steps: int) -> None:
    composer = model().train()
    with torch.no_grad():
        composer.head.weight.mul_(20)
    music = torch.stack([*piece(), *compose(composer, piece(), length=steps, temperature=0)])
    assert composer.training, "as it was"
    assert music.shape == (3 + steps, KEYS)
    (sure,) = composer.probabilities([music])
    assert (sure[2:-1] > 0.5).equal(music[3:] > 0.5)


def test_a_seed_gives_the_same_music() -> None:
    composer = model()

    def drawn(seed: int | None, **how: Any) -> Tensor:
        return torch.stack(list(compose(composer, piece(), length=4, seed=seed, voices=4, **how)))

    assert drawn(1).equal(drawn(1))
    assert not drawn(1).equal(drawn(2))
    assert not drawn(1).equal(drawn(1, temperature=0.1))
    assert drawn(None).sum(1).tolist() == [4.0] * 4
    assert list(compose(composer, piece(1), length=0)) == []


def test_what_cannot_compose() -> None:
    assert plays(model())
    assert not plays(Tagger(KEYS, [str(n) for n in range(KEYS)], output="several"))
    assert not plays(torch.nn.Linear(1, 1))
    for wrong in (model(bidirectional=True), Tagger(3, ["a", "b"], output="several")):
        with pytest.raises(OptionError, match="a tagger of piano rolls that reads forward only"):
            compose(wrong, piece(), length=1)
    for given in (piece(0), piece()[:, :5], piece()[0]):
        with pytest.raises(DataError, match="expected a step or more of 88 keys"):
            compose(model(), given, length=1)
    for how in ({"voices": 0}, {"voices": 89}, {"apart": 0}, {"length": -1}, {"temperature": -1.0}, {"seed": -1}):
        with pytest.raises(OptionError, match=f"{next(iter(how))} is"):
            compose(model(), piece(), **({"length": 1} | how))
