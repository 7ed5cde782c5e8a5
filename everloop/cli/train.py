"""`everloop train KIND`: a model on the user's files."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text as Line

from everloop.cli.options import early, free_folder, from_tables, machine, parse, write
from everloop.cli.progress import Progress
from everloop.data import Text, TextConfig, Vocabulary
from everloop.data.files import write_atomically
from everloop.data.settings import read_toml
from everloop.decode import sample
from everloop.errors import DataError, OptionError, unknown
from everloop.models import LanguageModel, LanguageModelConfig
from everloop.models.run import read_config
from everloop.train import Event, Run, TrainConfig, Validated, train

KINDS = ("language-model",)
OTHERS = {
    "tagger": "everloop.cli.tagger",
    "classifier": "everloop.cli.classifier",
    "forecaster": "everloop.cli.forecaster",
    "translator": "everloop.cli.translator",
    "transcriber": "everloop.cli.transcriber",
    "generator": "everloop.cli.generator",
}
TABLES: dict[str, type[Any]] = {"data": TextConfig, "model": LanguageModelConfig, "train": TrainConfig}
TEMPERATURES = (0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Options:
    """What `everloop train language-model` can be told."""

    data: TextConfig = field(default_factory=TextConfig)
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
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


def main(args: Sequence[str]) -> int:
    """Run `everloop train`; 130 if it was interrupted."""
    kinds = ", ".join((*KINDS, *OTHERS))
    if not args or args[0] in ("-h", "--help"):
        write(f"usage: everloop train KIND …\n\nkinds: {kinds}\n\n")
        write("everloop train KIND --help tells the options of one.\n")
        return 0 if args else 2
    if args[0] in OTHERS:
        return int(importlib.import_module(OTHERS[args[0]]).main(args[1:]))
    if args[0] not in KINDS:
        raise OptionError(unknown("kind of model", args[0], (*KINDS, *OTHERS)))
    options = read_options(args[1:])
    device = machine(options.threads, options.device)
    text, model = prepare(options)
    out = options.resume or options.out or free_folder(Path("runs") / args[0])
    run = follow(model.to(device), text, options.train, out, resume=options.resume is not None)
    show_samples(model, run)
    return 130 if run.interrupted else 0


def read_options(args: Sequence[str]) -> Options:
    """Return the options: defaults, then the file or the resumed run, then the command line.

    Raises:
        OptionError: options contradict each other, or a setting in the file is unknown.
    """
    file, run = early(args, "--config"), early(args, "--resume")
    if file and run:
        raise OptionError("--config and --resume exclude each other: a resumed run has its own configuration")
    tables, where = {}, "config"
    if file or run:
        where = str(run / "config.toml" if run else file)
        tables = read_config(run) if run else read_toml(where)
        tables = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
        kind = tables["model"].pop("kind", KINDS[0]) if isinstance(tables.get("model"), dict) else KINDS[0]
        if kind not in KINDS:
            raise OptionError(f"{where}: {unknown('kind of model', str(kind), KINDS)}")
    base = Options(**from_tables(tables, TABLES, where))
    description = "Train a language model: the next symbol of a text from those before it."
    options = parse(Options, args, command="train language-model", description=description, default=base)
    if run and (options.model, options.data) != (base.model, base.data):
        raise OptionError("a resumed run keeps its model and its data; only settings of training can be changed")
    if run and options.out:
        raise OptionError("--out and --resume exclude each other: a resumed run stays in its folder")
    return options


def prepare(options: Options) -> tuple[Text, LanguageModel]:
    """Return the text and the untrained model of these options."""
    if not options.data.text:
        hint = f"; {options.resume} was trained on a string, resume it from Python" if options.resume else ""
        raise DataError(f"no text given; name files or folders with --text FILE…{hint}")
    known = Vocabulary.load(options.resume / "vocabulary.json") if options.resume else None
    text = Text.from_config(options.data, known)
    torch.manual_seed(options.train.seed)
    return text, LanguageModel.from_config(text.vocabulary, options.model)


def follow(model: LanguageModel, text: Text, config: TrainConfig, out: Path, *, resume: bool = False) -> Run:
    """Train and show it, with a taste of what the model writes at each validation."""
    shape = model.config
    title = f"{model.kind}  {shape.cell} {shape.layers}×{shape.hidden}  {len(text['train']):,} {text.config.units}"
    prompt = first_prompt(text)
    with Progress(title) as progress:

        def report(event: Event) -> None:
            progress(event)
            if isinstance(event, Validated):
                progress.say(sample(model, prompt, length=70, temperature=0.7, seed=0))

        run = train(model, text, config, out=out, resume=resume, report=report)
    Console(stderr=True).print(Line(str(run), "bold"), soft_wrap=True)
    return run


def first_prompt(text: Text) -> str:
    """Return a prompt that the model knows: a newline, or the first symbol of the text."""
    return "\n" if "\n" in text.vocabulary else text.vocabulary.decode(text["train"][:1])


def show_samples(model: LanguageModel, run: Run, prompt: str | None = None, length: int = 300) -> None:
    """Print samples at several temperatures and keep them in the run folder."""
    console = Console()
    start = prompt or ("\n" if "\n" in model.vocabulary else model.vocabulary.symbols[0])
    kept = []
    for temperature in TEMPERATURES:
        drawn = sample(model, start, length=length, temperature=temperature, seed=1)
        console.print(Line(f"── temperature {temperature} " + "─" * 40, "bold cyan"))
        console.print(Line(start.lstrip("\n"), "bold"), Line(drawn.strip("\n")), sep="", soft_wrap=True)
        kept.append(f"── temperature {temperature}\n{start.lstrip()}{drawn}\n")
    if run.path:
        write_atomically(run.path / "samples.txt", "\n".join(kept).encode("utf-8", "replace"))
        console.print(Line(f'\ncontinue a prompt of yours with: everloop sample {run.path} "…"', "dim"), soft_wrap=True)
