"""`train tagger`, `classifier`, `forecaster`, then `predict` and `evaluate`: files in, answers out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.cli.figures import score_line
from everloop.models import load
from everloop.models.run import RunConfig
from everloop.train import evaluate

TRAIN = ["--steps", "40", "--batch", "8", "--lr", "0.02", "--warmup", "5", "--validate", "20", "--hidden", "8"]
TSV = "".join(f"{'good' if i % 2 else 'bad'} film {i % 7}\t{i % 2}\n" for i in range(60))
SENTENCE = "1\t{}\t_\tX\t_\t_\t_\t_\t_\t_\n2\truns\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"
CONLLU = "".join(SENTENCE.format(f"n{i}") for i in range(40)).replace("\tX\t", "\tNOUN\t")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.tsv").write_text(TSV)
    Path("t.conllu").write_text(CONLLU)
    rows = "".join(f"2024-01-{1 + i // 24:02} {i % 24:02}:00,{i % 4},{i % 3}\n" for i in range(240))
    Path("t.csv").write_text("time,a,b\n" + rows)


def classifier(*args: str) -> int:
    columns = ["--columns", "text", "label"]
    return main(["train", "classifier", "--train", "t.tsv", *columns, *TRAIN, "--threads", "1", "--out", "run", *args])


def tagger(*args: str) -> int:
    return main(["train", "tagger", "--train", "t.conllu", *TRAIN, "--threads", "1", "--out", "run", *args])


def forecaster(*args: str) -> int:
    sizes = ["--context", "12", "--horizon", "4", "--season", "4", "--series", "a", "--covariates", "b"]
    days = ["--time", "time", "--calendar", "hour"]
    given = ["train", "forecaster", "--train", "t.csv", *sizes, *days, *TRAIN, "--threads", "1", "--out", "run"]
    return main([*given, *args])


def test_classifier(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert classifier("--hold-out", "0.2", "0.2") == 0
    shown = capsys.readouterr()
    assert "test: accuracy 1.0000" in shown.out
    assert "valid accuracy 1.0000, loss 0.0" in shown.err
    assert "perplexity" not in shown.out + shown.err
    assert "bits" not in Path("run/metrics.jsonl").read_text()
    assert "train: 36 examples, padding 0.0%, 0 of 108 words unknown" in shown.err
    Path("new.txt").write_text("a good one\n\nbad bad\n")
    assert main(["predict", "run", "new.txt"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines.pop(1) == [""]
    assert [(label, text) for label, _, text in lines] == [("1", "a good one"), ("0", "bad bad")]
    assert all(0.5 <= float(sure) <= 1 for _, sure, _ in lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "good"}\n{"text": 3.5}\n')))
    assert main(["predict", "run", "--format", "jsonl", "--malformed", "skip"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("1\t")
    assert "1 malformed line left out; the first: standard input: line 2: text is 3.5; expected text" in shown.err
    assert main(["evaluate", "run", "t.tsv"]) == 0
    first, *table = capsys.readouterr().out.split("\n", 1)
    assert first == evaluated(60)
    assert [line.split() for line in table[0].strip().split("\n")[:3]] == [
        ["label", "precision", "recall", "f1", "support"],
        ["0", "1.0000", "1.0000", "1.0000", "30"],
        ["1", "1.0000", "1.0000", "1.0000", "30"],
    ]
    assert main(["evaluate", "run", "t.tsv", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["accuracy"], figures["count"], figures["target"]) == (1.0, 60, "example")
    assert figures["labels"][1] == {"name": "1", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 30}
    assert main(["evaluate", "run", "--split", "valid"]) == 0
    assert "12 examples" in capsys.readouterr().out


def evaluated(count: int) -> str:
    """Return what evaluate prints for a run that is always right, by the numbers that it just printed elsewhere."""
    run = RunConfig.read("run")
    kind, model = run.find(trust_code=False), run.load()
    config = run.settings("data", kind.data_config)
    score = evaluate(model, kind.evaluation_dataset(model, config, Path("t.tsv"), None), "test")
    assert score.means == {"accuracy": 1.0}
    assert score.count == count
    return score_line(score, model)


def test_tagger(capsys: pytest.CaptureFixture[str]) -> None:
    assert tagger("--output", "crf") == 0
    capsys.readouterr()
    Path("new.conllu").write_text("# new\n" + SENTENCE.format("n999"))
    assert main(["predict", "run", "new.conllu"]) == 0
    assert capsys.readouterr().out == "# new\n" + SENTENCE.format("n999").replace("\tX\t", "\tNOUN\t")
    Path("new.txt").write_text("n5 runs\n")
    assert main(["predict", "run", "new.txt"]) == 0
    assert capsys.readouterr().out == "n5\tNOUN\nruns\tVERB\n\n"
    Path("new.jsonl").write_text('{"form": ["n888", "runs"]}\n')
    assert main(["predict", "run", "new.jsonl"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "n888\tNOUN\nruns\tVERB\n\n"
    assert "1 of 2 symbols unknown (50.00%)" in shown.err
    assert main(["evaluate", "run", "new.conllu"]) == 2
    assert "unknown label 'X'" in capsys.readouterr().err
    assert main(["evaluate", "run", "t.conllu"]) == 0
    assert "accuracy 1.0000, unknown 1.0000" in capsys.readouterr().out


def test_tagger_of_words_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.txt").write_text("".join(f"n{i % 9} x NOUN\nruns y VERB\n\n" for i in range(40)))
    columns = ["--columns", "word", "kind", "tag", "--text", "word", "--label", "tag"]
    options = ["--train", "t.txt", "--format", "conll", *columns, *TRAIN, "--threads", "1", "--out", "run"]
    assert main(["train", "tagger", *options]) == 0
    assert "train begins with 'n0/NOUN runs/VERB'" in capsys.readouterr().err
    Path("new.conll").write_text("# alone\nn5\nruns\n\nruns\n")
    assert main(["predict", "run", "new.conll"]) == 0
    assert capsys.readouterr().out == "n5\tNOUN\nruns\tVERB\n\nruns\tVERB\n\n"
    Path("new.conll").write_text("NOUN n5\n\nNOUN n1\nX\n\nVERB runs\n")
    assert main(["predict", "run", "new.conll"]) == 2
    assert "line 1 has 2 columns and 3 are named: NOUN n5" in capsys.readouterr().err
    skip = ["--columns", "tag", "word", "--malformed", "skip"]
    assert main(["predict", "run", "new.conll", *skip]) == 0
    assert capsys.readouterr().out == "n5\tNOUN\n\n\nruns\tVERB\n\n"
    assert main(["evaluate", "run", "t.txt"]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out


def test_tagger_of_chorales_refuses_labels(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.json").write_text(json.dumps({name: [[[60, 64], [62], [64]]] for name in ("train", "valid", "test")}))
    options = ["--train", "c.json", "--format", "chorales", "--output", "several", "--best-metric", "loss"]
    assert main(["train", "tagger", *options, "--hidden", "4", "--steps", "1", "--out", "run"]) == 0
    assert main(["evaluate", "run", "c.json"]) == 0
    assert main(["evaluate", "run", "c.json", "--labels", "x"]) == 2
    assert "a tagger's file holds its labels itself" in capsys.readouterr().err


def test_forecaster(capsys: pytest.CaptureFixture[str]) -> None:
    assert forecaster("--output", "quantile") == 0
    shown = capsys.readouterr()
    assert "mse_last" in shown.out
    assert "pinball loss per value" in shown.out
    assert "mse_seasonal 0.0000" in shown.out
    assert main(["predict", "run", "t.csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "time,a,a_0.1,a_0.5,a_0.9"
    assert [row.split(",")[0] for row in rows] == [f"2024-01-11 {hour:02}:00:00" for hour in range(4)]
    assert main(["predict", "run", "t.csv", "--stride", "100"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 4
    assert main(["evaluate", "run"]) == 0
    shown = capsys.readouterr()
    assert "180 values" in shown.out  # 48 steps of the test part have 45 windows
    assert "test: 48 steps, 45 windows" in shown.err
    Path("short.csv").write_text("time,a,b\n2024-01-01,1,2\n")
    assert main(["predict", "run", "short.csv"]) == 2
    assert "short.csv has 1 rows; a forecast needs 12" in capsys.readouterr().err


def planned(*args: str) -> int:
    """Train a forecaster of a series that is twice what is planned."""
    rows = [f"2024-01-{1 + i // 24:02} {i % 24:02}:00,{2 * (i * i % 7)},{i * i % 7}\n" for i in range(240)]
    Path("p.csv").write_text("time,a,plan\n" + "".join(rows[:230]))
    Path("ahead.csv").write_text("time,plan\n" + "".join(f"{r.split(',')[0]},{r.split(',')[2]}" for r in rows[200:]))
    sizes = ["--context", "12", "--horizon", "4", "--season", "4", "--series", "a", "--planned", "plan"]
    quick = [*TRAIN[:1], "150", *TRAIN[2:], "--threads", "1", "--out", "run"]
    return main(["train", "forecaster", "--train", "p.csv", *sizes, *quick, *args])


def test_a_forecaster_with_plans(capsys: pytest.CaptureFixture[str]) -> None:
    assert planned("--time", "time", "--around", "zero") == 0
    capsys.readouterr()
    assert main(["predict", "run", "p.csv", "--plans", "ahead.csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "time,a"
    assert [row.split(",")[0][-8:] for row in rows] == ["14:00:00", "15:00:00", "16:00:00", "17:00:00"]
    said = [float(row.split(",")[1]) for row in rows]
    assert said == pytest.approx([2 * (i * i % 7) for i in range(230, 234)], abs=2.0)
    assert main(["predict", "run", "p.csv", "--plans", "ahead.csv", "--stride", "210"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    for args, message in [
        ([], "expects plan for the steps to come; name their table with --plans FILE"),
        (["--plans", "none.csv"], "none.csv: no such file"),
        (["--plans", "p.csv"], "p.csv has no row for 2024-01-10 14:00:00, a step of the forecast"),
        (["--plans", "t.csv"], "unknown column 'plan'"),
    ]:
        assert main(["predict", "run", "p.csv", *args]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", "run"]) == 0


def test_plans_without_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert planned() == 0
    Path("short.csv").write_text("plan\n1\n2\n3\n")
    for args, message in [
        (["--plans", "short.csv"], "short.csv has 3 rows; a forecast needs 4"),
        (["--plans", "ahead.csv", "--stride", "9"], "train with --time COLUMN"),
    ]:
        capsys.readouterr()
        assert main(["predict", "run", "p.csv", *args]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["predict", "run", "p.csv", "--plans", "ahead.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("231,")
    assert forecaster() == 0 if Path("run").rename("old") else False
    capsys.readouterr()
    assert main(["predict", "run", "t.csv", "--plans", "t.csv"]) == 2
    assert "was trained without planned columns" in capsys.readouterr().err


def test_a_classifier_of_series_reads_them_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = "1,2,1:0,0,0", "9,8,9,8:5,5,5,5"
    Path("t.ts").write_text("@dimensions 2\n@classLabel true low high\n@data\n" + f"{low}:low\n{high}:high\n" * 12)
    assert main(["train", "classifier", "--train", "t.ts", *TRAIN, "--threads", "1", "--out", "run"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"@dimensions 2\n{high}\n{low}\n".encode())))
    assert main(["predict", "run"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["high", "low"]
    assert main(["evaluate", "run", "t.ts"]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out


def test_a_run_finds_its_data_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classifier("--hold-out", "0.2", "0.2") == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["train", "classifier", "--resume", "../run", "--steps", "42"]) == 0
    assert main(["evaluate", "../run", "--split", "valid"]) == 0
    assert "12 examples" in capsys.readouterr().out


def test_resume_makes_the_same_weights() -> None:
    still = ["--schedule", "constant", "--dropout", "0.3", "--word-dropout", "0.2"]
    assert classifier(*still, "--out", "whole") == 0
    assert classifier(*still, "--steps", "22") == 0
    assert main(["train", "classifier", "--resume", "run", "--steps", "40", "--threads", "1"]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 40
    whole, resumed = (load(run, "last").state_dict() for run in ("whole", "run"))
    assert all(whole[name].equal(resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "classifier", "--train", "none.tsv"], "none.tsv: no such file"),
        (["train", "classifier"], "name them with --train FILE"),
        (["train", "tagger", "--train", "none"], "none: no such file or folder"),
        (["train", "forecaster", "--train", "none", "--series", "a"], "none: no such file or folder"),
        (["train", "classifier", "--train", "t.tsv"], "unknown column 'text'"),
        (["train", "tagger", "--train", "t.conllu", "--label", "upso"], "did you mean 'upos'"),
        (["train", "tagger", "--train", "t.tsv"], "unknown column 'form'"),
        (["train", "classifier", "--train", "t.conllu"], "the name tells no form"),
        (["train", "forecaster", "--train", "t.csv"], "--series COLUMN"),
        (["train", "classifer"], "did you mean 'classifier'"),
        (["predict", "nowhere"], "there is no such run folder"),
        (["evaluate", "nowhere"], "there is no such run folder"),
    ],
)
def test_mistakes(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_mistakes_with_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert classifier() == 0
    Path("new.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    for args, message in [
        (["predict", "run", "new.jsonl"], "new.jsonl: line 2: no 'text' among 'txt'; expected text"),
        (
            ["predict", "run", "t.tsv", "--format", "conllu"],
            "format is 'conllu'; this model reads: csv, json, jsonl, parquet, semicolons, text, tsv",
        ),
        (["predict", "run", "--batch", "-1"], "batch is -1"),
        (["evaluate", "run", "--split", "test"], "has no test split; say --split valid, or give a file"),
        (
            ["evaluate", "run", "t.tsv", "--split", "valid"],
            "--split is of the run's own data, and t.tsv is",
        ),
        (["evaluate", "run", "--labels", "t.tsv"], "--labels belongs to a file; give the file before it"),
        (["train", "tagger", "--resume", "run"], "is for a classifier"),
    ]:
        capsys.readouterr()
        assert main(args) == 2
        assert message in capsys.readouterr().err


def test_predict_answers_before_the_end_of_its_input() -> None:
    assert classifier() == 0
    command = [sys.executable, "-m", "everloop", "predict", "run"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text, label in ((b"good film\n", b"1"), (b"bad film\n", b"0")):
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline().split(b"\t")[0] == label
        process.stdin.close()
        assert process.wait() == 0
