"""How a step is declared: a Cell says what is carried (`state`), what is learned (`param`), what happens (`step`)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from everloop.binding import bind, keep
from everloop.declaration import (
    Context,
    H,
    I,
    Input,
    Noise,
    Output,
    Param,
    Size,
    State,
    bias,
    context,
    inputs,
    mask,
    noise,
    output,
    param,
    size,
    state,
)  # fmt: skip
from everloop.errors import CellError, OptionError, ShapeError, unknown
from everloop.step import advance, check_names, named_outputs, step_results

RESERVED = ("x", "state", "lengths", "reset", "generator")  # what a layer is called with


class Cell(nn.Module):
    """The mathematics of one time step.

    A subclass declares states, parameters and options in its body and writes `step(self, x, *states)` in
    ordinary PyTorch, returning the new states in the order of their declaration, then the outputs in that of theirs.
    What a step reads besides is declared too: further `inputs`, which it takes behind x, and `context`, `noise` and
    `mask`, which are attributes. An annotated attribute with a default (`eps: float = 1e-5`) is an option, given by
    keyword when the cell is made. `gates` names the blocks of `hidden_size` rows in the stacked matrices. `Outputs` is
    the NamedTuple of the outputs of a cell that declares several.

    Args:
        input_size: I, numbers in each x.
        hidden_size: H, numbers in the first state.
        bias: whether parameters declared by `bias` exist.
        options: further sizes and options of the subclass, by name.

    Raises:
        CellError: the declaration is incomplete or contradicts itself.
        OptionError: an option is unknown, missing or of the wrong type.
    """

    states: ClassVar[dict[str, State]] = {}
    outputs: ClassVar[dict[str, Output]] = {}
    step_inputs: ClassVar[dict[str, Input]] = {}
    contexts: ClassVar[dict[str, Context]] = {}
    noises: ClassVar[dict[str, Noise]] = {}
    params: ClassVar[dict[str, Param]] = {}
    options: ClassVar[dict[str, Any]] = {}
    gates: ClassVar[tuple[str, ...]] = ()
    Outputs: ClassVar[Any] = None
    is_shaped: ClassVar[bool] = False  # whether a state has several axes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = dict(vars(cls))
        cls.states = cls.states | {k: v for k, v in declared.items() if isinstance(v, State)}
        cls.outputs = cls.outputs | {k: v for k, v in declared.items() if isinstance(v, Output)}
        cls.step_inputs = {k: v for k, v in declared.items() if isinstance(v, Input)} or cls.step_inputs
        cls.contexts = cls.contexts | {k: v for k, v in declared.items() if isinstance(v, Context)}
        cls.noises = cls.noises | {k: v for k, v in declared.items() if isinstance(v, Noise)}
        cls.params = cls.params | {k: v for k, v in declared.items() if isinstance(v, Param)}
        annotated = inspect.get_annotations(cls)
        cls.options = cls.options | {
            k: declared[k]
            for k, note in annotated.items()
            if k in declared
            and not k.startswith("_")
            and "ClassVar" not in str(note)
            and not isinstance(declared[k], State | Output | Input | Context | Noise | Param)
        }
        for name, value in declared.items():
            if isinstance(value, State | Output | Input | Context | Param):
                delattr(cls, name)
            elif isinstance(value, Noise):
                setattr(cls, name, value.absent)
        if len(cls.outputs) > 1 and (cls.Outputs is None or cls.Outputs._fields != tuple(cls.outputs)):
            cls.Outputs = named_outputs(cls, list(cls.outputs))
        _check_names(cls)
        cls.is_shaped = any(len(s.shape) > 1 for s in cls.states.values())
        if cls.states and not cls.outputs and len(next(iter(cls.states.values())).shape) > 1:
            raise CellError(
                f"{cls.__name__}: the first state, which is the output, has several axes; declare a state of one axis "
                "before it, or an output: y = output(H)"
            )
        if "step" in declared and cls.state_sizes is Cell.state_sizes:
            _check_step(cls)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        cls = type(self)
        letters = cls.letters()
        for name in options:
            if name not in cls.options and name not in letters:
                known = ["input_size", "hidden_size", "bias", *cls.options, *letters]
                raise OptionError(f"{cls.__name__}: {unknown('option', name, known)}")
        self.sizes = {"input_size": input_size, "hidden_size": hidden_size}
        for name in letters:
            if name not in options:
                raise OptionError(f"{cls.__name__} needs {name}=…, a number")
            self.sizes[name] = options[name]
        for name, value in self.sizes.items():
            least = 0 if name == "input_size" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise OptionError(f"{cls.__name__}: {name} is {value!r}; expected an integer of at least {least}")
        for each in cls._declared_sizes():
            each(self.sizes)  # a quotient may not go in
        for name, default in cls.options.items():
            setattr(self, name, _checked_option(cls, name, options.get(name, default)))
        self.bias = bias
        for name, spec in cls.params.items():
            if spec.is_bias and not bias:
                self.__dict__[name] = 0.0
            else:
                shape = [s(self.sizes) for s in spec.shape]
                self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @classmethod
    def letters(cls) -> list[str]:
        """Return the letters of the declaration besides I and H, which are given by keyword."""
        free = frozenset().union(*(c.free for c in cls.contexts.values()))
        letters = frozenset().union(*(s.letters for s in cls._declared_sizes()))
        if taken := letters & free:
            raise CellError(
                f"{cls.__name__}: {', '.join(sorted(taken))} comes with each call, as the length of a context; it is"
                " the size of nothing else, and record() gives sequences of that length"
            )
        return sorted(letters - {"input_size", "hidden_size"})

    @classmethod
    def _declared_sizes(cls) -> list[Size]:
        groups: list[dict[str, Any]] = [cls.states, cls.outputs, cls.step_inputs, cls.noises]
        found = [spec.size for group in groups for spec in group.values()]
        found += [c.shape[-1] for c in cls.contexts.values()]
        return found + [s for p in cls.params.values() for s in p.shape]

    @property
    def input_size(self) -> int:
        """I, the size of x."""
        return self.sizes["input_size"]

    @property
    def hidden_size(self) -> int:
        """H, the letter of the declaration."""
        return self.sizes["hidden_size"]

    @property
    def output_size(self) -> int:
        """The size of the first output, which a cell above reads: the first one declared, or the first state."""
        return next(iter((self.output_sizes or self.state_sizes).values()))

    @property
    def output_width(self) -> int:
        """The size of all outputs side by side."""
        return sum(self.output_sizes.values()) or self.output_size

    @property
    def output_sizes(self) -> dict[str, int]:
        """The size of each declared output by name; there are none where the first state is the output."""
        return {name: spec.size(self.sizes) for name, spec in type(self).outputs.items()}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each state by name, without the batch."""
        return {name: tuple(axis(self.sizes) for axis in s.shape) for name, s in type(self).states.items()}

    @property
    def state_sizes(self) -> dict[str, int]:
        """The size of each state by name, in the order of declaration."""
        return {name: spec.size(self.sizes) for name, spec in type(self).states.items()}

    @property
    def input_sizes(self) -> dict[str, int]:
        """The size of each declared input besides x, by name."""
        return {name: spec.size(self.sizes) for name, spec in list(type(self).step_inputs.items())[1:]}

    @property
    def context_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each declared context by name; None is a length that comes with each call."""
        return {n: (*[None] * bool(c.free), c.shape[-1](self.sizes)) for n, c in type(self).contexts.items()}

    def step(self, x: Tensor, *states: Any) -> Any:
        """Return the states after one time step. x: [B, I]; each state: [B, its size]."""
        raise CellError(f"{type(self).__name__} has no step(self, x, {', '.join(type(self).states)})")

    def forward(self, x: Tensor, state: Any = None, **given: Tensor) -> tuple[Tensor, Any]:
        """Return (output, state) after one time step. x: [B, I]; state: a tuple of [B, size], or None for zeros.

        Further inputs and contexts are `given` by name, [B, size]. Of a cell that declares several outputs, the output
        is a NamedTuple of them.

        Raises:
            OptionError: something is missing or was not declared.
            ShapeError: x, the state or something given does not fit.
        """
        name = type(self).__name__
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ShapeError(f"{name}: x is {list(x.shape)}; expected [B, {self.input_size}]")
        before = self.zeros(len(x), like=x) if state is None else state
        came = [list(s.shape) for s in before] if isinstance(before, tuple | list) else type(before).__name__
        expected = [[len(x), *shape] for shape in self.state_shapes.values()]
        if came != expected:
            raise ShapeError(f"{name}: state is {came}; expected a tuple of {', '.join(map(str, expected))}")
        told = self.told(x, given)
        twin = bind(self, told) if told else self
        output, rows = advance(twin, x, [s.flatten(1) for s in before])
        shaped = zip(rows, self.state_shapes.values(), strict=True)
        return self.by_name(output), tuple(s if len(shape) == 1 else s.reshape(-1, *shape) for s, shape in shaped)

    def told(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a step of x [B, I] reads besides: inputs and contexts that are `given`, masks, noise."""
        name, sizes = type(self).__name__, {k: (n,) for k, n in self.input_sizes.items()} | self.context_shapes
        check_names(name, given, sizes)
        for each, shape in sizes.items():
            wanted = [len(x), *("S" if n is None else n for n in shape)]
            fits = given[each].dim() == len(wanted)
            if not (fits and all(w in ("S", n) for w, n in zip(wanted, given[each].shape, strict=True))):
                raise ShapeError(f"{name}: {each} is {list(given[each].shape)}; expected {wanted}")
        memories = [k for k, shape in sizes.items() if None in shape]
        masks = {f"{k}_mask": given[k].new_ones(given[k].shape[:2], dtype=torch.bool) for k in memories}
        drawn = {k: spec.draw(len(x), spec.size(self.sizes), like=x) for k, spec in self.drawn().items()}
        return {**given, **masks, **drawn}

    def drawn(self) -> dict[str, Noise]:
        """Return the noise that is drawn now: in evaluation only what is declared so."""
        return {name: spec for name, spec in type(self).noises.items() if self.training or spec.always}

    def by_name(self, output: Tensor) -> Any:
        """Return outputs that stand side by side as a NamedTuple, where there are several."""
        sizes = self.output_sizes
        if len(sizes) < 2:
            return output
        return self.output_type(*torch.split(output, list(sizes.values()), -1))

    @property
    def output_type(self) -> Any:
        """The NamedTuple of the outputs; None where there is only one."""
        return type(self).Outputs

    def zeros(self, batch: int, like: Tensor) -> Any:
        """Return the state of zeros for `batch` sequences, on the device and in the dtype of `like`."""
        return tuple(like.new_zeros(batch, *shape) for shape in self.state_shapes.values())

    def like(self, input_size: int) -> Cell:
        """Return a new cell of this kind, with this cell's sizes and options, for another input size."""
        cls = type(self)
        if cls.__init__ is not Cell.__init__:
            raise CellError(f"{cls.__name__} has its own __init__ and cannot be repeated; pass a Stack([...]) of cells")
        known = {name: getattr(self, name) for name in cls.options}
        known |= {name: n for name, n in self.sizes.items() if name not in ("input_size", "hidden_size")}
        first = next(self.parameters(), torch.empty(0))
        return cls(input_size, self.hidden_size, bias=self.bias, device=first.device, dtype=first.dtype, **known)

    def reset_parameters(self, *, orthogonal: bool = False, forget_bias: float | None = None) -> None:
        """Draw every parameter anew, by default as torch.nn does.

        Args:
            orthogonal: fill each hidden_size-row block of the recurrent matrices with an orthogonal matrix
                (Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning", 2014).
            forget_bias: the sum of the biases of gate f (Jozefowicz, Zaremba and Sutskever, "An empirical
                exploration of recurrent network architectures", 2015, use 1).
        """
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for name, spec in type(self).params.items():
                value = self._parameters.get(name)
                if value is None:
                    continue
                if spec.init is None:
                    nn.init.uniform_(value, -bound, bound)
                elif callable(spec.init):
                    spec.init(value)
                else:
                    value.fill_(spec.init)
            for name, spans in self.recurrent_matrices().items() if orthogonal else ():
                whole = self.get_parameter(name)
                for matrix in whole.view(-1, *whole.shape[-2:]):
                    for block in (b for columns in spans for b in torch.split(matrix[:, columns], self.hidden_size)):
                        nn.init.orthogonal_(block)
            if forget_bias is not None:
                self._fill_forget_bias(forget_bias)

    def recurrent_matrices(self) -> dict[str, list[slice]]:
        """Return, for each matrix that multiplies the output fed back, the columns that do: those with its letter.

        Axes before the last two hold several matrices. One with the rows of an output, and of no state, is a readout.
        """
        cls = type(self)
        fed_back = {letter for letter, _ in next(iter(cls.states.values())).size.terms if letter}
        read_out = {spec.size for spec in cls.outputs.values()} - {spec.size for spec in cls.states.values()}
        matrices = {n: p.shape for n, p in cls.params.items() if len(p.shape) > 1 and not p.is_bias}
        spans = {n: _spans(shape[-1], self.sizes) for n, shape in matrices.items() if shape[-2] not in read_out}
        found = {n: [span for a, span in each if a.partition("/")[0] in fed_back] for n, each in spans.items()}
        return {n: each for n, each in found.items() if each}

    def _fill_forget_bias(self, value: float) -> None:
        gates = type(self).gates
        if "f" not in gates:
            raise OptionError(f"{type(self).__name__} has no forget gate f; its gates: {', '.join(gates) or 'none'}")
        rows = slice(gates.index("f") * self.hidden_size, (gates.index("f") + 1) * self.hidden_size)
        stacked = Size((("hidden_size", len(gates)),))
        biases = [n for n, p in type(self).params.items() if p.is_bias and p.shape == (stacked,)]
        if not biases or not self.bias:
            raise OptionError(f"{type(self).__name__} has no bias to fill with forget_bias={value}")
        for name in biases:
            self._parameters[name].data[rows] = value if name == biases[0] else 0.0  # type: ignore[union-attr]

    def extra_repr(self) -> str:
        chosen = [f"{k}={v}" for k, v in self.sizes.items() if k not in ("input_size", "hidden_size")]
        chosen += [f"{k}={getattr(self, k)!r}" for k, v in type(self).options.items() if getattr(self, k) != v]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *chosen, *([] if self.bias else ["bias=False"])])


def _spans(total: Size, sizes: Mapping[str, int]) -> list[tuple[str, slice]]:
    spans, start = [], 0
    for letter, count in total.terms:
        width = Size(((letter, count),))(sizes)
        spans.append((letter, slice(start, start + width)))
        start += width
    return spans


def _checked_option(cls: type[Cell], name: str, value: Any) -> Any:
    hint = get_type_hints(cls)[name]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if choices and value not in choices:
        raise OptionError(f"{cls.__name__}: {name} is {value!r}; expected {' or '.join(map(repr, choices))}")
    accepted = (int, float) if hint is float else hint
    if isinstance(hint, type) and hint is not Any and not isinstance(value, accepted):
        raise OptionError(f"{cls.__name__}: {name} is {value!r}; expected {hint.__name__}")
    return value


def _check_names(cls: type[Cell]) -> None:
    groups: dict[str, dict[str, Any]] = {
        "state": cls.states, "output": cls.outputs, "param": cls.params, "input": cls.step_inputs,
        "context": cls.contexts, "noise": cls.noises,
    }  # fmt: skip
    for name in (*list(cls.step_inputs)[1:], *cls.contexts):
        if name in RESERVED:
            raise CellError(f"{cls.__name__}: {name} is an argument of every layer; give this one another name")
    for (kind, names), (other, others) in combinations(groups.items(), 2):
        for name in names.keys() & others.keys():
            raise CellError(f"{cls.__name__}: {name} is declared as {kind} and as {other}; give one another name")


def _check_step(cls: type[Cell]) -> None:
    if not cls.states:
        raise CellError(f"{cls.__name__} declares no state; write for instance `h = state(H)` in its body")
    taken = [p.name for p in inspect.signature(cls.step).parameters.values() if p.kind != p.VAR_POSITIONAL][2:]
    variadic = any(p.kind == p.VAR_POSITIONAL for p in inspect.signature(cls.step).parameters.values())
    further = list(cls.step_inputs)[1:]
    if taken != [*further, *cls.states] and not variadic:
        raise CellError(
            f"{cls.__name__}.step takes ({', '.join(['x', *taken])}); expected ({', '.join(['x', *further])}, "
            f"{', '.join(cls.states)}): {'the inputs and ' * bool(further)}the states in the order of their declaration"
        )


__all__ = [
    "Cell", "Context", "H", "I", "Input", "Noise", "Output", "Param", "Size", "State", "advance", "bias", "bind",
    "check_names", "context", "inputs", "keep", "mask", "noise", "output", "param", "size", "state", "step_results",
]  # fmt: skip
