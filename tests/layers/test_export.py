"""torch.export of layers: saved and loaded in a new process, for other numbers of steps and sequences, for ONNX."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.errors import UnsupportedError
from everloop.layers import Bidirectional, Recurrent, Stack, Zoneout
from everloop.layers.torch_nn import GRU, LSTM, RNN, accelerate
from tests.layers.exported import Leaky, Memory

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export itself uses what is deprecated
T, B, I_, H_ = 6, 3, 4, 5
D = torch.float64
DYNAMIC = torch.export.Dim.DYNAMIC
OPERATOR = torch.ops.everloop.sequence.default
LAYERS: dict[str, Any] = {
    "learned": lambda: Recurrent(cells.LSTM(I_, H_, dtype=D), learned_state=True, bidirectional=True, layers=2),
    "stack": lambda: Recurrent(
        Stack([cells.GRU(I_, H_, bias=False, dtype=D), Leaky(H_, H_, rate=0.3, dtype=D)], residual=True)
    ),
    "zoneout": lambda: Recurrent(Zoneout(cells.LayerNormLSTM(I_, H_, dtype=D), h=0.1, c=0.2), batch_first=True),
    "both": lambda: Recurrent(Bidirectional(cells.PeepholeLSTM(I_, H_, dtype=D), Leaky(I_, 3, dtype=D))),
}


def inputs(layer: Recurrent, steps: int = T, batch: int = B) -> dict[str, Any]:
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    lengths = torch.randint(0, steps + 1, (batch,))
    return {"x": torch.randn(*shape, I_, dtype=D), "lengths": lengths, "reset": torch.rand(shape) < 0.3}


def exported(layer: Recurrent, strict: bool = False) -> torch.export.ExportedProgram:
    """Return the layer exported for any number of steps and sequences."""
    both = {0: DYNAMIC, 1: DYNAMIC}
    shapes = {"x": both, "lengths": {0: DYNAMIC}, "reset": both}
    return torch.export.export(layer, (), inputs(layer), dynamic_shapes=shapes, strict=strict)


@cache
def kept(name: str) -> tuple[Recurrent, torch.export.ExportedProgram]:
    """Return a layer, in evaluation, and what is exported of it."""
    layer = LAYERS[name]().eval()
    return layer, exported(layer)


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("name", LAYERS)
def test_any_number_of_steps_and_sequences(name: str, strict: bool) -> None:
    layer, program = kept(name)
    model: Any = (exported(layer, strict=True) if strict else program).module()
    for steps, batch in ((T, B), (9, 2), (3, 7)):
        given = inputs(layer, steps, batch)
        torch.testing.assert_close(model(**given), layer(**given), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_decomposed_into_a_scan_of_steps(name: str) -> None:
    layer, program = kept(name)
    program = program.run_decompositions({OPERATOR: torch._decomp.decomposition_table[OPERATOR]})
    assert OPERATOR not in [node.target for node in program.graph.nodes]
    for steps, batch in ((T, B), (9, 2)):
        given = inputs(layer, steps, batch)
        expected = Recurrent.forward(copy.deepcopy(layer), **given)
        torch.testing.assert_close(program.module()(**given), expected, rtol=1e-12, atol=1e-12)


class Named(nn.Module):
    """A layer whose further inputs and contexts are arguments by name, as `torch.export` wants them for free sizes."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, dt: Tensor, speaker: Tensor) -> Any:
        return self.layer(x, dt=dt, speaker=speaker)


def of_named(steps: int, batch: int) -> dict[str, Tensor]:
    shapes = {"x": (steps, batch, I_), "dt": (steps, batch, 1), "speaker": (batch, 3)}
    return {name: torch.rand(shape, dtype=D) for name, shape in shapes.items()}


def test_a_new_process_loads_what_was_saved(tmp_path: Path) -> None:
    def save(name: str, model: nn.Module, example: Any, given: Any) -> None:
        """Save a model, free in the axes in which `given` differs from `example`; what is given; what it says to it."""
        sizes = {k: enumerate(zip(v.shape, given[k].shape, strict=True)) for k, v in example.items()}
        free = {k: {axis: DYNAMIC for axis, (n, m) in each if n != m} for k, each in sizes.items()}
        torch.export.save(torch.export.export(model, (), example, dynamic_shapes=free), tmp_path / f"{name}.pt2")
        torch.save(given, tmp_path / f"{name}.in")
        expected[name] = torch.utils._pytree.tree_leaves(model(**given))

    expected: dict[str, Any] = {}
    both = LAYERS["both"]().eval()
    save("both", both, inputs(both), inputs(both, 9, 2))
    save("outputs", Named(Recurrent(Memory(I_, H_, keys=3, dtype=D))), of_named(T, B), of_named(9, 2))
    for kind in (nn.LSTM, nn.GRU):  # of a size that no other test has, so that its cells are made while it is exported
        model = accelerate(kind(I_, 11, num_layers=2, bidirectional=True, batch_first=True, dtype=D))
        save(kind.__name__, model, *({"input": torch.randn(*n, I_, dtype=D)} for n in ((B, T), (2, 9))))

    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.layers.exported", str(tmp_path), "tests.layers.exported"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "exported with Leaky of the module tests.layers.exported, which is not there" in done.stdout
    assert done.returncode == 0, done.stderr
    for name, outputs in expected.items():
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.out"), outputs, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_saved_says_so() -> None:
    class Local(Cell):
        h = state(H)
        W = param(H, I)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(x @ self.W.T) + h

    x = torch.randn(T, B, I_)
    local = Recurrent(Local(I_, H_))
    with pytest.raises(
        UnsupportedError, match=r"cannot be exported: .*Local cannot be imported by this name in another process"
    ):
        torch.export.export(local, (x,))
    torch.testing.assert_close(torch.compile(local, backend="eager", fullgraph=True)(x), local(x))
    cell: Any = Leaky(I_, H_)
    cell.extra = torch.tanh
    with pytest.raises(UnsupportedError, match=r"Leaky\.extra is builtin_function_or_method; hold numbers"):
        torch.export.export(Recurrent(cell), (x,))
    hooked = Recurrent(Zoneout(Leaky(I_, H_), h=0.1))
    hooked.cell.cell.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="has hooks"):
        torch.export.export(hooked, (x,))


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_drop_ins_are_those_of_torch_where_the_number_of_steps_is_fixed(kind: Any) -> None:
    theirs = getattr(nn, kind.__name__)(I_, H_, num_layers=2, bidirectional=True, batch_first=True)
    mine = accelerate(copy.deepcopy(theirs))
    x, shapes = torch.randn(B, T, I_), ({0: DYNAMIC},)
    expected, found = (torch.export.export(m, (x,), dynamic_shapes=shapes) for m in (theirs, mine))
    assert [n.target for n in found.graph.nodes] == [n.target for n in expected.graph.nodes]


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_drop_ins_for_any_number_of_steps(kind: Any) -> None:
    layer = kind(I_, H_, num_layers=2, bidirectional=True, batch_first=True, dtype=D)
    x, shapes = torch.randn(B, T, I_, dtype=D), ({0: DYNAMIC, 1: DYNAMIC},)
    model = torch.export.export(layer, (x,), dynamic_shapes=shapes).module()
    for batch, steps in ((B, T), (2, 9)):
        x = torch.randn(batch, steps, I_, dtype=D)
        torch.testing.assert_close(model(x), super(kind, layer).forward(x), rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(not (find_spec("onnxscript") and find_spec("onnxruntime")), reason="needs onnxscript, onnxruntime")
@pytest.mark.parametrize(
    "kind",
    [LSTM, lambda *n: Recurrent(cells.PeepholeLSTM(*n), bidirectional=True)],
    ids=["drop-in", "peephole"],
)
@pytest.mark.parametrize("is_dynamic", [False, True])
def test_onnx(kind: Any, is_dynamic: bool) -> None:
    import onnxruntime

    layer, shapes = kind(I_, H_), ({0: DYNAMIC, 1: DYNAMIC},) if is_dynamic else None
    program: Any = torch.onnx.export(layer.eval(), (torch.randn(T, B, I_),), dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for steps, batch in ((T, B), (9, 2)) if is_dynamic else ((T, B),):
        x = torch.randn(steps, batch, I_)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = torch.utils._pytree.tree_leaves(layer(x))
        torch.testing.assert_close([torch.from_numpy(f) for f in found], expected, rtol=1e-5, atol=1e-6)
