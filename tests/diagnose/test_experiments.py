"""The experiments of the textbooks: gradients vanish and explode where theory says, problems are what they claim."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from everloop import cells
from everloop.cli import main
from everloop.diagnose import experiments
from everloop.diagnose.experiments import gradient_experiment, memory_experiment, scaled
from everloop.draw.curves import Curve, draw_curves
from everloop.errors import OptionError
from tests.draw.overlaps import overlaps


def test_gradients_of_a_plain_network_vanish_stay_and_explode() -> None:
    small, right, large = gradient_experiment({"elman": cells.Elman}, hidden=16, steps=40)
    # tanh is nearly linear at first, so that the rate is nearly the gain
    assert small.curve.rate == pytest.approx(0.5, abs=0.02)
    assert float(small.curve.norms[-1]) < 1e-10
    assert right.curve.rate == pytest.approx(1.0, abs=0.03)
    assert large.curve.rate > 1.1
    assert float(large.curve.norms[-1]) > 1e3


def test_clipping_by_norm_keeps_the_direction_and_by_value_does_not() -> None:
    for row in gradient_experiment({"lstm": cells.LSTM}, hidden=8, steps=10):
        assert row.turned_by_norm < 0.01
        assert 5 < row.turned_by_value < 90


def test_gates_have_orthogonal_matrices_of_the_gain() -> None:
    cell = scaled(cells.GRU(3, 8), 2.0)
    matrix, biases = cell.get_parameter("R").detach(), [cell.get_parameter(n) for n in "bd"]
    for block in torch.split(matrix, 8):
        torch.testing.assert_close(block @ block.T, 4 * torch.eye(8), atol=1e-5, rtol=0)
    assert not any(bool(b.any()) for b in biases)


def test_the_same_seed_gives_the_same_rows() -> None:
    first = [r.curve.rate for r in gradient_experiment({"gru": cells.GRU}, hidden=4, steps=5, seed=3)]
    state = torch.get_rng_state()
    assert first == [r.curve.rate for r in gradient_experiment({"gru": cells.GRU}, hidden=4, steps=5, seed=3)]
    assert torch.equal(state, torch.get_rng_state())


def test_the_copy_problem_asks_for_the_first_symbol_alone() -> None:
    x, target = experiments._copy(7, 50)
    assert x.shape == (8, 50, 16)
    assert torch.equal(x.sum(-1), torch.ones(8, 50))
    assert torch.equal(x[0].argmax(-1), target)
    assert bool((x[1:].argmax(-1) >= 8).all()), "the others look different, so that only the first can be meant"


def test_the_adding_problem_marks_one_early_and_one_late_number() -> None:
    for lag in (1, 9, 40):
        x, target = experiments._adding(lag, 50)
        numbers, marks = x.unbind(-1)
        assert torch.equal(marks.sum(0), torch.full((50,), 2.0))
        assert torch.equal(marks[: max(1, (lag + 1) // 10)].sum(0), torch.ones(50))
        torch.testing.assert_close((numbers * marks).sum(0), target[:, 0])


def test_a_guess_is_right_as_often_as_chance_says() -> None:
    torch.manual_seed(0)
    for problem in ("copy", "adding"):
        draw, _, _, _, is_right, chance = experiments._PROBLEMS[problem]
        _, target = draw(9, 20_000)
        guess = torch.randn(20_000, 8) if problem == "copy" else torch.ones_like(target)
        assert float(is_right(guess, target).double().mean()) == pytest.approx(chance, abs=0.01)


def test_a_cell_that_can_remembers_a_short_lag() -> None:
    (row,) = memory_experiment({"gru": cells.GRU}, lags=[2], hidden=16, steps=120)
    assert row.accuracy > 0.9 > row.chance
    (untrained,) = memory_experiment({"gru": cells.GRU}, lags=[2], hidden=16, steps=1)
    assert untrained.accuracy < 0.5


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown problem 'coppy'; did you mean 'copy'"):
        list(memory_experiment({}, problem="coppy"))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="lag is 0; expected at least 1"):
        list(memory_experiment({}, lags=[0]))
    with pytest.raises(OptionError, match="no curve to draw"):
        draw_curves({"a": Curve([0], [math.nan])}, title="", x_label="", y_label="")


def test_curves_with_ends_close_together_keep_their_names_apart() -> None:
    many = {f"curve number {k}": Curve(range(30), [0.9**t * (1 + 0.001 * k) for t in range(30)]) for k in range(9)}
    for log in (False, True):
        figure = draw_curves(many, title="A title", x_label="steps", y_label="norm", log=log)
        assert [o for o in overlaps(figure.scene) if o.startswith("text") and "line" not in o] == []
        root = ET.fromstring(figure.svg("dark"))
        assert sum(e.tag.endswith("polyline") and e.get("stroke-width") == "1.8" for e in root.iter()) == 9
    assert figure.text.count("curve number") == 9


@pytest.mark.parametrize(
    ("ys", "log"), [([1.0], False), ([0.0, 0.0], False), ([5e-300, 1e300], True), ([-3.0, 2.0], False)]
)
def test_axes_of_odd_numbers(ys: list[float], log: bool) -> None:
    figure = draw_curves({"a": Curve(range(len(ys)), ys)}, title="t", x_label="x", y_label="y", log=log)
    for shape in figure.scene.shapes:
        for x, y in getattr(shape, "points", ()):
            assert -1 <= x <= figure.scene.width + 1
            assert -1 <= y <= figure.scene.height + 1


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "import torch\nfrom everloop import Cell, H, I, param, state\n\n\nclass Mine(Cell):\n    h = state(H)\n"
        "    W, R = param(H, I), param(H, H)\n\n    def step(self, x, h):\n"
        "        return torch.tanh(x @ self.W.T + h @ self.R.T)\n"
    )
    svg = tmp_path / "g.svg"
    small = ["--steps", "12", "--hidden", "6", "--out", str(svg)]
    assert main(["experiment", "gradients", "elman", f"{own}:Mine", *small]) == 0
    out = capsys.readouterr().out
    assert out.count("Mine") == 6
    assert svg.read_text("utf-8").count("Mine, ") == 3
    sizes = ["--lags", "1", "3", "--updates", "2", "--hidden", "4"]
    assert main(["experiment", "memory", "gru", "--problem", "adding", *sizes]) == 0
    out = capsys.readouterr().out
    assert "by chance" in out
    assert "adding: right, by lag" in out
    assert main(["experiment", "memmory"]) == 2
    assert "did you mean 'memory'" in capsys.readouterr().err
    assert main(["experiment", "gradients", "--steps", "1"]) == 2
    assert main(["experiment", "memory", "--updates", "0"]) == 2
    assert main(["experiment", "--help"]) == 0
