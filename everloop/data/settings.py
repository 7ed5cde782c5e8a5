"""Settings as dataclasses, to and from TOML: a wrong name or type is an error that says what would be right."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from everloop.data.files import read_bytes
from everloop.errors import DataError, OptionError, unknown

T = TypeVar("T")
MAX_DEPTH = 20
ALIKE = {
    "accumulate_grad_batches": "accumulate",
    "batch_size": "batch",
    "beam_size": "beam",
    "bptt": "length",
    "bptt_jitter": "length_jitter",
    "embed_dim": "embedding",
    "embedding_dim": "embedding",
    "embedding_size": "embedding",
    "eval_every": "validate",
    "eval_steps": "validate",
    "grad_clip": "clip_norm",
    "gradient_accumulation_steps": "accumulate",
    "group_by": "group",
    "group_ids": "group",
    "hidden_dim": "hidden",
    "hidden_size": "hidden",
    "id_column": "group",
    "item_id": "group",
    "iterations": "steps",
    "label_column": "label",
    "learning_rate": "lr",
    "logging_steps": "log_every",
    "lookback": "context",
    "lr_scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "max_epochs": "epochs",
    "max_grad_norm": "clip_norm",
    "max_len": "max_length",
    "max_seq_length": "max_length",
    "max_steps": "steps",
    "metric_for_best_model": "best_metric",
    "min_count": "min_freq",
    "mixed_precision": "precision",
    "model_dir": "out",
    "n_layers": "layers",
    "nonmono": "average_after",
    "num_beams": "beam",
    "num_epochs": "epochs",
    "num_layers": "layers",
    "num_return_sequences": "num_samples",
    "num_steps": "steps",
    "num_threads": "threads",
    "num_train_epochs": "epochs",
    "optimizer": "optimiser",
    "output_dir": "out",
    "patience": "early_stop",
    "pred_len": "horizon",
    "prediction_length": "horizon",
    "random_seed": "seed",
    "save_dir": "out",
    "scheduler": "schedule",
    "seasonality": "season",
    "seq_len": "length",
    "sequence_length": "length",
    "src": "source",
    "target_column": "label",
    "temp": "temperature",
    "test_file": "test",
    "text_column": "text",
    "tgt": "target",
    "time_column": "time",
    "timestamp": "time",
    "train_file": "train",
    "train_src": "source",
    "train_tgt": "target",
    "unique_id": "group",
    "val": "valid",
    "valid_file": "valid",
    "valid_src": "valid_source",
    "valid_tgt": "valid_target",
    "validation": "valid",
    "validation_file": "valid",
    "vocab_size": "max_vocab",
    "warmup_steps": "warmup",
    "window_jitter": "length_jitter",
}  # fmt: skip; what other libraries call settings of ours
MEANT: dict[str, tuple[str, ...]] = {
    "amp": ("precision bf16",),
    "bf16": ("precision bf16",),
    "captions": ("texts",),
    "cpu": ("device cpu",),
    "csv": ("train",),
    "cuda": ("device cuda",),
    "data": ("train", "text", "texts", "audio", "source"),
    "dataset": ("train", "text", "texts", "audio", "source"),
    "file": ("train", "text", "texts", "audio", "source"),
    "fp16": ("precision bf16",),
    "gpu": ("device cuda",),
    "images": ("pictures",),
    "input": ("train", "text", "texts", "audio", "source"),
    "labels": ("transcripts",),
    "manifest": ("transcripts",),
    "max_new_tokens": ("max_length", "length"),
    "model": ("cell",),
    "name": ("out",),
    "path": ("train", "text", "texts", "audio", "source"),
    "run_name": ("out",),
    "test_size": ("hold_out", "split"),
    "train_data": ("train", "text", "texts", "audio", "source"),
    "val_size": ("hold_out", "split"),
    "val_split": ("hold_out", "split"),
    "valid_size": ("hold_out", "split"),
    "validation_split": ("hold_out", "split"),
    "wav": ("audio",),
}  # what people mean that is not quite a setting of ours: the first of these that there is, perhaps with a value


def flag(name: str) -> str:
    """Return the option of a setting on the command line."""
    return f"--{name.replace('_', '-')}"


def only_one(sources: Mapping[str, object]) -> str:
    """Return which one of several settings was given.

    Raises:
        OptionError: none was, or more than one.
    """
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        came = "none was given" if not given else "both were given"
        raise OptionError(f"expected either {' or '.join(map(flag, sources))}; {came}")
    return given[0]


def setting(default: Any, *, old: str | tuple[str, ...] = (), absent: Any = dataclasses.MISSING) -> Any:
    """Return a dataclass field.

    Args:
        default: its default.
        old: the name, or names, that it had in the version before; they still work.
        absent: what it was in runs whose folder does not name it, where that is not the default.
    """
    metadata = {"old": (old,) if isinstance(old, str) else old}
    return dataclasses.field(
        default=default, metadata=metadata | ({} if absent is dataclasses.MISSING else {"absent": absent})
    )


def absent(kind: type[Any]) -> dict[str, Any]:
    """Return the settings that were something else than the default in runs whose folder does not name them."""
    found = {field.name: field.metadata for field in dataclasses.fields(kind)}
    return {name: metadata["absent"] for name, metadata in found.items() if "absent" in metadata}


def old_names(kind: type[Any]) -> dict[str, str]:
    """Return the names that settings had in the version before, each with that of today."""
    return {old: field.name for field in dataclasses.fields(kind) for old in field.metadata.get("old", ())}


def same_setting(name: str, known: Iterable[str], spell: Callable[[str], str] = str) -> str | None:
    """Return the setting of ours that other libraries call so, if it is among those known."""
    ours = next((known_as for alike, known_as in ALIKE.items() if name == spell(alike)), None)
    return spell(ours) if ours is not None and ours in known else None


def unknown_setting(what: str, name: str, known: Iterable[str], spell: Callable[[str], str] = str) -> str:
    """Return the message for an unknown setting; `spell` writes names as the user does."""
    names = list(known)
    ours = same_setting(name, names, spell)
    if ours:
        return f"unknown {what} {name!r}; here it is {ours!r}"
    meant = next((each for alike, each in MEANT.items() if name == spell(alike)), ())
    one, _, value = next((each for each in meant if each.partition(" ")[0] in names), "").partition(" ")
    said = f"{spell(one)} {value}".strip()
    return f"unknown {what} {name!r}; did you mean {said!r}?" if one else unknown(what, name, map(spell, names))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        DataError: missing, or not TOML; the message names the line.
    """
    content = read_bytes(path, "configuration file")
    try:
        tables = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        tables = None
    if tables is None or not _is_flat(tables):
        raise DataError(
            f"{path} is nested too deeply; expected tables of settings, at most {MAX_DEPTH} inside each other"
        )
    return tables


def _is_flat(value: Any) -> bool:
    """Return whether values are nested no more deeply than MAX_DEPTH, without going down after them."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inside = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [part for parts in inside for part in parts]
    return not level


def from_table(kind: type[T], table: Mapping[str, Any], where: str, base: T | None = None) -> T:
    """Return a dataclass with the settings of `table`; what is not named is as in `base`, or the default.

    Names of the version before are taken too; `old_names` knows them.

    Raises:
        OptionError: a name is unknown or a value has the wrong type; the message begins with `where`.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    olds = old_names(kind)
    hints = get_type_hints(kind)
    values = {} if base is None else {name: getattr(base, name) for name in names}
    for given, value in table.items():
        name = given if given in names else olds.get(given, given)
        if name not in names:
            raise OptionError(f"{where}: {unknown_setting('setting', name, names)}")
        others = [other for other in table if other != given and olds.get(other, other) == name]
        if name != given and others:
            too = "both are given" if name in others else f"{others[0]} is given too"
            raise OptionError(f"{where}: {given} is the old name of {name}, and {too}; leave out {given}")
        values[name] = _fit(value, hints[name], f"{where}: {name}")
    return kind(**values)


def to_table(settings: Any) -> dict[str, Any]:
    """Return the settings of a dataclass as plain values; those that are None are left out."""
    return {
        field.name: value
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) is not None
    }


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables as TOML."""
    blocks = []
    for title, table in tables.items():
        blocks.append("\n".join([f"[{title}]", *(f"{_key(name)} = {_value(value)}" for name, value in table.items())]))
    return "\n\n".join(blocks) + "\n"


def _key(name: str) -> str:
    return name if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name) else _value(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case Mapping():
            return "{" + ", ".join(f"{_key(str(name))} = {_value(item)}" for name, item in value.items()) + "}"
    raise OptionError(f"a setting is {value!r}; TOML holds numbers, strings, truth values, lists and tables")


def _fit(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the type `hint`, converting only where nothing is lost."""
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        return _first_fit(value, [c for c in choices if c is not type(None)], name)
    if origin is Literal:
        if value in choices:
            return value
        raise OptionError(f"{name}: {unknown('choice', str(value), map(str, choices))}")
    if origin is tuple and choices in ((str, Ellipsis), (Path, Ellipsis)) and isinstance(value, str):
        value = [value]  # one name where several may stand
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [choices[0]] * len(value) if choices[-1] is Ellipsis else list(choices)
        if len(kinds) == len(value):
            return tuple(_fit(v, k, f"{name}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
        raise OptionError(f"{name} has {len(value)} values; expected {len(kinds)}")
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _fit(v, choices[1], f"{name}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and value == "":
        raise OptionError(f"{name} is {value!r}; expected a path")
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise OptionError(f"{name} is {value!r}; expected {_words(hint)}")


def _first_fit(value: Any, kinds: list[Any], name: str) -> Any:
    # an exact type first, so that 1 stays an integer where int and float are both right
    for kind in sorted(kinds, key=lambda kind: type(value) is not kind):
        try:
            return _fit(value, kind, name)
        except OptionError:
            continue
    raise OptionError(f"{name} is {value!r}; expected {' or '.join(map(_words, kinds))}")


def _words(hint: Any) -> str:
    words = {int: "an integer", float: "a number", str: "a string", bool: "true or false", Path: "a path"}
    origin = get_origin(hint)
    return words.get(hint) or ("a list" if origin is tuple else "a table" if origin is dict else str(hint))
