"""`everloop train KIND`: options, data and model, training, and a look at the result."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from rich.console import Console
from rich.text import Text as Line

from everloop import cells
from everloop.cli.figures import print_notes, report
from everloop.cli.options import (
    early,
    find_kind,
    from_tables,
    given,
    note,
    note_old_names,
    parse,
    select_device,
)
from everloop.cli.output import new_folder
from everloop.cli.progress import Progress
from everloop.cli.torchrun import joined
from everloop.data.files import no_such
from everloop.data.settings import absent, flag, read_toml, to_table
from everloop.errors import DataError, OptionError, RunError, unknown
from everloop.kinds.defaults import Fit, fitted
from everloop.models import Model
from everloop.models.kind import BUILT_IN, Kind
from everloop.models.own_code import allow, located
from everloop.models.run import RunConfig, hashes, is_of_run
from everloop.train import Event, Note, Run, Started, TrainConfig, Validated, log_to, train
from everloop.train.events import Report
from everloop.train.folder import Folder
from everloop.train.lock import Lock
from everloop.train.pace import duration
from everloop.train.ranks import Ranks
from everloop.train.trackers import tracker

MANY = 200  # steps from which on it is told how long they will take


@dataclass(frozen=True)
class RunOptions:
    """The options of every `everloop train KIND`; beside them a kind has those of its data, its model and training."""

    out: Path | None = None
    """Run folder to write; by default a new one in runs/."""
    config: Path | None = None
    """TOML file with tables [data], [model], [train]; options on the command line come on top."""
    resume: Path | None = None
    """Run folder to go on with; only settings of training, and the places of the same data, may change."""
    threads: int = 0
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    track: tuple[str, ...] = ()
    """Tools that are told the figures: tensorboard, wandb, wandb:PROJECT, or another package with wandb's interface."""
    trust_code: bool = False
    """Whether the Python file of a cell that --resume or --config names may run; one given with --cell may anyway."""


def main(args: Sequence[str]) -> int:
    """Run `everloop train`, alone or as one of the processes of torchrun; return 130 if it was interrupted."""
    if not args or args[0] in ("-h", "--help"):
        return usage("train", args)
    kind = find_kind(args[0])
    options, resumed = read_options(kind, args[1:])
    with joined(select_device(options.threads, options.device)) as device:
        run = _run(kind, options, args[1:], resumed, device, Ranks.joined())
    return 130 if run.interrupted else 0


def _run(
    kind: Kind, options: Any, args: Sequence[str], resumed: RunConfig | None, device: torch.device, ranks: Ranks
) -> Run:
    """Begin a run, or go on with one; the first of several processes shows it."""
    paths_exist(options.data, resumed is not None)
    begins = [tracker(name) for name in options.track]
    torch.manual_seed(options.train.seed)
    if resumed:
        folder = Folder(resumed.folder, resume=True, config=resumed)
        if ranks.is_first:
            with Lock(folder.path):  # refused before the data is read, not after
                pass
        model = resumed.rebuild(trust_code=options.trust_code, kind=kind)
        data = kind.dataset(options.data, options.model, model)
    else:
        if options.out:
            Folder(options.out, resume=False)  # refused before the data is read too
        model, data, options = fresh(kind, options, args)
    ranks.check(options.train.batch)
    model = model.to(device)
    if ranks.is_first:
        print_notes(data, options.train.batch)
    if ranks.is_alone and not resumed and (options.train.epochs or options.train.steps >= MANY):
        note(_how_long(model, data, options.train))
    settings = {"kind": kind.name, **{name: _plain(getattr(options, name)) for name in ("data", "model", "train")}}
    with ExitStack() as stack:
        if not resumed:
            out = options.out
            if not out:
                name = Path("runs") / kind.name.rpartition(":")[2]
                out = ranks.agree(stack.enter_context(new_folder(name)) if ranks.is_first else name)
            folder = Folder(out, resume=False)
        if not ranks.is_first:
            return train(model, data, options.train, out=folder, resume=resumed is not None)
        trackers = [begin(folder.path, settings) for begin in begins]
        for each in trackers:
            stack.callback(each.finish)
        run = follow(model, data, options.train, folder, kind.preview, list(map(log_to, trackers)))
    for line in (kind.report or report)(model, data, run):
        Console().print(line, soft_wrap=True)
    return run


def usage(verb: str, args: Sequence[str]) -> int:
    """Tell how a command that takes a kind of model is used; return 0 where that was asked for, else 2."""
    print(f"usage: everloop {verb} KIND …\n\nkinds: {', '.join(BUILT_IN)}; your own: package:KIND\n")
    print(f"everloop {verb} KIND --help tells the options of one.")
    return 0 if args else 2


def paths_exist(config: Any, is_resumed: bool = False) -> None:
    """Check that the files and folders of the settings of data are there.

    Raises:
        DataError: one is not.
    """
    for name, value in vars(config).items():
        for path in _places(value):
            if not path.exists():
                moved = f"; if it has moved, give its new place: --{name.replace('_', '-')} …" if is_resumed else ""
                raise DataError(f"{no_such(path)}{moved}")


def fresh(kind: Kind, options: Any, args: Sequence[str], stay: Collection[str] = ()) -> tuple[Model, Any, Any]:
    """Return (a model with fresh weights, its data, the options, in which what was not given fits the data).

    stay: the names of settings that stay as they are, given or not.
    """
    data = kind.dataset(options.data, options.model, None)
    fit = Fit(options.model, options.train)
    if not options.config:
        fit = fitted(data, kind, options.model, options.train, {*given(type(options), args), *stay})
    options = dataclasses.replace(options, model=fit.model, train=fit.train)
    model = kind.create_model(data, options.model)
    if fit.chosen and Ranks.joined().is_first:
        note(f"chosen for {data.time_steps('train'):,} time steps, unless you give others: {fit}")
    return model, data, options


def _how_long(model: Model, data: Any, config: TrainConfig) -> str:
    minutes, threads = math.ceil(duration(model, data, config) / 60), torch.get_num_threads()
    where = f"{threads} thread{'s' * (threads > 1)}"
    return f"about {minutes:,} min on {where}, as busy as they are; --steps or --epochs make it less, or more"


def follow(
    model: Model,
    data: Any,
    config: TrainConfig,
    folder: Folder,
    preview: Callable[[Any, Any], str] | None = None,
    others: Sequence[Report] = (),
) -> Run:
    """Train a model and show it on standard error, with a preview of what it writes at each validation.

    others: what is told of each event besides.
    """
    with Progress(f"{model.kind}  {model.config}") as progress:

        def show(event: Event) -> None:
            if isinstance(event, Started):
                progress(Note(repr(data)))
            progress(event)
            for each in others:
                each(event)
            if isinstance(event, Validated) and preview:
                try:
                    progress.preview(preview(model, data))
                except RunError as error:  # training goes on, or says itself why it stops
                    progress(Note(f"no sample: {error}"))

        run = train(model, data, config, out=folder, resume=folder.resumed is not None, report=show)
    Console(stderr=True).print(Line(str(run), "bold"), soft_wrap=True)
    return run


def read_options(
    kind: Kind, args: Sequence[str], verb: str = "train", own: type[Any] = RunOptions
) -> tuple[Any, RunConfig | None]:
    """Return (the options, the run to resume): defaults, then the file or the resumed run, then the command line.

    verb, own: the command, and the dataclass of its own options.

    Raises:
        OptionError: options contradict each other, or a setting in the file is unknown.
    """
    file, folder = early(args, "--config"), early(args, "--resume")
    if file and folder:
        raise OptionError("--config and --resume exclude each other: a resumed run has its own configuration")
    types = {"data": kind.data_config, "model": kind.model_config, "train": TrainConfig}
    run, code, tables = None, dict[str, str](), dict[str, Any]()
    if folder:
        run = RunConfig.read(folder)
        _check_kind(kind, run.kind, str(run.path), f"--resume {quote(str(folder))}")
        tables = {name: run.settings(name, config) for name, config in types.items()}
    elif file:
        found = read_toml(file)
        code = hashes(found.pop("code", {}), file)
        if isinstance(found.get("model"), dict):
            _check_kind(kind, str(found["model"].pop("kind", kind.name)), str(file), f"--config {quote(str(file))}")
            found["model"] = located(found["model"], file.parent) if code else found["model"]
        if is_of_run(file):
            found = _as_then(found, types, file, given(options_of(kind, own), args))
        tables = from_tables(found, types, str(file))
        note_old_names(found, types, str(file))
    base = options_of(kind, own)(**tables)
    description = f"{kind.description} Sizes, steps and batch that are not given fit the data, without --config."
    options = parse(type(base), args, command=f"{verb} {kind.name}", description=description, default=base)
    said = given(type(base), args)
    if "steps" in said and "epochs" not in said:  # those of the file are given up for what was asked for
        options = dataclasses.replace(options, train=options.train.replace({"epochs": None}))
    if run and (options.model, _but_places(options.data)) != (base.model, _but_places(base.data)):
        raise OptionError(
            "a resumed run keeps its model and its data; only settings of training, and where the same files are, "
            "can be changed"
        )
    if run and options.out:
        raise OptionError("--out and --resume exclude each other: a resumed run stays in its folder")
    if file and early(args, "--cell") is None:
        allow(str(vars(options.model).get("cell", "")), code, str(file), options.trust_code)
    if not run and isinstance(cell := vars(options.model).get("cell"), str):
        cells.named(cell)  # an unknown one is told before the data is read
    return options, run


def _as_then(
    tables: dict[str, Any], kinds: Mapping[str, type[Any]], file: Path, said: Collection[str]
) -> dict[str, Any]:
    """Return the tables of a run with the settings that it does not name as they were then, and tell of these."""
    found = dict(tables)
    for name, kind in kinds.items():
        table = found.get(name)
        if not isinstance(table, dict):
            continue
        then = {key: value for key, value in absent(kind).items() if key not in table}
        found[name] = {**then, **table}
        for key, value in then.items():
            if key not in said:
                note(f"{file} is of a run before there was {key}: it is {value} here too; {flag(key)} says otherwise")
    return found


def _but_places(settings: Any) -> dict[str, Any]:
    """Return the settings of data but where its files are; whether these are the same is asked of what they hold."""
    return {name: value for name, value in vars(settings).items() if not _places(value)}


def _places(value: Any) -> tuple[Path, ...]:
    """Return the paths that a setting is; none where it is something else."""
    several = value if isinstance(value, tuple) else (value,)
    return several if all(isinstance(each, Path) for each in several) else ()


def options_of(kind: Kind, own: type[Any] = RunOptions) -> type[Any]:
    """Return the dataclass of the options of a command, its own ones and those of the data, the model and training."""
    settings = [
        ("data", kind.data_config, field(default_factory=kind.data_config)),
        ("model", kind.model_config, field(default_factory=kind.model_config)),
        ("train", TrainConfig, field(default_factory=TrainConfig)),
    ]
    return dataclasses.make_dataclass("Options", settings, bases=(own,), frozen=True)


def _plain(settings: Any) -> dict[str, Any]:
    """Return settings as JSON has them."""
    plain: dict[str, Any] = json.loads(json.dumps(to_table(settings), default=str))
    return plain


def _check_kind(kind: Kind, named: str, where: str, option: str) -> None:
    if named == kind.name:
        return
    if named in BUILT_IN or ":" in named:
        raise OptionError(f"{where} is for a {named}: everloop train {named} {option}")
    raise OptionError(f"{where}: {unknown('kind of model', named, BUILT_IN)}")
