"""Training in bf16: the forward pass of every kind of model under autocast, all that is kept in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everloop.cli import main
from everloop.errors import OptionError
from everloop.models.kind import BUILT_IN
from everloop.train import Event, Note, evaluate, train
from tests.cli.test_generating import pairs
from tests.cli.test_topologies import CONLLU, TSV
from tests.data.test_audio import digit_recordings, write_wav
from tests.train.small import BASE, CONFIG, TEXT, small_model, weights
from tests.train.test_resume import assert_same_run, interrupt_at

QUICK = ["--steps", "3", "--batch", "4", "--validate", "3", "--warmup", "1", "--hidden", "36", "--threads", "1"]
QUICK += ["--precision", "bf16"]
SAID = "trained with products in bf16; weights, and all that is computed here, are float32"


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_products_are_rounded_and_weights_are_not() -> None:
    """One step moves each weight by at most lr, in the direction of its gradient: nearly the same one."""
    found, events = {}, list[Event]()
    for precision in ("float32", "bf16"):
        model = small_model(dropout=0)
        run = train(model, TEXT, BASE, steps=12, precision=precision, report=events.append)
        assert run.best is not None
        found[precision] = run.best.loss
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        # validation is that of `evaluate`, which knows nothing of autocast
        assert evaluate(model, TEXT, batch=BASE.batch, length=BASE.length).loss == pytest.approx(
            run.best.loss, rel=1e-6
        )
    assert found["bf16"] != found["float32"]
    assert found["bf16"] == pytest.approx(found["float32"], abs=0.01)
    notes = [str(event) for event in events if isinstance(event, Note) and "bf16" in str(event)]
    assert notes == ["bf16: products round their factors to bfloat16; weights and validation are float32"]


def test_a_run_remembers_it_and_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = train(small_model(), TEXT, CONFIG, precision="bf16", out=tmp_path / "whole")
    part = train(small_model(), TEXT, CONFIG, precision="bf16", out=tmp_path / "part", report=interrupt_at(13))
    assert part.interrupted
    assert 'precision = "bf16"' in (tmp_path / "part" / "config.toml").read_text()
    last = load_file(tmp_path / "part" / "last.safetensors")
    kept = {t.dtype for name, t in last.items() if name.startswith(("model", "optimiser", "average"))}
    assert kept == {torch.float32}
    assert_same_run(whole, train(small_model(), TEXT, out=tmp_path / "part", resume=True))


def test_without_it_nothing_changes() -> None:
    first, second = small_model(), small_model()
    train(first, TEXT, BASE, steps=4)
    train(second, TEXT, BASE, steps=4, precision="float32")
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(OptionError, match="precision"):
        train(small_model(), TEXT, BASE, precision="fp8")


def series(folder: Path) -> list[str]:
    rows = "".join(f"2024-01-{1 + i // 24:02} {i % 24:02}:00,{i % 4},{i % 3}\n" for i in range(120))
    (folder / "t.csv").write_text("time,a,b\n" + rows)
    return ["--train", str(folder / "t.csv"), "--context", "6", "--horizon", "2", "--series", "a", "--time", "time"]


def recordings(folder: Path) -> list[str]:
    for digit, found in digit_recordings(4).items():
        for i, samples in enumerate(found):
            write_wav(folder / f"{digit}_ann_{i}.wav", samples.clamp(-1, 1).numpy())
    sizes = ["--rate", "8000", "--mels", "20", "--strings", "12", "--held", "6", "--split", "0.5", "0.25", "0.25"]
    return ["--digits", str(folder), *sizes]


def tagged(folder: Path) -> list[str]:
    (folder / "t.conllu").write_text(CONLLU)
    return ["--train", str(folder / "t.conllu"), "--hold-out", "0.2", "0.2"]


def labelled(folder: Path) -> list[str]:
    (folder / "t.tsv").write_text(TSV)
    return ["--train", str(folder / "t.tsv"), "--columns", "text", "label", "--hold-out", "0.2", "0.2"]


def text(folder: Path) -> list[str]:
    (folder / "t.txt").write_text("the cat sat on the mat and the rat sat on the cat.\n" * 40)
    return ["--text", str(folder / "t.txt"), "--length", "9"]


def named(folder: Path) -> list[str]:
    (folder / "n.tsv").write_text("Czech\tAbl\nGreek\tMaki\n" * 20)
    return ["--texts", str(folder / "n.tsv")]


KINDS = {
    "language-model": text, "classifier": labelled, "tagger": tagged, "forecaster": series, "translator": pairs,
    "transcriber": recordings, "generator": named,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_every_kind_trains_and_says_what_it_uses(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", kind, *KINDS[kind](tmp_path), *QUICK, "--out", run]) == 0
    assert "bf16: products round their factors to bfloat16" in told(capsys)
    assert main(["evaluate", run, "--split", "valid"]) == 0
    assert SAID in told(capsys)


def test_every_built_in_kind_is_tried() -> None:
    assert set(KINDS) == set(BUILT_IN)
