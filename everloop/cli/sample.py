"""`everloop sample RUN "prompt"`: a trained model goes on writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from everloop.cli.figures import note_unknown
from everloop.cli.options import CheckpointOptions, parse, write
from everloop.decode import stream
from everloop.decode.generate import Sampling, generate
from everloop.decode.writer import writer
from everloop.errors import OptionError
from everloop.models import LanguageModel
from everloop.models.generator import Generator
from everloop.models.run import RunConfig


@dataclass(frozen=True)
class Options:
    """The options of `everloop sample`."""

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
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop sample`: the prompt and its continuation appear symbol by symbol."""
    options = parse(Options, args, command="sample", description="Continue a prompt with a trained language model.")
    model = options.checkpoint.model(RunConfig.read(options.run))
    if not isinstance(model, LanguageModel):
        write(f"{_written(model, options)}\n")
        return 0
    pieces = stream(
        model,
        options.prompt,
        length=options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    note_unknown(model, options.prompt)
    write(options.prompt)
    for piece in pieces:
        write(piece)
    write("\n")
    return 0


def _written(model: Any, options: Options) -> str:
    """Return what a model that is no language model writes of the prompt.

    Raises:
        OptionError: it reads or writes something else than texts.
    """
    if isinstance(model, Generator) and (model.vocabulary is None or model.given_size is not None):
        way = "draws" if model.vocabulary is None else "reads vectors"
        raise OptionError(f"{options.run} holds a generator that {way}; use everloop predict {options.run} FILE")
    writer(model)
    if options.prompt == "\n":
        raise OptionError(f"a {model.kind} needs a prompt: everloop sample {options.run} PROMPT")
    how = Sampling(options.temperature, options.top_k, options.top_p, seed=options.seed)
    return str(generate(model, [options.prompt], how, length=options.length)[0][0])
