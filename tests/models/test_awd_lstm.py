"""What a word model in AWD-LSTM's form is made of: its sizes, and each of its dropouts, against the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop import VariationalDropout, WeightDrop
from everloop.data import Vocabulary, Window
from everloop.errors import OptionError
from everloop.models import LanguageModel

WORDS = Vocabulary("\n abcdefgh")
SHAPE: dict[str, Any] = {"cell": "lstm", "hidden": 7, "layers": 3, "embedding": 4, "last_hidden": 4, "tied": True}
AWD: dict[str, Any] = SHAPE | {
    "dropout": 0.3, "input_dropout": 0.4, "output_dropout": 0.5, "embedding_dropout": 0.1, "locked": True,
    "weight_drop": 0.5, "activation_regularization": 2.0, "temporal_regularization": 1.0,
}  # fmt: skip


def window(steps: int = 6, batch: int = 3) -> Window:
    numbers = torch.randint(len(WORDS), (steps + 1, batch), generator=torch.Generator().manual_seed(0))
    return Window(numbers[:-1], numbers[1:])


def reading(model: LanguageModel, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what modules of a model get in one training call, by name."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, given, result, name=name: seen.update({f"{name} in": given[0], f"{name} out": result})
        )
        for name in names
    ]
    model.loss(window())
    for hook in hooks:
        hook.remove()
    return seen


def test_sizes_are_those_of_the_paper() -> None:
    model = LanguageModel(WORDS, **SHAPE)
    sizes = [(cell.input_size, cell.output_size) for cell in model.recurrent.cell.members]
    assert sizes == [(4, 7), (7, 7), (7, 4)]
    assert model.head.weight is model.embedding.weight
    alone = LanguageModel(WORDS, cell="lstm", hidden=7, layers=1, last_hidden=4, tied=True)
    assert (alone.recurrent.output_size, alone.embedding.embedding_dim) == (4, 4)
    cells = LanguageModel(WORDS, **AWD).recurrent.cell.members
    rates = [[round(m.inputs, 9) for m in cell.modules() if isinstance(m, VariationalDropout)] for cell in cells]
    assert rates == [[], [0.3], [0.3]]
    assert [[m.rate for m in cell.modules() if isinstance(m, WeightDrop)] for cell in cells] == [[0.5]] * 3


@pytest.mark.parametrize("locked", [True, False])
def test_dropout_of_inputs_and_outputs(locked: bool) -> None:
    torch.manual_seed(1)
    rates: dict[str, Any] = {"input_dropout": 0.4, "output_dropout": 0.2}
    model = LanguageModel(WORDS, cell="gru", hidden=40, embedding=50, locked=locked, **rates)
    seen = reading(model, ("input_dropout", "output_dropout"))
    for name, rate in rates.items():
        gone = seen[f"{name} out"] == 0
        torch.testing.assert_close(seen[f"{name} out"], torch.where(gone, 0.0, seen[f"{name} in"] / (1 - rate)))
        assert (gone == gone[:1]).all() == locked
        assert float(gone.double().mean()) == pytest.approx(rate, abs=0.15)
        assert not (gone[:, :1] == gone).all()  # each stream has a mask of its own


def test_dropout_of_symbols_drops_them_wherever_they_are() -> None:
    torch.manual_seed(0)
    model = LanguageModel(WORDS, cell="gru", hidden=5, embedding=6, embedding_dropout=0.5)
    seen = reading(model, ("embedding", "input_dropout"))
    read, given = seen["input_dropout in"], seen["embedding out"]
    kept = {int(number): set[bool]() for number in window().x.flatten()}
    for number, before, after in zip(window().x.flatten(), given.flatten(0, 1), read.flatten(0, 1), strict=True):
        kept[int(number)].add(bool(after.any()))
        assert torch.equal(after, before * 2) or not after.any()
    assert all(len(ways) == 1 for ways in kept.values())
    assert {True, False} == set.union(*kept.values())


@pytest.mark.parametrize("settings", [AWD, AWD | {"locked": False}, AWD | {"layers": 1}, AWD | {"layers": 2}])
def test_evaluation_has_no_noise_and_is_what_steps_say(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = LanguageModel(WORDS, **settings).double().eval()
    batch, state, nats = window(), None, 0.0
    for x, y in zip(batch.x, batch.y, strict=True):
        logits, state = model.step(x, state)
        nats += float(F.cross_entropy(logits, y, reduction="sum").detach())
    assert float(model.loss(batch).total.detach()) == pytest.approx(nats, rel=1e-9)
    assert model.loss(batch).penalty is None
    model.train()
    losses = {float(model.loss(batch).mean.detach()) for _ in range(3)}
    assert len(losses) == 3


def test_all_of_it_has_gradients_and_is_compiled() -> None:
    model = LanguageModel(WORDS, **AWD)
    loss: Callable[[], None] = model.loss(window()).mean.backward
    loss()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert "llvm" in str(model.recurrent.explain())


def test_a_recipe_reads_back_as_the_same_model() -> None:
    model = LanguageModel(WORDS, **AWD)
    again = LanguageModel.from_config(WORDS, model.config)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"last_hidden": 0}, "last_hidden is 0; expected at least 1"),
        ({"last_hidden": 5, "embedding": 4, "tied": True}, "embedding is 4; tied weights expect 5"),
        ({"input_dropout": 1.0}, "input_dropout is 1.0; expected a fraction below 1"),
        ({"output_dropout": -0.1}, "output_dropout is -0.1"),
        ({"embedding_dropout": 1.5}, "embedding_dropout is 1.5"),
    ],
)
def test_what_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LanguageModel(WORDS, hidden=6, **settings)
