"""Gradients through time, Jacobians and gates, against formulas and against torch.autograd by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import Recurrent, cells
from everloop.cell import Cell, H, I, param, state
from everloop.cli import main
from everloop.data import Parallel, Text
from everloop.diagnose import GradientThroughTime, TrainingFacts, diagnose, gradient_through_time
from everloop.diagnose.gates import gates_and_states
from everloop.diagnose.gradients import learned_reach, record
from everloop.errors import UnsupportedError
from everloop.layers.dispatch import eagerly, replaced
from everloop.models import EncoderDecoder, LanguageModel, Model
from everloop.models.loss import Loss
from everloop.train import train

TEXT = Text.from_string("The quick brown fox jumps over the lazy dog.\n" * 40)


class Fading(Cell):
    """h = a h + W x: the gradient k steps back is a to the power k, exactly."""

    a: float = 0.5
    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return self.a * h + x @ self.W.T


class Leaky(Cell):
    """Each unit keeps a share of what it was that no input changes."""

    h = state(H)
    W, keep = param(H, I), param(H, init=1.0)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        share = torch.sigmoid(self.keep)
        return share * h + (1 - share) * torch.tanh(x @ self.W.T)


class Reader(Model):
    """Any layers with a loss on each step, or on the last one."""

    kind = "reader"

    def __init__(self, layers: Recurrent, last_only: bool = False) -> None:
        super().__init__()
        self.layers, self.last_only = layers, last_only
        self.register_buffer("weights", torch.randn(layers.output_size, generator=torch.Generator().manual_seed(1)))
        self.weights: Tensor

    def loss(self, batch: Any, state: Any = None) -> Loss:
        x, lengths = batch
        y, after = self.layers(x, state, lengths=lengths)
        y = y[-1:] if self.last_only else y
        return Loss((torch.tanh(y) @ self.weights).sum(), y[..., 0].numel(), after)


@pytest.mark.parametrize("a", [0.5, 0.9, 1.0, 1.1])
@pytest.mark.parametrize("lengths", [None, [30, 17, 1, 30]])
def test_a_cell_that_fades_by_a_factor_has_that_rate(a: float, lengths: list[int] | None) -> None:
    torch.manual_seed(0)
    model = Reader(Recurrent(Fading(3, 5, a=a))).double()
    (found,) = gradient_through_time(model, (torch.randn(30, 4, 3).double(), lengths))
    expected = a ** torch.arange(len(found.norms), dtype=torch.float64)
    torch.testing.assert_close(found.norms.double(), expected, rtol=1e-4, atol=1e-7)
    assert found.rate == pytest.approx(a, rel=1e-3)
    if a < 1:
        assert found.half_life == pytest.approx(math.log(2) / -math.log(a), rel=1e-2)
    assert found.reach == (5 if a == 0.5 else 29 if a == 0.9 else None)
    assert ("grows 1.1-fold" in str(found)) is (a == 1.1)


def by_hand(cell: Cell, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return the norms of d L_T / d state_s by lag for the loss of the last step alone, with plain autograd."""
    states = [torch.zeros(x.shape[1], n, dtype=x.dtype).requires_grad_() for n in cell.state_sizes.values()]
    kept = []
    for x_t in x:
        result = cell.step(x_t, *states)
        states = list(result) if isinstance(result, tuple) else [result]
        kept.append(states)
    loss = (torch.tanh(states[0]) @ weights).sum()
    flat = [s for step in kept for s in step]
    grads = torch.autograd.grad(loss, flat, allow_unused=True)
    count = len(cell.state_sizes)
    norms = {}
    for k, name in enumerate(cell.state_sizes):
        curve = torch.stack([g.norm(dim=-1).sum() for g in grads[k::count][::-1] if g is not None])
        norms[name] = curve / curve[0]
    return norms


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "minimal-gated-unit", "layer-norm-lstm"])
def test_norms_are_those_of_plain_autograd(name: str) -> None:
    torch.manual_seed(0)
    cell = cells.named(name)(3, 5).double()
    x = torch.randn(12, 4, 3, dtype=torch.float64)
    model = Reader(Recurrent(cell), last_only=True).double()
    expected = by_hand(cell, x, model.weights)
    found = {g.state: g.norms.double() for g in gradient_through_time(model, (x, None))}
    assert list(found) == list(expected)
    for state_name, curve in expected.items():
        torch.testing.assert_close(found[state_name], curve, rtol=1e-4, atol=1e-7)


def test_directions_and_layers_each_have_their_curve() -> None:
    torch.manual_seed(0)
    model = Reader(Recurrent(Fading(3, 5, a=0.8), layers=2, bidirectional=True))
    found = gradient_through_time(model, (torch.randn(21, 3, 3), [21, 21, 8]))
    names = [g.layer for g in found]
    assert names == [f"layers, layer {k}, {way}" for k in (1, 2) for way in ("ahead", "back")]
    for g in found[2:]:  # the upper layer alone decides over its own states
        assert g.rate == pytest.approx(0.8, rel=1e-3)


def test_an_encoder_is_asked_through_its_decoder() -> None:
    torch.manual_seed(0)
    data = Parallel([("ein hund", "a dog"), ("ein mann", "a man"), ("ein hund und ein mann", "a dog and a man")] * 4)
    for context in ("initial", "every-step", "attention"):
        model = EncoderDecoder(data.source, data.target, hidden=8, embedding=8, context=context, bidirectional=False)
        found = gradient_through_time(model, data.epoch("train", 0, batch=4)[0])
        assert [g.layer for g in found] == ["encoder", "decoder"]
        assert all(float(g.norms[0]) == pytest.approx(1) and g.steps >= 2 for g in found)


def test_the_model_is_left_as_it_was() -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=8, layers=2, dropout=0.5).train()
    batch = TEXT.epoch("train", 0, batch=3, length=9)[0]
    before = model.eval()(batch.x)[0].detach().clone()
    model.train()
    gradient_through_time(model, batch)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.eval()(batch.x)[0], before)
    assert not model.recurrent._forward_hooks


def test_recording_computes_what_eager_does() -> None:
    torch.manual_seed(0)
    layers = Recurrent(cells.LSTM(3, 4), layers=2, bidirectional=True, learned_state=True).double()
    for start in layers.start or ():
        torch.nn.init.normal_(start)
    x, lengths, reset = torch.randn(9, 5, 3).double(), [9, 0, 3, 7, 1], torch.rand(9, 5) < 0.3

    class Resetting(Reader):
        def loss(self, batch: Any, state: Any = None) -> Loss:
            y, after = self.layers(x, lengths=lengths, reset=reset)
            return Loss(y.square().sum(), 1, after)

    lanes = record(Resetting(layers), None)
    with replaced(eagerly):
        y, _ = layers(x, lengths=lengths, reset=reset)
    torch.testing.assert_close(lanes[0].outputs[0], y)


def test_gates_are_the_values_of_the_step() -> None:
    torch.manual_seed(0)
    cell = cells.LSTM(3, 4)
    with torch.no_grad():
        cell.b[4:8] = 4.0  # forget gates open
        cell.b[:4] = -6.0  # input gates shut
    gates, states = gates_and_states(record(Reader(Recurrent(cell)), (torch.randn(20, 6, 3), [20, 20, 3, 9, 1, 0])))
    by_name = {gate.name: gate for gate in gates}
    assert set(by_name) == {"i", "f", "o"}
    assert by_name["f"].high > 0.9
    assert by_name["i"].low > 0.9
    assert all(sum(gate.shares) == pytest.approx(1) for gate in gates)
    memory = next(s for s in states if s.name == "c")
    assert memory.half_lives is not None
    # f is about sigmoid(4), so the half-life about ln 2 / ln(1 + e^-4)
    assert float(memory.half_lives.median()) == pytest.approx(math.log(2) / math.log1p(math.exp(-4)), rel=0.3)
    assert next(s for s in states if s.name == "h").half_lives is None


@pytest.mark.parametrize("name", ["gru", "minimal-gated-unit", "coupled-lstm", "reset-before-gru", "layer-norm-lstm"])
def test_what_keeps_a_memory_is_found_in_each_gated_cell(name: str) -> None:
    cell = cells.named(name)(3, 4)
    _, states = gates_and_states(record(Reader(Recurrent(cell)), (torch.randn(8, 3, 3), None)))
    assert [s.half_lives is not None for s in states] == [n == list(cell.state_sizes)[-1] for n in cell.state_sizes]


def test_dead_units_and_rank() -> None:
    cell = cells.Elman(3, 8, nonlinearity="relu")
    with torch.no_grad():
        cell.b[:6] = -100.0
    _, (states,) = gates_and_states(record(Reader(Recurrent(cell)), (torch.randn(30, 4, 3), None)))
    assert states.still == pytest.approx(6 / 8)
    assert 1 <= states.rank <= 2.0001


def test_a_model_without_layers_is_refused() -> None:
    class Bare(Model):
        def loss(self, batch: Any, state: Any = None) -> Loss:
            return Loss(torch.zeros(()), 1)

    with pytest.raises(UnsupportedError, match="Bare has no Recurrent layers to look into"):
        gradient_through_time(Bare(), None)


def test_the_command_says_what_stands_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 40)
    data = Text(tmp_path / "old.txt")
    model = LanguageModel(data.vocabulary, cell="lstm", hidden=8, layers=1)
    model.recurrent.cell.requires_grad_(False)
    train(model, data, steps=3, batch=4, length=16, log_every=1, out=tmp_path / "run")
    assert main(["diagnose", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1. 3 parameters were never updated: recurrent.cell.W, recurrent.cell.R, recurrent.cell.b.")
    assert all(
        part in out
        for part in (
            "gate f",
            "state c",
            "Lyapunov exponents",
            "largest singular value",
            "recurrent: outputs depend to",
        )
    )
    assert "a step (over 204)" in out, "19 windows of 16 steps, without 50 steps at each end"
    assert all(
        part in out for part in ("first loss", "guessing all alike", "were clipped", "the next window and hardly used:")
    )
    (tmp_path / "new.txt").write_text("the lazy dog jumps over the quick fox. " * 20)
    assert main(["diagnose", str(tmp_path / "run"), str(tmp_path / "new.txt"), "--json", "--sequences", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["name"] == "frozen"
    assert [step for step, _ in found["facts"]["losses"]] == [1, 2, 3]
    assert 0 <= found["facts"]["clipped"] <= 1
    assert found["connectivity"][0]["says"].startswith("recurrent: outputs depend to")
    assert found["connectivity"][0]["steps"] == list(range(8, 16))
    carried = found["facts"]["carried"]
    assert carried["is_used"] is False
    assert carried["loss"] == pytest.approx(carried["empty"], rel=0.01)
    assert found["learned"]
    assert len(found["jacobians"][0]["exponents"]) == 4
    assert found["jacobians"][0]["smallest"] <= found["jacobians"][0]["largest"]
    assert {g["state"] for g in found["gradients"]} == {"h", "c"}
    assert main(["diagnose", str(tmp_path / "run"), "nowhere.txt"]) == 2
    assert main(["diagnose", str(tmp_path / "run"), "--sequences", "0"]) == 2
    assert main(["diagnose", str(tmp_path / "run"), "--labels", "nowhere.txt"]) == 2
    assert "labels belong to a file" in capsys.readouterr().err


def test_without_a_training_there_are_still_numbers() -> None:
    found = diagnose(LanguageModel(TEXT.vocabulary, hidden=8), TEXT.epoch("train", 0, batch=3, length=40)[0])
    assert found.facts == TrainingFacts()
    assert all(finding.is_note for finding in found.findings)
    assert "gate z" in str(found)


def test_a_cell_without_gates_leaves_no_gap() -> None:
    torch.manual_seed(0)
    model = LanguageModel(TEXT.vocabulary, cell=Leaky, hidden=8, layers=1)
    found = diagnose(model, TEXT.epoch("train", 0, batch=3, length=40)[0])
    assert found.gates == (), "its sigmoid is of a parameter alone"
    assert "memory halves in" in str(found)
    assert "\n\n\n" not in str(found)
    assert str(found) == str(found).strip()


def test_the_state_that_reaches_furthest_bounds_what_is_learned() -> None:
    short = GradientThroughTime("first", "h", torch.tensor([1.0, 0.2, 0.01, 0.01]), 0.2, 2)
    long = GradientThroughTime("first", "c", torch.tensor([1.0, 0.9, 0.8, 0.7]), 0.9, None)
    assert "learned" not in str(short)
    assert learned_reach([]) == ""
    assert learned_reach([short]).startswith("Nothing older than about 2 steps is learned (by state h of first)")
    assert (
        learned_reach([short, long]) == "What is learned reaches over the whole window of 4 steps, by state c of first."
    )


@pytest.mark.parametrize(("end", "falls"), [(4.0, False), (3.95, False), (3.0, True)])
def test_whether_a_loss_still_falls(end: float, falls: bool) -> None:
    losses = tuple(enumerate([4.0] * 6 + [end] * 2))
    assert TrainingFacts(losses=losses).is_falling is falls
    assert not TrainingFacts(losses=losses[:3]).is_falling
