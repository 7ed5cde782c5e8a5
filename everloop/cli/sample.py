"""`everloop sample RUN "prompt"`: a trained model goes on writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from everloop.cli.options import machine, parse, write
from everloop.decode import stream
from everloop.errors import RunError
from everloop.models import LanguageModel, load


@dataclass(frozen=True)
class Options:
    """What `everloop sample` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a language model."""
    prompt: Annotated[str, tyro.conf.Positional] = "\n"
    """What the model reads first and then continues."""
    length: int = 300
    """Symbols to draw."""
    temperature: float = 0.8
    """Below 1 bolder, above 1 more varied, 0 always the most likely symbol."""
    top_k: int | None = None
    """Draw from this many most likely symbols alone."""
    top_p: float | None = None
    """Draw from the fewest symbols that together have this probability."""
    seed: int | None = None
    """The same seed gives the same text."""
    weights: Literal["best", "last"] = "best"
    """The weights of the best validation, or the last ones."""
    threads: int = 1
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""


def main(args: Sequence[str]) -> int:
    """Run `everloop sample`: the prompt and its continuation appear character by character."""
    given = parse(Options, args, command="sample", description="Continue a prompt with a trained language model.")
    device = machine(given.threads, given.device)
    model = load(given.run, given.weights)
    if not isinstance(model, LanguageModel):
        raise RunError(f"{given.run} holds a {model.kind}; expected a language model")
    pieces = stream(
        model.to(device),
        given.prompt,
        length=given.length,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        seed=given.seed,
    )
    write(given.prompt)
    for piece in pieces:
        write(piece)
    write("\n")
    return 0
