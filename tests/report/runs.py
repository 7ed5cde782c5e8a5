"""A small run of each kind of model, on data that tries to be markup."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path

import torch

from everloop.cli import main
from everloop.models import load
from everloop.models.run import BEST, write_weights

EVIL = """<script>document.title='taken'</script>"><u onclick="alert(1)">"""
SMALL = ["--batch", "4", "--hidden", "6", "--threads", "1", "--log-every", "1", "--steps", "6", "--validate", "3"]
KINDS = ("language-model", "classifier", "tagger", "forecaster", "translator", "generator")


def write_data(folder: Path) -> None:
    """Write a little data for each kind."""
    (folder / "v.txt").write_text(f"the cat & the rat {EVIL} sat on\nthe mat.\n" * 40)
    lines = [f"{'good' if i % 2 else 'bad'} film {EVIL}\t{'<b>yes</b>' if i % 2 else 'no & not'}\n" for i in range(60)]
    (folder / "t.tsv").write_text("".join(lines))
    word = "1\t{}\t_\t{}\t_\t_\t_\t_\t_\t_\n2\truns\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"
    (folder / "t.conllu").write_text("".join(word.format(EVIL if i % 2 else "dog", "<i>") for i in range(40)))
    rows = [f"2024-01-{1 + i // 24:02} {i % 24:02}:00,{1000 + 9 * math.sin(i / 3):.3f},{i % 3}\n" for i in range(240)]
    (folder / "t.csv").write_text("time,<b>a</b>,b\n" + "".join(rows))
    (folder / "s.txt").write_text(f"ein hund\nzwei katzen {EVIL}\n" * 20)
    (folder / "w.txt").write_text(f"a dog\ntwo cats {EVIL}\n" * 20)
    (folder / "g.tsv").write_text(
        "".join(f"{'<b>' if i % 2 else 'b'}\t{'miaow' if i % 2 else EVIL}\n" for i in range(60))
    )


def train(kind: str, folder: Path) -> Path:
    """Train a run of a kind in a folder with data; return its own folder."""
    sizes = ["--context", "8", "--horizon", "4", "--season", "4", "--output", "gaussian"]
    columns = ["--columns", "text", "label"]
    given = {
        "language-model": ["--text", "v.txt", "--length", "16", "--cell", "lstm", "--layers", "2"],
        "classifier": ["--train", "t.tsv", *columns, "--pooling", "attention", "--hold-out", "0.2", "0.2"],
        "tagger": ["--train", "t.conllu"],
        "forecaster": ["--train", "t.csv", "--series", "<b>a</b>", "b", "--time", "time", *sizes],
        "translator": ["--source", "s.txt", "--target", "w.txt", "--min-freq", "1", "--embedding", "6"],
        "generator": ["--texts", "g.tsv"],
    }
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with contextlib.chdir(folder), quiet[0], quiet[1]:
        assert main(["train", kind, *SMALL, *given[kind], "--out", kind]) == 0
    if kind == "language-model":
        spread(folder / kind)
    return folder / kind


@torch.no_grad()
def spread(run: Path) -> None:
    """Have a character model say the, after whatever came: its tree has branches inside branches."""
    model = load(run)
    model.head.weight.mul_(0.01)
    model.head.bias.fill_(-9)
    model.head.bias[model.vocabulary.encode("the").long()] = 0
    write_weights(run / BEST, model, {})
