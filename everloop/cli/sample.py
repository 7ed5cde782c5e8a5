"""`everloop sample RUN "prompt"`: a trained model goes on writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from everloop.cli.language_model import note_unknown
from everloop.cli.options import Trained, parse, write
from everloop.decode import stream
from everloop.decode.generate import Sampling, generate
from everloop.decode.writer import writer
from everloop.errors import OptionError
from everloop.models import LanguageModel
from everloop.models.generator import Generator


@dataclass(frozen=True)
class Options:
    """What `everloop sample` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a language model, or of a generator or translator."""
    prompt: Annotated[str, tyro.conf.Positional] = "\n"
    """What the model reads first and then continues; a generator's label, a translator's sentence."""
    length: int = 300
    """Symbols to draw; at the most, where the model can stop."""
    temperature: float = 0.8
    """Below 1 bolder, above 1 more varied, 0 always the most likely symbol."""
    top_k: int | None = None
    """Draw from this many most likely symbols alone."""
    top_p: float | None = None
    """Draw from the fewest symbols that together have this probability."""
    seed: int | None = None
    """The same seed gives the same text."""
    trained: Trained = field(default_factory=Trained)


def main(args: Sequence[str]) -> int:
    """Run `everloop sample`: the prompt and its continuation appear symbol by symbol."""
    given = parse(Options, args, command="sample", description="Continue a prompt with a trained language model.")
    model = given.trained.model(given.run)
    if not isinstance(model, LanguageModel):
        write(f"{_written(model, given)}\n")
        return 0
    pieces = stream(
        model,
        given.prompt,
        length=given.length,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        seed=given.seed,
    )
    note_unknown(model, given.prompt)
    write(given.prompt)
    for piece in pieces:
        write(piece)
    write("\n")
    return 0


def _written(model: Any, given: Options) -> str:
    """Return what a model that is no language model writes of the prompt.

    Raises:
        OptionError: it reads or writes something else than texts.
    """
    if isinstance(model, Generator) and (model.vocabulary is None or model.given_size is not None):
        way = "draws" if model.vocabulary is None else "reads vectors"
        raise OptionError(f"{given.run} holds a generator that {way}; ask it with everloop predict {given.run} FILE")
    writer(model)
    if given.prompt == "\n":
        raise OptionError(f"a {model.kind} needs a prompt: everloop sample {given.run} PROMPT")
    how = Sampling(given.temperature, given.top_k, given.top_p, seed=given.seed)
    return str(generate(model, [given.prompt], how, length=given.length)[0][0])
