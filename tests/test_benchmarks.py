"""What the benchmarks draw is the same in every run, and what they add up is the whole."""

from __future__ import annotations

import dataclasses
import random
import statistics
from typing import Any

import pytest
import torch

from benchmarks import (
    ablation,
    attention,
    chorales,
    chunked,
    faults,
    head,
    inner_steps,
    linear,
    parts,
    precision,
    train_classifier,
    train_language_model,
    train_tagger,
    train_translator,
    training,
    versions,
)
from benchmarks import cells as benchmarks_of_cells
from benchmarks.options import spread
from everloop import cells
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent


def test_lengths_are_spread_evenly_and_mixed() -> None:
    lengths = spread(5, 50)
    assert sorted(lengths.tolist()) == [10, 20, 30, 40, 50]
    assert lengths.tolist() != sorted(lengths.tolist())
    assert spread(64, 90).equal(spread(64, 90))
    assert spread(1, 50).tolist() == [30]


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_parts_of_a_call_are_the_whole(mode: str) -> None:
    found = parts.measure("lstm", (2, 5, 8), mode, 0.01, 100.0)
    assert found["forward loop"] > 0
    assert (found["gradient loop"] > 0) == (mode == "training")
    whole = sum(found[part] for part in (*parts.PARTS, "rest"))
    assert found["total"] == pytest.approx(whole)
    passes = 3 if mode == "training" else 1
    assert found["arithmetic"] == pytest.approx(1e-9 * 2 * passes * 5 * 2 * (4 * 8 * 16) / 100 * 1e3)
    assert found["torch.nn / arithmetic"] == pytest.approx(found["torch.nn"] / found["arithmetic"])


def test_a_version_is_compared_with_itself() -> None:
    ours, other = (versions.Version(versions.HERE, threads=1) for _ in range(2))
    ((name, theirs, mine, *ratios),) = versions.compare(
        ours, other, rounds=2, min_seconds=0.001, only="stacked, training, gru"
    )
    for version in (ours, other):
        version.close()
    assert name == "stacked, training, gru 8, 50, 64"
    assert all(isinstance(value, float) and value > 0 for value in (theirs, mine, *ratios))


@pytest.mark.parametrize("name", chunked.CHUNKED)
def test_the_chunked_form_is_the_cell(name: str) -> None:
    cell = benchmarks_of_cells.cell_of(name, 8).double()
    x = torch.randn(12, 3, 8, dtype=torch.float64)
    expected = Recurrent(cell)(x)[0]
    for chunk in (1, 4, 12):
        (found,) = chunked.Chunked(name, cell, chunk)(x)
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_a_cell_is_compared_with_the_eager_loop_and_its_chunked_form() -> None:
    for chunk in (0, 4):
        found = benchmarks_of_cells.measure("mamba-2", (2, 8, 8), "training", 1, "minimum", chunk)
        assert all(value > 0 for value in found.values())
        assert ("a" in found) == (not chunk)


def test_a_cell_of_several_outputs_is_timed_in_training() -> None:
    layer = Recurrent(benchmarks_of_cells.cell_of("attention-gru", 8))
    y, _ = benchmarks_of_cells.Told(layer, torch.randn(3, 2, 8))(torch.randn(3, 2, 8))
    assert y.shape == (3, 2, sum(layer.cell.output_sizes.values()))


def test_every_cell_has_its_sizes() -> None:
    for name in cells.names():
        assert benchmarks_of_cells.cell_of(name, 16).hidden_size == 16


@pytest.mark.parametrize("form", head.FORMS)
def test_the_heads_that_are_compared_compute_the_same(form: str) -> None:
    x, layer, target = head.given(6, 4, 5, form)
    losses = [head.in_form(loss, form)(x, layer, target) for loss in head.PEERS.values()]
    logits = torch.nn.functional.linear(*(t.double() for t in (x, layer.weight, layer.bias)))
    exact = torch.nn.functional.cross_entropy(logits, target)
    for loss in losses:
        assert loss.dtype == (torch.bfloat16 if form == "bfloat16" else torch.float32)
        near = 1e-6 if form == "float32" else 2**-7
        torch.testing.assert_close(loss.double(), exact, rtol=near, atol=0)
    found = head.measure((6, 4, 5), "training", 100.0, 1, "minimum", form)
    assert found["arithmetic"] == pytest.approx(2e-6 * 3 * 6 * 4 * 5 / 100)
    assert all(value > 0 for value in found.values())


@pytest.mark.parametrize("low", [None, torch.bfloat16])
def test_models_of_both_sides_are_the_same(low: torch.dtype | None) -> None:
    x, y = torch.randint(5, (2, 7, 3))
    ours, theirs = (train_language_model.Symbols(is_ours, "LSTM", 6, 5) for is_ours in (True, False))
    theirs.load_state_dict(ours.state_dict(), strict=False)  # embedding and head
    for a, b in zip("WRbd", ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), strict=True):
        getattr(theirs.recurrent, b).data.copy_(getattr(ours.recurrent.cell, a, torch.zeros(())))
    torch.testing.assert_close(ours(x, y), theirs(x, y))
    spent: dict[str, list[float]] = {}
    before = ours.head.weight.detach().clone()
    train_language_model.training_step(ours, x, y, low, spent)()
    assert list(spent) == list(train_language_model.PARTS)
    assert not torch.equal(ours.head.weight, before)


@pytest.mark.parametrize("mode", linear.MODES)
def test_linear_layers_are_measured(mode: str) -> None:
    assert {*linear.measure(3, 4, 5, mode, 1, "minimum")} == {"everloop", "PyTorch"}


@pytest.mark.parametrize("is_stepped", [False, True])
def test_attention_as_one_cell_is_that_of_the_translator(is_stepped: bool) -> None:
    memory, x = torch.randn(3, 5, 4), torch.randn(6, 3, 4)
    loop, one = attention.Loop(4, memory), attention.One(4, memory, is_stepped)
    cell, scoring, ours = loop.cell, loop.attention, one.layer.cell
    with torch.no_grad():
        scoring.key.bias.zero_()
        same = {"W": cell.W[:, :4], "C": cell.W[:, 4:], "b": cell.b, "R": cell.R, "R_n": cell.R_n}
        same |= {"W_a": scoring.query.weight, "U_a": scoring.key.weight, "v": scoring.v}
        for name, value in same.items():
            ours.get_parameter(name).copy_(value)
            if name in ("W", "C", "b", "R"):
                ours.get_parameter(name)[4:8] *= -1  # one keeps by z what the other takes
        torch.testing.assert_close(one(x)[0], loop(x)[0])


class _Exponential(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        y = super().forward(x).exp()
        return y * y, None


def test_a_loop_inside_a_step_is_measured_as_it_is_written() -> None:
    cell, x, h = inner_steps.Euler(3, 5, turns=2), torch.randn(2, 3), torch.randn(2, 5)
    once = h + 0.1 * torch.tanh(x @ cell.W.T + h @ cell.R.T + cell.b)
    torch.testing.assert_close(cell.step(x, h), once + 0.1 * torch.tanh(x @ cell.W.T + once @ cell.R.T + cell.b))
    assert all(milliseconds > 0 for kind in inner_steps.KINDS for milliseconds in inner_steps.calls(9, kind))


def test_a_loop_written_out_is_the_same_step_and_is_not_counted() -> None:
    torch.manual_seed(0)
    cell, out = inner_steps.Euler(3, 5, turns=9), inner_steps.written_out(3, 5, turns=9)
    out.load_state_dict(cell.state_dict())
    x, h = torch.randn(2, 3), torch.randn(2, 5)
    torch.testing.assert_close(out.step(x, h), cell.step(x, h))
    assert [Recurrent(each).explain().count("9 turns") > 0 for each in (cell, out)] == [True, False]


def test_faults_of_a_translators_step() -> None:
    pages, milliseconds, system = faults.spent(faults.training_step(words=20, pairs=3, length=4, hidden=6, size=5), 1)
    assert pages >= 0
    assert milliseconds > 0
    assert system >= 0


def test_saved_memory_is_counted_once() -> None:
    layer, x = _Exponential(3, 4), torch.randn(5, 3)  # x is the caller's; exp keeps what the product keeps twice
    assert precision.saved_bytes(layer, x) == 5 * 4 * 4


def test_counts_of_pieces() -> None:
    piece, other = torch.zeros(3, 88), torch.zeros(1, 88)
    for step, keys in enumerate([(40, 41, 50, 60), (40, 50), (41, 50, 52)]):
        piece[step, list(keys)] = 1
    counts = chorales.Counts.of([piece, other])
    assert counts == chorales.Counts(keys=9 / 4, four=1 / 4, clash=1 / 4, on=3 / 5)
    assert str(counts) == "2.25 keys, four in 25%, neighbours in 25.0%, 60% go on"


SMALL: dict[Any, dict[str, Any]] = {
    train_classifier: {"words": 30, "hidden": 5, "embedding": 6},
    train_tagger: {"words": 30, "hidden": 5, "embedding": 6, "char_embedding": 4, "char_hidden": 3},
    train_translator: {"pieces": (20, 30), "hidden": 6, "embedding": 5},
}


@pytest.mark.parametrize("script", SMALL, ids=lambda script: script.__name__.split("_")[-1])
def test_the_parts_of_a_training_are_the_whole(script: Any) -> None:
    peers = script.peers(count=60, **SMALL[script])
    config = peers.config.replace({"batch": 7, "steps": 3, "warmup": 0})
    found = training.compare(dataclasses.replace(peers, config=config), 1, "minimum")
    for clock in found.values():
        assert all(spent > 0 for spent in clock.parts.values())
        assert sum(clock.parts.values()) == pytest.approx(clock.whole)
    sizes = [sum(p.numel() for p in model.parameters() if p.ndim > 1) for model in (peers.ours, peers.plain)]
    assert sizes[0] == sizes[1]


def test_lengths_that_are_drawn_have_their_deciles() -> None:
    lengths = training.drawn(4_000, (1, 5, 5, 30), random.Random(0))
    assert min(lengths) == 1
    assert max(lengths) == 30
    assert statistics.quantiles(lengths, n=3) == pytest.approx([5, 5], abs=1)


def test_a_row_of_the_ablation_has_means_and_spreads_over_the_seeds() -> None:
    whole = [[30.0, 31.0, 40.0, 20.0], [32.0, 31.0, 44.0, 22.0]]
    without = [[31.0, 31.0, 43.0, 20.0], [31.0, 33.0, 45.0, 26.0]]
    expected = ["part", "31.0 ± 0.0", "32.0 ± 1.4", "44.0 ± 1.4", "23.0 ± 4.2", "+2.0 ± 1.4"]
    assert ablation.row("part", without, whole) == expected
