"""The experiments of the textbooks: gradients vanish and explode where theory says, problems are what they claim."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everloop import Cell, H, I, Recurrent, cells, param, state
from everloop.cli import main
from everloop.diagnose import experiments
from everloop.diagnose.experiments import gradient_experiment, memory_experiment, scaled
from everloop.draw.curves import Curve, draw_curves
from everloop.draw.scene import Circle, Line
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
    for row in gradient_experiment({"elman": cells.Elman}, hidden=8, steps=10):
        plain, by_norm, by_value = row.clippings
        assert [clipping.how for clipping in row.clippings] == ["no clipping", "by norm", "by value"]
        assert plain.norm == row.norm > 1
        assert plain.turned < 0.01
        assert by_norm.norm == pytest.approx(1, rel=1e-5)
        assert by_norm.turned < 0.01
        assert by_value.norm < row.norm
        assert 5 < by_value.turned < 90


def test_updates_are_those_of_plain_gradient_descent_with_the_clipping_of_torch() -> None:
    _, row, _ = gradient_experiment({"elman": cells.Elman}, hidden=8, steps=10, seed=2)
    clips: list[Callable[[list[nn.Parameter]], object]] = [
        lambda _: None,
        lambda weights: nn.utils.clip_grad_norm_(weights, 1.0),
        lambda weights: nn.utils.clip_grad_value_(weights, 0.1),
    ]
    for clipping, clip in zip(row.clippings, clips, strict=True):
        torch.manual_seed(2)
        layer = Recurrent(scaled(cells.Elman(4, 8), 1.0))
        x, target = 0.1 * torch.randn(10, 8, 4), torch.randn(8, 8)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.03)
        losses = []
        for _ in range(21):
            loss = (layer(x)[0][-1] - target).square().sum() / 8
            losses.append(float(loss.detach()))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            clip([*layer.parameters()])
            optimiser.step()
        assert clipping.losses == pytest.approx(losses, rel=1e-3)


def test_clipping_saves_a_network_whose_gradient_explodes() -> None:
    *_, large = gradient_experiment({"elman": cells.Elman})
    plain, by_norm, by_value = (clipping.losses for clipping in large.clippings)
    assert plain[0] == by_norm[0] == by_value[0]
    assert plain[-1] > plain[0], "one long step saturates it"
    assert by_norm[-1] < by_norm[0]


class Still(Cell):
    """From a state of 0 it stays there: none of its weights has a gradient."""

    h = state(H)
    W = param(H, I)

    def step(self, x: Any, h: Any) -> Any:
        return h * torch.sigmoid(x @ self.W.T)


def test_a_gradient_of_zero_has_no_direction(capsys: pytest.CaptureFixture[str]) -> None:
    row = next(iter(gradient_experiment({"still": Still}, hidden=4, steps=5)))
    assert row.norm == 0
    assert all(math.isnan(clipping.turned) for clipping in row.clippings)
    command = ["experiment", "gradients", f"{__file__}:Still", "--steps", "5", "--hidden", "4"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "°" not in out
    assert "–" in out


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
    row, _ = memory_experiment({"gru": cells.GRU}, lags=[2], hidden=16, steps=120)
    assert row.accuracy > 0.9 > row.chance
    (untrained,) = memory_experiment({"gru": cells.GRU}, problems=["copy"], lags=[2], hidden=16, steps=1)
    assert untrained.accuracy < 0.5


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown problem 'coppy'; did you mean 'copy'"):
        list(memory_experiment({}, problems=["copy", "coppy"]))  # type: ignore[list-item]
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


def test_each_curve_has_its_own_colour_and_stroke_and_shows_them_beside_its_name() -> None:
    cells_by_gain = {f"{cell} {gain}": Curve(range(3), [1, 2, 3], cell, gain) for cell in range(4) for gain in range(3)}
    for curves in (cells_by_gain, {str(k): Curve(range(3), [k, k, k]) for k in range(28)}):
        figure = draw_curves(
            curves, title="A title of several words that a phone cannot show", x_label="x", y_label="y"
        )
        assert figure.narrow is not None
        for shapes in (figure.scene.shapes, figure.narrow.scene.shapes):
            lines = [s for s in shapes if isinstance(s, Line) and s.stroke.startswith("series")]
            whole, samples = (
                [(int(s.stroke.split()[1]) % 7, s.dashes) for s in lines if s.width == width] for width in (1.8, 2.2)
            )
            assert whole == samples
            assert len(set(whole)) == len(curves)
        assert figure.narrow.scene.width < 360 < figure.scene.width
        assert [o for o in overlaps(figure.narrow.scene) if o.startswith("text") and "line" not in o] == []


def test_curves_of_one_point_stand_side_by_side_where_they_are_equal() -> None:
    curves = {f"{k}": Curve([5], [1.0 if k < 6 else 0.98 - 0.003 * k], k, stroke=k % 2) for k in range(12)}
    figure = draw_curves(curves, title="A title", x_label="lag", y_label="right")
    assert figure.narrow is not None
    for scene in (figure.scene, figure.narrow.scene):
        dots = [shape for shape in scene.shapes if isinstance(shape, Circle)]
        assert len(dots) == 12
        assert min(math.dist((a.x, a.y), (b.x, b.y)) for a, b in combinations(dots, 2)) > 2 * dots[0].radius
        assert {dot.y for dot in dots[:6]} == {dots[0].y}, "a dot keeps its height"
        assert max(abs(dot.x - dots[0].x) for dot in dots) < 50
        assert [dot.fill == "paper" for dot in dots] == [False, True] * 6, "hollow where the stroke has gaps"


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
    assert out.count("Mine") == 9
    assert svg.read_text("utf-8").count("Mine, ") == 3
    assert main(["experiment", "memmory"]) == 2
    assert "did you mean 'memory'" in capsys.readouterr().err
    assert main(["experiment", "gradients", "--steps", "1"]) == 2
    assert main(["experiment", "memory", "--updates", "0"]) == 2
    assert main(["experiment", "--help"]) == 0


def test_both_problems_stand_in_one_table_and_on_one_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg = tmp_path / "m.svg"
    sizes = ["--lags", "1", "3", "--updates", "2", "--hidden", "4", "--out", str(svg)]
    assert main(["experiment", "memory", "gru", "elman", *sizes]) == 0
    table, picture = capsys.readouterr().out.split("What is remembered")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:3] == ["problem", "right,", "by"]
    kinds = [
        ("copy", "gru"),
        ("copy", "elman"),
        ("copy", "by"),
        ("adding", "gru"),
        ("adding", "elman"),
        ("adding", "by"),
    ]
    assert [tuple(row[:2]) for row in rows[1:] if row] == kinds
    assert rows[3][-2:] == ["12%", "12%"]
    assert rows[6][-2:] == ["8%", "8%"]
    assert "the copy and the adding problem" in picture
    lines = [e for e in ET.fromstring(svg.read_text("utf-8")).iter() if e.get("stroke-width") == "1.8"]
    looks = [(e.get("stroke"), e.get("stroke-dasharray") is not None) for e in lines]
    assert [dashed for _, dashed in looks] == [False] * 3 + [True] * 3
    assert [colour for colour, _ in looks[:3]] == [colour for colour, _ in looks[3:]], "a cell keeps its colour"
    assert main(["experiment", "memory", "gru", "--problem", "adding", *sizes]) == 0
    out = capsys.readouterr().out
    assert "copy" not in out
    assert "the adding problem after 2 updates" in out
