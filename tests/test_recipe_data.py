"""The scripts that make data for recipes: synthetic voices, by stand-ins for their programs; tables of Beijing air."""

from __future__ import annotations

import csv
import gzip
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"
PROGRAM = """#!{python}
import sys, wave
from pathlib import Path
args = sys.argv[1:]
if args == ["--voices=variant"]:
    print("Pty Language       Age/Gender VoiceName          File                 Other Languages")
    for name in ("whisper", "Zoe", "adam"):
        print(f" 5  variant         --/M      {{name}}               !v/{{name}}             ")
    raise SystemExit
with Path(__file__).with_name("said.txt").open("a", encoding="utf-8") as file:
    print(Path(__file__).name, *args[:-1], Path(args[-1]).name, file=file)
with wave.open(args[-1], "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", ""))
    file.writeframes(b"\\0" * 1600)
"""


def run(name: str, *args: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script as the command line does."""
    monkeypatch.setattr(sys, "argv", [name, *args])
    runpy.run_path(str(RECIPES / name), run_name="__main__")


def voices(folder: Path, *args: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return what the programs were told by the script, a line a recording."""
    folder.mkdir()
    for name in ("espeak-ng", "flite"):
        (folder / name).write_text(PROGRAM.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    run("synthetic_digits.py", "--out", str(folder / "made"), *args, monkeypatch=monkeypatch)
    return [line.split(" ") for line in (folder / "said.txt").read_text(encoding="utf-8").splitlines()]


def test_synthetic_voices_say_each_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script: dict[str, Any] = runpy.run_path(str(RECIPES / "synthetic_digits.py"))
    said = voices(tmp_path / "a", "--espeak", "4", "--flite", "2", monkeypatch=monkeypatch)
    names = [
        f"{d}_{v}_0.wav" for v in ("espeak0", "espeak1", "espeak2", "espeak3", "flite0", "flite1") for d in range(10)
    ]
    assert sorted(path.name for path in (tmp_path / "a" / "made").iterdir()) == sorted(names)
    assert [line[-1] for line in said] == names
    for begin in range(0, 60, 10):
        lines = said[begin : begin + 10]
        at = {"espeak-ng": -3, "flite": -3}[lines[0][0]]
        words = [line[at] for line in lines]
        voice = lines[0][2]
        assert {line[2] for line in lines} == {voice}
        if lines[0][0] == "flite":
            assert (words, voice in script["FLITE"]) == (script["ENGLISH"].split(), True)
            continue
        language, variant = voice.split("+")
        assert variant in ("Zoe", "adam")
        is_foreign = begin % 20 == 10
        assert words == (script["FOREIGN"][language] if is_foreign else script["ENGLISH"]).split()
        assert is_foreign or language in script["ACCENTS"]
    assert voices(tmp_path / "b", "--espeak", "4", "--flite", "2", monkeypatch=monkeypatch) == said
    assert voices(tmp_path / "c", "--espeak", "4", "--flite", "2", "--seed", "2", monkeypatch=monkeypatch) != said


def test_a_program_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="espeak-ng is not installed"):
        run("synthetic_digits.py", "--out", str(tmp_path / "made"), monkeypatch=monkeypatch)


def test_every_language_has_ten_words() -> None:
    script = runpy.run_path(str(RECIPES / "synthetic_digits.py"))
    assert {len(words.split()) for words in (script["ENGLISH"], *script["FOREIGN"].values())} == {10}


def test_air_tables_hold_what_other_stations_measure_in_the_same_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "No,year,month,day,hour,PM2.5,wd,WSPM,station"
    parts = {
        "B.csv.gz": ["1,2013,3,1,0,8,E,2,B", "2,2013,3,1,1,NA,SW,NA,B"],
        "A.csv": ["1,2013,3,1,1,5,NNW,3,A", "2,2013,3,1,2,6,NA,1,A"],
    }
    for name, rows in parts.items():
        text = "\n".join([head, *rows, ""]).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    run("air_tables.py", str(tmp_path), "--out", str(tmp_path / "made"), monkeypatch=monkeypatch)
    found = {}
    for name in "AB":
        with (tmp_path / "made" / f"{name}.csv").open(newline="") as file:
            found[name] = [*csv.DictReader(file)]
    added = ["east", "north", "PM2.5_A", "PM2.5_B", "east_A", "east_B", "north_A", "north_B"]
    assert [*found["A"][0]] == [*head.split(","), *added]
    angle = 2 * math.pi * 337.5 / 360
    own = [f"{3 * math.sin(angle):.2f}", f"{3 * math.cos(angle):.2f}"]
    assert [*found["A"][0].values()][9:] == [*own, "5", "NA", own[0], "NA", own[1], "NA"]
    assert [*found["A"][1].values()][9:] == ["NA", "NA", "6", *["NA"] * 5]
    assert [*found["B"][0].values()][9:] == ["2.00", "0.00", "NA", "8", "NA", "2.00", "NA", "0.00"]
    assert [*found["B"][1].values()][9:] == ["NA", "NA", "5", "NA", own[0], "NA", own[1], "NA"]
