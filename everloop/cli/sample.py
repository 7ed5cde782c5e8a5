"""`everloop sample RUN "prompt"`: a trained model goes on writing, or with a piece of music."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from everloop.cli.figures import note_unknown
from everloop.cli.music import MusicOptions, continue_piece
from everloop.cli.options import CheckpointOptions, parse, write
from everloop.data.settings import flag
from everloop.decode.generate import Sampling, generate
from everloop.decode.music import plays
from everloop.decode.writer import writer
from everloop.errors import OptionError
from everloop.models.kind import kind_of
from everloop.models.run import RunConfig

SYMBOLS, STEPS = 300, 64


@dataclass(frozen=True)
class Options:
    """The options of `everloop sample`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a language model, of a generator or translator, or of a tagger of piano rolls."""
    prompt: Annotated[str, tyro.conf.Positional] = "\n"
    """What the model reads first and then continues; a generator's label, a translator's sentence; of
    music a MIDI file, or the number of a piece that was held out of training."""
    length: int | None = None
    """Symbols to draw, by default 300; at the most, where the model can stop. Steps of music, by default 64."""
    temperature: float = 0.8
    """Below 1 bolder, above 1 more varied, 0 always the most likely symbol."""
    top_k: int | None = None
    """Draw from this many most likely symbols alone."""
    top_p: float | None = None
    """Draw from the fewest symbols that together have this probability."""
    seed: int | None = None
    """The same seed gives the same text."""
    music: MusicOptions = field(default_factory=MusicOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop sample`: the prompt and its continuation appear symbol by symbol."""
    options = parse(Options, args, command="sample", description="Continue a prompt with a trained language model.")
    run = RunConfig.read(options.run)
    opened = options.checkpoint.opened(run)
    kind, model = opened.kind, opened.model
    method = Sampling(options.temperature, options.top_k, options.top_p, seed=options.seed)
    if plays(model):
        length = STEPS if options.length is None else options.length
        continue_piece(opened, model, options.prompt, method, length, options.music)
        return 0
    _refuse(options.music, kind.name)
    length = SYMBOLS if options.length is None else options.length
    pieces = (kind.sample or _answer)(model, options.prompt, method, length)
    note_unknown(model, options.prompt)
    for piece in pieces:
        write(piece)
    write("\n")
    return 0


def _refuse(music: MusicOptions, kind: str) -> None:
    """Check that no option for music was given. Raises OptionError if one was."""
    for option in fields(music):
        if getattr(music, option.name) != option.default:
            raise OptionError(f"{flag(option.name)} is for music; the run holds a {kind}")


def _answer(model: Any, prompt: str, method: Sampling, length: int) -> Iterator[str]:
    """Yield what a model writes for a source.

    Raises:
        OptionError: it writes no text, or there is no prompt.
    """
    kind = kind_of(model)
    if kind is None or kind.generate is None:
        writer(model)
    if prompt == "\n":
        raise OptionError(f"a {model.kind} needs a prompt: everloop sample RUN PROMPT")
    yield str(generate(model, [prompt], method, length=length)[0][0])
