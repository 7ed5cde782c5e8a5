"""What each part of AWD-LSTM brings: the recipe `awd_lstm_words` without one at a time, with several seeds.

Trained on the first 100,000 characters of a text and told on the 200,000 that follow. Perplexity per word: mean over
the seeds ± their standard deviation, and in the last column the mean change that leaving the part out makes, seed by
seed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.timing import machine, table
from everloop.cli.train import read_options
from everloop.models.kind import find
from everloop.train import Event, Stepped, Validated, evaluate, train

RECIPE = Path(__file__).parent.parent / "recipes" / "awd_lstm_words.toml"
TRAINED, TOLD = 100_000, 200_000  # characters
NO_DROPOUT = "--dropout 0 --input-dropout 0 --output-dropout 0"
NO_PENALTY = "--activation-regularization 0 --temporal-regularization 0"
WITHOUT = {
    "all parts": "",
    "without averaging (SGD alone)": "--average-after 0",
    "without dropout of inputs, layers and outputs": NO_DROPOUT,
    "dropout not locked": "--no-locked",
    "without dropped symbols": "--embedding-dropout 0",
    "without weight drop": "--weight-drop 0",
    "without AR and TAR": NO_PENALTY,
    "windows of one length": "--length-jitter 0",
    "weights not tied": "--no-tied",
    "none of the noise, no AR, no TAR": f"{NO_DROPOUT} --embedding-dropout 0 --weight-drop 0 {NO_PENALTY}",
}
FIGURES = ("validation, best", "at the end", "next words", "training, at the end")


def perplexities(text: Path, following: Path, seed: int, options: str) -> list[float]:
    """Return the figures of a training by the recipe with some options changed."""
    kind, validated, steps = find("language-model"), list[float](), list[float]()
    given = ["--config", str(RECIPE), "--text", str(text), "--seed", str(seed), *options.split()]
    chosen, _ = read_options(kind, given)

    def report(event: Event) -> None:
        if isinstance(event, Validated):
            validated.append(event.score.perplexity)
        elif isinstance(event, Stepped):
            steps.append(event.loss)

    torch.manual_seed(seed)
    data = kind.dataset(chosen.data, chosen.model, None)
    model = kind.create_model(data, chosen.model)
    train(model, data, chosen.train, report=report)
    told = evaluate(model, kind.evaluation_dataset(model, chosen.data, following, None), "test")
    return [min(validated), validated[-1], told.perplexity, math.exp(steps[-1])]


def row(name: str, found: Sequence[Sequence[float]], whole: Sequence[Sequence[float]]) -> list[str]:
    """Return a line of the table: the figures of a part left out over the seeds, beside those of all parts."""
    columns = [f"{statistics.fmean(c):.1f} ± {statistics.stdev(c):.1f}" for c in zip(*found, strict=True)]
    changes = [without[2] - all_[2] for without, all_ in zip(found, whole, strict=True)]
    return [name, *columns, f"{statistics.fmean(changes):+.1f} ± {statistics.stdev(changes):.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="such as Tiny Shakespeare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="two or more")
    asked = parser.parse_args()
    print(machine() + "\n", flush=True)
    letters = asked.text.read_text(encoding="utf-8")
    found = dict[str, list[list[float]]]()
    with tempfile.TemporaryDirectory() as folder:
        text, following = Path(folder) / "first.txt", Path(folder) / "next.txt"
        text.write_text(letters[:TRAINED], encoding="utf-8")
        following.write_text(letters[TRAINED : TRAINED + TOLD], encoding="utf-8")
        for name, options in WITHOUT.items():
            found[name] = [perplexities(text, following, seed, options) for seed in asked.seeds]
            print(name, found[name], flush=True)
    lines = [row(name, figures, found["all parts"]) for name, figures in found.items()]
    print(table(["", *FIGURES, "change on next words"], lines))


if __name__ == "__main__":
    main()
