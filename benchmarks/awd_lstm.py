"""Hours that the recipes of AWD-LSTM take on this machine: some steps of each timed on as many random words."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.timing import machine, table
from everloop.cli.train import read_options
from everloop.data import Text, WordVocabulary
from everloop.models import LanguageModel
from everloop.models.kind import find
from everloop.train import Event, Stepped, train

RECIPES = Path(__file__).parent.parent / "recipes"
CORPORA = {"awd_lstm_penn_treebank": (929_589, 10_000), "awd_lstm_wikitext2": (2_088_628, 33_278)}
"""Words of the training split, and how many are different."""


def words(count: int, different: int) -> Text:
    """Return a text of random words."""
    known = WordVocabulary(["<unknown>", "\n", *(f"w{n}" for n in range(different - 1))], pretokenized=True)
    drawn = torch.randint(1, different, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    text = " ".join(known.symbols[n] for n in drawn)
    return Text.from_string(text, units="words", pretokenized=True, vocabulary=known, split=(1, 0, 0))


def seconds_a_word(recipe: str, steps: int) -> tuple[float, int]:
    """Return (seconds that training takes for a word, parameters) of a recipe, from the second half of its steps."""
    options, _ = read_options(find("language-model"), ["--config", str(RECIPES / f"{recipe}.toml")])
    sizes = options.train.batch * (options.train.length + 2 * options.train.length_jitter)
    text = words(max(200_000, sizes * 2), CORPORA[recipe][1])
    model = LanguageModel.from_config(text.vocabulary, options.model)
    rates: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, Stepped):
            rates.append(event.rate)

    few = {"steps": steps, "epochs": None, "log_every": steps // 2, "validate": steps, "length_jitter": 0}
    train(model, text, options.train.replace(few), report=report)
    return 1 / rates[-1], sum(p.numel() for p in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--recipes", nargs="*", choices=[*CORPORA], default=[*CORPORA])
    options = parser.parse_args()
    print(machine() + "\n")
    lines: list[list[object]] = []
    for recipe in options.recipes:
        passes = read_options(find("language-model"), ["--config", str(RECIPES / f"{recipe}.toml")])[0].train.epochs
        seconds, parameters = seconds_a_word(recipe, options.steps)
        count = CORPORA[recipe][0]
        hours = seconds * count * passes / 3600
        speed = 6e-9 * parameters / seconds
        lines.append([recipe, f"{parameters:,}", round(1 / seconds), seconds * count, f"{passes:g}", hours, speed])
    print(table(["recipe", "parameters", "words/s", "s a pass", "passes", "hours", "GFLOP/s"], lines))


if __name__ == "__main__":
    main()
