"""Settings from and to TOML: nothing is lost, nothing misspelled passes."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data.settings import absent, from_table, read_toml, setting, to_table, to_toml
from everloop.errors import DataError, OptionError


@dataclass(frozen=True)
class Some:
    """A setting of each type."""

    whole: int = 1
    number: float = 2.0
    word: str = "x"
    flag: bool = False
    choice: Literal["one", "two"] = "one"
    paths: tuple[Path, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    perhaps: int | None = None
    table: dict[str, int | float | bool | str] = field(default_factory=dict)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Some,
        whole=st.integers(-(2**63), 2**63 - 1),
        number=st.floats(allow_nan=False),
        word=words,
        flag=st.booleans(),
        choice=st.sampled_from(["one", "two"]),
        perhaps=st.none() | st.integers(0, 9),
        table=st.dictionaries(words, st.integers(0, 9) | st.booleans() | words | st.floats(allow_nan=False)),
    )
)
def test_there_and_back(some: Some) -> None:
    read = tomllib.loads(to_toml({"t": to_table(some)}))
    assert from_table(Some, read["t"], "t") == some


def test_infinity_and_paths() -> None:
    some = Some(number=math.inf, paths=(Path("a b"), Path("c\\d")))
    assert from_table(Some, tomllib.loads(to_toml({"t": to_table(some)}))["t"], "t") == some


def test_a_default_that_was_another_in_older_runs() -> None:
    @dataclass(frozen=True)
    class Newer:
        part: float = setting(0.1, absent=0.0)
        other: int = setting(3, old="before")

    assert absent(Newer) == {"part": 0.0}
    assert Newer().part == 0.1


def test_what_is_not_named_stays() -> None:
    assert from_table(Some, {"whole": 5}, "t", base=Some(number=7.0)) == Some(whole=5, number=7.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"hole": 1}, "there: unknown setting 'hole'; did you mean 'whole'"),
        ({"whole": 1.5}, "whole is 1.5; expected an integer"),
        ({"whole": True}, "whole is True; expected an integer"),
        ({"flag": 1}, "flag is 1; expected true or false"),
        ({"number": "3"}, "number is '3'; expected a number"),
        ({"word": 3}, "word is 3; expected a string"),
        ({"choice": "tow"}, "did you mean 'two'"),
        ({"pair": [1.0]}, "pair has 1 values; expected 2"),
        ({"pair": [1.0, "x"]}, r"pair\[1\] is 'x'; expected a number"),
        ({"paths": 3}, "paths is 3; expected a list"),
        ({"perhaps": "x"}, "perhaps is 'x'; expected an integer"),
        ({"table": {"x": [1]}}, r"table\.x is \[1\]"),
    ],
)
def test_mistakes(table: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        from_table(Some, table, "there")


@pytest.mark.parametrize(
    ("content", "message"), [(b"\nx = = 1", "is not TOML.*line 2"), (b"x = '\xff'", "is not TOML")]
)
def test_broken_toml(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_toml(tmp_path / "c.toml")
