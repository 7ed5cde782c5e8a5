"""`everloop backtest RUN [FILE]`: how a forecaster would have done, beside forecasts that need no network."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from everloop.cli.options import CheckpointOptions, note, parse, write
from everloop.data import Series, SeriesConfig
from everloop.data.error_policy import Malformed
from everloop.data.files import check_writable, write_atomically
from everloop.data.readers.formats import told
from everloop.draw import Figure, Panel, draw_forecasts
from everloop.draw.figure import check_file
from everloop.draw.scene import Theme
from everloop.errors import DataError, OptionError, RunError
from everloop.kinds.forecaster import dataset, evaluation_dataset
from everloop.models import Forecaster
from everloop.models.run import RunConfig
from everloop.train import Backtest, backtest

PANELS = 6  # of a figure
BASELINE = Literal["last", "seasonal", "drift", "smoothing"]


@dataclass(frozen=True)
class Options:
    """The options of `everloop backtest`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a forecaster."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A table in the form that the model was trained on, which is forecast as soon as enough is known; without it, a
    split of the model's own data."""
    split: Literal["valid", "test"] = "test"
    """Which split of the model's own data."""
    stride: int | None = None
    """Steps from the origin of one forecast to that of the next; by default the horizon."""
    season: int | None = None
    """Steps after which the series roughly repeat, for the seasonal baseline and MASE; by default that of the model."""
    coverage: float | None = None
    """The probability of the interval; by default 0.8, or of quantiles the widest pair around the median."""
    baselines: tuple[BASELINE, ...] = ()
    """What the model is compared with; by default all, exponential smoothing where statsmodels is installed."""
    out: Path | None = None
    """File for all scores, by series and by step: .csv or .json."""
    figure: Path | None = None
    """File for a picture of some forecasts: .svg, .png or .txt."""
    theme: Theme = "light"
    """The colours of the picture."""
    json: bool = False
    """Write the scores in all, and the sentences, as one JSON object."""
    malformed: Malformed | None = None
    """What to do with a malformed line; by default stop, for the model's own data as in training."""
    checkpoint: CheckpointOptions = field(default_factory=lambda: CheckpointOptions(threads=0))


def main(args: Sequence[str]) -> int:
    """Run `everloop backtest`: tables of scores, and in sentences whether the model is worth it."""
    description = "Tell how a forecaster would have done, from one origin after another, beside simple forecasts."
    options = parse(Options, args, command="backtest", description=description)
    if options.out and options.out.suffix not in (".csv", ".json"):
        raise OptionError(f"--out is {options.out}; expected a file that ends in .csv or .json")
    run = RunConfig.read(options.run)
    kind = options.checkpoint.kind(run)
    if not issubclass(kind.model, Forecaster):
        raise RunError(f"{options.run} holds a {kind.name}; expected a forecaster (for others: everloop evaluate)")
    if options.out:
        check_writable(options.out)
    if options.figure:
        check_file(options.figure)
    model = options.checkpoint.model(run)
    data = _data(model, run.settings("data", SeriesConfig), options)
    for line in data.notes(1):
        note(line)
    settings = {name: getattr(options, name) for name in ("stride", "season", "coverage")}
    split = "test" if options.file else options.split
    found = backtest(model, data, split, **settings, baselines=options.baselines or None, tell=note)
    if options.out:
        write_atomically(options.out, _file(found, options.out.suffix).encode())
    if options.figure:
        figure(found, options.run.name).write(options.figure, options.theme)
    write((json.dumps(_summary(found), ensure_ascii=False) if options.json else str(found)) + "\n")
    return 0


def figure(found: Backtest, name: str) -> Figure:
    """Return a picture of some forecasts of a backtest, of as many series as there is room for, evenly spaced."""
    several = found.examples[:PANELS]
    each = PANELS // len(several)
    panels = []
    for example in several:
        count = len(example.starts)
        for k in sorted({round((i + 0.5) / each * count - 0.5) for i in range(each)}):
            start, end = example.starts[k], example.starts[k] + found.horizon
            past = example.values[max(0, start - 2 * found.horizon) : start]
            ends = [[] if part is None else part[:, k].tolist() for part in (example.low, example.high)]
            came = example.values[start:end].tolist()
            if not any(map(math.isfinite, came)):
                continue
            title = f"{example.series}, from step {start + 1:,}"
            panels.append(Panel(title, past.tolist(), came, example.point[:, k].tolist(), *ends))
    interval = "" if found.coverage is None else f"{found.coverage:.0%} interval"
    return draw_forecasts(panels, title=f"Forecasts of {name}", interval=interval)


def _data(model: Forecaster, config: SeriesConfig, options: Options) -> Series:
    malformed = options.malformed or ("stop" if options.file else config.malformed)
    config = replace(config, malformed=malformed)
    if options.file is None:
        try:
            return dataset(config, model.config, model)
        except DataError as error:
            raise DataError(f"the data that the run was trained with: {error}; or give a file") from None
    if not options.file.exists():
        raise DataError(f"{options.file}: no such file or folder")
    config = replace(config, format="auto" if told(options.file) else config.format)
    return evaluation_dataset(model, config, options.file, None)


def _summary(found: Backtest) -> dict[str, Any]:
    facts = {name: getattr(found, name) for name in ("origins", "horizon", "stride", "season", "coverage")}
    scores = {method: asdict(found.scores(method)) for method in found.methods}
    return {**facts, "series": found.series, "scores": scores, "notes": found.notes, "verdict": found.verdict()}


def _file(found: Backtest, ending: str) -> str:
    rows = found.rows()
    if ending == ".json":
        return json.dumps({**_summary(found), "rows": rows}, ensure_ascii=False, indent=1) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
