"""What gates do and what outputs depend on: against a cell written by hand, and autograd on the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data import Conditions, Examples, ExamplesConfig, Part, Text
from everloop.data.datasets.tagged import TaggedBatch
from everloop.diagnose import activities, connectivity
from everloop.diagnose.activity import connectivity_of
from everloop.diagnose.gradients import record
from everloop.models import (
    Classifier,
    ClassifierConfig,
    EncoderDecoder,
    Generator,
    GeneratorConfig,
    LanguageModel,
    Tagger,
)
from tests.models.small_pairs import backwards

TEXT = Text.from_string("The quick brown fox jumps over the lazy dog.\n" * 20)


def small(cell: str = "lstm", layers: int = 1) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(TEXT.vocabulary, cell=cell, hidden=7, layers=layers, embedding=5)


def test_gates_and_states_are_those_of_the_equations() -> None:
    model = small()
    batch = TEXT.epoch("train", 0, batch=3, length=9)[0]
    found = {a.name: a for a in activities(model, batch, row=2)}
    assert set(found) == {"i", "f", "o", "h", "c"}
    assert {name for name, a in found.items() if a.is_gate} == {"i", "f", "o"}
    cell: Any = model.recurrent.cell
    h = c = torch.zeros(7)
    for t, x in enumerate(model.embedding(batch.x[:, 2])):
        i, f, g, o = (cell.W @ x + cell.R @ h + cell.b).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        for name, wanted in {"i": i.sigmoid(), "f": f.sigmoid(), "o": o.sigmoid(), "h": h, "c": c}.items():
            torch.testing.assert_close(found[name].values[t], wanted.detach(), atol=1e-5, rtol=1e-5)
    assert model.symbols_read(batch, 2) == {"recurrent": [TEXT.vocabulary.symbols[i] for i in batch.x[:, 2].tolist()]}


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("gru", 2)])
def test_connectivity_is_the_gradient_of_each_loss_by_each_input(cell: str, layers: int) -> None:
    model = small(cell, layers).eval()
    batch = TEXT.epoch("train", 0, batch=2, length=8)[0]
    (found,) = connectivity(model, batch, row=1)
    assert (found.lane, found.by_step) == ("recurrent", True)
    x = model.embedding(batch.x[:, 1:]).detach().requires_grad_()
    y, _ = model.recurrent(x)
    losses = torch.nn.functional.cross_entropy(model.head(y)[:, 0], batch.y[:, 1], reduction="none")
    wanted = [torch.autograd.grad(one, x, retain_graph=True)[0][:, 0].norm(dim=-1) for one in losses]
    shares = torch.stack([row / row.sum() for row in wanted])
    torch.testing.assert_close(found.shares, shares, atol=1e-5, rtol=1e-4)
    assert bool((found.values.triu(1) == 0).all()), "nothing depends on what is read later"
    older = sum(float(shares[t, : t - 3].sum()) for t in range(4, 8)) / 4
    assert found.older(3) == pytest.approx(older, abs=1e-5)
    (last,) = connectivity_of(model, record(model, batch), row=1, outputs=3)
    assert last.steps == (5, 6, 7)
    torch.testing.assert_close(last.values, found.values[5:])
    assert last.older(5) == pytest.approx(sum(float(shares[t, : t - 5].sum()) for t in (6, 7)) / 2, abs=1e-5)


def test_an_answer_depends_on_inputs_as_autograd_says() -> None:
    texts = ["a good film", "bad", "good good"]
    part = Part(texts.__getitem__, ["x", "y", "x"], True, "made")
    data = Examples({"train": part}, ExamplesConfig(units="words", hold_out=(0, 0)))
    torch.manual_seed(0)
    model = Classifier.of(data, ClassifierConfig(hidden=6, pooling="attention"))
    batch = data.collate([data["train"][i] for i in range(3)])
    (found,) = connectivity(model, batch)
    assert found.values.shape == (1, 3)
    model.eval()
    embedded: list[Tensor] = []
    hook = model.embedding.register_forward_hook(lambda m, a, y: embedded.append(y))
    loss = model.loss(batch).mean
    hook.remove()
    (grad,) = torch.autograd.grad(loss, embedded[0])
    wanted = grad[:3, 0].norm(dim=-1)
    torch.testing.assert_close(found.shares[0], wanted / wanted.sum(), atol=1e-5, rtol=1e-4)
    assert "the answer depends most on input" in str(found)
    assert model.symbols_read(batch, 2)["recurrent"] == ["good", "good"]
    weights = model.weights(batch.x, batch.lengths)
    torch.testing.assert_close(weights.sum(0), torch.ones(3))
    assert float(weights[2, 2]) == 0


def test_both_sides_of_a_translator() -> None:
    data = backwards(60)
    model = EncoderDecoder(data.source, data.target, hidden=8, embedding=6, context="initial")
    batch = data.epoch("train", 0, batch=1)[0]
    found = {c.lane: c for c in connectivity(model, batch)}
    read = model.symbols_read(batch)
    assert {c.lane: c.by_step for c in found.values()} == {"encoder": False, "decoder": True}
    assert found["encoder"].values.shape == (1, len(read["encoder"]))
    assert float(found["encoder"].values.min()) > 0, "what is written depends on the source by way of its last state"
    assert found["decoder"].values.shape == (len(read["decoder"]),) * 2
    assert read["decoder"][0] == "<begin>"


def test_a_generator_reads_its_own_symbols() -> None:
    data = Conditions([("a", "xy"), ("b", "yyx")])
    model = Generator.from_config(data.labels, data.vocabulary, GeneratorConfig(hidden=4))
    batch = data.collate([data["train"][1]])
    assert model.symbols_read(batch) == {"recurrent": ["", "y", "y", "x"]}
    (found,) = connectivity(model, batch)
    assert str(found) == "recurrent: 4 outputs, which depend on 4 inputs"


def test_layers_in_both_directions_and_numbers() -> None:
    torch.manual_seed(0)
    model = Tagger(3, ["a", "b"], cell="gru", hidden=4, layers=2)
    lengths = torch.tensor([5, 3])
    batch = TaggedBatch(torch.randn(5, 2, 3), lengths, torch.zeros(5, 2, dtype=torch.int64))
    found = activities(model, batch, row=1)
    assert {a.layer for a in found} >= {"recurrent, layer 1, ahead", "recurrent, layer 2, back"}
    assert {len(a.values) for a in found} == {3}
    (one,) = connectivity(model, batch, row=1)
    assert one.values.shape == (3, 3)
    assert float(one.values.min()) > 0, "each label depends on what comes before and after"
    assert model.symbols_read(batch) == {}
    assert activities(model, batch, row=2) == []
