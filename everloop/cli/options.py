"""From command line and TOML file to the dataclasses that the library configures itself with."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import torch
import tyro
from rich.console import Console
from rich.text import Text as Line

from everloop.cli import VERBS, and_help, importing
from everloop.data.settings import flag, from_table, old_names, same_setting, unknown_setting
from everloop.errors import OptionError, unknown
from everloop.models.kind import Kind, find
from everloop.models.run import RunConfig
from everloop.report.opened import Opened

T = TypeVar("T")
LONGEST = 60  # characters that are shown of a word that no option takes
BY_PLACE = {
    "checkpoint": "run",
    "ckpt": "run",
    "data": "file",
    "file": "file",
    "input": "file",
    "model": "run",
    "model-path": "run",
    "path": "file",
    "test": "file",
    "text": "prompt",
}  # what people call what a command is given by its place
FILES = ("source", "train", "texts", "audio", "text")  # options that take the file to learn from


def _missing(said: re.Match[str]) -> str:
    option, what = said.groups()
    return f"{f'--{option}' if option else 'an argument'} is missing: {what[:1].lower()}{what[1:]}"


# what tyro says of a value, and how it is said here
SAID: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"Error parsing (--\S+): invalid literal for int\(\) with base \d+: (.*)", r"\1 is \2; expected a whole number"),
    (r"Error parsing (--\S+): could not convert string to float: (.*)", r"\1 is \2; expected a number"),
    (r"Error parsing (--\S+): Could not parse arguments \[(.*)\] into tuple type .*\[(.*)\]", r"\1 is \2; expected \3"),
    (
        r"Error parsing (--\S+): no type matching \{None\}\|INT could be instantiated from \[(.*?)\]\..*",
        r"\1 is \2; expected a whole number",
    ),
    (
        r"Error parsing (--\S+): no type matching \{None\}\|FLOAT could be instantiated from \[(.*?)\]\..*",
        r"\1 is \2; expected a number",
    ),
    (
        r"Error parsing (--\S+): no type matching \{None\}\|\{(.*?)\} could be instantiated from \[(.*?)\]\..*",
        r"\1 is \3; expected \2",
    ),
    (r"Error parsing (--\S+): Could not find valid parse for arguments: \[(.*)\]", r"\1 is \2, which it does not take"),
    (r"[Ii]nvalid choice (.*) for argument '(--\S+)'\. Expected one of \((.*?),?\)", r"\2 is \1; expected one of \3"),
    (r"Missing value for argument '(--\S+)'\. Expected 1 values", r"\1 has no value; expected one"),
    (r"Missing value for argument '(--\S+)'\. Expected (\d+) values", r"\1 has too few values; expected \2"),
    (r"Unrecognized options: (.*)", r"\1: no option takes this"),
    (r"Missing from everloop [\w -]+: (?:--(\S+) )?(?:PATH|STR) (.*?)\.? \(required\).*", _missing),
    (
        r"Error parsing (--\S+): Failed to parse key-value pairs!",
        r"\1 takes pairs NAME VALUE; one is incomplete",
    ),
    (r"^Error parsing \w+: ", ""),  # a group of settings has checked itself, and its message says all
)


def parse(kind: type[T], args: Sequence[str], *, command: str, description: str, default: T | None = None) -> T:
    """Return the options of a command, groups of them without a prefix.

    Raises:
        OptionError: an option is unknown, the message names the nearest right one; or a value is wrong.
    """
    given = _rename_old_options(kind, args, command)
    _check_names(kind, given)
    start: dict[str, Any] = {} if default is None else {"default": default}
    box = StringIO()
    try:
        with redirect_stderr(box):
            options: T = tyro.cli(
                kind,
                args=given,
                prog=f"everloop {command}",
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                **start,
            )
    except SystemExit as end:
        if end.code != 2:
            raise
        said = _named(_in_a_line(box.getvalue()), given, list(setting_names(kind)))
        raise OptionError(and_help(said, command)) from None
    _check_lists(options, default, given, command)
    return options


def _check_names(kind: type[Any], args: Sequence[str]) -> None:
    """Check that no file or folder has an empty name, which would be the working folder, or one that no run can keep.

    Raises:
        OptionError: one has.
    """
    paths = {flag(name) for name, hint in _fields(kind, positional=False) if Path in (hint, *get_args(hint))}
    option = ""
    for arg in args:
        name, equals, value = arg.partition("=") if arg.startswith("--") else (option, "=", arg)
        option = flag(name.removeprefix("--")) if name else ""
        if equals and not value and option in paths:
            raise OptionError(f"{option} is {value!r}; expected a name")
        if option in paths and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise OptionError(f"{option} is {value!r}, which is not UTF-8; expected a name that is")


def _check_lists(options: Any, default: Any, args: Sequence[str], command: str) -> None:
    """Check that each option of several values has one, unless it takes away those of a configuration.

    Raises:
        OptionError: one has none, or what follows it was taken for an argument without a name.
    """
    before = dict(_values(default)) if default is not None else {}
    for name, value in _values(options):
        option = flag(name)
        if value != () or option not in args:
            continue
        word = next(iter(args[args.index(option) + 1 :]), "--")
        if not word.startswith("--"):
            said = f"an argument without a name is missing, and {word} was taken for it; give it before {option}"
            raise OptionError(and_help(said, command))
        if not before.get(name):
            raise OptionError(and_help(f"{option} has no value; expected at least one", command))


def _values(options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of options."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        yield from _values(value) if dataclasses.is_dataclass(value) else [(field.name, value)]


def _in_a_line(box: str) -> str:
    """Return what a box of several lines says, without its title and its hints."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    # a title stands in the border, or where there are no such characters, above a rule of its own
    inside = [line for line in lines if line and line[0] not in "╭╰"]
    blocks = [list(group) for is_rule, group in groupby(inside, lambda line: not line.strip("─-")) if not is_rule]
    said = " ".join(blocks[0 if "╭" in box or len(blocks) < 2 else 1]) if blocks else "the options cannot be read"
    for pattern, words in SAID:
        said = re.sub(pattern, words, said)
    return said.rstrip(".")


def _named(said: str, args: Sequence[str], names: Sequence[str]) -> str:
    """Return what was said of a word that no option takes, a long one cut; of a file, with the option that takes it."""
    word, nothing, _ = said.partition(": no option takes this")
    if not nothing:
        return said
    # the box has broken a long word into several
    word = next((arg for arg in args if "".join(arg.split()) == "".join(word.split())), word)
    shown = word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"
    option = next((name for name in FILES if name in names), None)
    return f"{shown}{nothing}; say {flag(option)} {word}" if option and _exists(word) else shown + nothing


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # no file can have such a name
        return False


def _rename_old_options(kind: type[Any], args: Sequence[str], command: str) -> list[str]:
    """Return the arguments with old options, and those of other libraries, under their names of today; a note tells.

    Raises:
        OptionError: an option is unknown, or given under both names.
    """
    names, olds = list(setting_names(kind)), dict(_old_names(kind))
    found, options = list(args), {flag(name) for name in names} | {"--help"}
    given = {flag(arg.partition("=")[0].removeprefix("--")) for arg in args if arg.startswith("--")}
    by_place = {flag(name) for name, _ in _fields(kind, positional=True)}
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        name = flag(name.removeprefix("--")) if name.startswith("--") else name
        if name == "--":
            break
        if name in olds and name not in options:
            if olds[name] in given:
                raise OptionError(f"{name} is the old name of {olds[name]}, and both are given; leave out {name}")
            found[i] = olds[name] + equals + value
            note(f"{name} is called {olds[name]}; the old name works in this version, not in the next")
        elif name.startswith("--") and name not in options and (ours := same_setting(name, names, flag)):
            if ours in given:
                raise OptionError(f"{name} is called {ours} here, and both are given; leave out {name}")
            found[i] = ours + equals + value
            note(f"{name} is called {ours} here")
        elif name.startswith("--") and name not in options and (place := _place(name, by_place)):
            raise OptionError(and_help(f"{name} is no option; give {place} without the name", command))
        elif name.startswith("--") and name not in options and name[2:] in VERBS.keys() - {*FILES}:
            raise OptionError(f"{name} is no option but a command: everloop {name[2:]} --help")
        elif name.startswith("--") and name not in options:
            known = [*names, *(["help"] if get_close_matches(name, ["--help"], cutoff=0.8) else [])]
            raise OptionError(and_help(unknown_setting("option", name, known, flag), command))
    return found


def _place(name: str, by_place: Collection[str]) -> str:
    """Return what a word is called that is given by its place and that someone calls by a name; nothing if none is."""
    placed = (name, flag(BY_PLACE.get(name.removeprefix("--"), "")))
    return next((each.removeprefix("--").upper() for each in placed if each in by_place), "")


def given(kind: type[Any], args: Sequence[str]) -> set[str]:
    """Return the names of the settings that arguments give, whatever they are called there."""
    said = {arg.partition("=")[0].removeprefix("--") for arg in args if arg.startswith("--")}
    return {our_name(kind, name) for name in said}


def our_name(kind: type[Any], name: str) -> str:
    """Return what a setting of a command is called here, of an old name, or of one that other libraries have for it."""
    names, olds, option = list(setting_names(kind)), dict(_old_names(kind)), flag(name)
    ours = option if option in map(flag, names) else olds.get(option) or same_setting(option, names, flag) or option
    return next((known for known in names if flag(known) == ours), name)


def note(text: str) -> None:
    """Print a line on standard error, apart from what a command answers."""
    Console(stderr=True).print(Line(text, "dim"), soft_wrap=True)


def setting_names(kind: Any) -> Iterator[str]:
    """Yield the names of the options of a command, of truth values with a no- before it too."""
    for name, hint in _fields(kind, positional=False):
        yield from [name, f"no-{name}"] if hint is bool else [name]


def _fields(kind: Any, *, positional: bool) -> Iterator[tuple[str, Any]]:
    """Yield the names and types of the options of a command, or of what it is given by place."""
    for group in _groups(kind):
        hints, marked = get_type_hints(group), get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            by_place = tyro.conf.Positional in getattr(marked[field.name], "__metadata__", ())
            if by_place is positional and not dataclasses.is_dataclass(hints[field.name]):
                yield field.name, hints[field.name]


def _old_names(kind: Any) -> Iterator[tuple[str, str]]:
    for group in _groups(kind):
        hints = get_type_hints(group)
        for old, name in old_names(group).items():
            yield flag(old), flag(name)
            if hints[name] is bool:
                yield flag(f"no-{old}"), flag(f"no-{name}")


def _groups(kind: Any) -> Iterator[Any]:
    """Yield a dataclass and those inside it."""
    yield kind
    for hint in get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            yield from _groups(hint)


def early(args: Sequence[str], name: str) -> Path | None:
    """Return the value of one option before the others are parsed: they take their defaults from the file it names."""
    for arg, following in zip(args, [*args, None][1:], strict=True):
        value = following if arg == name else arg.partition("=")[2] if arg.startswith(f"{name}=") else None
        if value == "":
            raise OptionError(f"{name} is {value!r}; expected a name")
        if value is not None:
            return Path(value)
    return None


def from_tables(tables: Mapping[str, Any], configs: Mapping[str, type[Any]], where: str) -> dict[str, Any]:
    """Return a dataclass for each table.

    Raises:
        OptionError: a table or a setting is unknown.
    """
    for name, table in tables.items():
        if name not in configs:
            raise OptionError(f"{where}: {unknown('table', name, configs)}")
        if not isinstance(table, Mapping):
            raise OptionError(f"{where}: {name} is {table!r}; expected a table [{name}]")
    return {name: from_table(config, tables.get(name, {}), f"{where} [{name}]") for name, config in configs.items()}


def find_kind(name: str) -> Kind:
    """Return the kind of model that the user named; one of the user's own may lie in the working folder."""
    return _found(lambda: find(name))


def _found(get: Callable[[], Kind]) -> Kind:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    with importing():
        return get()


def note_old_names(tables: Mapping[str, Any], kinds: Mapping[str, type[Any]], where: str) -> None:
    """Tell what a file calls by the name of the version before."""
    for name, kind in kinds.items():
        for old, new in old_names(kind).items():
            if old in tables.get(name, {}):
                note(f"{where} [{name}]: {old} is called {new}; the old name works in this version, not in the next")


def select_device(threads: int, device: str) -> torch.device:
    """Set the number of threads (0: leave it) and return the device.

    Raises:
        OptionError: there is no such device.
    """
    if not 0 <= threads <= 4096:
        raise OptionError(f"threads is {threads}; expected 0 (all) or more, at most 4096")
    if threads:
        torch.set_num_threads(threads)
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise OptionError(unknown("device", device, ["cpu", "cuda", "mps"]))
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError("device cuda: PyTorch finds no CUDA here; use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device mps: PyTorch finds no Metal device here; use --device cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise OptionError(f"device is {device!r}; expected cpu, cuda, cuda:1 or mps") from None
    if kind == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device is {device!r}; PyTorch finds {torch.cuda.device_count()} of them, from cuda:0")
    return found


@dataclass(frozen=True)
class CheckpointOptions:
    """Which weights of the run, and where they compute."""

    weights: Literal["best", "last"] = "best"
    """The weights of the best validation, or the last ones."""
    threads: int = 1
    """Processor threads; 0: as many as PyTorch takes."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    trust_code: bool = False
    """Whether code that the run names may run: the file of a cell, which the run keeps, or the package of its kind."""

    def kind(self, run: RunConfig) -> Kind:
        """Return the kind of the model of a run.

        Raises:
            RunError: it is unknown or not trusted.
        """
        return _found(lambda: run.find(trust_code=self.trust_code))

    def model(self, run: RunConfig) -> Any:
        """Return the trained model of a run, on its device.

        Raises:
            OptionError: there is no such device.
            RunError: the run is missing or damaged, or has code that is not trusted.
        """
        return self.opened(run).model

    def opened(self, run: RunConfig | Path) -> Opened:
        """Return a run with its trained model; errors are those of `model`."""
        run = run if isinstance(run, RunConfig) else RunConfig.read(run)
        device, kind = select_device(self.threads, self.device), self.kind(run)
        trained = run.tables.get("train")
        if isinstance(trained, dict) and trained.get("precision") == "bf16":
            note("trained with products in bf16; weights, and all that is computed here, are float32")
        return Opened(run, kind, run.load(self.weights, trust_code=self.trust_code, kind=kind).to(device))


def write(text: str) -> None:
    """Write to standard output at once, so that text appears as it is drawn."""
    sys.stdout.write(text)
    sys.stdout.flush()
