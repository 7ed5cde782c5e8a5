"""The options of `everloop train` behind torchrun, which takes some for its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from torch.distributed.run import parse_args

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


def test_behind_two_dashes_all_options_are_ours(capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(set(options()))
    assert len(names) > 80
    refused = [name for name in names if passed_on(["train", "tagger", name, "1"]) is None]
    assert refused == ["--log", "--monitor"]  # as docs/scaling.md says
    args = ["train", "tagger", *(part for name in names for part in (name, "1"))]
    found = passed_on(["--", *args])
    assert found is not None
    assert found[found[0] == "--" :] == args
    for other in ("--logging-steps", "--metric-for-best-model"):
        assert passed_on(["train", "tagger", other, "1"]) == ["train", "tagger", other, "1"]


def test_two_dashes_may_stand_before_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "--version"]) == 0
    assert capsys.readouterr().out.startswith("everloop ")
