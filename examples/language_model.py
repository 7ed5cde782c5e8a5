"""Train a character model on the Python reference, let it write, and ask it which of two sentences is likelier."""

from __future__ import annotations

from pydoc_data.topics import topics

from everloop import cells
from everloop.data import Text
from everloop.decode import stream
from everloop.models import LanguageModel
from everloop.train import train


def main(steps: int = 300, hidden: int = 128) -> None:
    """Train for some steps, then write."""
    text = Text.from_string("\n".join(topics.values()))
    model = LanguageModel(text.vocabulary, cell=cells.LSTM, hidden=hidden, layers=1)
    run = train(model, text, steps=steps, batch=32, length=64, lr=5e-3, warmup=20, validate=100, report=print)
    print(run)

    for piece in stream(model, "The ", length=200, temperature=0.7, seed=0):
        print(piece, end="", flush=True)
    print()

    for sentence in ("the value of the object", "the of value object the"):
        print(f"{sentence!r}: {model.score(sentence, context=' ')}")


if __name__ == "__main__":
    main()
