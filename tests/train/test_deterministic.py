"""The same seed, machine and threads give the same numbers, to the bit; what cannot is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop import cells
from everloop.errors import TrainingError
from everloop.models import Loss
from everloop.train import Event, Note, TrainConfig, train
from tests.train.small import CONFIG, TEXT, small_model, weights
from tests.train.test_loop import Cloud, Plane, Points


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU])
def test_the_same_seed_gives_the_same_weights(cell: Any, deterministic: bool) -> None:
    config = CONFIG.replace({"deterministic": deterministic, "length_jitter": 2})
    found = []
    for seed in (7, 7, 8):
        model = small_model(cell)
        train(model, TEXT, config.replace({"seed": seed}))
        found.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


PROCESS = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from everloop.train import train
from tests.train.small import CONFIG, TEXT, small_model
model = small_model()
train(model, TEXT, CONFIG, report=lambda event: print(repr(getattr(event, "loss", ""))))
print([float(p.detach().double().sum()) for p in model.parameters()])
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_in_other_processes_too(threads: str) -> None:
    command = [sys.executable, "-c", PROCESS, threads]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) > 8


class Unsteady(Plane):
    """A model with an operation that PyTorch cannot repeat."""

    def loss(self, batch: Points, state: Any = None) -> Loss:
        torch.zeros(5).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        return super().loss(batch, state)


def test_an_operation_that_cannot_be_repeated_is_refused() -> None:
    settings = TrainConfig(steps=2, batch=16, warmup=0)
    train(Unsteady(), Cloud(), settings)
    with pytest.raises(TrainingError, match="deterministic is on, and put_ does not have a determ"):
        train(Unsteady(), Cloud(), settings, deterministic=True)
    assert torch.get_deterministic_debug_mode() == 0


class Wrong(Plane):
    """A model with another fault."""

    def loss(self, batch: Points, state: Any = None) -> Loss:
        raise RuntimeError("something else")


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        train(Wrong(), Cloud(), TrainConfig(steps=2, batch=16, deterministic=True))
    assert torch.get_deterministic_debug_mode() == 0


def test_what_numbers_depend_on_is_told(tmp_path: Path) -> None:
    seen: list[Event] = []
    train(small_model(), TEXT, CONFIG, steps=2, out=tmp_path / "run", deterministic=True, report=seen.append)
    (told,) = (str(event) for event in seen if isinstance(event, Note) and "deterministic" in str(event))
    facts = json.loads((tmp_path / "run" / "history.jsonl").read_text())
    assert f"{facts['processor']}, {facts['threads']} thread" in told
    assert f"torch {torch.__version__}" in told
