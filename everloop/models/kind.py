"""A kind of model, registered: all that the library and the command line know of it, found by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from everloop.errors import OptionError, unknown
from everloop.models.loss import Score
from everloop.models.model import Model

# each is the constant KIND of a module of everloop.kinds, imported when it is asked for
BUILT_IN = ("language-model", "tagger", "classifier", "forecaster", "translator", "transcriber", "generator")


@dataclass(frozen=True)
class Kind:
    """What makes up a kind of model; a file of `everloop.kinds` is an example.

    A kind of your own is a constant of a package of yours: its name is `package:CONSTANT`, which is also what `kind` of
    its model says. `everloop train package:CONSTANT` finds it.

    Args:
        model: the class.
        model_config: a dataclass, the settings [model]; each with a default and a docstring, which --help shows.
        data_config: a dataclass, the settings [data].
        description: one sentence for --help.
        dataset: the Dataset that settings describe, from a data_config, a model_config, and the trained model if any
            (the data then has its vocabularies), else None.
        create_model: the model with fresh weights, from a dataset and a model_config.
        evaluation_dataset: a Dataset whose test split is a file, from the trained model, its data_config, the file, and
            a second file with labels or None.
        predict: lines of text as `everloop predict` writes them, from the trained model, its data_config, a
            PredictSource, and the PredictOptions.
        predict_options: the names of those options of `predict` that it takes.
        method: how it is decoded by default, if it writes sequences: Greedy(), Beam(…) or Sampling(…).
        decoding_metrics: metrics by name, and a text that tells them, of what the model decodes, from the trained
            model, its dataset, a split, and a Decoder; no metrics and no text where no answer is the right one.
        writer: what writes symbol by symbol for `generate`, `tree` and `sample`, from the model: a Writer
            (`everloop/decode/writer.py`); by default the model itself, if it is one.
        generate: the answers to sources, from the model, the sources, a Greedy, Beam or Sampling, and the most symbols
            of an answer; by default what its Writer writes.
        sample: pieces of text as `everloop sample` writes them, from the model, a prompt, a Sampling, and a length; by
            default one answer of `generate`.
        scorer: what gives the Score of a text for `everloop score`, from the model and the text that stands before, or
            None: what usually does.
        label_metrics: whether `evaluate` tells precision, recall and F1 of each label; its model has `labels` and
            `predictions(batch)` then.
        preview: what an untrained model writes, shown at each validation, from the model and its dataset.
        examples: `Example`s (`everloop/kinds/examples.py`) for `everloop report`, from the model, its dataset, a
            split, and how many.
        report: lines to print after training, from the model, its dataset and the Run; by default the test score.
        without_predict: the verbs to use where there is no `predict`.
        also: what others call such a model or its task; the command line takes these names too.
    """

    model: type[Model]
    model_config: type[Any]
    data_config: type[Any]
    description: str
    dataset: Callable[[Any, Any, Any], Any]
    create_model: Callable[[Any, Any], Model]
    evaluation_dataset: Callable[[Any, Any, Path, Path | None], Any]
    predict: Callable[[Any, Any, Any, Any], Iterator[str]] | None = None
    predict_options: tuple[str, ...] = ()
    method: Any = None
    decoding_metrics: Callable[[Any, Any, str, Any], tuple[dict[str, float | str], str]] | None = None
    writer: Callable[[Any], Any] | None = None
    generate: Callable[[Any, Sequence[Any], Any, int], list[list[Any]]] | None = None
    sample: Callable[[Any, str, Any, int], Iterator[str]] | None = None
    scorer: Callable[[Any, str | None], Callable[[str], Score]] | None = None
    label_metrics: bool = False
    preview: Callable[[Any, Any], str] | None = None
    examples: Callable[[Any, Any, str, int], Iterable[Any]] | None = None
    report: Callable[[Any, Any, Any], Iterable[Any]] | None = None
    without_predict: str = "evaluate"
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called on the command line and in run folders."""
        return self.model.kind


def find(name: str) -> Kind:
    """Return the kind of a name: a built-in one, or another word for it, or `package:CONSTANT`, which is then imported.

    Raises:
        OptionError: there is no such kind.
    """
    module, colon, constant = name.partition(":")
    if name in BUILT_IN:
        module, constant = f"everloop.kinds.{name.replace('-', '_')}", "KIND"
    elif not colon:
        for kind in map(find, BUILT_IN):
            if name.lower().replace("_", "-") in kind.also:
                return kind
        raise OptionError(unknown("kind of model", name, BUILT_IN) + " (your own: package:KIND)")
    try:
        found = getattr(import_module(module), constant, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the package is there, what it imports is not
        raise OptionError(f"kind of model {name!r}: there is no package {module!r} to import") from None
    if not isinstance(found, Kind):
        came = f"{constant} is {found!r}" if found is not None else f"{module} has no {constant}"
        raise OptionError(f"kind of model {name!r}: {came}; expected an everloop.models.Kind")
    if found.name != name:
        raise OptionError(f"kind of model {name!r}: its model says kind = {found.name!r}; expected {name!r}")
    return found


def kind_of(model: Any) -> Kind | None:
    """Return the kind of a model; None for one that is of no kind, with methods that suffice."""
    name = getattr(model, "kind", None)
    return find(name) if isinstance(name, str) else None
