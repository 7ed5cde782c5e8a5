"""Tables and texts as people have them: headers, wrong columns, packed files, folders, empty lines."""

from __future__ import annotations

import gzip
import io
import json
import re
import tomllib
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.cli.recipes import folder
from everloop.data.datasets.digits import DigitsConfig
from everloop.data.settings import from_table
from everloop.data.tokenize.words import fitting_units
from everloop.models import load

SIZES = ["--hidden", "4", "--steps", "2", "--threads", "1", "--batch", "4", "--out", "run"]
ROWS = "fine film,pos\nbad film,neg\ngood one,pos\nawful one,neg\nnice,pos\nvery bad,neg\n"
CLASSIFIER = ["train", "classifier", "--hold-out", "0", "0", *SIZES]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    headers = {"c.csv": "text,label\n", "upper.csv": "Text, Label\n", "bare.csv": "", "other.csv": "review,sentiment\n"}
    for name, header in headers.items():
        Path(name).write_text(header + ROWS)


def run(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(args)) == status
    shown = capsys.readouterr()
    return shown.out, shown.err


@pytest.mark.parametrize(
    "args",
    [
        ("c.csv",),
        ("c.csv", "--columns", "text", "label"),
        ("upper.csv", "--columns", "text", "label"),
        ("bare.csv", "--columns", "text", "label"),
        ("other.csv", "--columns", "text", "label", "--header", "yes"),
        ("other.csv", "--text", "review", "--label", "sentiment"),
    ],
)
def test_the_header_is_no_example(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    _, told = run(capsys, *CLASSIFIER, "--train", *args)
    assert "train: 6 examples" in told
    assert "train begins with 'fine film', label 'pos'" in told
    assert load("run").labels.symbols == ("neg", "pos")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("bare.csv",), "unknown column 'text'; known: fine film, pos; if its first line is data, name the columns"),
        (("bare.csv", "--header", "no"), "bare.csv has no header; name its columns with --columns"),
        (("bare.csv", "--columns", "label", "text"), "6 training examples have 6 different labels, one is 'awful one'"),
        (("c.csv", "--columns", "label", "text"), "the first line is a header (text, label), unlike the columns given"),
        (("other.csv", "--columns", "text", "label"), "line 1 is 'review' with label 'sentiment', which no other has"),
    ],
)
def test_columns_that_are_not_what_they_seem(
    args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, told = run(capsys, *CLASSIFIER, "--train", *args, status=2)
    assert message in told
    assert told.count("\n") == 1
    assert not Path("run").exists()


def test_a_first_line_that_is_said_to_be_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *CLASSIFIER, "--train", "other.csv", "--columns", "text", "label", "--header", "no")
    assert load("run").labels.symbols == ("neg", "pos", "sentiment")


def test_evaluated_on_files_of_other_forms(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *CLASSIFIER, "--train", "c.csv")
    Path("c.tsv.gz").write_bytes(gzip.compress(Path("c.csv").read_text().replace(",", "\t").encode()))
    Path("c.txt").write_text(Path("c.csv").read_text())
    Path("folder").mkdir()
    for label in ("pos", "neg"):
        lines = "".join(row.split(",")[0] + "\n" for row in ROWS.splitlines() if row.endswith(label))
        Path(f"folder/{label}.txt.gz").write_bytes(gzip.compress(lines.encode()))
    wanted, _ = run(capsys, "evaluate", "run", "c.csv", "--json")
    for args in (
        ("bare.csv", "--columns", "text", "label"),
        ("c.csv", "--columns", "text", "label"),
        ("c.tsv.gz",),
        ("c.txt", "--format", "csv"),
        ("folder",),
    ):
        found, _ = run(capsys, "evaluate", "run", *args, "--json")
        assert json.loads(found)["accuracy"] == json.loads(wanted)["accuracy"]
        assert json.loads(found)["loss"] == pytest.approx(json.loads(wanted)["loss"])
    _, told = run(capsys, "evaluate", "run", "--columns", "text", "label", status=2)
    assert "--columns tells how a file is read; give a file to evaluate on" in told


def test_unknown_labels_have_a_place_and_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("v.csv").write_text("text,label\nnice,pos\nbad,nog\n\ngood,pos\n")
    command = [*CLASSIFIER, "--train", "c.csv", "--valid", "v.csv"]
    _, told = run(capsys, *command, status=2)
    assert told.startswith("error: v.csv: line 3: unknown label 'nog'; did you mean 'neg'?")
    _, told = run(capsys, *command, "--malformed", "skip")
    assert "valid: 2 examples" in told
    assert "1 malformed line left out; the first: v.csv: line 3: unknown label 'nog'" in told
    Path("t.conllu").write_text(
        "".join(f"1\t{w}\t_\t{t}" + "\t_" * 6 + "\n\n" for w, t in [("a", "b"), ("c", "d"), ("x", "b")] * 9)
    )
    Path("v.conllu").write_text(Path("t.conllu").read_text() + "# text\n1\ta\t_\tZ" + "\t_" * 6 + "\n\n")
    command = ["train", "tagger", "--train", "t.conllu", "--valid", "v.conllu", *SIZES[:-1], "tags"]
    _, told = run(capsys, *command, status=2)
    assert told.startswith("error: v.conllu: line 55: unknown label 'Z'; known: b, d")
    _, told = run(capsys, *command, "--malformed", "skip")
    assert "valid: 27 sequences" in told


@pytest.mark.parametrize("piped", [False, True])
def test_one_line_out_for_each_line_in(
    piped: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, *CLASSIFIER, "--train", "c.csv")
    content = b"\nfine\n\nb\xffd\n   \nbad\n\xff"
    Path("x.txt").write_bytes(content)
    Path("c.jsonl").write_text('{"text": "fine"}\n{"text": ""}\n{"text": 3.5}\n{"text": "bad"}\n{"no": 1}\n')
    if piped:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    out, told = run(capsys, "predict", "run", "-" if piped else "x.txt", "--malformed", "skip")
    assert [line.rpartition("\t")[2] for line in out.split("\n")] == ["", "fine", "", "", "", "bad", "", ""]
    assert "2 malformed lines left out" in told
    out, _ = run(capsys, "predict", "run", "c.jsonl", "--malformed", "skip")
    assert [line.rpartition("\t")[2] for line in out.split("\n")] == ["fine", "", "", "bad", "", ""]


def test_a_tagger_answers_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.jsonl").write_text('{"form": "a b", "upos": "X Y"}\n' * 20)
    run(capsys, "train", "tagger", "--train", "t.jsonl", *SIZES)
    Path("x.txt").write_text("a b\n\nb\n")
    out, _ = run(capsys, "predict", "run", "x.txt")
    assert [[row.split("\t")[0] for row in block.split("\n")] for block in out.split("\n\n")] == [
        ["a", "b"],
        ["", "b"],
        [""],
    ]


def test_packed_texts_in_folders(capsys: pytest.CaptureFixture[str]) -> None:
    Path("f").mkdir()
    Path("f/a.txt").write_text("to be or not\n" * 30)
    Path("f/b.txt.gz").write_bytes(gzip.compress(b"to be or not\n" * 30))
    _, told = run(capsys, "train", "language-model", "--text", "f", *SIZES, "--length", "8")
    assert "train 702," in told
    out, _ = run(capsys, "score", "run", "f")
    assert len(out.splitlines()) == 60


def test_an_existing_run_is_refused_before_the_data_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *CLASSIFIER, "--train", "c.csv")
    Path("c.csv").write_text("no,header\n")
    _, told = run(capsys, *CLASSIFIER, "--train", "c.csv", status=2)
    assert "run already holds a run" in told


@pytest.mark.parametrize(
    ("table", "speakers"),
    [('speaker = "ann"', ("ann",)), ('speakers = ["ann", "bob"]', ("ann", "bob")), ("speakers = []", ()), ("", ())],
)
def test_one_speaker_or_several(table: str, speakers: tuple[str, ...]) -> None:
    assert from_table(DigitsConfig, tomllib.loads(table), "x").speakers == speakers


REVIEWS = [
    "房间很干净，服务很好",
    "早餐不错，下次还来",
    "非常满意的酒店",
    "太吵了，不推荐",
    "服务很差，很失望",
    "设施太旧了",
]


def test_scripts_without_spaces_are_read_by_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{text}\t{'good' if i < 3 else 'bad'}\n" for i, text in enumerate(REVIEWS))
    Path("zh.tsv").write_text("text\tlabel\n" + rows, encoding="utf-8")
    _, told = run(capsys, *CLASSIFIER, "--train", "zh.tsv")
    assert "texts are read by characters: spaces do not part words (--units words changes it)" in told
    assert load("run").tokenizer.units == "characters"
    _, told = run(capsys, *CLASSIFIER[:-1], "words", "--train", "zh.tsv", "--units", "words")
    assert "by characters" not in told
    assert load("words").tokenizer.units == "words"


@pytest.mark.parametrize(
    ("texts", "units"),
    [
        (["a fine film", "酒店"], "words"),
        (["ok 酒店很好", "好"], "characters"),
        (["안녕하세요 여러분"], "words"),
        (["สวัสดีครับ"], "characters"),
        (["これはペンです"], "characters"),
        (["123 !?"], "words"),
        (["Khoury", "Nahas", "Le Roux", "Daher", "Gerges"], "characters"),
        (["good", "bad film", "a fine film"], "words"),
        ([], "words"),
    ],
)
def test_fitting_units(texts: list[str], units: str) -> None:
    assert fitting_units(texts) == units


SCRIPTS = ["air_tables", "digit_pictures", "synthetic_digits"]


def test_recipes_are_listed_and_copied(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "recipes")
    names = [line.split()[0] for line in out.splitlines()]
    assert names == [*sorted(path.stem for path in folder().glob("*.toml")), *SCRIPTS]
    assert re.search(r"digit_pictures +Pictures of MNIST digits with captions", out)
    assert "etth1" in names
    assert all(len(line) < 130 and line.split(None, 1)[1] for line in out.splitlines())
    out, _ = run(capsys, "recipes", "sst2", "names_first", "--out", "mine")
    assert out == f"{Path('mine/sst2.toml')}\n{Path('mine/names_first.toml')}\n"
    assert Path("mine/sst2.toml").read_bytes() == (folder() / "sst2.toml").read_bytes()
    out, _ = run(capsys, "recipes", "digit_pictures", "--out", "mine")
    assert Path("mine", "digit_pictures.py").read_bytes() == (folder() / "digit_pictures.py").read_bytes()
    _, told = run(capsys, "recipes", "sst2", "--out", "mine", status=2)
    assert "is there already" in told
    _, told = run(capsys, "recipes", "sts2", status=2)
    assert "unknown recipe 'sts2'; did you mean 'sst2'?" in told
