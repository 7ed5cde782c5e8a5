"""The command `everloop`: verb -> function. Parsing and printing happen in this folder alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path

from everloop.errors import EverloopError, OptionError, unknown


@dataclass(frozen=True)
class Verb:
    """A command: the module that has `main(args) -> exit status`, what it does, and what others call it."""

    module: str
    does: str
    also: tuple[str, ...] = ()


VERBS = {
    "train": Verb(
        "everloop.cli.train",
        "train a model on your files: everloop train language-model --text FILE…",
        also=("fit", "finetune", "fine-tune", "learn"),
    ),
    "find-lr": Verb(
        "everloop.cli.find_lr",
        "which learning rate to take: everloop find-lr language-model --text FILE…",
        also=("lr-find", "lr-finder", "range-test"),
    ),
    "sweep": Verb(
        "everloop.cli.sweep",
        "train with different settings: everloop sweep lr=1e-3,3e-3 --out FOLDER -- language-model --text FILE…",
        also=("search", "grid-search", "tune", "hyperparameters"),
    ),
    "predict": Verb(
        "everloop.cli.predict",
        "what a trained model says about new data: everloop predict RUN FILE",
        also=("infer", "inference", "translate", "classify", "tag", "forecast", "transcribe"),
    ),
    "evaluate": Verb(
        "everloop.cli.evaluate",
        "how good a trained model is: everloop evaluate RUN FILE",
        also=("eval", "test", "validate", "metrics"),
    ),
    "backtest": Verb(
        "everloop.cli.backtest",
        "how a forecaster would have done, beside simple forecasts: everloop backtest RUN",
        also=("historical-forecasts", "cross-validate"),
    ),
    "runs": Verb(
        "everloop.cli.runs", "list runs with their best figures: everloop runs --sort loss", also=("list", "ls")
    ),
    "sample": Verb(
        "everloop.cli.sample", 'continue a prompt: everloop sample RUN "prompt"', also=("generate", "write", "complete")
    ),
    "tree": Verb("everloop.cli.tree", 'show what may come next as a tree: everloop tree RUN "prompt"'),
    "score": Verb(
        "everloop.cli.score",
        "how probable a language model finds each line: everloop score RUN FILE",
        also=("perplexity",),
    ),
    "quantize": Verb(
        "everloop.cli.quantize",
        "a trained model in 8 bits: everloop quantize RUN --out FOLDER",
        also=("compress", "int8"),
    ),
    "show": Verb("everloop.cli.show", "print a cell as equations and at each stage of the compiler"),
    "draw": Verb(
        "everloop.cli.draw", "draw cells and models: everloop draw cell lstm, everloop draw network RUN", also=("plot",)
    ),
    "diagnose": Verb("everloop.cli.diagnose", "what stands out in a trained model: everloop diagnose RUN"),
    "report": Verb("everloop.cli.report", "all that is known of a run as one HTML page: everloop report RUN"),
    "compare": Verb("everloop.cli.compare", "what tells runs apart, on one page: everloop compare RUN RUN …"),
    "experiment": Verb("everloop.cli.experiment", "gradients through time, and what cells remember, side by side"),
    "check": Verb("everloop.cli.check", "whether a cell is compiled, and right: everloop check my_cells.py:MyCell"),
    "recipes": Verb(
        "everloop.cli.recipes", "settings for public data, listed; a name copies one: everloop recipes sst2"
    ),
    "demo": Verb("everloop.cli.demo", "train a small model on text that comes with Python, and sample it"),
}


ANSWERS = {
    "convert": "is no command; in Python everloop.models.load(RUN) is an nn.Module; torch.onnx.export takes layers",
    "export": "is no command; in Python everloop.models.load(RUN) is an nn.Module; torch.onnx.export takes layers",
    "serve": "is no command; everloop predict RUN answers line by line what it reads from standard input",
    "version": "is an option: everloop --version",
}  # to what others have commands for, and this has none


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if `check` finds a fault, 2 for an error of the user, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    try:
        return _dispatch(given)
    except EverloopError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # the reader has gone, as in `everloop sample … | head`; nothing more may be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (NotADirectoryError, FileExistsError) as error:
        return _fail(_in_the_way(Path(error.filename)) if error.filename else f"{error.strerror or error}")
    except OSError as error:
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}")  # all others have a name
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        return _fail(f"not enough memory; take a smaller model, batch or length ({str(error).splitlines()[0]})")


def _dispatch(args: list[str]) -> int:
    args = args[1:] if args[:1] == ["--"] else args  # which torchrun, of which it ends the options, may leave there
    if not args or args[0] in ("-h", "--help", "help"):
        _help()
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        print(f"everloop {version('everloop')}")
        return 0
    if args[0] in ANSWERS:
        raise OptionError(f"{args[0]!r} {ANSWERS[args[0]]}")
    if args[0] not in VERBS:
        ours = next((name for name, verb in VERBS.items() if args[0] in verb.also), None)
        said = f"unknown command {args[0]!r}; here it is {ours!r}" if ours else unknown("command", args[0], VERBS)
        raise OptionError(and_help(said))
    with importing():
        verb = import_module(VERBS[args[0]].module)
    return int(verb.main(args[1:]))


@contextmanager
def importing() -> Iterator[None]:
    """A context for imports. Ctrl-C meanwhile ends the program at once: libraries lose the exception, or die of it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def and_help(said: str, command: str = "") -> str:
    """Return what was said of a command line, with the command that lists what is known."""
    return f"{said}{'' if said.endswith('?') else ';'} everloop {f'{command} ' if command else ''}--help lists all"


def _help() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Line

    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, verb in VERBS.items():
        table.add_row(Line(name, "bold"), Line(verb.does))
    console = Console()
    console.print(Line("everloop COMMAND …: recurrent networks for PyTorch\n", "bold"))
    console.print(table)
    console.print("\neverloop COMMAND --help tells the options of one; everloop --version the version.")


def _in_the_way(path: Path) -> str:
    """Return the message for a path that leads over what is no folder."""
    link = next((each for each in (path, *path.parents) if each.is_symlink() and not each.exists()), None)
    said = f"{link} is a link that leads nowhere, or round in a circle" if link else ""
    return f"{path}: {said or 'a file stands where a folder is expected'}; choose another name"


def _fail(message: str) -> int:
    from rich.console import Console
    from rich.text import Text as Line

    torchrun = sys.modules.get("everloop.cli.torchrun")  # only a verb that several processes may run loads it
    if torchrun is None or torchrun.is_heard():
        Console(stderr=True, soft_wrap=True).print(Line.assemble(("error: ", "bold red"), (message, "red")))
    return 2
