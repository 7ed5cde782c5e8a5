"""The encoder-decoder: what it computes, that it learns, that it comes back from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from everloop import cells
from everloop.data.datasets.parallel import Parallel
from everloop.decode.generate import generate
from everloop.errors import OptionError
from everloop.models import load
from everloop.models.encoder_decoder import EncoderDecoder
from everloop.models.teacher_forcing import mix, teacher_forcing_ratio
from everloop.train import train
from tests.models.small_pairs import backwards

SHAPES: list[dict[str, Any]] = [
    {"context": "initial"},
    {"context": "every-step", "layers": 2},
    {"context": "attention", "cell": "lstm", "layers": 2},
    {"context": "attention", "scoring": "additive", "bidirectional": False, "tied": False},
    {"context": "attention", "scoring": "additive", "input_feeding": True, "cell": "lstm"},
    {"context": "attention", "input_feeding": True, "layers": 2},
]
NAMES = ["-".join(map(str, shape.values())) for shape in SHAPES]


def small(data: Parallel, **settings: Any) -> EncoderDecoder:
    plain = {"hidden": 8, "embedding": 6, "dropout": 0.0, "label_smoothing": 0.0}
    return EncoderDecoder(data.source, data.target, **{**plain, **settings})


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
@torch.no_grad()
def test_steps_equal_the_whole_target(shape: dict[str, Any]) -> None:
    data = backwards(60)
    model = small(data, **shape).double().eval()
    batch = data.collate(data["train"][:4])
    logits, weights = model(batch.source, batch.source_lengths, batch.inputs)
    state = model.encode(batch.source, batch.source_lengths)
    for t, symbols in enumerate(batch.inputs):
        stepped, state = model.step(symbols, state)
        torch.testing.assert_close(stepped, logits[t], rtol=1e-10, atol=1e-12)
    assert (weights is None) == (shape["context"] != "attention")
    if weights is not None:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
@torch.no_grad()
def test_padding_changes_nothing(shape: dict[str, Any]) -> None:
    data = backwards(60)
    model = small(data, **shape).double().eval()
    pairs = sorted(data["train"], key=lambda pair: len(pair[0]))
    chosen = [pairs[0], pairs[-1], pairs[len(pairs) // 2]]
    assert len({len(a) for a, _ in chosen}) == 3
    together = model.loss(data.collate(chosen))
    alone = [model.loss(data.collate([pair])) for pair in chosen]
    assert together.count == sum(loss.count for loss in alone)
    torch.testing.assert_close(together.total, torch.stack([loss.total for loss in alone]).sum(), rtol=1e-10, atol=0)


@torch.no_grad()
def test_loss_is_the_surprise_of_each_piece_and_the_end() -> None:
    data = backwards(60)
    model = small(data).double().eval()
    source, target = data["train"][3]
    batch = data.collate([(source, target)])
    logits, _ = model(batch.source, batch.source_lengths, batch.inputs)
    expected = F.cross_entropy(logits[:, 0], torch.tensor([*target, model.stop]), reduction="sum")
    assert float(model.loss(batch).total) == pytest.approx(float(expected), rel=1e-12)
    assert float(model.train().loss(batch).total) == pytest.approx(float(expected), rel=1e-12)
    smoothed = small(data, label_smoothing=0.2).double()
    smoothed.load_state_dict(model.state_dict())
    assert float(smoothed.train().loss(batch).total) != pytest.approx(float(expected), rel=1e-3)


def test_the_context_matters_as_chosen() -> None:
    data = backwards(60)
    batch = data.collate(data["train"][:6])
    for context in ("initial", "every-step", "attention"):
        model = small(data, context=context).double()
        with torch.no_grad():
            for weight in model.bridge.parameters():
                weight.zero_()
        logits, _ = model(batch.source, batch.source_lengths, batch.inputs)
        # without the initial state only a context that is fed or attended to tells sources apart
        differ = bool((logits[0] - logits[0, :1]).detach().abs().max() > 1e-9)
        assert differ == (context != "initial"), context


@pytest.mark.parametrize(
    "shape",
    [{"scoring": "multiplicative"}, {"scoring": "additive", "input_feeding": True}],
    ids=["multiplicative", "additive"],
)
def test_attention_learns_to_read_backwards(shape: dict[str, Any]) -> None:
    data = backwards()
    model = small(data, hidden=32, embedding=16, **shape)
    run = train(model, data, steps=300, batch=32, lr=1e-2, warmup=20, validate=100)
    assert run.best is not None
    assert run.best.means["accuracy"] > 0.97
    sources = [source for source, _ in data.sentences["valid"]]
    right = [
        h[0].text == wanted for h, (_, wanted) in zip(generate(model, sources), data.sentences["valid"], strict=True)
    ]
    assert sum(right) / len(right) > 0.85
    weights = model.weights("a b c d e f", "f e d c b a")
    assert weights.shape == (7, 7)
    if not model.config.input_feeding:
        # the first piece written is the last one read, before the end
        assert int(weights[0].argmax()) in (5, 6)
        assert int(weights[4].argmax()) < int(weights[1].argmax())


def test_forcing_falls_linearly_and_stays() -> None:
    assert [teacher_forcing_ratio(n, 0.5, 100) for n in (0, 50, 100, 500)] == [1.0, 0.75, 0.5, 0.5]
    assert teacher_forcing_ratio(0, 0.3, 0) == pytest.approx(0.3)


def test_mixed_inputs_keep_the_begin_and_take_guesses_one_step_later() -> None:
    inputs, guesses = torch.arange(12).view(4, 3), torch.arange(100, 112).view(4, 3)
    assert mix(inputs, guesses, 1.0).equal(inputs)
    assert mix(inputs, guesses, 0.0).equal(torch.cat([inputs[:1], guesses[:-1]]))
    many = mix(torch.zeros(3001, 10), torch.ones(3001, 10), 0.7)
    assert float(many[1:].mean()) == pytest.approx(0.3, abs=0.02)


def test_the_schedule_of_forcing_changes_training() -> None:
    data = backwards(60)
    batch = data.collate(data["train"][:8])
    model = small(data, teacher_forcing=0.0, teacher_forcing_steps=2).train()
    losses = [float(model.loss(batch).total.detach()) for _ in range(3)]
    assert int(model.updates) == 3
    assert len(set(losses)) == 3
    model.eval()
    with torch.no_grad():
        assert float(model.loss(batch).total) == pytest.approx(losses[0], rel=1e-5)
    assert int(model.updates) == 3


def test_a_run_folder_gives_the_model_back(tmp_path: Path) -> None:
    data = backwards(60)
    model = small(data, cell=cells.LSTM, layers=2, scoring="additive")
    train(model, data, steps=4, batch=8, validate=2, out=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.config == model.config
    assert again.source == data.source
    batch = data.collate(data["valid"][:8])
    with torch.no_grad():
        assert float(again.loss(batch).total) == float(model.loss(batch).total)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contxt": "initial"}, "did you mean 'context'"),
        ({"context": "atention"}, "did you mean 'attention'"),
        ({"context": "initial", "input_feeding": True}, "input_feeding needs context"),
        ({"hidden": 7}, "even"),
        ({"dropout": 1.0}, "fraction below 1"),
        ({"teacher_forcing": 1.5}, "expected a fraction"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        small(backwards(12), **settings)


def test_only_attention_has_weights() -> None:
    with pytest.raises(OptionError, match="only a model with attention"):
        small(backwards(12), context="initial").weights("a", "a")
