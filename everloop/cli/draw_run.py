"""`everloop draw loss RUN` and so on: figures of what a training run did, and of what its model does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from everloop.cli.options import CheckpointOptions, parse
from everloop.cli.output import Output
from everloop.data.pictures import PictureSize
from everloop.data.readers.pictures import pictures_of
from everloop.decode import generate, tree
from everloop.diagnose import Activity, activities, connectivity, gradient_through_time
from everloop.draw.tree import draw_tree
from everloop.errors import OptionError, RunError, unknown
from everloop.models import Classifier, EncoderDecoder, Forecaster, Generator, Transcriber
from everloop.report import figures
from everloop.report.opened import Opened
from everloop.train import confusion

Draw = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class RunOptions:
    """A run, and where its figure goes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    output: Output = field(default_factory=Output)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


@dataclass(frozen=True)
class SplitOptions:
    """A run, and data that its model judges."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A file, in a format that `everloop evaluate` takes; by default what was held out of training, if anything was."""
    labels: Path | None = None
    """IDX file with the labels of images."""
    output: Output = field(default_factory=Output)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


@dataclass(frozen=True)
class DataOptions:
    """A run, and what its model looks at."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A file, in a format that `everloop evaluate` takes; by default what was held out of training, if anything was."""
    labels: Path | None = None
    """IDX file with the labels of images, or the translations of the file's lines."""
    sequence: int = 0
    """Which sequence: of a text, which window."""
    length: int = figures.STEPS
    """The most steps of a text."""
    output: Output = field(default_factory=Output)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)

    def read(self, sequences: int = 1) -> tuple[Opened, Any]:
        """Return the run, and a batch of so many sequences."""
        if self.length < 1:
            raise OptionError(f"length is {self.length}; expected at least 1")
        opened = self.checkpoint.opened(self.run)
        data, split = opened.read(self.file, self.labels)
        return opened, opened.batch(data, split, sequences, self.sequence, self.length)


@dataclass(frozen=True)
class GateOptions:
    """The options of `everloop draw gates`."""

    data: DataOptions
    name: str = ""
    """A gate or state, by its name in the step; by default the first gate, or the first state of a cell without."""
    layer: str = ""
    """Of which layer, as `everloop diagnose` names it; by default the first one."""
    units: tuple[int, ...] = ()
    """Which units; by default those that change most."""


@dataclass(frozen=True)
class UnitOptions:
    """The options of `everloop draw unit`."""

    data: DataOptions
    unit: int | None = None
    """Which unit, from 0; by default the one that changes most."""
    name: str = ""
    """A gate or state, by its name in the step; by default the first state."""
    layer: str = ""
    """Of which layer, as `everloop diagnose` names it; by default the first one."""


@dataclass(frozen=True)
class AttentionOptions:
    """The options of `everloop draw attention`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a translator with attention, of a generator that looks at pictures (given is attention), or of a
    classifier of texts whose pooling is attention."""
    text: Annotated[str, tyro.conf.Positional]
    """What it reads; for a generator a file with a picture, of a NumPy file or a folder the first one."""
    written: Annotated[str | None, tyro.conf.Positional] = None
    """What a translator or generator writes; by default its own answer."""
    output: Output = field(default_factory=Output)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


@dataclass(frozen=True)
class TreeOptions:
    """The options of `everloop draw tree`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a model that writes symbols."""
    prompt: Annotated[str, tyro.conf.Positional] = "\n"
    """What the model reads first: a prompt, a sentence to translate, a label."""
    width: int = 4
    """Branches of each branch."""
    depth: int = 6
    """Levels."""
    min_probability: float = 0.01
    """Branches whose cumulative probability is smaller are cut."""
    output: Output = field(default_factory=Output)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


@dataclass(frozen=True)
class ForecastOptions:
    """The options of `everloop draw forecast`."""

    data: DataOptions
    series: str = ""
    """Which series, by its name; by default the first one."""


def _loss(args: Sequence[str]) -> None:
    options = parse(RunOptions, args, command="draw loss", description="Draw the losses of a training run.")
    opened = options.checkpoint.opened(options.run)
    options.output.take(figures.losses({"": opened.noted()}, opened.model.measure))


def _gradients(args: Sequence[str]) -> None:
    description = "Draw how far the gradient of the loss reaches back in time."
    options = parse(DataOptions, args, command="draw gradients", description=description)
    opened, batch = options.read(8)
    options.output.take(figures.gradients(gradient_through_time(opened.model, batch)))


def _gates(args: Sequence[str]) -> None:
    description = "Draw what the units of a gate or a state do while a sequence is read."
    options = parse(GateOptions, args, command="draw gates", description=description)
    activity, symbols = _activity(options.data, options.name, options.layer, gates_first=True)
    options.data.output.take(figures.heat(activity, symbols, options.units))


def _unit(args: Sequence[str]) -> None:
    description = "Draw a sequence coloured by what one unit does at each step."
    options = parse(UnitOptions, args, command="draw unit", description=description)
    activity, symbols = _activity(options.data, options.name, options.layer, gates_first=False)
    number = activity.liveliest(1)[0] if options.unit is None else options.unit
    options.data.output.take(figures.unit(activity, symbols, number))


def _activity(options: DataOptions, name: str, layer: str, *, gates_first: bool) -> tuple[Activity, list[str]]:
    """Return what was asked for, and what is read at each step.

    Raises:
        OptionError: there is no such gate or state, or no such layer.
    """
    opened, batch = options.read()
    found = activities(opened.model, batch)
    if layer:
        layers = list(dict.fromkeys(a.layer for a in found))
        if layer not in layers:
            raise OptionError(unknown("layer", layer, layers))
        found = [a for a in found if a.layer == layer]
    if name:
        names = list(dict.fromkeys(a.name for a in found))
        if name not in names:
            raise OptionError(unknown("gate or state", name, names))
        found = [a for a in found if a.name == name]
    outline = opened.model.outline()
    found.sort(key=lambda a: (a.is_gate is not gates_first, not outline.has(opened.model.get_submodule(a.lane))))
    chosen = found[0]
    return chosen, opened.model.symbols_read(batch).get(chosen.lane, [])


def _connectivity(args: Sequence[str]) -> None:
    description = "Draw which inputs of a sequence each output depends on."
    options = parse(DataOptions, args, command="draw connectivity", description=description)
    opened, batch = options.read()
    found = connectivity(opened.model, batch)[-1]
    options.output.take(figures.dependence(found, opened.model.symbols_read(batch).get(found.lane, [])))


def _attention(args: Sequence[str]) -> None:
    description = "Draw what a model with attention looks at."
    options = parse(AttentionOptions, args, command="draw attention", description=description)
    opened = options.checkpoint.opened(options.run)
    model = opened.model
    if isinstance(model, EncoderDecoder):
        written = options.written
        if written is None:
            length = 2 * len(model.source.encode(options.text)) + 10
            written = str(generate(model, [options.text], opened.kind.method, length=length)[0][0])
        options.output.take(figures.attention_of(model, options.text, written))
    elif isinstance(model, Generator) and isinstance(model.given_size, PictureSize):
        _, picture = next(pictures_of(Path(options.text), model.given_size))
        written = options.written
        if written is None:
            written = str(generate(model, [picture], opened.kind.method)[0][0])
        options.output.take(figures.looks_of(model, picture, written))
    elif isinstance(model, Classifier) and model.tokenizer is not None:
        if options.written is not None:
            raise OptionError("a classifier writes nothing; give it the text alone")
        x, lengths = model.read_in([options.text])
        symbols = [model.tokenizer.symbols.symbols[i] for i in x[:, 0].tolist()]
        options.output.take(figures.attended(model.weights(x, lengths)[:, 0], symbols))
    else:
        expected = "a translator, a generator that is given pictures, or a classifier of texts"
        raise RunError(f"{options.run} holds a {model.kind}; expected {expected}")


def _tree(args: Sequence[str]) -> None:
    description = "Draw what may come next as a tree."
    options = parse(TreeOptions, args, command="draw tree", description=description)
    model = options.checkpoint.opened(options.run).model
    found = tree(model, options.prompt, options.width, options.depth, options.min_probability)
    options.output.take(draw_tree(found))


def _confusion(args: Sequence[str]) -> None:
    description = "Draw which label is taken for which."
    options = parse(SplitOptions, args, command="draw confusion", description=description)
    opened = options.checkpoint.opened(options.run)
    if not opened.kind.label_metrics:
        raise RunError(f"{options.run} holds a {opened.kind.name}; expected a model that gives labels")
    data, split = opened.read(options.file, options.labels)
    options.output.take(figures.confused(confusion(opened.model, data, split), split))


def _forecast(args: Sequence[str]) -> None:
    description = "Draw a forecast beside what was known and what came."
    options = parse(ForecastOptions, args, command="draw forecast", description=description)
    opened, batch = options.data.read()
    if not isinstance(opened.model, Forecaster):
        raise RunError(f"{options.data.run} holds a {opened.kind.name}; expected a forecaster")
    names = opened.model.names
    if options.series and options.series not in names:
        raise OptionError(unknown("series", options.series, names))
    number = names.index(options.series) if options.series else 0
    options.data.output.take(figures.forecasts(opened.model, {f"sequence {options.data.sequence:,}": batch}, number))


def _path(args: Sequence[str]) -> None:
    description = "Draw the path of a pen, coloured by what a transcriber reads where."
    options = parse(DataOptions, args, command="draw path", description=description)
    opened, batch = options.read()
    if not isinstance(opened.model, Transcriber):
        raise RunError(f"{options.run} holds a {opened.kind.name}; expected a transcriber of pen strokes")
    options.output.take(figures.path(opened.model, batch))


OF_RUNS: dict[str, tuple[Draw, str]] = {
    "loss": (_loss, "the losses of a training run: everloop draw loss RUN"),
    "gradients": (_gradients, "how far gradients reach back in time: everloop draw gradients RUN"),
    "gates": (_gates, "gates and states over a sequence: everloop draw gates RUN --name f"),
    "unit": (_unit, "a sequence coloured by one unit: everloop draw unit RUN --unit 3"),
    "connectivity": (_connectivity, "which inputs an output depends on: everloop draw connectivity RUN"),
    "attention": (_attention, 'what attention looks at: everloop draw attention RUN "a text"'),
    "tree": (_tree, 'what may come next: everloop draw tree RUN "a prompt" --out tree.png'),
    "confusion": (_confusion, "which label is taken for which: everloop draw confusion RUN FILE"),
    "forecast": (_forecast, "a forecast with its interval: everloop draw forecast RUN"),
    "path": (_path, "the path of a pen and what is read where: everloop draw path RUN --sequence 3"),
}
