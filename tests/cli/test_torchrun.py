"""The options of `everloop train` behind torchrun, which takes some for its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from torch.distributed.run import get_args_parser, parse_args

from everloop.cli import main
from everloop.cli.options import find_kind
from everloop.cli.train import options_of
from everloop.data.settings import flag
from everloop.models.kind import BUILT_IN


def options() -> Iterator[str]:
    for name in BUILT_IN:
        for group in dataclasses.fields(options_of(find_kind(name))):
            factory = group.default_factory
            inside = (
                dataclasses.fields(factory()) if callable(factory) and dataclasses.is_dataclass(factory()) else [group]
            )
            yield from (flag(field.name) for field in inside)


def passed_on(args: Sequence[str]) -> list[str] | None:
    """Return what torchrun passes on to a program that it starts; None where it refuses."""
    try:
        parsed: Any = parse_args(["--nproc-per-node", "2", "-m", "everloop", *args])  # type: ignore[no-untyped-call]
    except SystemExit:
        return None
    found: list[str] = parsed.training_script_args
    return found


def test_torchrun_takes_no_option_of_ours() -> None:
    names = sorted(set(options()))
    assert len(names) > 80
    for name in (*names, "--logging-steps", "--metric-for-best-model", "--out", "-h"):
        for args in ([name, "1"], [f"{name}=1"], [name]):
            assert passed_on(["train", "tagger", *args]) == ["train", "tagger", *args]
    args = ["train", "tagger", *(part for name in names for part in (name, "1"))]
    assert passed_on(args) == args
    found = passed_on(["--", *args])
    assert found is not None
    assert found[found[0] == "--" :] == args
    assert passed_on(["train", "tagger", "--log", "1"]) is None  # what torchrun takes, the old name among them


def test_no_option_of_ours_begins_one_of_torchrun() -> None:
    said = get_args_parser().format_help().split()  # newer versions of Python may refuse others than this one does
    theirs = {word.strip("[],").partition("=")[0] for word in said if word.lstrip("[").startswith("--")}
    assert {"--log-dir", "--monitor-interval", "--nproc-per-node"} <= {name.replace("_", "-") for name in theirs}
    ours = {*options(), *(name.replace("--", "--no-", 1) for name in options())}
    taken = {name for name in ours for other in theirs if other.replace("_", "-").startswith(name)}
    assert not taken


def test_two_dashes_may_stand_before_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "--version"]) == 0
    assert capsys.readouterr().out.startswith("everloop ")
