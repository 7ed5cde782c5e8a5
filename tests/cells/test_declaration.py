"""How a cell is declared and what a wrong declaration says."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell, H, I, bias, bind, noise, output, param, size, state
from everloop.errors import CellError, OptionError, ShapeError
from everloop.layers import Recurrent, Stack


def test_sizes_are_sums_of_letters() -> None:
    sizes = {"input_size": 3, "hidden_size": 5}
    assert (4 * H)(sizes) == 20
    assert (I + H)(sizes) == 8
    assert (H + I + 1)(sizes) == 9
    assert (2 + 3 * size("hidden_size"))(sizes) == 17
    assert str(4 * H + I) == "4*H + I"
    assert (2 * H * (I + 1) + H * H)(sizes) == 65
    assert str(2 * H * (I + 1)) == "2*H*I + 2*H"
    assert (H * size("depth")).letters == {"hidden_size", "depth"}
    for wrong in (lambda: H * 2.5, lambda: state(1.5), lambda: state(-1), lambda: param(H, True)):  # type: ignore[operator, arg-type]
        with pytest.raises(CellError, match="a size is"):
            wrong()  # type: ignore[no-untyped-call]


def test_a_state_may_be_as_wide_as_a_product_of_sizes() -> None:
    class Fast(Cell):
        h, A = state(H), state(H * size("depth"))
        W, R, S = param(H, I), param(H, H * size("depth")), param(H * size("depth"), H)

        def step(self, x: Any, h: Any, A: Any) -> Any:
            A = torch.tanh(0.9 * A + h @ self.S.T)
            return torch.tanh(x @ self.W.T + A @ self.R.T), A

    cell = Fast(4, 3, depth=5)
    assert cell.state_sizes == {"h": 3, "A": 15}
    assert cell.recurrent_matrices() == {"S": [slice(0, 3)]}
    cell.reset_parameters(orthogonal=True)
    x = torch.randn(6, 2, 4)
    torch.testing.assert_close(Recurrent(cell)(x), Recurrent(cell, target="eager")(x))
    assert cell.like(3).state_sizes == cell.state_sizes


def test_initial_weights_are_uniform_as_in_torch() -> None:
    cell = cells.LSTM(300, 100)
    bound = 1 / math.sqrt(100)
    for p in cell.parameters():
        assert p.abs().max() <= bound
        assert p.detach().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_orthogonal_blocks_and_forget_bias() -> None:
    cell = cells.LSTM(3, 8)
    before = cell.W.clone()
    cell.reset_parameters(orthogonal=True, forget_bias=1.0)
    for block in cell.R.split(8):
        torch.testing.assert_close(block @ block.T, torch.eye(8), atol=1e-5, rtol=0)
    assert torch.equal(cell.b[8:16], torch.ones(8))
    assert not torch.equal(cell.b[:8], torch.ones(8))
    assert not torch.equal(cell.W, before)
    minimal = cells.MinimalGatedUnit(3, 6)
    minimal.reset_parameters(orthogonal=True)
    torch.testing.assert_close(minimal.W_n[:, :6] @ minimal.W_n[:, :6].T, torch.eye(6), atol=1e-5, rtol=0)
    projected = cells.ProjectedLSTM(3, 6, proj_size=4)
    assert projected.recurrent_matrices() == {"R": [slice(0, 4)]}


def test_recurrent_matrices_of_several_axes_and_readouts() -> None:
    assert cells.RecurrentHighway(3, 6, depth=2).recurrent_matrices() == {"R": [slice(0, 6)]}
    assert cells.LRU(3, 6, state_size=4).recurrent_matrices() == {}
    by_head = cells.SLSTM(3, 6, heads=2)
    assert by_head.recurrent_matrices() == {"R": [slice(0, 3)]}
    by_head.reset_parameters(orthogonal=True)
    for block in by_head.R.flatten(0, 1):
        torch.testing.assert_close(block @ block.T, torch.eye(3), atol=1e-5, rtol=0)


def test_forget_bias_needs_a_forget_gate_and_biases() -> None:
    with pytest.raises(OptionError, match="no forget gate f; its gates: r, z, n"):
        cells.GRU(2, 3).reset_parameters(forget_bias=1.0)
    with pytest.raises(OptionError, match="no bias to fill"):
        cells.LSTM(2, 3, bias=False).reset_parameters(forget_bias=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cells.LSTM(3, 4, hiden_size=3), "unknown option 'hiden_size'; did you mean 'hidden_size'"),
        (lambda: cells.Elman(3, 4, nonlinearity="rleu"), "nonlinearity is 'rleu'; expected 'tanh' or 'relu'"),
        (lambda: cells.ProjectedLSTM(3, 4), "needs proj_size"),
        (lambda: cells.LSTM(3, 0), "hidden_size is 0; expected an integer of at least 1"),
        (lambda: cells.LSTM(3.5, 2), "input_size is 3.5"),  # type: ignore[arg-type]
        (lambda: cells.LayerNormLSTM(3, 4, eps="x"), "eps is 'x'; expected float"),
        (lambda: cells.named("lstn"), "unknown cell 'lstn'; did you mean 'lstm'"),
        (lambda: cells.named("nowhere.py:Mine"), "there is no file nowhere.py"),
    ],
)
def test_errors_name_what_came_and_what_was_expected(make: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()  # type: ignore[operator]


def test_a_step_must_take_the_states_in_order() -> None:
    with pytest.raises(CellError, match=r"takes \(x, c, h\); expected \(x, h, c\)"):

        class Swapped(Cell):
            h, c = state(H), state(H)

            def step(self, x: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
                return h, c

    with pytest.raises(CellError, match="declares no state"):

        class Stateless(Cell):
            def step(self, x: Tensor) -> Tensor:
                return x


def test_a_step_must_return_every_state() -> None:
    class Short(Cell):
        h, c = state(H), state(H)

        def step(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
            return h

    with pytest.raises(CellError, match=r"Short.step returned 1 value\(s\); expected 2: h, c"):
        Short(2, 3)(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("x", "given", "message"),
    [
        (torch.zeros(2, 4), None, r"LSTM: x is \[2, 4\]; expected \[B, 3\]"),
        (torch.zeros(3), None, r"LSTM: x is \[3\]; expected \[B, 3\]"),
        (torch.zeros(2, 3), torch.zeros(2, 5), r"LSTM: state is Tensor; expected a tuple of \[2, 5\], \[2, 5\]"),
        (torch.zeros(2, 3), (torch.zeros(2, 5),), r"LSTM: state is \[\[2, 5\]\]; expected a tuple of"),
        (torch.zeros(2, 3), (torch.zeros(2, 5), torch.zeros(1, 5)), r"state is \[\[2, 5\], \[1, 5\]\]; expected"),
    ],
)
def test_one_step_says_what_does_not_fit(x: torch.Tensor, given: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        cells.LSTM(3, 5)(x, given)
    if given is None:
        return
    with pytest.raises(ShapeError, match=r"Stack: state is|LSTM: state is"):
        Stack([cells.LSTM(3, 5)])(x, (given,) if isinstance(given, tuple) else given)


def test_a_file_may_hold_dataclasses_with_annotations_as_text(tmp_path: Path) -> None:
    source = """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        import torch
        from everloop import Cell, H, I, param, state

        @dataclass
        class Settings:
            scale: float = 2.0
            kind: ClassVar[str] = "of nothing"

        class Mine(Cell):
            h, W = state(H), param(H, I)
            settings = Settings()

            def step(self, x, h):
                return torch.tanh(x @ self.W.T + self.settings.scale * h)
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(source))
    assert cells.named(f"{tmp_path / 'mine.py'}:Mine")(2, 3)(torch.zeros(1, 2))[0].shape == (1, 3)


def test_named_loads_a_class_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from everloop.cell import Cell, H, I, param, state\n"
        "class Mine(Cell):\n"
        "    h = state(H)\n"
        "    W = param(H, I)\n"
        "    def step(self, x, h):\n"
        "        return h + x @ self.W.T\n"
        "other = 3\n"
    )
    assert cells.named(f"{file}:Mine")(2, 3)(torch.zeros(1, 2))[0].shape == (1, 3)
    with pytest.raises(OptionError, match="did you mean 'Mine'"):
        cells.named(f"{file}:Min")
    with pytest.raises(CellError, match="expected a class derived from"):
        cells.named(f"{file}:other")
    for content, message in (("class A(:\n", "SyntaxError: invalid syntax.*line 1"), ("1 / 0\n", "ZeroDivisionError")):
        file.write_text(content)
        with pytest.raises(CellError, match=f"mine.py cannot be loaded: {message}"):
            cells.named(f"{file}:A")


def test_bind_leaves_the_module_and_sees_the_values() -> None:
    class Child(cells.LSTM):
        def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            h, c = super().step(x, h, c)
            return 2 * h, c

    cell = Child(2, 3)
    x = torch.randn(1, 2)
    expected = cell(x)[0]
    twin = bind(cell, {"R": torch.zeros(12, 3), "b": torch.zeros(12), "W": torch.zeros(12, 2)})
    assert torch.equal(twin(x)[0], torch.zeros(1, 3))
    assert torch.equal(cell(x)[0], expected)
    assert isinstance(twin, Child)


def test_like_keeps_sizes_and_options() -> None:
    twin = cells.Elman(2, 3, nonlinearity="relu", bias=False, dtype=torch.float64).like(7)
    assert (twin.input_size, twin.hidden_size, twin.bias) == (7, 3, False)
    assert twin.nonlinearity == "relu"
    assert next(twin.parameters()).dtype == torch.float64
    assert cells.ProjectedLSTM(2, 5, proj_size=3).like(4).state_sizes == {"h": 3, "c": 5}


def test_a_declaration_may_be_annotated() -> None:
    class Annotated(Cell):
        h: Any = state(H)
        jitter: Any = noise(H)
        scale: float = 0.5

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return self.scale * h + self.jitter

    assert (list(Annotated.options), list(Annotated.noises)) == (["scale"], ["jitter"])
    assert Annotated(2, 3).eval()(torch.zeros(1, 2))[0].shape == (1, 3)


def test_an_option_may_be_anything() -> None:
    class Chosen(Cell):
        h = state(H)
        W = param(H, I)
        function: Any = None

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            result: Tensor = self.function(x @ self.W.T)
            return result

    assert Chosen(2, 3, function=torch.relu).like(4).function is torch.relu


def test_bias_options_are_zero_without_bias() -> None:
    class Shifted(Cell):
        h = state(H)
        W, b = param(H, I), bias(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.W) + self.b

    bare = Shifted(2, 2, bias=False)
    assert bare.b == 0.0
    assert set(dict(bare.named_parameters())) == {"W"}


class Heads(Cell):
    """Fast weights in heads, the first state a matrix for each."""

    S = state(size("heads"), H // size("heads"), size("key"))
    y = output(H)
    W, K = param(H, I), param(size("heads") * size("key"), I)

    def step(self, x: Any, S: Any) -> Any:
        heads = S.shape[1]
        v = (x @ self.W.T).view(x.shape[0], heads, -1)
        k = torch.tanh(x @ self.K.T).view(x.shape[0], heads, -1)
        S = 0.9 * S + v.unsqueeze(-1) * k.unsqueeze(-2)
        return S, torch.einsum("bhvk,bhk->bhv", S, k).flatten(1)


def test_states_have_the_axes_of_their_declaration() -> None:
    cell = Heads(3, 8, heads=2, key=5)
    assert cell.state_shapes == {"S": (2, 4, 5)}
    assert cell.state_sizes == {"S": 40}
    assert [list(s.shape) for s in cell.zeros(3, like=torch.empty(0))] == [[3, 2, 4, 5]]
    y, (S,) = cell(torch.randn(3, 3))
    assert (list(y.shape), list(S.shape)) == ([3, 8], [3, 2, 4, 5])
    with pytest.raises(ShapeError, match=r"state is \[\[3, 40\]\]; expected a tuple of \[3, 2, 4, 5\]"):
        cell(torch.randn(3, 3), (torch.zeros(3, 40),))


def test_quotients_of_sizes() -> None:
    heads = size("heads")
    assert str(4 * H // heads + I) == "(H*4 // heads) + I"
    assert (4 * H // heads)({"hidden_size": 6, "heads": 8}) == 3
    assert (H * heads // 2).letters == {"hidden_size", "heads"}
    with pytest.raises(OptionError, match=r"the size \(H // heads\) is 8 // 3"):
        Heads(3, 8, heads=3, key=5)
    with pytest.raises(CellError, match="expected products"):
        (H + I) // heads


def test_the_output_has_one_axis() -> None:
    with pytest.raises(CellError, match="the first state, which is the output, has several axes"):
        type("Square", (Cell,), {"S": state(H, H), "step": lambda self, x, S: S})
    with pytest.raises(CellError, match=r"state\(\) has no size"):
        state()


def test_a_state_of_another_shape_is_refused_by_name() -> None:
    cell = type("Turned", (Cell,), {"h": state(H), "S": state(H, 3), "step": lambda self, x, h, S: (h, S.mT)})(2, 4)
    with pytest.raises(CellError, match=r"returned \[2, 3, 4\] for state S; expected \['B', 4, 3\]"):
        cell(torch.randn(2, 2))
