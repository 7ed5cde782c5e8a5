"""Every example runs; a small number of steps is enough to see that."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import everloop
from everloop.data import Series, SeriesConfig
from everloop.data.batching.windows import Windows

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {  # the packages of others that an example goes into
    "hugging_face_trainer": "transformers",
    "lightning_module": "lightning",
    "recurrent_ppo_sb3": "sb3_contrib",
    "scikit_learn": "sklearn",
    "sktime_forecaster": "sktime",
    "torchrl_module": "torchrl",
}
_OF_OTHERS = [  # what these packages warn of themselves
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
]


def _example(path: Path) -> object:
    return pytest.param(path, id=path.stem, marks=_OF_OTHERS if path.stem in NEEDS else [])


def test_needs_name_examples() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} > {*NEEDS}


@pytest.mark.parametrize("path", [_example(path) for path in sorted(EXAMPLES.glob("*.py"))])
def test_example(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    runpy.run_path(str(path))["main"](steps=4, hidden=8)
    assert "finished 4 steps" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_forecaster_for_sktime_forecasts_what_the_model_does() -> None:
    pytest.importorskip("sktime")
    pandas = pytest.importorskip("pandas")
    forecaster = runpy.run_path(str(EXAMPLES / "sktime_forecaster.py"))["EverloopForecaster"]
    rows = torch.randn(60, 2).cumsum(0).double().numpy()
    y = pandas.DataFrame(rows, pandas.period_range("2004-01", periods=60, freq="M"), ["a", "b"])
    fitted = forecaster(context=6, hidden=4, steps=2).fit(y, fh=[1, 3])
    assert fitted.predict().index.astype(str).tolist() == ["2009-01", "2009-03"]
    data = Series(torch.from_numpy(rows), config=SeriesConfig(split=(1, 0, 0)), context=6, horizon=3)
    last = data.window(torch.tensor([57]))
    past = torch.from_numpy(rows[-6:]).float()[:, None]
    ahead = fitted.model_.forecast(replace(last, past=past))
    expected = ahead.point[[0, 2], 0]
    torch.testing.assert_close(torch.tensor(fitted.predict().to_numpy()), expected.double(), rtol=1e-4, atol=1e-4)
    quantiles = torch.tensor(fitted.predict_quantiles(alpha=[0.1, 0.9]).to_numpy()).view(2, 2, 2)
    wanted = torch.stack([ahead.quantile(level)[[0, 2], 0] for level in (0.1, 0.9)], -1)
    torch.testing.assert_close(quantiles, wanted.double(), rtol=1e-4, atol=1e-4)
    fitted.update(y.iloc[-1:].set_axis(pandas.period_range("2009-01", periods=1, freq="M")), update_params=False)
    assert fitted.predict().index.astype(str).tolist() == ["2009-02", "2009-04"]


def test_the_policy_for_sb3_is_its_own_without_the_loop() -> None:
    pytest.importorskip("sb3_contrib")
    policy = runpy.run_path(str(EXAMPLES / "recurrent_ppo_sb3.py"))["EverloopPolicy"]
    lstm, peer = everloop.LSTM(3, 5), torch.nn.LSTM(3, 5)
    peer.load_state_dict(lstm.state_dict())
    x, state = torch.randn(4 * 7, 3), (torch.randn(1, 4, 5), torch.randn(1, 4, 5))
    starts = (torch.rand(4 * 7) < 0.3).float()
    mine, after = policy._process_sequence(x, state, starts, lstm)
    theirs, expected = policy.__mro__[1]._process_sequence(x, state, starts, peer)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(after, expected)


def test_the_agent_in_cleanrls_form_resets_as_its_loop_does() -> None:
    agent = runpy.run_path(str(EXAMPLES / "recurrent_ppo_cleanrl.py"))["Agent"](2, 3, 5)
    x, done = torch.randn(6, 4, 2), (torch.rand(6, 4) < 0.4).float()
    state = first = (torch.randn(1, 4, 5), torch.randn(1, 4, 5))
    rows = []
    for x_t, done_t in zip(x, done, strict=True):
        kept = (1 - done_t)[None, :, None]
        y, state = agent.lstm(x_t[None], (state[0] * kept, state[1] * kept))
        rows.append(agent.critic(y[0]).squeeze(-1))
    _, value, after = agent(x, first, done)
    torch.testing.assert_close(value, torch.stack(rows))
    torch.testing.assert_close(after, state)


def test_the_name_of_many_files_depends_on_the_last_one(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "many_files.py"))
    paths = [tmp_path / str(i) for i in range(1000)]
    for path in paths:
        path.write_bytes(b"the cat")
    before = example["TextOfFiles"]({"train": paths[:999], "valid": paths[999:]}).fingerprint
    assert example["TextOfFiles"]({"train": paths[:999], "valid": paths[999:]}).fingerprint == before
    paths[-1].write_bytes(b"the cats")
    assert example["TextOfFiles"]({"train": paths[:999], "valid": paths[999:]}).fingerprint != before


def test_windows_of_many_files_are_those_of_one(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "many_files.py"))
    paths = [tmp_path / str(i) for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes(range(7 * i, 7 * i + [13, 0, 1, 40, 9][i])))
    numbers = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in paths)), dtype=torch.uint8)
    windows = example["TextOfFiles"]({"train": paths}).epoch("train", 0, batch=3, length=4)
    expected = Windows(numbers, 3, 4, drop_last=True)
    assert len(windows) == len(expected) == 5
    for mine, theirs in zip(windows, expected, strict=True):
        assert torch.equal(mine.to("cpu").x, theirs.x)
        assert torch.equal(mine.rows(1, 3).y, theirs.rows(1, 3).y)
        assert (mine.first, mine.size) == (theirs.first, theirs.size)
