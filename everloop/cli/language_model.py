"""`everloop train language-model`: the next symbol of a text from those before it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text as Line

from everloop.cli.kind import Common, train_kind
from everloop.data import Text, TextConfig
from everloop.data.files import write_atomically
from everloop.data.tokenize.word_vocabulary import load_vocabulary
from everloop.decode import sample
from everloop.errors import DataError, OptionError
from everloop.models import LanguageModel, LanguageModelConfig
from everloop.train import Run

KIND, TAKES = LanguageModel.kind, ()
TEMPERATURES = (0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train language-model` can be told."""

    data: TextConfig = field(default_factory=TextConfig)
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)


def main(args: Sequence[str]) -> int:
    """Run `everloop train language-model`; 130 if it was interrupted."""
    text = "Train a language model: the next symbol of a text from those before it."
    return train_kind(KIND, Options, prepare, show, args, text, taste)


def prepare(options: Options, resumed: Path | None) -> tuple[Text, LanguageModel]:
    """Return the text and the untrained model of these options."""
    if not options.data.text:
        hint = f"; {resumed} was trained on a string, resume it from Python" if resumed else ""
        raise DataError(f"no text given; name files or folders with --text FILE…{hint}")
    known = load_vocabulary(resumed / "vocabulary.json") if resumed else None
    text = Text.from_config(options.data, known)
    if text.errors.skipped:
        Console(stderr=True).print(Line(str(text.errors), "yellow"), soft_wrap=True)
    return text, LanguageModel.from_config(text.vocabulary, options.model)


def given(model: LanguageModel, config: TextConfig, path: Path, labels: Path | None = None) -> Text:
    """Return the text of a file, or of the files of a folder, as the test part of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images and translations; a language model needs none")
    return Text.from_config(replace(config, text=(path,), split=(0.0, 0.0, 1.0)), model.vocabulary)


def own(model: LanguageModel, config: TextConfig) -> Text:
    """Return the text that the model was trained with."""
    return Text.from_config(config, model.vocabulary)


def taste(model: LanguageModel, text: Text) -> str:
    """Return a taste of what the model writes, after a newline or the first symbol of the text."""
    prompt = "\n" if "\n" in text.vocabulary else text.vocabulary.decode(text["train"][:1])
    length = 15 if model.vocabulary.units == "words" else 70
    return sample(model, prompt, length=length, temperature=0.7, seed=0)


def note_unknown(model: LanguageModel, text: str) -> None:
    """Tell on standard error which words of a prompt the model does not know."""
    if strange := model.vocabulary.strange(text):
        note = f"unknown to the model: {', '.join(map(repr, dict.fromkeys(strange)))}"
        Console(stderr=True).print(Line(note, "dim"), soft_wrap=True)


def show(model: LanguageModel, text: Text, run: Run) -> None:
    """Print samples at several temperatures and keep them in the run folder."""
    show_samples(model, run)


def show_samples(model: LanguageModel, run: Run, prompt: str | None = None, length: int = 300) -> None:
    """Print samples at several temperatures and keep them in the run folder; of words a fifth of that length."""
    console = Console()
    length = length // 5 if model.vocabulary.units == "words" else length
    start = prompt or ("\n" if "\n" in model.vocabulary else model.vocabulary.symbols[0])
    kept = []
    for temperature in TEMPERATURES:
        drawn = sample(model, start, length=length, temperature=temperature, seed=1)
        console.print(Line(f"── temperature {temperature} " + "─" * 40, "bold cyan"))
        console.print(Line(start.lstrip("\n"), "bold"), Line(drawn.strip("\n")), sep="", soft_wrap=True)
        kept.append(f"── temperature {temperature}\n{start.lstrip()}{drawn}\n")
    if run.path:
        write_atomically(run.path / "samples.txt", "\n".join(kept).encode("utf-8", "replace"))
        hint = f'\ncontinue a prompt of yours with: everloop sample {shlex.quote(str(run.path))} "…"'
        console.print(Line(hint, "dim"), soft_wrap=True)
