"""The prediction tree: its probabilities are those of scoring each continuation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data import Vocabulary
from everloop.decode.tree import Branch, tree
from everloop.errors import OptionError
from everloop.models import LanguageModel
from tests.decode.exact import Tiny


def language_model() -> LanguageModel:
    torch.manual_seed(4)
    model = LanguageModel(Vocabulary("\nabcdef "), hidden=7, layers=2, dropout=0.4).double()
    with torch.no_grad():
        model.head.weight.mul_(6)
    return model


def branches(before: str, some: tuple[Branch, ...]) -> Iterator[tuple[str, Branch]]:
    for branch in some:
        yield before + branch.text, branch
        yield from branches(before + branch.text, branch.children)


def test_probabilities_are_those_of_scoring_each_continuation() -> None:
    model = language_model()
    found = tree(model, "abba", width=3, depth=4, min_probability=0)
    assert model.training
    seen = list(branches("", found.children))
    assert len(seen) == len(found) == 3 + 9 + 27 + 81
    for text, branch in seen:
        assert math.log(branch.cumulative) == pytest.approx(-model.score(text, "abba").nats, abs=1e-9)
        below = [child.probability for child in branch.children]
        assert below == sorted(below, reverse=True)
        for child in branch.children:
            assert child.cumulative == pytest.approx(branch.cumulative * child.probability, rel=1e-12)


def test_a_full_tree_adds_up_to_one() -> None:
    found = tree(language_model(), "a", width=8, depth=3, min_probability=0)
    assert sum(p for _, p in found.paths()) == pytest.approx(1, abs=1e-9)


def test_improbable_branches_are_cut() -> None:
    model = language_model()
    whole, cut = (tree(model, "abba", width=4, depth=5, min_probability=least) for least in (0, 0.02))
    kept = {text for text, branch in branches("", whole.children) if branch.cumulative >= 0.02}
    assert {text for text, _ in branches("", cut.children)} == kept
    assert 0 < len(cut) < len(whole)


def test_paths_come_the_most_probable_first() -> None:
    paths = list(tree(language_model(), "ab", width=3, depth=3, min_probability=0).paths())
    assert len(paths) == 27
    assert [p for _, p in paths] == sorted((p for _, p in paths), reverse=True)


def test_a_level_is_one_batch_and_no_prefix_is_read_twice() -> None:
    model = Tiny(0)
    read: list[Tensor] = []
    step = model.step

    def watched(symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        read.append(symbols)
        return step(symbols, state)

    model.step = watched  # type: ignore[method-assign]
    found = tree(model, 3, width=4, depth=4, min_probability=0)
    assert [len(symbols) for symbols in read] == [3, 9, 27]  # the stop symbol is not continued
    ends = [branch for _, branch in branches("", found.children) if branch.symbol == model.stop]
    assert len(ends) == 1 + 3 + 9 + 27
    assert all(not branch.children and branch.text == "" for branch in ends)
    for text, branch in branches("", found.children):
        symbols = ["abc".index(c) for c in text] + ([3] if branch.symbol == 3 else [])
        assert math.log(branch.cumulative) == pytest.approx(model.logp(3, symbols), abs=1e-9)


def test_senseless_sizes_are_refused() -> None:
    for wrong in ({"width": 0}, {"depth": 0}, {"min_probability": 1.0}):
        with pytest.raises(OptionError, match="expected at least 1"):
            tree(language_model(), "a", **wrong)
