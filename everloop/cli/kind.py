"""What `everloop train KIND` does for every kind: options, data and model, training, and a look at the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from rich.console import Console
from rich.text import Text as Line

from everloop.cli.kinds import MODULES
from everloop.cli.options import early, free_folder, from_tables, machine, note_old_names, parse
from everloop.cli.progress import Progress
from everloop.data.settings import read_toml
from everloop.errors import DataError, OptionError, RunError, unknown
from everloop.models import Model
from everloop.models.own_code import allow, located
from everloop.models.run import kept_code, read_config
from everloop.train import Event, Note, Run, Started, TrainConfig, Validated, train
from everloop.train.folder import Folder
from everloop.train.lock import Lock

Prepare = Callable[[Any, Path | None], tuple[Any, Model]]
Show = Callable[[Any, Any, Run], None]
Taste = Callable[[Any, Any], str]


@dataclass(frozen=True)
class Common:
    """What every `everloop train KIND` can be told. A kind adds `data` and `model`."""

    train: TrainConfig = field(default_factory=TrainConfig)
    out: Path | None = None
    """Run folder to write; by default a new one in runs/."""
    config: Path | None = None
    """TOML file with tables [data], [model], [train]; options on the command line come on top."""
    resume: Path | None = None
    """Run folder to go on with; only settings of training may change."""
    threads: int = 0
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    trust_code: bool = False
    """Whether the Python file of a cell that --resume or --config names may run; one given with --cell may anyway."""


def train_kind(
    kind: str,
    options: type[Any],
    prepare: Prepare,
    show: Show,
    args: Sequence[str],
    description: str,
    taste: Taste | None = None,
) -> int:
    """Run `everloop train KIND`; return 130 if it was interrupted.

    Args:
        kind: its name.
        options: a Common with fields `data` and `model`.
        prepare: from the options and the folder of a resumed run (or None) to data and untrained model.
        show: prints what the trained model does, given model, data and run.
        args: the rest of the command line.
        description: one sentence for --help.
        taste: returns what the model writes, given model and data; shown at each validation.
    """
    given = read_options(kind, options, args, description)
    device = machine(given.threads, given.device)
    for path in vars(given.data).values():
        if isinstance(path, Path) and not path.exists():
            raise DataError(f"{path}: no such file or folder")
    torch.manual_seed(given.train.seed)
    if given.resume:
        with Lock(Folder(given.resume, resume=True).path):  # refused before the data is read, not after
            pass
    elif given.out:
        Folder(given.out, resume=False)
    data, model = prepare(given, given.resume)
    out = given.resume or given.out or free_folder(Path("runs") / kind)
    run = follow(model.to(device), data, given.train, out, resume=given.resume is not None, taste=taste)
    show(model, data, run)
    return 130 if run.interrupted else 0


def follow(
    model: Model, data: Any, config: TrainConfig, out: Path, *, resume: bool = False, taste: Taste | None = None
) -> Run:
    """Train a model and show it on standard error."""
    shape = model.config
    with Progress(f"{model.kind}  {shape.cell} {shape.layers}×{shape.hidden}") as progress:

        def report(event: Event) -> None:
            if isinstance(event, Started):
                progress(Note(repr(data)))
            progress(event)
            if isinstance(event, Validated) and taste:
                progress.say(taste(model, data))

        run = train(model, data, config, out=out, resume=resume, report=report)
    Console(stderr=True).print(Line(str(run), "bold"), soft_wrap=True)
    return run


def read_options(kind: str, options: type[Any], args: Sequence[str], description: str) -> Any:
    """Return the options: defaults, then the file or the resumed run, then the command line.

    Raises:
        OptionError: options contradict each other, or a setting in the file is unknown.
    """
    file, run = early(args, "--config"), early(args, "--resume")
    if file and run:
        raise OptionError("--config and --resume exclude each other: a resumed run has its own configuration")
    tables: dict[str, Any] = {}
    code: dict[str, str] = {}
    where = str(run / "config.toml" if run else file)
    if file or run:
        found = read_config(run) if run else read_toml(where)
        tables = {name: dict(table) if isinstance(table, dict) else table for name, table in found.items()}
        code = kept_code(tables, where)
        tables.pop("code", None)
        if isinstance(tables.get("model"), dict) and (run or code):
            tables["model"] = located(tables["model"], Path(where).parent)
        named = tables["model"].pop("kind", kind) if isinstance(tables.get("model"), dict) else kind
        if named != kind and named in MODULES:
            hint = f"--resume {quote(str(run))}" if run else f"--config {quote(str(file))}"
            raise OptionError(f"{where} is for a {named}: everloop train {named} {hint}")
        if named != kind:
            raise OptionError(f"{where}: {unknown('kind of model', str(named), MODULES)}")
    for name in ("data", "model", "train") if run else ():
        if name not in tables:
            raise RunError(f"{where} has lost its table [{name}]; a run is resumed with the settings it began with")
    default = options()
    kinds = {name: type(getattr(default, name)) for name in ("data", "model", "train")}
    if file:
        note_old_names(tables, kinds, where)
    base = dataclasses.replace(default, **from_tables(tables, kinds, where))
    given = parse(options, args, command=f"train {kind}", description=description, default=base)
    if run and (given.model, given.data) != (base.model, base.data):
        raise OptionError("a resumed run keeps its model and its data; only settings of training can be changed")
    if (file or run) and early(args, "--cell") is None:
        allow(given.model.cell, code, where, given.trust_code)
    if run and given.out:
        raise OptionError("--out and --resume exclude each other: a resumed run stays in its folder")
    return given


def check_one(given: dict[str, object]) -> str:
    """Return which one of several sources was given.

    Raises:
        OptionError: none was, or more than one.
    """
    chosen = [name for name, value in given.items() if value is not None]
    names = [f"--{name.replace('_', '-')}" for name in given]
    if len(chosen) != 1:
        came = "none was given" if not chosen else "both were given"
        raise OptionError(f"expected either {' or '.join(names)}; {came}")
    return chosen[0]
