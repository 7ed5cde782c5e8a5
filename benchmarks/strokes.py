"""Are the strokes that a generator draws what was asked for? A classifier of real drawings reads them as pictures.

    python -m benchmarks.strokes runs/unipen_digits digits.jsonl.gz

The classifier learns pictures (28 rows of 28 pixels, one row a step) of the real training drawings alone; its accuracy
on the real validation drawings is printed beside, since it bounds what can be read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.strokes import Strokes, StrokesConfig, lines_of
from everloop.decode.sketch import sketch
from everloop.draw.strokes import ink, png, sheet
from everloop.models import load
from everloop.models.classifier import Classifier
from everloop.train import train

EACH = 100
TEMPERATURES = (0.1, 0.3, 0.5, 1.0)


def reader(data: Strokes, steps: int = 1500) -> tuple[Classifier, float]:
    """Return a classifier of pictures of real drawings, and its accuracy on those held out."""
    parts = {}
    for name in ("train", "valid"):
        pictures = [ink(lines_of(drawing)) for _, drawing in data[name]]
        labels = [data.labels[label] for label, _ in data[name]]
        parts[name] = Part(pictures.__getitem__, labels, text=False, digest=data.fingerprint)
    examples = Examples(parts, ExamplesConfig(shift=1))
    torch.manual_seed(0)
    model = Classifier(28, list(data.labels), "lstm", hidden=128, bidirectional=True, dropout=0.2)
    run = train(model, examples, steps=steps, batch=64, lr=3e-3, validate=250, best_metric="accuracy", report=print)
    assert run.best is not None, "there is a validation part"
    return model, run.best.means["accuracy"]


def read(model: Classifier, pictures: Sequence[Tensor]) -> list[str]:
    """Return what the classifier reads in pictures."""
    return [model.labels.symbols[i] for i in model.classify(list(pictures)).argmax(-1).tolist()]


def main(run: str, strokes: str) -> None:
    """Print the share of drawings read as what was asked for, at several temperatures."""
    data = Strokes.from_config(StrokesConfig(Path(strokes)))
    model, accuracy = reader(data)
    print(f"real drawings held out, read rightly: {accuracy:.2%}")
    generator = load(run)
    asked = [label for label in data.labels for _ in range(EACH)]
    for temperature in TEMPERATURES:
        drawn = sketch(generator, asked, temperature=temperature, seed=0)
        pictures = [ink(one.lines) for one in drawn]
        right = [a == b for a, b in zip(asked, read(model, pictures), strict=True)]
        by = "  ".join(f"{label} {sum(right[i * EACH : (i + 1) * EACH])}" for i, label in enumerate(data.labels))
        ended = sum(one.finished for one in drawn)
        share = sum(right) / len(right)
        print(f"temperature {temperature}: {share:.2%} of {len(asked)} read as asked, {ended} ended; {by}")
        some = [picture for i in range(len(data.labels)) for picture in pictures[i * EACH : i * EACH + 10]]
        (Path(run) / f"drawings-{temperature}.png").write_bytes(png(sheet(some)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
