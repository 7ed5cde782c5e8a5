"""What newcomers type, on files as people have them: a mistake is answered in one line that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.data import Examples, ExamplesConfig, Series, SeriesConfig
from everloop.errors import DataError

TEXTS = "".join(f"{'a fine' if i % 2 else 'a dull'} film {i};{'pos' if i % 2 else 'neg'}\n" for i in range(40))
QUICK = ["--hidden", "4", "--steps", "1", "--batch", "4", "--threads", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("semicolons.csv").write_text("text;label\n" + TEXTS)
    Path("commas.tsv").write_text("text,label\n" + TEXTS.replace(";", ","))
    Path("tabs.csv").write_text("text\tlabel\n" + TEXTS.replace(";", "\t"))
    Path("reviews.csv").write_text("review,stars\n" + TEXTS.replace(";", ","))
    Path("bare.csv").write_text("".join(f"{i / 7:.3f}\n" for i in range(60)))
    Path("empty.csv").write_text("")
    Path("heading.csv").write_text("sales,price\n")
    Path("novel.txt").write_text("It was a dark and stormy night.\n" * 40)
    Path("own.py").write_text("own = 3\n")
    Path("folder").mkdir()
    Path("folder/a.txt").write_text("a fine film\n" * 20)


def failure(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(list(command)) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len([line for line in shown if line.startswith("error: ")]) == 1
    return shown[-1]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("classifier --train semicolons.csv", "look as if ';' were between them: say --format semicolons"),
        ("classifier --train commas.tsv", "look as if ',' were between them: say --format csv"),
        ("classifier --train tabs.csv", r"look as if '\t' were between them: say --format tsv"),
        ("classifier --train reviews.csv", "known: review, stars; if its first line is data, name the columns with"),
        ("classifier --train reviews.csv", "if not, say which one it is (--text, --label, --series, …)"),
        ("forecaster --train bare.csv", "bare.csv: the first line has numbers alone (0.000), not the names of columns"),
        ("forecaster --train empty.csv", "empty.csv has no row; expected at least one with the names of columns"),
        ("forecaster --train heading.csv", "heading.csv has no row; expected at least one with the names of columns"),
        ("forecaster --train folder --series a", "folder is a folder; expected a file whose name ends in .tsv, .csv"),
        ("lm novel.txt", "novel.txt: no option takes this; say --text novel.txt"),
        ("classifier reviews.csv", "reviews.csv: no option takes this; say --train reviews.csv"),
        ("translator novel.txt", "novel.txt: no option takes this; say --source novel.txt"),
        ("lm nothing.txt", "nothing.txt: no option takes this; everloop train"),
        (f"lm {'a' * 300}", f"error: {'a' * 59}…: no option takes this; everloop train"),
        (f"lm ./{'./' * 60}novel.txt", f"no option takes this; say --text ./{'./' * 60}novel.txt; everloop train"),
    ],
)
def test_training(capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    assert message in failure(capsys, "train", *command.split(), *QUICK)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict", "an argument is missing: run folder of any model but a language model; everloop predict --help"),
        ("show", "an argument is missing: a cell of the library"),
        ("quantize runs", "--out is missing: the folder of the quantized run"),
        ("predict novel.txt", "novel.txt is a file; expected a run folder"),
        ("report novel.txt", "novel.txt is a file; expected a run folder"),
        ("trian lm", "unknown command 'trian'; did you mean 'train'? everloop --help lists all"),
        ("show lstm --hlep", "unknown option '--hlep'; did you mean '--help'? everloop show --help lists all"),
        ("show --cell lstm", "--cell is no option; give CELL without the name; everloop show --help lists all"),
        ("show --xyz lstm", "unknown option '--xyz'; known: --stage, --format; everloop show --help lists all"),
        ("show own.py", "cell own.py: the class is missing; expected own.py:Class"),
        ("show own.py:Own", "own.py holds no cell; expected a class derived from everloop.Cell"),
        ("draw cell", "an argument is missing: a cell of the library"),
        ("draw attention folder", "an argument is missing: what it reads"),
        ("draw cell lstm --out folder", "folder: the ending is missing; expected one of .svg, .png, .txt"),
        ("draw cell lstm --out novel.txt/a.svg", "a file stands where a folder is expected"),
        ("recipes sst2 --out novel.txt", "a file stands where a folder is expected"),
        ("train lm --text novel.txt --steps 1 --out novel.txt/a", "a file stands where a folder is expected"),
        ("predict folder novel.txt --beam x", "--beam is 'x'; expected a whole number"),
        ("predict folder novel.txt --length-penalty x", "--length-penalty is 'x'; expected a number"),
        ("experiment memory --cells lstm", "--cells is no option; give CELLS without the name"),
        ("experiment memory lstm --lags x", "--lags is 'x', which it does not take; everloop experiment memory --help"),
        ("compare", "0 runs to compare; expected at least 2"),
        ("runs novel.txt", "novel.txt is a file; expected a folder with runs"),
    ],
)
def test_other_commands(capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    assert message in failure(capsys, *command.split())


def test_one_label_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "classifier", "--train", "folder", *QUICK, "--out", "r"]) == 0
    assert "all examples have the label 'a': there is nothing to tell apart" in capsys.readouterr().err
    again = ["--train", "semicolons.csv", "--format", "semicolons", "--out", "s"]
    assert main(["train", "classifier", *again, *QUICK]) == 0
    assert "nothing to tell apart" not in capsys.readouterr().err
    assert main(["predict", "s", "semicolons.csv", "--format", "semicolons"]) == 0
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == [
        line.split(";")[0] for line in TEXTS.splitlines()
    ]
    assert main(["evaluate", "s", "semicolons.csv", "--format", "semicolons"]) == 0


def test_fields_between_semicolons() -> None:
    data = Examples.from_config(ExamplesConfig(train=Path("semicolons.csv"), format="semicolons", hold_out=(0, 0)))
    again = Examples.from_config(ExamplesConfig(train=Path("commas.tsv"), format="csv", hold_out=(0, 0)))
    assert [x.tolist() for x, _ in data["train"]] == [x.tolist() for x, _ in again["train"]]
    assert data.labels.symbols == again.labels.symbols == ("neg", "pos")
    Path("quoted.csv").write_text('text;label\n"one; two";a\n"three\nlines";b\n')
    config = ExamplesConfig(train=Path("quoted.csv"), format="semicolons", hold_out=(0, 0))
    assert [part.get(i) for part in Examples.from_config(config).parts.values() for i in range(2)] == [
        "one; two",
        "three\nlines",
    ]
    Path("quoted.csv").write_text('text;label\n"one" two;a\n')
    with pytest.raises(DataError, match=r"line 2: no CSV \(.*\); expected fields separated by semicolons"):
        Examples.from_config(config)


def test_numbers_as_names_of_columns() -> None:
    named = SeriesConfig(train=(Path("bare.csv"),), columns=("level",))
    assert len(Series.from_config(named, context=4, horizon=2).values) == 60
    asked = SeriesConfig(train=(Path("bare.csv"),), series=("0.000",))
    assert len(Series.from_config(asked, context=4, horizon=2).values) == 59, "a year may name a column"


def test_a_terminal_is_told_that_it_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        main(["train", "classifier", "--train", "semicolons.csv", "--format", "semicolons", *QUICK, "--out", "r"]) == 0
    )
    capsys.readouterr()
    for terminal, told in ((True, True), (False, False)):
        with Path("novel.txt").open() as file:
            monkeypatch.setattr(file, "isatty", lambda terminal=terminal: terminal)
            monkeypatch.setattr(sys, "stdin", file)
            assert main(["predict", "r"]) == 0
        shown = capsys.readouterr()
        assert len(shown.out.splitlines()) == 40
        assert ("reading what you type" in shown.err) == told
    assert main(["sample", "r"]) == 2
    assert "a classifier writes no symbols one after another (everloop predict asks it)" in capsys.readouterr().err


def test_runs_in_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", "lm", "--text", "novel.txt", *QUICK, "--length", "8", "--out", "runs/a"]) == 0
    capsys.readouterr()
    for width, lines in (("60", 2), ("300", 2)):
        monkeypatch.setenv("COLUMNS", width)
        assert main(["runs"]) == 0
        shown = capsys.readouterr().out.rstrip().splitlines()
        assert len(shown) == lines
        assert "…" not in "".join(shown)
        assert ("kind language-model" in shown[1]) == (width == "60")
