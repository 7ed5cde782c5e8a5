"""`everloop evaluate RUN FILE`: how good a trained model is on labelled data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from everloop.cli.figures import print_notes, score_line
from everloop.cli.options import CheckpointOptions, parse, write
from everloop.data.error_policy import Malformed
from everloop.data.readers.formats import told
from everloop.data.settings import setting
from everloop.errors import DataError, OptionError
from everloop.kinds.decoding import DecodingOptions
from everloop.models.kind import Kind
from everloop.models.run import RunConfig
from everloop.train import evaluate, label_metrics


@dataclass(frozen=True)
class Options:
    """The options of `everloop evaluate`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of any model."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """Labelled data, in the form that the model was trained on; without it, a split of the model's own data."""
    labels: Path | None = None
    """IDX file with the labels of images, the translations of the file's lines, or the vectors or pictures of texts."""
    format: str | None = None
    """What the file is, as `everloop train` names it; by default as its name ends, or as in training."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table without a header; by default as in training."""
    split: Literal["train", "valid", "test"] | None = setting(None, old="part")
    """Which split of the model's own data; by default test."""
    batch: int = 64
    """Sequences in a batch."""
    json: bool = False
    """Write everything as one JSON object."""
    malformed: Malformed | None = None
    """What to do with a malformed line: stop, or skip and count it. By default stop; for the model's own data, as when
    it was trained."""
    checkpoint: CheckpointOptions = field(default_factory=lambda: CheckpointOptions(threads=0))
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


def main(args: Sequence[str]) -> int:
    """Run `everloop evaluate`: the figures, those of labels one by one, and on standard error what was read."""
    options = parse(Options, args, command="evaluate", description="Tell how good a trained model is.")
    run = RunConfig.read(options.run)
    kind = options.checkpoint.kind(run)
    options.decoding.check(kind.name, _decoding_options(kind))
    if options.batch < 1:
        raise OptionError(f"batch is {options.batch}; expected at least 1")
    if options.file and options.split:
        raise OptionError(f"--split is of the run's own data, and {options.file} is evaluated whole; leave one out")
    if options.labels and not options.file:
        raise OptionError("--labels belongs to a file; give the file before it")
    if options.file and not options.file.exists():
        raise DataError(f"{options.file}: no such file or folder")
    config = _settings(run.settings("data", kind.data_config), kind, options)
    model = options.checkpoint.model(run)
    data = _data(kind, config, model, options)
    split = options.split or "test"
    if split not in data.splits:
        others = " or ".join(f"--split {name}" for name in data.splits if name != "train")
        hint = f"say {others}, or give" if others else "give"
        raise DataError(f"the data of the run has no {split} split; {hint} a file to evaluate on")
    print_notes(data, options.batch, split)
    score = evaluate(model, data, split, batch=options.batch)
    figures: dict[str, Any] = {**score.means, "loss": score.loss, "measure": score.measure}
    figures |= {"target": model.target, "count": score.count}
    lines = [score_line(score, model)]
    if score.symbols:
        figures["perplexity"] = score.perplexity
    if kind.label_metrics:
        found = label_metrics(model, data, split, batch=options.batch)
        figures |= asdict(found)
        lines += ["", str(found)]
    if kind.decoding_metrics is not None:
        decoding = replace(options.decoding, trust_code=options.checkpoint.trust_code)
        more, text = kind.decoding_metrics(model, data, split, decoding.decoder(kind.method))
        figures |= more
        lines += [text] if text else []
    write((json.dumps(figures, ensure_ascii=False) if options.json else "\n".join(lines)) + "\n")
    return 0


def _settings(config: Any, kind: Kind, options: Options) -> Any:
    """Return how the data is read: as in training, but for what the options say.

    Raises:
        OptionError: an option is for other data.
    """
    malformed = options.malformed or ("stop" if options.file else None)
    given: dict[str, Any] = {"malformed": malformed} if malformed and "malformed" in vars(config) else {}
    for name, value in {"format": options.format, "columns": options.columns}.items():
        if value and (not options.file or name not in vars(config)):
            place = f"a {kind.name} does not take it" if options.file else "give a file to evaluate on"
            raise OptionError(f"--{name} tells how a file is read; {place}")
        if value:
            given[name] = value
    if options.file and "format" in vars(config) and not options.format and told(options.file):
        given["format"] = "auto"
    return replace(config, **given)


def _decoding_options(kind: Kind) -> list[str]:
    """Return the options that change what is decoded; there is one answer to each source."""
    if kind.decoding_metrics is None:
        return []
    names = [one.name for one in fields(DecodingOptions) if one.name not in ("n_best", "num_samples")]
    return [name for name in kind.predict_options if name in names]


def _data(kind: Kind, config: Any, model: Any, options: Options) -> Any:
    """Return the data of the file, or the model's own.

    Raises:
        DataError: something is wrong with them.
    """
    if options.file:
        return kind.evaluation_dataset(model, config, options.file, options.labels)
    try:
        return kind.dataset(config, model.config, model)
    except DataError as error:
        raise DataError(f"the data that the run was trained with: {error}; or give a file to evaluate on") from None
