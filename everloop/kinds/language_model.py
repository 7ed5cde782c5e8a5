"""Language models: the next symbol of a text from those before it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rich.text import Text as Line

from everloop.data import Text, TextConfig
from everloop.data.files import write_atomically
from everloop.data.tokenize.vocabulary import DOCUMENT_END
from everloop.decode import Sampling, sample, stream
from everloop.decode.writer import Prompts
from everloop.errors import DataError, OptionError
from everloop.kinds.examples import Example, spread
from everloop.models import LanguageModel, LanguageModelConfig, Score
from everloop.models.kind import Kind
from everloop.train import Run

TEMPERATURES = (0.5, 0.8, 1.0)
EXAMPLE = (40, 80)  # symbols that are given, and that follow


def dataset(config: TextConfig, shape: LanguageModelConfig, model: LanguageModel | None) -> Text:
    """Return the text that a configuration describes."""
    if not config.text:
        hint = "; this run was trained on a string, resume it from Python" if model else ""
        raise DataError(f"no text given; name files or folders with --text FILE…{hint}")
    return Text.from_config(config, model.vocabulary if model else None)


def create_model(text: Text, shape: LanguageModelConfig) -> LanguageModel:
    """Return a model with fresh weights for the symbols of a text."""
    return LanguageModel.from_config(text.vocabulary, shape)


def evaluation_dataset(model: LanguageModel, config: TextConfig, path: Path, labels: Path | None) -> Text:
    """Return the text of a file, or of the files of a folder, as the test split of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images and translations; a language model needs none")
    return Text.from_config(replace(config, text=(path,), valid=(), test=(), split=(0.0, 0.0, 1.0)), model.vocabulary)


def written(model: LanguageModel, prompt: str, how: Sampling, length: int) -> Iterator[str]:
    """Return an iterator over a prompt and its continuation, symbol by symbol, as the model draws it.

    A newline alone stands for the beginning of a text, or of a document.
    """
    prompt = _beginning(model) if prompt == "\n" else prompt
    drawn = stream(
        model, prompt, length=length, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p, seed=how.seed
    )
    return map(_shown, chain([prompt.lstrip(DOCUMENT_END)], drawn))


def scorer(model: LanguageModel, context: str | None) -> Callable[[str], Score]:
    """Return what scores texts after a context; raises DataError where the model has no number for a symbol of it."""
    model.vocabulary.encode(context or "", "the context")
    return lambda text: model.score(text, context)


def preview(model: LanguageModel, text: Text) -> str:
    """Return some of what the model writes, after a newline or the first symbol of the text."""
    prompt = _beginning(model)
    length = 15 if model.vocabulary.units in ("words", "subwords") else 70
    return _shown(sample(model, prompt, length=length, temperature=0.7, seed=0))


def examples(model: LanguageModel, text: Text, split: str, count: int) -> Iterator[Example]:
    """Yield beginnings of the text, how it goes on there, and how the model does."""
    windows = text.epoch(split, 0, batch=1, length=EXAMPLE[0] + EXAMPLE[1], seed=0)
    for number, index in enumerate(spread(count, len(windows))):
        numbers = windows[index].x[:, 0]
        if len(numbers) > EXAMPLE[0]:
            prompt = model.vocabulary.decode(numbers[: EXAMPLE[0]])
            drawn = sample(model, prompt, length=EXAMPLE[1], temperature=0.7, seed=number)
            goes_on = model.vocabulary.decode(numbers[EXAMPLE[0] :], prompt)
            yield Example(_shown(prompt), _shown(goes_on), _shown(drawn), source=prompt)


def report(model: LanguageModel, text: Text, run: Run, prompt: str | None = None, length: int = 300) -> Iterator[Line]:
    """Yield samples at several temperatures, of words a fifth of that length, and keep them in the run folder."""
    length = length // 5 if model.vocabulary.units in ("words", "subwords") else length
    start = prompt or _beginning(model)
    kept = []
    for temperature in TEMPERATURES:
        drawn = _shown(sample(model, start, length=length, temperature=temperature, seed=1))
        yield Line(f"── temperature {temperature} " + "─" * 40, "bold cyan")
        yield Line.assemble((start.lstrip(f"\n{DOCUMENT_END}"), "bold"), drawn.strip("\n"))
        kept.append(f"── temperature {temperature}\n{start.lstrip()}{drawn}\n")
    if run.path:
        write_atomically(run.path / "samples.txt", "\n".join(kept).encode("utf-8", "replace"))
        hint = f'continue a prompt of yours with: everloop sample {shlex.quote(str(run.path))} "…"'
        yield Line(f"\n{hint}", "dim")


def _shown(text: str) -> str:
    """Return a text with an empty line at the end of each document, which in files that are one each has no text."""
    return text.replace(DOCUMENT_END, "\n\n")


def _beginning(model: LanguageModel) -> str:
    """Return what a text of the model's own goes on from: the end of a document or a line, or what it knows."""
    known = model.vocabulary
    return known.separator or ("\n" if "\n" in known else known.symbols[-1])


KIND = Kind(
    model=LanguageModel,
    model_config=LanguageModelConfig,
    data_config=TextConfig,
    description="Train a language model: the next symbol of a text from those before it.",
    dataset=dataset,
    create_model=create_model,
    evaluation_dataset=evaluation_dataset,
    writer=Prompts,
    sample=written,
    scorer=scorer,
    preview=preview,
    examples=examples,
    report=report,
    without_predict="sample, tree or score",
    also=("lm", "char-rnn", "gpt", "language-modeling"),
)
