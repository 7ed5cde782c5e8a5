"""A run that is interrupted and resumed comes to the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from everloop import cells
from everloop.cell import Cell
from everloop.data import Text
from everloop.errors import OptionError, RunError
from everloop.train import Event, Run, Stepped, TrainConfig, Validated, train
from tests.train.small import CONFIG, TEXT, small_model


def interrupt_at(step: int) -> Callable[[Event], None]:
    """Return a report that sends this process a SIGINT once `step` has been logged."""

    def report(event: Event) -> None:
        if isinstance(event, Stepped) and event.step >= step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def contents(run: Run, name: str) -> dict[str, Any]:
    return {key: tensor.clone() for key, tensor in load_file(Path(run) / name).items()}


def metrics(run: Run) -> list[dict[str, Any]]:
    return metrics_of(Path(run))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("rate", "seconds")} for line in lines]


def assert_same_run(a: Run, b: Run) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        first, second = contents(a, name), contents(b, name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert metrics(a) == metrics(b)
    assert (a.best, a.best_step) == (b.best, b.best_step)


@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU, cells.PeepholeLSTM])
@pytest.mark.parametrize("at", [4, 16, 28])
def test_resumed_to_the_bit(tmp_path: Path, cell: type[Cell], at: int) -> None:
    whole = train(small_model(cell), TEXT, CONFIG, out=tmp_path / "whole")
    torch.manual_seed(99)
    part = train(small_model(cell), TEXT, CONFIG, out=tmp_path / "part", report=interrupt_at(at))
    assert part.interrupted
    assert part.step == at
    torch.manual_seed(12345)  # whatever the new process did before must not matter
    model = small_model(cell)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    rest = train(model, TEXT, out=tmp_path / "part", resume=True)
    assert rest.step == 30
    assert not rest.interrupted
    assert_same_run(whole, rest)


@pytest.mark.parametrize("schedule", ["plateau", "constant", "cosine"])
def test_resumed_again_and_again(tmp_path: Path, schedule: str) -> None:
    config = CONFIG.replace({"schedule": schedule, "validate": 3, "plateau": 1, "lr": 0.1, "ema_decay": 0.0})
    whole = train(small_model(), TEXT, config, out=tmp_path / "whole")
    train(small_model(), TEXT, config, out=tmp_path / "part", report=interrupt_at(1))
    for _ in range(20):
        rest = train(small_model(), TEXT, out=tmp_path / "part", resume=True, report=interrupt_at(1))
    assert_same_run(whole, rest)


def test_interrupted_while_validating(tmp_path: Path) -> None:
    config = CONFIG.replace({"batch": 1, "length": 5, "schedule": "plateau", "plateau": 1, "validate": 4})
    whole = train(small_model(), TEXT, config, out=tmp_path / "whole")

    class Impatient(type(small_model())):  # type: ignore[misc]
        """Sends a SIGINT in the middle of the second validation."""

        validated = 0

        def loss(self, batch: Any, state: Any = None) -> Any:
            if not self.training:
                Impatient.validated += 1
                if Impatient.validated == 60:
                    os.kill(os.getpid(), signal.SIGINT)
            return super().loss(batch, state)

    model = small_model()
    model.__class__ = Impatient
    part = train(model, TEXT, config, out=tmp_path / "part")
    assert part.interrupted
    assert part.step == 8
    assert [line["step"] for line in metrics(part) if line["split"] == "valid"] == [4]
    assert_same_run(whole, train(small_model(), TEXT, out=tmp_path / "part", resume=True))


def test_interrupted_while_validating_and_then_killed_before_it_is_saved(tmp_path: Path) -> None:
    config = CONFIG.replace({"schedule": "plateau", "plateau": 1, "validate": 4})
    whole = train(small_model(), TEXT, config, out=tmp_path / "whole")

    def power_cut(event: Event) -> None:
        if isinstance(event, Validated) and event.step == 8:
            raise ZeroDivisionError

    train(small_model(), TEXT, config, out=tmp_path / "part", report=interrupt_at(8))
    with pytest.raises(ZeroDivisionError):
        train(small_model(), TEXT, out=tmp_path / "part", resume=True, report=power_cut)
    assert [line["step"] for line in metrics_of(tmp_path / "part") if line["split"] == "valid"] == [4, 8]
    assert_same_run(whole, train(small_model(), TEXT, out=tmp_path / "part", resume=True))


def test_interrupted_after_a_validation_that_was_made_again(tmp_path: Path) -> None:
    config = CONFIG.replace({"validate": 4})
    whole = train(small_model(), TEXT, config, out=tmp_path / "whole")

    def stop(event: Event) -> None:
        if isinstance(event, Validated) and event.step == 8:
            os.kill(os.getpid(), signal.SIGINT)

    train(small_model(), TEXT, config, out=tmp_path / "part", report=interrupt_at(8))
    train(small_model(), TEXT, out=tmp_path / "part", resume=True, report=stop)
    assert_same_run(whole, train(small_model(), TEXT, out=tmp_path / "part", resume=True))


def test_killed_between_checkpoints(tmp_path: Path) -> None:
    whole = train(small_model(), TEXT, CONFIG, out=tmp_path / "whole")

    def power_cut(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 16:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(small_model(), TEXT, CONFIG, out=tmp_path / "part", report=power_cut)
    with (tmp_path / "part" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 17, "spl')  # a line cut off
    assert_same_run(whole, train(small_model(), TEXT, out=tmp_path / "part", resume=True))


def test_more_steps_than_before(tmp_path: Path) -> None:
    config = CONFIG.replace({"schedule": "constant", "steps": 20})
    train(small_model(), TEXT, config, out=tmp_path / "part")
    longer = train(small_model(), TEXT, out=tmp_path / "part", resume=True, steps=30)
    whole = train(small_model(), TEXT, config, out=tmp_path / "whole", steps=30)
    assert_same_run(whole, longer)


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    first = train(small_model(), TEXT, CONFIG, out=tmp_path / "run")
    before, model = contents(first, "last.safetensors"), small_model()
    again = train(model, TEXT, out=tmp_path / "run", resume=True)
    assert again.best == first.best
    after = contents(again, "last.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(model.head.weight, load_file(tmp_path / "run" / "best.safetensors")["head.weight"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(small_model(), TEXT, CONFIG, out=path, steps=6)
    return path


def test_other_data_is_refused(finished: Path) -> None:
    other = Text.from_string("the cat sat on the mat and the rat sat on the cat.\n" * 41, split=(0.9, 0.1, 0))
    with pytest.raises(RunError, match="was trained on other data"):
        train(small_model(), other, out=finished, resume=True)


@pytest.mark.parametrize("setting", [{"batch": 4}, {"length": 12}, {"seed": 8}])
def test_settings_that_would_make_it_another_run(finished: Path, setting: dict[str, int]) -> None:
    (name,) = setting
    with pytest.raises(OptionError, match=f"cannot be resumed with {name}"):
        train(small_model(), TEXT, TrainConfig(**{**vars(CONFIG), **setting}), out=finished, resume=True)


def test_another_model_is_refused(finished: Path) -> None:
    with pytest.raises(RunError, match=r"does not fit the model: \S+ got \[.*\], expected \[.*\]|it lacks"):
        train(small_model(cells.GRU), TEXT, out=finished, resume=True)


def test_metrics_that_no_run_has_written_are_dropped(tmp_path: Path) -> None:
    train(small_model(), TEXT, CONFIG, steps=4, out=tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    kept = metrics.read_text()
    metrics.write_text('{"step": 1e400, "split": "train"}\n' + kept + '{"step": 9')
    train(small_model(), TEXT, out=tmp_path / "run", resume=True)
    assert metrics.read_text() == kept


def test_average_cannot_appear_later(finished: Path) -> None:
    with pytest.raises(
        RunError, match=r"averaged weights; expected 0: a run keeps the averaging that it began with \(ema_decay, "
    ):
        train(small_model(), TEXT, CONFIG.replace({"ema_decay": 0.0}), out=finished, resume=True)


def test_a_run_is_not_overwritten(finished: Path) -> None:
    before = (finished / "last.safetensors").read_bytes()
    with pytest.raises(RunError, match="already holds a run; resume it, or choose another folder"):
        train(small_model(), TEXT, CONFIG, out=finished)
    assert (finished / "last.safetensors").read_bytes() == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        train(small_model(), TEXT, out=tmp_path / "none", resume=True)
    with pytest.raises(OptionError, match="needs out="):
        train(small_model(), TEXT, resume=True)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 20, None])
def test_damaged_checkpoint_without_one_before(tmp_path: Path, content: bytes | None) -> None:
    train(small_model(), TEXT, CONFIG, out=tmp_path / "run", steps=3)
    (tmp_path / "run" / "previous.safetensors").unlink()
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-7] if content is None else content)
    with pytest.raises(RunError, match=r"last\.safetensors is damaged"):
        train(small_model(), TEXT, out=tmp_path / "run", resume=True)


def test_damaged_metrics_do_not_stand_in_the_way(finished: Path) -> None:
    metrics = finished / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + b"\xff\xfe{")
    train(small_model(), TEXT, out=finished, resume=True)
    assert metrics.read_bytes() == whole


def test_best_weights_are_no_checkpoint(tmp_path: Path) -> None:
    train(small_model(), TEXT, CONFIG, out=tmp_path / "run", steps=3)
    (tmp_path / "run" / "previous.safetensors").unlink()
    (tmp_path / "run" / "best.safetensors").replace(tmp_path / "run" / "last.safetensors")
    with pytest.raises(RunError, match="is no checkpoint of a training run"):
        train(small_model(), TEXT, out=tmp_path / "run", resume=True)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(small_model(), TEXT, CONFIG, out=tmp_path / "run", steps=3)
    before = contents(run, "last.safetensors")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(small_model(), TEXT, out=tmp_path / "run", resume=True, steps=5)
    after = contents(run, "last.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == [".lock"]


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(small_model(), TEXT, CONFIG, steps=2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_second_interrupt_is_at_once(tmp_path: Path) -> None:
    def twice(event: Event) -> None:
        if isinstance(event, Validated):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small_model(), TEXT, CONFIG, out=tmp_path / "run", report=twice)
    assert train(small_model(), TEXT, out=tmp_path / "run", resume=True).step == 30
