"""custom_gradient: the value of one function and the gradient that another one says, against an autograd.Function."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from everloop import Recurrent, custom_gradient
from everloop.cell import Cell, H, I, output, param, size, state
from everloop.cells import LIF
from everloop.errors import CellError, UnsupportedError

T, B, I_, H_ = 9, 5, 4, 6
D = torch.float64
sharpness = 10.0
heads = size("heads")

spike = custom_gradient(lambda u: u > 0, lambda u, g: g / (1 + sharpness * u.abs()) ** 2)
over = custom_gradient(
    lambda u, threshold: (u - threshold > 0).to(u.dtype),
    lambda u, threshold, g: (g * (1 - (u - threshold).abs()).clamp(min=0), -0.3 * torch.where(u > threshold, g, 0)),
)
rounded = custom_gradient(lambda u: u.round(), lambda u, g: g)
reverse = custom_gradient(lambda u: u, lambda u, g: -0.5 * g)


class OfPyTorch(torch.autograd.Function):
    """The spike once more."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return g / (1 + 10 * u.abs()) ** 2


class Spiking(Cell):
    """A leaky unit that is reset by its spikes."""

    s, v = state(H), state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        v = 0.9 * v * (1 - s) + x @ self.W.T + s @ self.R.T
        return spike(v - 0.1), v


class SpikingOfPyTorch(Spiking):
    def step(self, x: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        v = 0.9 * v * (1 - s) + x @ self.W.T + s @ self.R.T
        return OfPyTorch.apply(v - 0.1), v  # type: ignore[no-untyped-call]


class Everywhere(Cell):
    """Before the loop, in it, after it; of several arguments that are broadcast; of several axes; of parameters."""

    h = state(H)
    S = state(heads, H // heads)
    y = output(H)
    W, R, threshold, scale = param(H, I), param(H, H), param(H), param(1)

    def step(self, x: Tensor, h: Tensor, S: Tensor) -> tuple[Tensor, ...]:
        u = reverse(x @ self.W.T) + 0.1 * spike(x).sum(-1, keepdim=True)
        h = torch.tanh(u + rounded(3 * h) @ self.R.T) * rounded(4 * self.scale)
        S = 0.5 * over(S + h.unflatten(-1, S.shape[1:]), S.mean(-1, keepdim=True))  # type: ignore[no-untyped-call]
        return over(h, self.threshold), S, over(S, 0.1).flatten(1) + reverse(h)


def results(cell: Cell, target: str, x: Tensor) -> list[Tensor]:
    """Return outputs, states and all gradients."""
    x = x.clone().requires_grad_()
    y, states = Recurrent(cell, target=target)(x, lengths=[T, 0, 3, 1, 8])
    torch.manual_seed(0)
    loss = sum((torch.randn_like(s) * s).sum() for s in (y, *states))
    return [y, *states, *torch.autograd.grad(loss, [x, *cell.parameters()])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_spike_is_that_of_an_autograd_function(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    mine, theirs = Spiking(I_, H_, dtype=dtype), SpikingOfPyTorch(I_, H_, dtype=dtype)
    theirs.load_state_dict(mine.state_dict())
    x, tolerance = torch.randn(T, B, I_, dtype=dtype), {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.05)
    expected = results(theirs, "eager", x)
    for target in ("eager", "llvm"):
        for found, right in zip(results(mine, target, x), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=tolerance, atol=tolerance * float(right.detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_everywhere(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    cell = Everywhere(I_, H_, heads=2, dtype=dtype)
    x, tolerance = torch.randn(T, B, I_, dtype=dtype), 1e-11 if dtype == D else 1e-4
    for found, right in zip(results(cell, "llvm", x), results(cell, "eager", x), strict=True):
        torch.testing.assert_close(found, right, rtol=tolerance, atol=tolerance * float(right.detach().abs().max()))
    layer = Recurrent(cell, target="llvm", check=True).eval()
    y, after = layer(x)
    state = None
    for x_t in x:
        y_t, state = layer.step(x_t, state)
    torch.testing.assert_close((y_t, state), (y[-1], after), rtol=tolerance, atol=tolerance)


def test_what_it_reads_is_part_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, x = Spiking(I_, H_, dtype=D), torch.randn(T, B, I_, dtype=D)
    before = results(cell, "llvm", x)
    monkeypatch.setitem(globals(), "sharpness", 2.0)
    after, right = results(cell, "llvm", x), results(cell, "eager", x)
    assert not torch.equal(before[-1], after[-1])
    torch.testing.assert_close(after, right, rtol=1e-12, atol=1e-12)


def test_gradients_of_its_gradient_are_those_of_backward() -> None:
    u = torch.randn(7, dtype=D, requires_grad=True)
    (slope,) = torch.autograd.grad(spike(u).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), u)
    torch.testing.assert_close(slope, (1 + 10 * u.abs()) ** -2)
    torch.testing.assert_close(second, -20 * u.sign() * (1 + 10 * u.abs()) ** -3)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(spike))(u), slope)
    cell = Spiking(I_, 3, dtype=D)
    found = []
    for target in ("llvm", "eager"):
        x = torch.linspace(-1, 1, 2 * 3 * I_, dtype=D).view(3, 2, I_).requires_grad_()
        y, (_, v) = Recurrent(cell, target=target)(x)
        (first,) = torch.autograd.grad(y.sum() + v.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *cell.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_the_spikes_of_lif_have_the_gradient_of_its_paper() -> None:
    cell = LIF(I_, H_, slope=5.0, dtype=D)
    u = torch.randn(B, H_, dtype=D, requires_grad=True)
    zeros = torch.zeros(B, H_, dtype=D)
    s, _, _ = cell.step(torch.zeros(B, I_, dtype=D), zeros, u, zeros)
    (found,) = torch.autograd.grad(s.sum(), u)
    torch.testing.assert_close(found, cell.beta / (1 + 5 * (cell.beta * u - 1).abs()) ** 2)


@pytest.mark.parametrize("target", ["llvm", "eager"])
def test_the_spikes_of_what_is_no_number_are_none(target: str) -> None:
    """So that the loss of a network that diverged is no number either; infinite potentials spike, or do not."""
    layer, u = Recurrent(LIF(I_, H_), target=target), torch.tensor([[torch.nan, torch.inf, -torch.inf, 2, 1, -1]])
    state, x = (torch.zeros(1, H_), u / layer.cell.beta, torch.zeros(1, H_)), torch.zeros(2, 1, I_)
    with torch.no_grad():
        assert layer(torch.full((4, 2, I_), torch.nan))[0][2:].isnan().all()
        for s in (layer(x, state)[0][0], layer.step(x[0], state)[0]):
            torch.testing.assert_close(s, torch.tensor([[torch.nan, 1, 0, 1, 0, 0]]), rtol=0, atol=0, equal_nan=True)


class Wrong(Cell):
    """A cell with a function as an option of the test."""

    h = state(H)
    W = param(H, I)
    function: ClassVar[Any]

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return self.function(x @ self.W.T + 0.5 * h)


@pytest.mark.parametrize(
    ("backward", "text"),
    [
        (lambda u, g: (g, g), r"backward returns 2 gradients; expected 1, one for each argument"),
        (lambda u, g: (), r"backward returns 0 gradients; expected 1"),
        (lambda u, g: 1.0, r"backward returns float for argument 0; expected a tensor, or None"),
        (lambda u, g: g[:, :2], r"backward returns \[5, 2\] for argument 0; expected \[5, 6\]"),
    ],
)
def test_what_backward_returns_must_fit(backward: Any, text: str) -> None:
    function = custom_gradient(lambda u: u > 0, backward)
    with pytest.raises(CellError, match=text):
        function(torch.randn(B, H_, requires_grad=True)).sum().backward()
    cell = Wrong(I_, H_)
    cell.function = function  # type: ignore[misc]
    with pytest.raises(CellError, match=text):
        Recurrent(cell, target="eager")(torch.randn(T, B, I_))[0].sum().backward()


def test_what_forward_reads_must_be_an_argument() -> None:
    W = torch.randn(H_, H_, requires_grad=True)
    text = "forward reads a tensor that asks for a gradient and is no argument"
    with pytest.raises(CellError, match=text):
        custom_gradient(lambda u: u @ W, lambda u, g: g)(torch.randn(B, H_))
    with pytest.raises(CellError, match="forward returns float; expected one tensor"):
        custom_gradient(lambda u: 1.0, lambda u, g: g)(torch.randn(B, H_))
    with pytest.raises(CellError, match="no argument is a tensor of floating-point numbers"):
        spike(torch.arange(3))
    with pytest.raises(CellError, match=r"forward returns torch\.complex64; expected real numbers"):
        custom_gradient(lambda u: u * 1j, lambda u, g: g)(torch.randn(B, H_))
    with pytest.raises(CellError, match="custom_gradient: backward is Tensor; expected a function"):
        custom_gradient(torch.relu, W)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["llvm", "eager"])
def test_none_is_no_argument(target: str) -> None:
    function: Any = custom_gradient(lambda u, scale: u > 0, lambda u, scale, g: (g, None))
    with pytest.raises(CellError, match="argument 1 is None; expected tensors and numbers"):
        function(torch.randn(B, H_, requires_grad=True), None)
    cell = Wrong(I_, H_)
    cell.function = lambda u: function(u, None)  # type: ignore[misc]
    with pytest.raises(CellError, match="argument 1 is None"):
        Recurrent(cell, target=target)(torch.randn(T, B, I_))


GENERAL: dict[str, tuple[Any, Any]] = {
    "clipped": (torch.relu, lambda u, g: g.clamp(-0.1, 0.1)),
    "squashed": (torch.tanh, lambda u, g: g / (1 + g.abs()) * u.cos()),
    "turned": (torch.tanh, lambda u, g: g.flip(-1)),
    "of another width": (lambda u: u.sum(-1, keepdim=True), lambda u, g: g * u.cos()),
    "of one number": (lambda u: u * 2, lambda u, g: g.sum(-1, keepdim=True)),
    "of length one": (lambda u: u, lambda u, g: g / g.norm(dim=-1, keepdim=True).clamp_min(1.0)),
    "centred": (torch.sin, lambda u, g: (g - g.mean(-1, keepdim=True)) * torch.where(u > 0, u, 0.5)),
}
NOT_COMPILED: dict[str, tuple[Any, Any, str]] = {
    "not zero": (torch.tanh, lambda u, g: g + u, "whose backward is not 0 where g is 0"),
    "constant": (torch.tanh, lambda u, g: u, "whose backward is not 0 where g is 0"),
    "a product": (torch.tanh, lambda u, g: g.clamp(-1, 1) @ torch.ones(H_, H_, dtype=D), "multiplies g by a matrix"),
}


@pytest.mark.parametrize("name", [*GENERAL, *NOT_COMPILED])
@pytest.mark.parametrize("kind", ["in the loop", "before it", "after it"])
def test_gradients_that_are_no_multiple_of_g(name: str, kind: str) -> None:
    forward, backward = (GENERAL | NOT_COMPILED)[name][:2]

    class OfTheTest(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u: Tensor) -> Tensor:
            ctx.save_for_backward(u)
            return forward(u)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return backward(*ctx.saved_tensors, g).expand_as(ctx.saved_tensors[0])

    class Placed(Cell):
        h, v = state(H), state(H)
        y = output(H)
        W, R, U = param(H, I), param(H, H), param(H, H)
        function: ClassVar[Any]

        def step(self, x: Tensor, h: Tensor, v: Tensor) -> tuple[Tensor, ...]:
            u = x @ self.W.T
            u = u + 0.1 * self.function(3 * u) if kind == "before it" else u
            read = self.function(h + v) + 0.1 * h if kind == "in the loop" else h
            h = torch.tanh(u + 0.5 * read @ self.R.T)
            y = h @ self.U.T
            return h, 0.5 * v + u, self.function(y) * h if kind == "after it" else y

    cell = Placed(I_, H_, dtype=D)
    cell.function = custom_gradient(forward, backward)  # type: ignore[misc]
    x = 3 * torch.randn(T, B, I_, dtype=D)
    if name in NOT_COMPILED:
        with pytest.raises(UnsupportedError, match=NOT_COMPILED[name][2]):
            Recurrent(cell, target="llvm")(x)
    found = [results(cell, target, x) for target in ("eager", *["llvm"] * (name in GENERAL))]
    cell.function = OfTheTest.apply  # type: ignore[misc]
    expected = results(cell, "eager", x)
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-10, atol=1e-10)


def test_of_several_arguments_and_of_what_is_the_same_at_every_step() -> None:
    clip: Any = custom_gradient(lambda u, p, s: u * p + s, lambda u, p, s, g: ((g * p).clamp(-1, 1), g * u, g.sign()))

    class Several(Cell):
        h = state(H)
        W, p = param(H, I), param(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(clip(h, self.p, x.sum(-1, keepdim=True)) + x @ self.W.T)

    class Fixed(Several):
        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(h + clip(self.p.expand(len(self.p)), 1.0, self.p) + x @ self.W.T)

    x = torch.randn(T, B, I_, dtype=D)
    cell = Several(I_, H_, dtype=D)
    torch.testing.assert_close(results(cell, "llvm", x), results(cell, "eager", x), rtol=1e-10, atol=1e-10)
    with pytest.raises(UnsupportedError, match="of parameters alone"):
        Recurrent(Fixed(I_, H_, dtype=D), target="llvm")(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")  # PyTorch's own forward mode calls it
def test_forward_mode_is_the_transpose_of_backward() -> None:
    u, p = torch.randn(B, H_, dtype=D), torch.randn(H_, dtype=D)
    du, dp = torch.randn_like(u), torch.randn_like(p)
    rule: Any = custom_gradient(lambda u, p: u.sin() * p, lambda u, p, g: (g * p * u.cos(), g * u.sin()))
    found = torch.func.jvp(rule, (u, p), (du, dp))
    torch.testing.assert_close(found, torch.func.jvp(lambda u, p: u.sin() * p, (u, p), (du, dp)))
    torch.testing.assert_close(torch.func.jvp(spike, (u,), (du,))[1], du / (1 + 10 * u.abs()) ** 2)
    cell, x = Spiking(I_, H_, dtype=D), torch.randn(T, B, I_, dtype=D)
    dx, weights = torch.randn_like(x), torch.randn(T, B, H_, dtype=D)
    slope: Any = torch.func.jvp(lambda x: Recurrent(cell)(x)[0], (x,), (dx,))[1]
    given = x.clone().requires_grad_()
    (back,) = torch.autograd.grad((Recurrent(cell)(given)[0] * weights).sum(), given)
    torch.testing.assert_close((slope * weights).sum(), (back * dx).sum())


def test_what_forward_captures_is_not_compiled() -> None:
    class Capturing(Wrong):
        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return custom_gradient(lambda u: u @ self.W, lambda u, g: g)(x)

    with pytest.raises(UnsupportedError, match="whose forward reads W, no argument of it; give it as one"):
        Recurrent(Capturing(H_, H_), target="llvm")(torch.randn(T, B, H_))


def test_what_its_functions_do_besides_happens_at_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    class Telling(Wrong):
        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return custom_gradient(lambda u: print("told") or u.relu(), lambda u, g: g)(x @ self.W.T)

    layer = Recurrent(Telling(I_, H_))
    with pytest.warns(UserWarning, match="runs on eager"):
        layer(torch.randn(T, B, I_))
    capsys.readouterr()
    layer(torch.randn(T, B, I_))
    assert capsys.readouterr().out.count("told") == T
