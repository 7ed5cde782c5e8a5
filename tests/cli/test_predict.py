"""`everloop predict`: the decoding each kind takes, the options it refuses, and answers while its input is open."""

from __future__ import annotations

import io
import math
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everloop.cli import main
from everloop.data import Text, Vocabulary
from everloop.data.datasets.conditions import Conditions
from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.parallel import Parallel
from everloop.data.datasets.recordings import Recordings
from everloop.data.datasets.series import Series
from everloop.data.datasets.series_config import SeriesConfig
from everloop.data.datasets.tagged import Tagged
from everloop.data.frames import FrameConfig
from everloop.decode.ctc import ShallowFusion
from everloop.decode.generate import Beam, Greedy, Sampling, generate
from everloop.models import (
    Classifier,
    ClassifierConfig,
    Forecaster,
    ForecasterConfig,
    LanguageModel,
    Tagger,
    TaggerConfig,
    load,
)
from everloop.models.encoder_decoder import EncoderDecoder
from everloop.models.generator import Generator
from everloop.models.run import write_weights
from everloop.models.transcriber import Transcriber
from everloop.train import train
from tests.data.test_audio import write_wav


def translator() -> None:
    pairs = [("ein hund", "a dog"), ("ein mann", "a man"), ("ein hund und ein mann", "a dog and a man")] * 4
    data = Parallel(pairs, pairs[:3])
    model = EncoderDecoder(data.source, data.target, hidden=8, embedding=8)
    train(model, data, steps=4, batch=4, out="run")


def generator() -> None:
    data = Conditions([("Czech", "Abl"), ("Greek", "Maki")] * 20)
    train(Generator(data.labels, data.vocabulary, hidden=8), data, steps=4, batch=4, out="run")


def transcriber() -> None:
    sounds = [(torch.sin(torch.arange(3000) * f), text) for f, text in ((0.1, "a"), (0.5, "b"), (1.2, "c"))]
    for samples, text in sounds:
        write_wav(Path(f"{text}.wav"), (0.5 * samples).numpy())
    data = Recordings({"train": sounds * 4, "valid": sounds}, FrameConfig(rate=8000, mels=20))
    model = Transcriber(data.vocabulary, hidden=8, layers=1, rate=8000, mels=20)
    train(model, data, steps=4, batch=4, out="run")


def classifier() -> None:
    texts, labels = ["a fine film", "a dull film"] * 10, ["good", "bad"] * 10
    data = Examples({"train": Part(texts.__getitem__, labels, True, "mine")}, ExamplesConfig(units="words"))
    train(Classifier.of(data, ClassifierConfig(hidden=8)), data, steps=4, batch=4, out="run")


def tagger(output: str = "softmax") -> None:
    data = Tagged({"train": [(["they", "walk"], ["PRON", "VERB"]), (["she", "sings"], ["PRON", "VERB"])] * 8})
    config = TaggerConfig(hidden=8, output=output, char_hidden=4)  # type: ignore[arg-type]
    train(Tagger.of(data, config), data, steps=4, batch=4, out="run")


def forecaster() -> None:
    config = SeriesConfig(series=("a",))
    data = Series(torch.arange(90.0)[:, None] % 5, config=config, context=4, horizon=2)
    train(Forecaster.of(data, ForecasterConfig(hidden=4, season=2)), data, steps=2, batch=4, out="run")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["predict", "run", *args]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str, verb: str = "predict") -> str:
    capsys.readouterr()
    assert main([verb, "run", *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return " ".join(shown.err.split())


def test_a_translator_takes_every_way_of_decoding(capsys: pytest.CaptureFixture[str]) -> None:
    translator()
    sources = ["ein hund", "ein mann und ein hund"]
    Path("in.txt").write_text("ein hund\n\nein mann und ein hund\n")
    model = load("run")

    def lone(how: Greedy | Beam | Sampling, length: int) -> list[str]:
        return [found[0].text for found in generate(model, sources, how, length=length)]

    longest = ["--max-length", "6"]
    greedy = lone(Greedy(), 6)
    assert said(capsys, "in.txt", "--decode", "greedy", *longest) == f"{greedy[0]}\n\n{greedy[1]}\n"
    wide = lone(Beam(7, length_penalty=0.0), 6)
    assert said(capsys, "in.txt", "--beam", "7", "--length-penalty", "0", *longest) == f"{wide[0]}\n\n{wide[1]}\n"
    rows = [line.split("\t") for line in said(capsys, "in.txt", "--n-best", "3", *longest).splitlines()]
    wanted = generate(model, sources, Beam(5, n_best=3), length=6)
    expected = [(number, one.text) for number, found in zip("13", wanted, strict=True) for one in found]
    assert [(number, text) for number, _, text in rows] == expected
    logps = [float(logp) for _, logp, _ in rows]
    assert logps == pytest.approx([one.logp for found in wanted for one in found], abs=1e-3)


def test_longest_cuts_what_does_not_end(capsys: pytest.CaptureFixture[str]) -> None:
    translator()
    model = load("run")
    with torch.no_grad():
        model.head.bias[model.stop] = -99.0
    write_weights(Path("run/best.safetensors"), model, {})
    Path("in.txt").write_text("ein hund\n")
    for length in (1, 7, 16):
        wanted = generate(model, ["ein hund"], Greedy(), length=length)[0][0]
        assert len(wanted.symbols) == length
        assert said(capsys, "in.txt", "--max-length", str(length), "--decode", "greedy") == f"{wanted.text}\n"


def test_sampling_options_of_a_translator(capsys: pytest.CaptureFixture[str]) -> None:
    translator()
    Path("in.txt").write_text("ein hund\n" * 3)
    one, two, other = (
        said(capsys, "in.txt", "--temperature", "2", "--seed", seed, "--max-length", "9") for seed in ("1", "1", "2")
    )
    assert one == two != other
    # every line is drawn anew, also where each is a batch of its own
    assert len(set(said(capsys, "in.txt", "--seed", "1", "--batch", "1", "--temperature", "2").splitlines())) > 1
    greedy = said(capsys, "in.txt", "--decode", "greedy")
    for only in (["--top-k", "1"], ["--top-p", "0.0001"], ["--temperature", "0"]):
        assert said(capsys, "in.txt", *only) == greedy
    rows = said(capsys, "in.txt", "--num-samples", "4", "--seed", "3", "--max-length", "5").splitlines()
    assert [row.split("\t")[0] for row in rows] == [number for number in "123" for _ in range(4)]


def test_a_generator(capsys: pytest.CaptureFixture[str]) -> None:
    generator()
    Path("in.txt").write_text("Greek\nCzech\n")
    found = generate(load("run"), ["Greek", "Czech"], Beam(4), length=5)
    lines = [f"{label}\t{one.text}" for label, (one,) in zip(["Greek", "Czech"], found, strict=True)]
    assert said(capsys, "in.txt", "--beam", "4", "--max-length", "5").splitlines() == lines
    assert len(said(capsys, "in.txt", "--num-samples", "3").splitlines()) == 6


def test_a_transcriber_with_the_help_of_a_character_model(capsys: pytest.CaptureFixture[str]) -> None:
    transcriber()
    # only "b" is plausible, and long texts are welcome
    fusion = LanguageModel(Vocabulary("\nabc"), hidden=4, layers=1)
    torch.nn.init.zeros_(fusion.head.weight)
    with torch.no_grad():
        fusion.head.bias.copy_(torch.tensor([-9.0, -9.0, 9.0, -9.0]))
    train(
        fusion,
        Text.from_string("\nabc" * 50, split=(1, 0, 0), vocabulary=fusion.vocabulary),
        steps=1,
        batch=1,
        length=4,
        lr=1e-9,
        out="fusion",
    )
    Path("list.txt").write_text("a.wav\nb.wav\n")
    plain = said(capsys, "list.txt")
    assert plain == said(capsys, "list.txt", "--beam", "8")
    options = ["--language-model", "fusion", "--lm-weight", "2", "--insertion-bonus", "4"]
    helped = said(capsys, "list.txt", *options)
    texts = [line.split("\t")[1] for line in helped.splitlines()]
    assert all(text and set(text) == {"b"} for text in texts)
    assert helped != plain
    assert main(["evaluate", "run", "list.tsv", *options]) == 2
    Path("list.tsv").write_text("a.wav\tbbb\nb.wav\tbbb\n")
    capsys.readouterr()
    assert main(["evaluate", "run", "list.tsv", *options]) == 0
    assert "beam 8 with a character model" in " ".join(capsys.readouterr().out.split())
    greedy = said(capsys, "list.txt", "--decode", "greedy")
    assert [row.split("\t")[0] for row in greedy.splitlines()] == ["a.wav", "b.wav"]
    assert len(said(capsys, "list.txt", "--n-best", "3").splitlines()) == 6
    assert ShallowFusion(load("fusion")).weight == 0.5  # what the help says


def test_a_classifier_and_a_tagger_tell_all_probabilities(capsys: pytest.CaptureFixture[str]) -> None:
    classifier()
    Path("in.txt").write_text("a fine film\nthe film\n")
    head, *rows = [line.split("\t") for line in said(capsys, "in.txt", "--probabilities").splitlines()]
    assert head == ["label", "bad", "good", "text"]
    sure = load("run").classify(["a fine film", "the film"])
    for row, chances in zip(rows, sure.tolist(), strict=True):
        assert [float(p) for p in row[1:3]] == pytest.approx(chances, abs=1e-4)
        assert row[0] == ("bad" if chances[0] > chances[1] else "good")
    assert rows[0][3] == "a fine film"


@pytest.mark.parametrize("output", ["softmax", "crf"])
def test_a_tagger_tells_all_probabilities(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    tagger(output)
    Path("in.txt").write_text("they walk slowly\nshe sings\n")
    model = load("run")
    sentences = [["they", "walk", "slowly"], ["she", "sings"]]
    text = said(capsys, "in.txt", "--probabilities")
    head, *blocks = text.rstrip("\n").replace("\n", "\n\n", 1).split("\n\n")
    assert head.split("\t") == ["word", "label", "PRON", "VERB"]
    tags = model.tag(sentences)
    for words, answer, sure, block in zip(sentences, tags, model.probabilities(sentences), blocks, strict=True):
        rows = [line.split("\t") for line in block.split("\n")]
        assert [row[0] for row in rows] == words
        assert [row[1] for row in rows] == answer
        for row, chances in zip(rows, sure.tolist(), strict=True):
            assert [float(p) for p in row[2:]] == pytest.approx(chances, abs=1e-4)
            assert math.isclose(sum(chances), 1, rel_tol=1e-5)


def test_what_does_not_apply_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    classifier()
    assert "--beam does not apply to a classifier; it takes --probabilities" in refused(capsys, "--beam", "3")
    assert "--stride does not apply to a classifier" in refused(capsys, "--stride", "3")
    assert "--beam does not apply to a classifier; it takes none" in refused(capsys, "--beam", "3", verb="evaluate")


@pytest.mark.parametrize(
    ("made", "args", "message"),
    [
        (translator, ["--probabilities"], "--probabilities does not apply to a translator; it takes --decode"),
        (translator, ["--language-model", "x"], "--language-model does not apply to a translator"),
        (translator, ["--beam", "3", "--seed", "1"], "--seed and --beam exclude each other"),
        (translator, ["--decode", "greedy", "--beam", "3"], "--beam is for --decode beam; this is greedy"),
        (translator, ["--beam", "2", "--n-best", "3"], "width is 2 and n_best is 3"),
        (translator, ["--num-samples", "0"], "num_samples is 0; expected at least 1"),
        (translator, ["--seed", "-1"], "seed is -1"),
        (translator, ["--max-length", "0"], "max_length is 0"),
        (translator, ["--temperature", "-1"], "temperature is -1"),
        (generator, ["--columns", "a"], "--columns does not apply to a generator"),
        (transcriber, ["--temperature", "1"], "--temperature does not apply to a transcriber"),
        (transcriber, ["--length-penalty", "1"], "--length-penalty does not apply to a transcriber"),
        (
            transcriber,
            ["--insertion-bonus", "1"],
            "--insertion-bonus is for a character model; name its run",
        ),
        (transcriber, ["--language-model", "run"], "run holds a transcriber; expected a language model"),
        (transcriber, ["--decode", "sample"], "it is not sampled"),
        (forecaster, ["--probabilities"], "--probabilities does not apply to a forecaster"),
        (forecaster, ["--stride", "0"], "stride is 0"),
    ],
)
def test_options_that_make_no_sense(
    made: Callable[[], None], args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    Path("in.txt").write_text("a.wav\n" if made is transcriber else "ein hund\n")
    assert message in refused(capsys, "in.txt", *args)


OPEN: list[tuple[Callable[[], None], list[str], list[tuple[bytes, int]]]] = [
    (translator, [], [(b"ein hund\n", 1), (b"ein mann\n", 1)]),
    (generator, [], [(b"Greek\n", 1), (b"Czech\n", 1)]),
    (transcriber, [], [(b"a.wav\n", 1), (b"b.wav\n", 1)]),
    (tagger, [], [(b"they walk\n", 3), (b"she sings\n", 3)]),
    (forecaster, ["--stride", "2"], [(b"a\n" + b"1\n" * 4, 3), (b"2\n3\n", 2)]),
]


@pytest.mark.parametrize(("made", "args", "turns"), OPEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_answer_is_written_before_more_is_read(
    made: Callable[[], None],
    args: list[str],
    turns: list[tuple[bytes, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pipe stays open, and nothing is written to it before the answer to what was written has come."""
    made()
    reads, feeds = os.pipe()
    answers, writes = os.pipe()
    source, sink = io.TextIOWrapper(os.fdopen(reads, "rb")), os.fdopen(writes, "w")
    monkeypatch.setattr("sys.stdin", source)
    monkeypatch.setattr("sys.stdout", sink)
    ended: list[int] = []
    worker = threading.Thread(target=lambda: ended.append(main(["predict", "run", *args])), daemon=True)
    worker.start()
    try:
        for raw, count in turns:
            os.write(feeds, raw)
            for _ in range(count):
                assert line_of(answers)
    finally:
        os.close(feeds)
        worker.join(timeout=20)
    assert ended == [0]
    sink.close()
    source.close()
    os.close(answers)


def line_of(descriptor: int) -> bytes:
    """Return the next line of a pipe; it must come within ten seconds."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], 10)
        assert ready, f"no line came, only {line!r}"
        line += os.read(descriptor, 1)
    return line


@pytest.mark.parametrize(
    ("made", "name", "content"),
    [
        (classifier, "t.txt", ""),
        (translator, "t.txt", ""),
        (tagger, "t.txt", ""),
        (generator, "t.txt", ""),
    ],
)
def test_a_file_without_anything_to_answer_is_told(
    made: Callable[[], None], name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    Path(name).write_text(content)
    capsys.readouterr()
    assert main(["predict", "run", name]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{name} is empty: there is nothing to answer" in " ".join(shown.err.split())
    Path(name).write_text("Czech\n")
    assert main(["predict", "run", name]) == 0
    assert "empty" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "name", "content", "args", "message"),
    [
        (classifier, "t.csv", "words,label\nfine,good\n", ["--probabilities"], "unknown column 'text'"),
        (tagger, "t.jsonl", "{}\n", ["--probabilities"], "t.jsonl: line 1: no 'form'"),
        (forecaster, "t.csv", "b\n1\n", [], "unknown column 'a'"),
        (forecaster, "t.csv", "a\n1\n", [], "t.csv has 1 rows; a forecast needs 4 before it"),
    ],
)
def test_no_heading_stands_above_an_error(
    made: Callable[[], None],
    name: str,
    content: str,
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made()
    Path(name).write_text(content)
    assert message in refused(capsys, name, *args)


def test_an_unknown_label_of_a_generator_has_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    generator()
    Path("in.txt").write_text("Greek\nKlingon\nCzech\n")
    assert "in.txt: line 2: unknown label 'Klingon'; known: Czech, Greek; expected a label" in refused(capsys, "in.txt")
    lines = said(capsys, "in.txt", "--malformed", "skip", "--seed", "1").split("\n")
    assert [line.partition("\t")[0] for line in lines] == ["Greek", "", "Czech", ""]


def test_tables_are_asked_as_text_is(capsys: pytest.CaptureFixture[str]) -> None:
    translator()
    Path("in.txt").write_text("ein hund\n\nein mann\n")
    Path("in.csv").write_text('id,source\n1,ein hund\n2,""\n3,ein mann\n')
    assert said(capsys, "in.csv") == said(capsys, "in.txt")
    Path("pairs.csv").write_text("source,target\nein hund,a dog\nein mann,a man\n")
    Path("a").write_text("ein hund\nein mann\n")
    Path("b").write_text("a dog\na man\n")
    assert main(["evaluate", "run", "pairs.csv"]) == 0
    told = capsys.readouterr().out
    assert main(["evaluate", "run", "a", "--labels", "b"]) == 0
    assert capsys.readouterr().out == told
    assert "or on a table of pairs" in refused(capsys, "a", verb="evaluate")


def test_a_tagger_reads_tables(capsys: pytest.CaptureFixture[str]) -> None:
    tagger()
    Path("in.txt").write_text("they walk\nshe sings\n")
    Path("in.csv").write_text("id,form\n1,they walk\n2,she sings\n")
    assert said(capsys, "in.csv") == said(capsys, "in.txt")


def test_pictures_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for label, grey in (("dark", 10), ("bright", 200)):
        for i in range(6):
            Path("p", label).mkdir(parents=True, exist_ok=True)
            pillow.new("L", (4, 4), grey + i).save(f"p/{label}/{i}.png")
    small = ["--hidden", "4", "--steps", "2", "--batch", "4", "--out", "run"]
    assert main(["train", "classifier", "--train", "p", *small]) == 0
    lines = said(capsys, "p", "--probabilities").splitlines()
    assert lines[0] == "label\tbright\tdark\tpicture"
    assert [line.split("\t")[3] for line in lines[1:3]] == ["p/bright/0.png", "p/bright/1.png"]
    assert said(capsys, "p/dark/3.png").endswith("\tp/dark/3.png\n")


def test_recordings_are_found_beside_a_list_or_where_those_of_training_are(capsys: pytest.CaptureFixture[str]) -> None:
    transcriber()
    sounds = sorted(Path().glob("*.wav"))
    Path("wav").mkdir()
    for path in sounds:
        path.rename(Path("wav", path.name))
    Path("said.csv").write_text("file,text\n" + "".join(f"{path.name},{path.stem}\n" for path in sounds * 10))
    small = ["--rate", "8000", "--hidden", "4", "--steps", "2", "--batch", "4", "--out", "other"]
    assert main(["train", "transcriber", "--audio", "wav", "--transcripts", "said.csv", *small]) == 0
    told = []
    for place in ("said.csv", "wav/said.csv"):
        Path("wav/said.csv").write_bytes(Path("said.csv").read_bytes())
        capsys.readouterr()
        assert main(["evaluate", "other", place]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
