"""What a step reads besides x and states: further inputs, contexts, noise; against formulas and every target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn, tanh
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from everloop import cells
from everloop.cell import Cell, H, I, context, inputs, mask, noise, output, param, size, state
from everloop.diagnose import agree
from everloop.errors import CellError, OptionError, ShapeError
from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from tests.layers.single_steps import is_single

D = torch.float64
T, B, I_, H_, S_ = 6, 4, 3, 5, 2


class Timed(Cell):
    """A leaky unit with time stamps and a speaker: decay over dt, a product with each of x, dt and the context."""

    x, dt, seen = inputs(I, 1, I)
    h = state(H)
    speaker = context(size("speakers"))
    W, V, R, rate, U = param(H, I), param(H, I), param(H, H), param(H), param(H, size("speakers"))

    def step(self, x: Tensor, dt: Tensor, seen: Tensor, h: Tensor) -> Tensor:
        h = h * torch.exp(-dt * nn.functional.softplus(self.rate))
        return tanh((x * seen) @ self.W.T + seen @ self.V.T + h @ self.R.T + self.speaker @ self.U.T)


class Noisy(Cell):
    """Noise of each kind: a fresh one a step, one a sequence, one that stays in evaluation."""

    h = state(H)
    small, bias_of_run = noise(H), noise(1, per="sequence")
    drop, lasting = mask(H, p=0.4), mask(H, p=0.5, per="sequence", always=True)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        new = tanh(x @ self.W.T + (h * self.lasting) @ self.R.T + 0.1 * self.small + self.bias_of_run)
        return new * self.drop


class Once(Cell):
    """Noise of a step only, with outputs."""

    h = state(H)
    y, z = output(H), output(1)
    small = noise(H)
    R = param(H, H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = tanh(x @ self.W.T + h @ self.R.T) + self.small
        return h, self.small + 0 * h, h.mean(-1, keepdim=True)


def timed(wide: int = I_) -> Timed:
    return Timed(wide, H_, speakers=S_, dtype=D)


def given(wide: int = I_, steps: int = T, batch: int = B) -> dict[str, Any]:
    return {
        "dt": torch.rand(steps, batch, 1, dtype=D),
        "seen": torch.rand(steps, batch, wide, dtype=D),
        "speaker": torch.randn(batch, S_, dtype=D),
    }


def by_hand(cell: Timed, x: Tensor, dt: Tensor, seen: Tensor, speaker: Tensor) -> Tensor:
    h, rows = x.new_zeros(x.shape[1], H_), []
    for t in range(len(x)):
        h = h * (-dt[t] * torch.log1p(cell.rate.exp())).exp()
        total = (x[t] * seen[t]).matmul(cell.W.t()) + seen[t].matmul(cell.V.t()) + h.matmul(cell.R.t())
        h = (total + speaker.matmul(cell.U.t())).tanh()
        rows.append(h)
    return torch.stack(rows)


# Of cells that read `seen`, whose size is that of x.
CORES: dict[str, Any] = {
    "cell": timed,
    "zoneout": lambda: Zoneout(timed(), h=0.3),
    "nested": lambda: Zoneout(VariationalDropout(timed(), inputs=0.2, recurrence=0.3), h=0.3),
    "weight drop": lambda: WeightDrop(timed(), 0.3),
    "stack": lambda: Stack([timed(), cells.GRU(H_, I_, dtype=D), timed()], dropout=0.2),
    "both": lambda: Bidirectional(timed()),
}


@pytest.mark.parametrize("target", ["llvm", "eager"])
def test_against_the_formula(target: str) -> None:
    cell, x, more = timed(), torch.randn(T, B, I_, dtype=D), given()
    y, _ = Recurrent(cell, target=target)(x, **more)
    torch.testing.assert_close(y, by_hand(cell, x, **more))
    torch.testing.assert_close(cell(x[0], **{k: t[0] if t.dim() == 3 else t for k, t in more.items()})[0], y[0])


@pytest.mark.parametrize("name", CORES)
def test_every_target_agrees_on_values_and_all_gradients(name: str) -> None:
    layer, x = Recurrent(CORES[name]()), torch.randn(T, B, I_, dtype=D)
    found = agree(layer, x, lengths=[6, 0, 3, 1], reset=torch.rand(T, B) > 0.7, **given())
    assert found, found
    told = {c.what for c in found.comparisons if c.target == "llvm"}
    assert {"gradient of dt", "gradient of seen", "gradient of speaker"} <= told
    found = agree(layer, x, reference="loop", **given())
    assert found, found


def test_gradients_are_those_of_the_formula() -> None:
    cell, x, more = timed(), torch.randn(T, B, I_, dtype=D), given()
    wanted = [t.requires_grad_() for t in more.values()]
    slopes = [
        torch.autograd.grad(y.sin().sum(), wanted)
        for y in (Recurrent(cell, target="llvm")(x, **more)[0], by_hand(cell, x, **more))
    ]
    torch.testing.assert_close(*slopes)
    assert all(s.abs().max() > 0 for s in slopes[0])


def test_gradients_of_gradients() -> None:
    layer, x, more = Recurrent(timed(), target="llvm"), torch.randn(3, 2, I_, dtype=D), given(steps=3, batch=2)

    def of(dt: Tensor, speaker: Tensor) -> Any:
        return layer(x, dt=dt, seen=more["seen"], speaker=speaker)[0]

    assert torch.autograd.gradgradcheck(of, (more["dt"].requires_grad_(), more["speaker"].requires_grad_()))


@pytest.mark.parametrize("name", ["cell", "zoneout", "stack"])
def test_single_steps_are_compiled(name: str) -> None:
    layer, x, more = Recurrent(CORES[name](), check=True).eval(), torch.randn(T, B, I_, dtype=D), given()
    whole, last = layer(x, **more)
    after: Any = None
    with torch.no_grad():
        for t in range(T):
            now = {k: v[t] if v.dim() == 3 else v for k, v in more.items()}
            y, after = layer.step(x[t], after, **now)
            torch.testing.assert_close(y, whole[t])
        now = {k: v[0] if v.dim() == 2 else v for k, v in now.items()}
        one, _ = layer.step(x[0, 0], **{k: (v[0, 0] if v.dim() == 3 else v[0]) for k, v in more.items()})
        torch.testing.assert_close(one, whole[0, 0])
    torch.testing.assert_close(after, last)
    torch.testing.assert_close(
        layer.step(x[0], **{k: v[0] if v.dim() == 3 else v for k, v in more.items()})[0], whole[0]
    )
    assert "step: one native call" in layer.explain()
    assert "checked against float64, on a single step" in layer.explain()


def test_forms_of_x() -> None:
    cell, x, more = timed(), torch.randn(T, B, I_, dtype=D), given()
    expected, _ = Recurrent(cell)(x, lengths=[6, 5, 2, 1], **more)
    batched = {k: v.transpose(0, 1) if v.dim() == 3 else v for k, v in more.items()}
    found, _ = Recurrent(cell, batch_first=True)(x.transpose(0, 1), lengths=[6, 5, 2, 1], **batched)
    torch.testing.assert_close(found.transpose(0, 1), expected)
    order = [2, 0, 3, 1]
    lengths = torch.tensor([6, 5, 2, 1])[order]
    packed = {k: pack_padded_sequence(v[:, order], lengths, enforce_sorted=False) if v.dim() == 3 else v[order]
              for k, v in more.items()}  # fmt: skip
    found, _ = Recurrent(cell)(pack_padded_sequence(x[:, order], lengths, enforce_sorted=False), **packed)
    torch.testing.assert_close(pad_packed_sequence(found)[0], expected[:, order])
    single, _ = Recurrent(cell)(x[:, 0], **{k: v[:, 0] if v.dim() == 3 else v[0] for k, v in more.items()})
    torch.testing.assert_close(single, expected[:, 0])


def test_what_is_given_wrongly() -> None:
    layer, x, more = Recurrent(timed()), torch.randn(T, B, I_, dtype=D), given()
    with pytest.raises(OptionError, match=r"dt and speaker is missing, which the cell declares; give dt=…, speaker=…"):
        layer(x, seen=more["seen"])
    with pytest.raises(OptionError, match="unknown input 'spaeker'; did you mean 'speaker'"):
        layer(x, dt=more["dt"], seen=more["seen"], spaeker=more["speaker"])
    with pytest.raises(OptionError, match="unknown input 'dt'"):
        Recurrent(cells.GRU(I_, H_, dtype=D))(x, dt=more["dt"])
    with pytest.raises(ShapeError, match=r"dt is \[6, 4\]; expected \[6, 4, 1\], as the input beside x"):
        layer(x, **{**more, "dt": more["dt"][..., 0]})
    with pytest.raises(ShapeError, match=r"speaker is \[4, 3\]; expected \[4, 2\], as the context beside x"):
        layer(x, **{**more, "speaker": torch.randn(4, 3, dtype=D)})
    with pytest.raises(ShapeError, match=r"dt is torch.float32; expected torch.float64, as x"):
        layer(x, **{**more, "dt": more["dt"].float()})
    with pytest.raises(ShapeError, match=r"speaker is float; expected \[4, 2\]"):
        layer(x, **{**more, "speaker": 1.0})
    with pytest.raises(OptionError, match="speaker is missing"):
        layer.step(x[0], dt=more["dt"][0], seen=more["seen"][0])
    with pytest.raises(ShapeError, match="dt is Tensor; expected a PackedSequence, as x"):
        layer(pack_padded_sequence(x, torch.full((B,), T)), **more)
    with pytest.raises(ShapeError, match=r"Timed: dt is \[1\]; expected \[4, 1\]"):
        timed()(x[0], dt=torch.ones(1), seen=more["seen"][0], speaker=more["speaker"])
    with pytest.raises(CellError, match="dt is declared as input of 1 and input of 2"):
        Recurrent(
            Stack([timed(), type("Other", (Timed,), {"both": inputs(I, 2), **OTHER})(H_, 3, speakers=S_, dtype=D)])
        )(x)


def other_step(self: Any, x: Tensor, dt: Tensor, h: Tensor) -> Tensor:
    return tanh(x @ self.W.T + h @ self.R.T)


OTHER: dict[str, Any] = dict(zip(("x", "dt"), inputs(I, 2), strict=True)) | {"step": other_step}


def test_what_is_declared_wrongly() -> None:
    for wrong in ((I,), (4, 1), ()):
        with pytest.raises(CellError, match=r"inputs\(.*\): expected the size of x, which is I, then those of further"):
            inputs(*wrong)
    with pytest.raises(CellError, match=r"mask: p is 1; expected a number from 0 up to, not including, 1"):
        mask(H, p=1)
    with pytest.raises(CellError, match="noise: per is 'batch'; expected 'step' or 'sequence'"):
        noise(H, per="batch")  # type: ignore[arg-type]
    with pytest.raises(CellError, match=r"step takes \(x, h\); expected \(x, dt, seen, h\): the inputs and the states"):
        type("Short", (Timed,), {"step": lambda self, x, h: h})
    with pytest.raises(CellError, match="lengths is an argument of every layer"):
        type("Named", (Timed,), {"lengths": context(H)})


class ByName(nn.Module):
    """torch.export wants arguments by their names."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, dt: Tensor, seen: Tensor, speaker: Tensor) -> Any:
        return self.layer(x, dt=dt, seen=seen, speaker=speaker)


@pytest.mark.filterwarnings("ignore")
def test_in_graphs() -> None:
    layer, x, more = Recurrent(timed(), bidirectional=True), torch.randn(T, B, I_, dtype=D), given()
    torch._dynamo.reset()
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, **more), layer(x, **more))
    both = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = {"x": both, "dt": both, "seen": both, "speaker": {0: torch.export.Dim.DYNAMIC}}
    program: Any = torch.export.export(ByName(layer), (x,), more, dynamic_shapes=shapes)
    longer, others = torch.randn(9, 2, I_, dtype=D), given(steps=9, batch=2)
    torch.testing.assert_close(program.module()(longer, **others), layer(longer, **others))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a generator cannot be part of a graph"):
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x, generator=torch.Generator(), **more)


def test_noise_is_what_it_says() -> None:
    class Shown(Cell):
        h = state(H)
        y, m, r, s = output(H), output(H), output(H), output(H)
        small, drop = noise(H), mask(H, p=0.25)
        run, kept = noise(H, per="sequence"), mask(H, p=0.5, per="sequence", always=True)
        W = param(H, I)

        def step(self, x: Tensor, h: Tensor) -> Any:
            zero = 0 * (x @ self.W.T)
            return zero, zero + self.small, zero + self.drop, zero + self.run, zero + self.kept

    layer, x = Recurrent(Shown(1, 50), target="llvm"), torch.ones(40, 30, 1)
    (y, m, r, s), _ = layer(x)
    assert abs(y.mean()) < 0.02
    assert abs(y.std() - 1) < 0.02
    assert m.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs(m.mean() - 1) < 0.02
    assert torch.equal(r, r[:1].expand_as(r))
    assert abs(r[0].std() - 1) < 0.1
    assert torch.equal(s, s[:1].expand_as(s))
    assert set(s.unique().tolist()) == {0.0, 2.0}
    (y, m, r, s), _ = layer.eval()(x)
    assert not y.any()
    assert not r.any()
    assert torch.equal(m, torch.ones_like(m))
    assert set(s.unique().tolist()) == {0.0, 2.0}


class Handled(Cell):
    """Noise and a mask in operations that want tensors, and whose shape and dtype matter."""

    h = state(H)
    small, drop, one = noise(H), mask(2 * H, p=0.4), noise(1, per="sequence")
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        is_right = (self.small.shape, self.drop.shape[-1], self.one.ndim) == (h.shape, 2 * h.shape[-1], 2)
        if not (is_right and self.small.dtype == self.drop.dtype == x.dtype):
            raise TypeError("noise of another shape or dtype")
        left, right = self.drop.chunk(2, -1)
        u = tanh(self.small) @ self.R.T + torch.cat([self.one, self.small[:, 1:]], -1)
        return tanh(x @ self.W.T + (h * left) @ self.R.T + u + self.small.sum(-1, keepdim=True)) * right


class Unhandled(Cell):
    """What is left of it without noise."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return tanh(x @ self.W.T + h @ self.R.T)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_noise_that_is_not_drawn_is_zeros_and_masks_ones(dtype: torch.dtype) -> None:
    layer = Recurrent(Handled(I_, H_, dtype=dtype)).eval()
    plain = Recurrent(Unhandled(I_, H_, dtype=dtype))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, I_, dtype=dtype)
    expected, _ = plain(x)
    for target in ("eager", "llvm"):
        layer.target = target
        y, _ = layer(x, lengths=[T, 2, 0, T])
        torch.testing.assert_close(y[:, [0, 3]], expected[:, [0, 3]])
        torch.testing.assert_close(layer.step(x[0])[0], expected[0])
        torch.testing.assert_close(layer.record(x, "u")[2]["u"], torch.zeros(T, B, H_, dtype=dtype))
        assert agree(layer.train(), x, reference="loop")
        layer.eval()
    torch.testing.assert_close(layer.cell(x[0])[0], expected[0])
    assert "small" not in vars(layer.cell)
    with torch.no_grad():
        assert is_single(layer, x[0])
    x.requires_grad_()
    (g,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    assert torch.autograd.grad(g.square().sum(), x)[0].isfinite().all()
    stacked = Recurrent(Stack([Zoneout(Handled(I_, H_, dtype=dtype), h=0.1), Handled(H_, 3, dtype=dtype)])).eval()
    assert agree(stacked, x)


class Shaken(Cell):
    """Noise that is added, and masks that multiply."""

    h = state(H)
    small, drop = noise(H), mask(H, p=0.4)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return tanh(x @ self.W.T + (h * self.drop) @ self.R.T + 0.1 * tanh(self.small)) * self.drop


class Counting(Shaken):
    """One that sets something in its step."""

    count = 0

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        self.count = self.count + 1
        return super().step(x, h)


def test_noise_that_is_not_drawn_costs_a_compiled_step_nothing() -> None:
    layers = [Recurrent(cell(I_, H_)).eval() for cell in (Shaken, Unhandled)]
    first, second = (layer.explain().replace(type(layer.cell).__name__, "").splitlines() for layer in layers)
    assert first[0] == second[0]
    assert "target llvm" in first[0]
    assert first == second


def test_a_step_without_its_noise_keeps_what_it_sets() -> None:
    layer = Recurrent(Counting(I_, H_), target="eager").eval()
    layer(torch.randn(T, B, I_))
    assert layer.cell.count == T
    layer.cell(torch.randn(B, I_))
    assert layer.cell.count == T + 1
    assert "small" not in vars(layer.cell)


@pytest.mark.parametrize(
    "core", [Noisy, lambda *n, dtype: Zoneout(Noisy(*n, dtype=dtype), h=0.2)], ids=["cell", "zoneout"]
)
def test_the_same_noise_on_every_target(core: Any) -> None:
    layer, x = Recurrent(core(I_, I_, dtype=D), layers=2, dropout=0.3), torch.randn(T, B, I_, dtype=D)
    found = agree(layer, x, lengths=[6, 0, 3, 1])
    assert found, found
    found = agree(layer, x, reference="loop")
    assert found, found


@pytest.mark.parametrize("core", [Noisy, lambda *n, dtype: WeightDrop(Zoneout(Noisy(*n, dtype=dtype), h=0.2), 0.2)])
def test_a_generator_draws_all_of_it(core: Any) -> None:
    x = torch.randn(T, B, I_, dtype=D)
    layers = [Recurrent(core(I_, I_, dtype=D), layers=2, dropout=0.3, target=t) for t in ("llvm", "eager")]
    layers[1].load_state_dict(layers[0].state_dict())
    before = torch.get_rng_state()
    first, second, other = (layers[0](x, generator=torch.Generator().manual_seed(s))[0] for s in (5, 5, 6))
    third = layers[1](x, generator=torch.Generator().manual_seed(5))[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    torch.testing.assert_close(third, first)
    assert not torch.equal(other, first)


def test_single_steps_draw() -> None:
    layer, x = Recurrent(Once(I_, H_, dtype=D)), torch.randn(B, I_, dtype=D)
    assert not torch.equal(layer.step(x)[0].y, layer.step(x)[0].y)
    drawn = [layer.step(x, generator=torch.Generator().manual_seed(3))[0].y for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].any()
    layer.eval()
    with torch.no_grad():
        assert is_single(layer, x)
    assert not layer.step(x)[0].y.any()
    with pytest.raises(OptionError, match="noise that lasts a whole sequence cannot be streamed"):
        Recurrent(Noisy(I_, H_, dtype=D)).step(x)
    assert not torch.equal(Once(I_, H_, dtype=D)(x)[0].y, torch.zeros(B, H_, dtype=D))


def test_a_cell_may_be_repeated() -> None:
    layer = Recurrent(Noisy(I_, H_), layers=2)
    assert "target llvm" in layer.explain()
    assert type(layer.cell.members[1]).noises.keys() == Noisy.noises.keys()
