"""Tagger, classifier and forecaster: that they learn, what they refuse, that they come back from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.compiler.embedded import rows_of
from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.series import Series
from everloop.data.datasets.series_config import SeriesConfig
from everloop.data.datasets.tagged import Tagged, TaggedConfig
from everloop.data.tokenize.symbols import UNKNOWN
from everloop.errors import EverloopError, OptionError, ShapeError
from everloop.models import load
from everloop.models.body import word_dropout
from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.models.forecaster import Forecaster, ForecasterConfig, baselines
from everloop.models.tagger import Tagger, TaggerConfig
from everloop.train import TrainConfig, evaluate, train

FAST = TrainConfig(steps=60, batch=16, lr=2e-2, warmup=5, validate=30, log_every=20, weight_decay=0.0)


def sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Return sentences in which words in -ly are adverbs, whatever they are, and "to" depends on what follows it."""
    chance = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(int(torch.randint(1, 6, (), generator=chance))):
            kind, name = torch.randint(0, 1000, (2,), generator=chance).tolist()
            pairs = [[(f"w{name}ly", "ADV")], [("to", "PART"), ("go", "VERB")], [("to", "ADP"), ("town", "NOUN")]][
                kind % 3
            ]
            words += [word for word, _ in pairs]
            tags += [tag for _, tag in pairs]
        made.append((words, tags))
    return made


@pytest.fixture(scope="module")
def tagged() -> Tagged:
    return Tagged({"train": sentences(300, 1), "valid": sentences(60, 2)}, TaggedConfig(min_freq=2))


@pytest.mark.parametrize("output", ["softmax", "crf"])
def test_a_tagger_learns_endings_and_context(tagged: Tagged, output: Any, tmp_path: Path) -> None:
    model = Tagger.of(tagged, TaggerConfig(output=output, hidden=12, embedding=8, char_embedding=8, char_hidden=8))
    train(model, tagged, FAST, out=tmp_path / "run")
    score = evaluate(model, tagged)
    assert score.means["accuracy"] > 0.98
    assert score.means["unknown"] > 0.95
    assert model.tag([["to", "town", "w5555ly"], ["to", "go"]]) == [["ADP", "NOUN", "ADV"], ["PART", "VERB"]]
    assert model.tag([]) == []
    again = load(tmp_path / "run")
    assert evaluate(again, tagged) == score


def test_without_characters_endings_are_lost(tagged: Tagged) -> None:
    model = Tagger.of(tagged, TaggerConfig(hidden=8, embedding=8, char_embedding=0))
    words, _ = tagged.tokenizer.batch([["w1lx", "w2lx"]])  # type: ignore[union-attr]
    rows = rows_of(model.eval()._read(words))
    torch.testing.assert_close(rows[0], rows[1])


def test_a_batch_is_its_sentences(tagged: Tagged) -> None:
    for output in ("softmax", "crf"):
        model = Tagger.of(
            tagged, TaggerConfig(output=output, hidden=5, embedding=4, char_embedding=3, char_hidden=3)
        ).double()
        model.eval()
        (batch,) = tagged.epoch("valid", 0, batch=1000)[:1]
        alone = sum(float(model.loss(one).total.detach()) for one in tagged.epoch("valid", 0, batch=1))
        groups = tagged.epoch("valid", 0, batch=7)
        assert sum(float(model.loss(b).total.detach()) for b in groups) == pytest.approx(alone, rel=1e-12)
        assert batch.first


def test_several_labels_a_step() -> None:
    def rolls(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
        x = (torch.rand(count, 8, 4, generator=torch.Generator().manual_seed(seed)) > 0.5).float()
        # a label holds where the step has both neighbours on
        return [(row, row * row.roll(1, 1)) for row in x]

    data = Tagged({"train": rolls(200, 1), "valid": rolls(40, 2)})
    model = Tagger.of(data, TaggerConfig(output="several", hidden=16, bidirectional=False))
    train(model, data, FAST, steps=400)
    assert evaluate(model, data).loss < 0.2
    (sure,) = model.probabilities([torch.tensor([[1.0, 1, 0, 1], [0, 0, 0, 0]])])
    assert (sure > 0.5).tolist() == [[True, True, False, False], [False] * 4]
    with pytest.raises(OptionError, match="ask for probabilities"):
        model.tag([torch.zeros(2, 4)])
    with pytest.raises(OptionError, match="the data has several labels a step"):
        Tagger.of(data, TaggerConfig(output="crf"))


def test_frames_with_one_label() -> None:
    frames = [torch.randn(n, 3) for n in (5, 2, 7)] * 5
    data = Tagged({"train": [(x, (x[:, 0] > x[:, 1]).long()) for x in frames], "valid": []})
    model = Tagger.of(data, TaggerConfig(hidden=4, output="crf"))
    assert model.labels.symbols == ("0", "1")
    assert [len(tags) for tags in model.tag(frames[:3])] == [5, 2, 7]


def texts(count: int, seed: int) -> Part:
    """Return texts of the letters a to e whose label is which of x and y came first."""
    chance = torch.Generator().manual_seed(seed)
    made, labels = [], []
    for _ in range(count):
        letters = [*"".join("abcde"[i] for i in torch.randint(5, (8,), generator=chance).tolist())]
        first, second = sorted(torch.randperm(8, generator=chance)[:2].tolist())
        label = "xy"[int(torch.randint(2, (), generator=chance))]
        letters[first], letters[second] = label, "y" if label == "x" else "x"
        made.append("".join(letters))
        labels.append(label)
    return Part(made.__getitem__, labels, True, f"{count} {seed}")


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_a_classifier_learns_what_came_first(pooling: Any, tmp_path: Path) -> None:
    config = ExamplesConfig(units="characters")
    data = Examples({"train": texts(300, 1), "valid": texts(100, 2)}, config)
    model = Classifier.of(data, ClassifierConfig(hidden=16, embedding=8, pooling=pooling))
    train(model, data, FAST, steps=120, out=tmp_path / "run")
    score = evaluate(model, data)
    assert score.means["accuracy"] > 0.95
    sure, best = model.classify(["axbby", "abcyax"]).max(1)
    assert [model.labels.symbols[i] for i in best.tolist()] == ["x", "y"]
    again = load(tmp_path / "run")
    assert evaluate(again, data) == score
    assert float(again.classify(["axbby"]).max()) == pytest.approx(float(sure[0]), abs=1e-5)


def test_a_classifier_of_series_scales_them() -> None:
    def waves(count: int, seed: int) -> Part:
        chance = torch.Generator().manual_seed(seed)
        speeds = torch.randint(2, (count,), generator=chance).tolist()
        steps = torch.arange(12.0)
        starts = torch.rand(count, generator=chance) * 6
        # large numbers on a large level: without scaling nothing is learned
        rows = [
            torch.stack([1e4 + 1e3 * torch.sin(a + (1 + s) * steps[: 8 + i % 5]), torch.zeros(8 + i % 5)], 1)
            for i, (a, s) in enumerate(zip(starts, speeds, strict=True))
        ]
        return Part(rows.__getitem__, [("slow", "fast")[s] for s in speeds], False, f"{seed}")

    data = Examples({"train": waves(200, 1), "valid": waves(60, 2)})
    model = Classifier.of(data, ClassifierConfig(hidden=12))
    assert float(model.mean[0]) == pytest.approx(1e4, rel=0.02)
    assert torch.isfinite(model.scale).all()
    train(model, data, FAST)
    assert evaluate(model, data).means["accuracy"] > 0.95
    with pytest.raises(ShapeError, match=r"x is \[5, 1, 3\]; expected \[T, B, 2\]"):
        model(torch.zeros(5, 1, 3), torch.tensor([5]))


def test_word_dropout_leaves_padding_and_evaluation_alone() -> None:
    numbers = torch.randint(2, 50, (100, 50))
    numbers[90:] = 0
    gone = word_dropout(numbers, 0.3, UNKNOWN)
    assert set(gone[90:].flatten().tolist()) == {0}
    changed = gone[:90] != numbers[:90]
    assert set(gone[:90][changed].tolist()) == {UNKNOWN}
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.03)
    model = Classifier(5, ["a", "b"], hidden=4, dropout=0.5, word_dropout=0.5).eval()
    x, lengths = torch.randn(6, 2, 5), torch.tensor([6, 3])
    assert model(x, lengths).equal(model(x, lengths))


@pytest.mark.parametrize("setting", ["dropout", "input_dropout", "recurrent_dropout"])
def test_dropouts_act_while_training(setting: Any) -> None:
    x, lengths = torch.randn(6, 2, 5), torch.tensor([6, 3])
    still, moving = (Classifier(5, ["a", "b"], "lstm", hidden=4, **{setting: rate}) for rate in (0.0, 0.5))
    assert still(x, lengths).equal(still(x, lengths))
    assert not moving(x, lengths).equal(moving(x, lengths))


def test_label_smoothing_acts_while_training_alone() -> None:
    data = Examples({"train": texts(50, 1)}, ExamplesConfig(units="characters"))
    model = Classifier.of(data, ClassifierConfig(hidden=4, label_smoothing=0.3)).double()
    batch = data.epoch("train", 0, batch=8)[0]
    scores = model(batch.x, batch.lengths)
    smooth = F.cross_entropy(scores, batch.y, reduction="sum", label_smoothing=0.3)
    torch.testing.assert_close(model.loss(batch).total, smooth)
    torch.testing.assert_close(model.eval().loss(batch).total, F.cross_entropy(scores, batch.y, reduction="sum"))


def sine(steps: int = 600) -> Tensor:
    t = torch.arange(float(steps))[:, None]
    return 50 + 10 * torch.sin(t * torch.tensor([[0.3, 0.41]]))


@pytest.mark.parametrize("output", ["point", "gaussian", "quantile"])
@pytest.mark.parametrize("together", [False, True])
def test_a_forecaster_beats_its_baselines_on_a_sine(output: Any, together: bool, tmp_path: Path) -> None:
    data = Series(sine(), config=SeriesConfig(split=(0.6, 0.2, 0.2)), context=24, horizon=6)
    config = ForecasterConfig(hidden=24, season=21, output=output, together=together)
    model = Forecaster.of(data, config)
    train(model, data, FAST, steps=600, lr=1e-2, batch=32, out=tmp_path / "run")
    means = evaluate(model, data, "test").means
    assert means["mse"] < 0.1 * means["mse_last"]
    assert means["mse"] < means["mse_seasonal"]
    batch = data.epoch("test", 0, batch=50)[0]
    said = load(tmp_path / "run").forecast(batch)
    assert float((said.point - batch.future).abs().mean()) < 3
    if output == "quantile":
        assert said.quantiles is not None
        inside = (said.quantiles[..., 0] <= batch.future) & (batch.future <= said.quantiles[..., 2])
        assert inside.float().mean() > 0.4
        assert (said.quantiles.diff(dim=-1) >= 0).all()
    if output == "gaussian":
        assert said.spread is not None
        assert said.spread.min() > 0


@pytest.mark.parametrize("around", ["zero", "last", "mean", "seasonal"])
def test_around(around: Any) -> None:
    data = Series(sine() + torch.arange(600.0)[:, None], context=24, horizon=6)
    model = Forecaster.of(data, ForecasterConfig(hidden=4, season=12, around=around))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    batch = data.epoch("test", 0, batch=5)[0]
    expected = {
        "zero": model.mean.expand_as(batch.future),
        "last": batch.past[-1:].expand_as(batch.future),
        "mean": batch.past.mean(0, keepdim=True).expand_as(batch.future),
        "seasonal": batch.past[-12:-6],
    }
    torch.testing.assert_close(model.forecast(batch).point, expected[around], rtol=1e-5, atol=1e-3)
    if around == "last":
        means = evaluate(model, data, "test").means
        assert means["mse"] == pytest.approx(means["mse_last"], rel=1e-5)


def test_both_directions_have_read_the_whole_window() -> None:
    data = Series(sine(), context=24, horizon=6)
    model = Forecaster.of(data, ForecasterConfig(hidden=4, bidirectional=True, around="zero"))
    batch = data.epoch("test", 0, batch=5)[0]
    with torch.no_grad():
        model.head.weight[:, :4] = 0  # only what reads backwards has a say
    past = batch.past.clone()
    past[0] += 20
    said = model(batch.past, batch.extra, batch.ahead)
    assert not torch.allclose(model(past, batch.extra, batch.ahead), said)


def test_baselines_by_hand() -> None:
    past = torch.arange(5.0)[:, None, None]
    assert baselines(past, 4, 3)["last"].flatten().tolist() == [4, 4, 4, 4]
    assert baselines(past, 4, 3)["seasonal"].flatten().tolist() == [2, 3, 4, 2]
    assert "seasonal" not in baselines(past, 4, 6)


def test_series_apart_share_weights_and_do_not_mix() -> None:
    data = Series(sine(), context=24, horizon=6)
    model = Forecaster.of(data, ForecasterConfig(hidden=8, patch=4)).double()
    batch = data.epoch("test", 0, batch=5)[0]
    past = batch.past.double()
    said = model(past, batch.extra.double(), batch.ahead.double())
    other = past.clone()
    other[:, :, 1] += torch.randn(24, 5)
    changed = model(other, batch.extra.double(), batch.ahead.double())
    torch.testing.assert_close(changed[:, :, 0], said[:, :, 0])
    assert not torch.allclose(changed[:, :, 1], said[:, :, 1])


def test_covariates_and_calendar_are_read() -> None:
    values = sine()
    extra = values.roll(-3, 0)[:, :1]  # tells the first series three steps ahead
    data = Series(values, extra, context=6, horizon=2)
    model = Forecaster.of(data, ForecasterConfig(hidden=8, context=6, horizon=2, season=2))
    batch = data.epoch("test", 0, batch=5)[0]
    said = model(batch.past, batch.extra, batch.ahead)
    assert not torch.allclose(said, model(batch.past, batch.extra + 1, batch.ahead))


@pytest.mark.parametrize("together", [False, True])
def test_plans_explain_what_nothing_else_does(together: bool, tmp_path: Path) -> None:
    plan = torch.randint(0, 3, (700, 1)).float()  # nobody can guess it from what was
    values = torch.cat([5 * (plan - 1).abs(), 40 - 10 * plan], 1)  # the first is not linear in it
    split = SeriesConfig(split=(0.7, 0.1, 0.2))
    found = {}
    for name, (extra, planned) in {"planned": (None, plan), "extra": (plan, None)}.items():
        data = Series(values, extra, config=split, context=6, horizon=3, planned=planned)
        config = ForecasterConfig(hidden=16, season=2, around="mean", together=together)
        model = Forecaster.of(data, config)
        train(model, data, FAST, steps=300, lr=1e-2, batch=32, out=tmp_path / name)
        found[name] = evaluate(load(tmp_path / name), data, "test").means["mse"]
    assert found["planned"] < 0.02
    assert found["extra"] > 0.5


def test_plans_are_scaled_and_each_step_reads_its_own() -> None:
    plan = 1000 + 100 * torch.randn(200, 2)
    data = Series(sine(200), config=SeriesConfig(split=(0.7, 0.1, 0.2)), planned=plan, context=6, horizon=3)
    model = Forecaster.of(data, ForecasterConfig(hidden=8, season=2)).double()
    batch = data.epoch("test", 0, batch=5)[0]
    assert (batch.extra.shape, batch.ahead.shape) == ((6, 5, 2), (3, 5, 2))
    assert batch.ahead[:, 0].equal(plan[data.starts["test"][0] :][:3])
    past, extra, ahead = batch.past.double(), batch.extra.double(), batch.ahead.double()
    said = model(past, extra, ahead)
    other = ahead.clone()
    other[1] += 100
    changed = model(past, extra, other)
    assert not torch.allclose(changed[1], said[1])
    torch.testing.assert_close(changed[[0, 2]], said[[0, 2]])
    # in other units everything is the same
    twin = Forecaster.of(Series(sine(200), config=data.config, planned=plan / 7, context=6, horizon=3), model.config)
    twin.load_state_dict({**model.float().state_dict(), "mean": twin.mean, "scale": twin.scale})
    torch.testing.assert_close(
        twin(batch.past, extra.float() / 7, ahead.float() / 7), said.float(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier(3, "ab", hiden=4), "unknown setting 'hiden'; did you mean 'hidden'"),
        (lambda: Classifier(3, "ab", hidden=0), "hidden is 0; expected at least 1"),
        (lambda: Classifier(3, "ab", dropout=1.0), "dropout is 1.0; expected a fraction below 1"),
        (lambda: Classifier(3, "ab", cell="lstn"), "unknown cell 'lstn'; did you mean 'lstm'"),
        (lambda: Tagger(3, "ab", output="crv"), "output is 'crv'"),
        (lambda: Forecaster(["a"], patch=7), "context is 96; expected a multiple of patch, 7"),
        (lambda: Forecaster(["a"], around="lost"), "did you mean 'last'"),
        (lambda: Forecaster(["a"], around="seasonal", season=100), "season is 100"),
        (lambda: Forecaster(["a"], output="quantile", quantiles=(0.5, 1.0)), "quantiles are"),
    ],
)
def test_settings_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(EverloopError, match=message):
        make()
