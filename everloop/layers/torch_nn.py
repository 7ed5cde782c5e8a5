"""Drop-in RNN, LSTM and GRU: torch.nn's arguments, names, results and errors, on this library's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from everloop import cells, torch_private
from everloop.cell import Cell
from everloop.compiler import forks
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.compiler.embedded import Embedded
from everloop.compiler.reduced import running
from everloop.compiler.time_axis import TimeAxis
from everloop.errors import ShapeError
from everloop.layers import custom_operator
from everloop.layers.dispatch import compiles, rewritten, run
from everloop.layers.input_form import InputForm, unpack
from everloop.layers.precision import autocast_dtype
from everloop.layers.validation import checked_input, checked_lengths, checked_reset


class _Layers(nn.RNNBase):
    """The forward call of torch.nn's layers as cells over time."""

    def forward(
        self,
        input: Any,  # noqa: A002 - torch.nn's names
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> Any:
        """Return (output, hidden state), as the layer of torch.nn with this name.

        lengths: steps of each sequence, [B], in any order; the output is zero from there on. reset: bool, or numbers 0
        and 1, [T, B] ([B, T] if `batch_first`): the state becomes zero before that step.

        Raises:
            ShapeError: with lengths or reset, something does not fit; or input is Embedded symbols.
        """
        # The first line reads `self`, which Dynamo follows only if told to: if not, it leaves the whole call to Python.
        outside = self._outside
        if isinstance(input, Embedded):
            raise ShapeError(f"{type(self).__name__}: input is Embedded, which Recurrent reads; give its rows()")
        if lengths is not None or reset is not None:
            return self._ragged(input, hx, lengths, reset)
        if torch.compiler.is_compiling():
            is_own = self._fits(input, hx) and self._is_in_graph(input)
            return self._over_time(input, hx) if is_own else super().forward(input, hx)
        return outside(input, hx) if torch_private.dynamo_callback() is None else _unwatched(self, input, hx)

    def _ragged(self, input: Any, hx: Any, lengths: Any, reset: Any) -> Any:  # noqa: A002
        """Run with lengths or resets, which PyTorch's own layers do not have."""
        name = type(self).__name__
        if isinstance(input, PackedSequence):
            raise ShapeError(f"{name}: a PackedSequence has its own lengths and no resets; pad it to give these")
        checked_input(name, input, self.input_size, self._flat_weights[0].dtype)  # type: ignore[union-attr]
        if not (self._fits(input, hx) or autocast_dtype(input) is not None):
            raise ShapeError(f"{name}: the hidden state or an empty sequence does not fit input {list(input.shape)}")
        if not torch.compiler.is_compiling():
            forks.prepare()
        return self._over_time(input, hx, lengths, checked_reset(name, reset, input))

    def _outside(self, input: Any, hx: Any) -> Any:  # noqa: A002
        """Run outside of torch.compile."""
        forks.prepare()
        data = input.data if isinstance(input, PackedSequence) else input
        if self._fits(input, hx) and (compiles(self._cell(self.input_size), data) or rewritten()):
            return self._over_time(input, hx)
        return super().forward(input, hx)  # a target of PyTorch's own, or its error

    def _is_in_graph(self, input: Any) -> bool:  # noqa: A002
        """Whether a graph holds this library's operator; a graph to be saved has PyTorch's own where it can."""
        packed = isinstance(input, PackedSequence)
        data = input.data if packed else input
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            return not packed and not isinstance(self._steps(data), int)
        return bool(_is_fit(data.dtype, data.device.type))

    def _over_time(self, input: Any, hx: Any, lengths: Any = None, reset: Tensor | None = None) -> Any:  # noqa: A002
        x, form = input, InputForm(batch_first=self.batch_first)
        if isinstance(input, PackedSequence):
            form, (x, lengths) = InputForm(packed=input), unpack(input)
        elif input.dim() == 2:
            form = InputForm(is_single=True)
        state: tuple[Tensor, ...] | None = hx if hx is None or self.mode == "LSTM" else (hx,)
        state = state and form.state_inward(state, axis=1)
        reset = None if reset is None else form.inward(reset)
        x = form.inward(x)
        lengths = checked_lengths(type(self).__name__, lengths, x)
        y, state = self._layers(x, state, lengths, reset)
        low = autocast_dtype(x) if self._flat_weights[0].dtype == torch.float32 else None  # type: ignore[union-attr]
        if self.mode == "GRU" and low is not None:  # torch.nn.GRU adds its state as it comes
            dtype = torch.promote_types(low, x.dtype if hx is None else hx.dtype)
            y, state = y.to(dtype), tuple(s.to(dtype) for s in state)
        return form.outward(y, lengths), self._state(form.state_outward(state, axis=1))

    def _fits(self, input: Any, hx: Any) -> bool:  # noqa: A002
        packed = isinstance(input, PackedSequence)
        data = input.data if packed else input
        if data.dim() not in ((2,) if packed else (2, 3)) or data.shape[-1] != self.input_size:
            return False
        dtype = self._flat_weights[0].dtype  # type: ignore[union-attr]

        def is_fit(t: Tensor) -> bool:
            is_cast = t.dtype != dtype and dtype == torch.float32 and autocast_dtype(t) is not None
            return t.dtype == dtype or (is_cast and t.is_floating_point())

        if not is_fit(data):
            return False
        if self._steps(data) == 0:
            return False
        if hx is None:
            return True
        if packed:
            batch = [int(input.batch_sizes[0])]
        else:
            batch = [data.shape[0 if self.batch_first else 1]] if data.dim() == 3 else []
        count = self.num_layers * (2 if self.bidirectional else 1)
        shapes = [(count, *batch, n) for n in self._sizes()]
        given = hx if isinstance(hx, tuple) else (hx,)
        if isinstance(hx, tuple) != (self.mode == "LSTM") or not all(isinstance(h, Tensor) for h in given):
            return False
        is_wide = dtype != torch.float64 and any(h.dtype == torch.float64 for h in given)  # PyTorch casts none
        return [tuple(h.shape) for h in given] == shapes and all(map(is_fit, given)) and not is_wide

    def _steps(self, data: Tensor) -> int:
        return data.shape[1 if self.batch_first and data.dim() == 3 else 0]

    def _sizes(self) -> list[int]:
        return [self.proj_size or self.hidden_size] + ([self.hidden_size] if self.mode == "LSTM" else [])

    def _layers(
        self, x: Tensor, state: tuple[Tensor, ...] | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Any]:
        directions, time = 2 if self.bidirectional else 1, TimeAxis.of(x, lengths, reset)
        if state is None:
            state = tuple(x.new_zeros(self.num_layers * directions, x.shape[1], n) for n in self._sizes())
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                values = self._values(f"_l{layer}" + ("_reverse" if direction else ""))
                start = tuple(s[k] for s in state)
                y, final = self._run(values, x, start, time.opposite() if direction else time)
                outputs.append(y)
                finals.append(final)
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
            if self.dropout and layer < self.num_layers - 1:
                x = dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _run(self, values: Bindings, x: Tensor, start: tuple[Tensor, ...], time: TimeAxis) -> Results:
        call = Call(values, x, start, (None,) * len(start), time)
        if not torch.compiler.is_compiling():
            return run(self._cell(x.shape[-1]), call)
        key = _key(self.mode, x.shape[-1], self.hidden_size, self.proj_size, self.bias, " ".join(values.fixed))
        return custom_operator.call(key, call)

    def _cell(self, input_size: int) -> Cell:
        return _cell(self.mode, input_size, self.hidden_size, self.proj_size, self.bias)

    def cells(self) -> list[list[Cell]]:
        """Return cells with copies of the weights: for each layer one for each direction."""
        found: list[list[Cell]] = []
        for layer in range(self.num_layers):
            size = self.input_size if not layer else sum(cell.output_size for cell in found[-1])
            found.append([])
            for end in ("", "_reverse")[: 1 + self.bidirectional]:
                cell = _new_cell(self.mode, size, self.hidden_size, self.proj_size, self.bias)
                for name, tensor in self._values(f"_l{layer}{end}").fixed.items():
                    cell.register_parameter(name, nn.Parameter(tensor.detach().clone()))
                found[-1].append(cell)
        return found

    def _values(self, suffix: str) -> Bindings:
        weights = {"W": getattr(self, "weight_ih" + suffix), "R": getattr(self, "weight_hh" + suffix)}
        if self.proj_size:
            weights["V"] = getattr(self, "weight_hr" + suffix)
        if self.bias:
            b, d = getattr(self, "bias_ih" + suffix), getattr(self, "bias_hh" + suffix)
            weights |= {"b": b, "d": d} if self.mode == "GRU" else {"b": b + d}
        return Bindings(weights)

    def _state(self, state: tuple[Tensor, ...]) -> Any:
        return state if self.mode == "LSTM" else state[0]


_unwatched: Any = torch_private.without_dynamo(_Layers._outside)


class RNN(_Layers, nn.RNN):
    """torch.nn.RNN: same arguments, weight names, results and gradients."""


class LSTM(_Layers, nn.LSTM):
    """torch.nn.LSTM: same arguments, weight names, results and gradients."""


class GRU(_Layers, nn.GRU):
    """torch.nn.GRU: same arguments, weight names, results and gradients."""


_SWAPS: dict[type, type] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def accelerate(model: nn.Module) -> nn.Module:
    """Turn every torch.nn.RNN, LSTM and GRU inside `model` into this library's, in place, and return `model`.

    The modules stay the same objects, so parameters, hooks, shared modules and optimisers hold. Subclasses of the
    three are left as they are. Weights have the same names before and after, so a state_dict fits both. A module that
    is pickled as a whole stays accelerated; one that its class makes anew is so if `__init__` ends with
    `everloop.accelerate(self)`.
    """
    for module in model.modules():
        if type(module) in _SWAPS:
            module.__class__ = _SWAPS[type(module)]
    return model


@torch_private.constant_in_graphs
def _is_fit(dtype: torch.dtype, device: str) -> bool:
    """Return whether the compiled target runs this dtype on this type of device."""
    return not isinstance(running(dtype, torch.device(device)), str)


@torch_private.constant_in_graphs
def _key(mode: str, input_size: int, hidden_size: int, proj_size: int, bias: bool, names: str) -> str:
    key: str = custom_operator.key_of(
        _cell(mode, input_size, hidden_size, proj_size, bias), names, "", "", None, False, True
    )
    return key


@lru_cache(maxsize=256)
def _cell(mode: str, input_size: int, hidden_size: int, proj_size: int, bias: bool) -> Cell:
    p = torch_private
    with p.without_modes(), p.without_transforms(), p.without_torch_function():  # it outlives whatever is going on
        return _new_cell(mode, input_size, hidden_size, proj_size, bias)


def _new_cell(mode: str, input_size: int, hidden_size: int, proj_size: int, bias: bool) -> Cell:
    common: dict[str, Any] = {"bias": bias, "device": "meta"}
    if mode == "GRU":
        return cells.GRU(input_size, hidden_size, **common)
    if mode == "LSTM" and proj_size:
        return cells.ProjectedLSTM(input_size, hidden_size, proj_size=proj_size, **common)
    if mode == "LSTM":
        return cells.LSTM(input_size, hidden_size, **common)
    return cells.Elman(input_size, hidden_size, nonlinearity="tanh" if mode == "RNN_TANH" else "relu", **common)
