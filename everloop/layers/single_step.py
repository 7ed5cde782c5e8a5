"""Single steps: the whole cell or stack as one call of one kernel; with gradients in PyTorch, quicker for one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell, bind
from everloop.compiler import forks
from everloop.compiler.bindings import Bindings
from everloop.compiler.dtypes import arithmetic
from everloop.compiler.reduced import running
from everloop.compiler.stepping import Step
from everloop.compiler.target import CellTarget, find
from everloop.errors import UnsupportedError
from everloop.layers import torch_step
from everloop.layers.bidirectional import Bidirectional
from everloop.layers.check import noted, verify_step
from everloop.layers.dispatch import chosen, decomposition_reason
from everloop.layers.dropout import Wrapper, values_of
from everloop.layers.extras import declared, example_extras, paths
from everloop.layers.flatten import Flat, last
from everloop.layers.guards import Guard, programs, unsupported_reason, version
from everloop.layers.nested import as_rows, each, flatten, leaves, map_state, nest
from everloop.layers.precision import converted_values
from everloop.layers.stack import Stack

ROWS = 256  # rows a step for which packing its matrices does not pay
Given = Mapping[str, Any]
_address, _is_contiguous = Tensor.data_ptr, Tensor.is_contiguous


class Stepper:
    """How a layer takes single steps. It holds addresses, compiled code and what is made of weights; never copied."""

    def __init__(self) -> None:
        self._guarded: _GuardedStep | None = None

    def __reduce__(self) -> tuple[type[Stepper], tuple[()]]:
        return Stepper, ()

    def step(
        self,
        core: Any,
        x: Tensor,
        state: Any,
        start: Iterable[Tensor] | None,
        target: str | None,
        reset: Tensor | None,
        given: Given,
    ) -> tuple[Any, Any] | None:
        """Return (output, state), or None where the step must go the way of a whole sequence.

        reset: which rows begin anew; given: further inputs and contexts by name.
        """
        if decomposition_reason():
            return None
        guarded, target = self._guarded, chosen(target)
        if guarded is None or guarded.target != target or not guarded.holds(core):
            guarded = self._guarded = _GuardedStep(core, target)
        if torch.is_autocast_enabled("cpu"):
            return guarded.step_under_autocast(x, state, start, reset, given)
        return guarded.step(x, state, start, reset, given)

    def verify(
        self, core: Any, x: Tensor, state: Any, start: Iterable[Tensor] | None, found: tuple[Any, Any], given: Given
    ) -> None:
        """Compare what `step` has found with the step in float64, once a compiled step; raises MismatchError.

        What autocast has rounded and what has gradients is not compared: the kernel is the one of a step without these.
        """
        assert self._guarded is not None, "what has stepped is guarded"
        read = (x, *(() if state is None else leaves(state)), *(start or ()), *given.values())
        if not (torch.is_autocast_enabled("cpu") or self._guarded.wants_gradients(read)):
            self._guarded.verify(core, x, state, start, found, given)

    def explain(self, core: Any, reason: str, target: str | None) -> str:
        """Return how single steps are taken; `reason`: why they go the way of a whole sequence, as far as is known."""
        impossible = unsteppable(core)
        if impossible:
            return f"step: not possible, because {impossible}"
        guarded = self._guarded = _GuardedStep(core, chosen(target))
        reason = (guarded.reason or reason) if guarded.target else (reason or guarded.reason)
        if reason:
            return f"step: as a sequence of one step, by the target above, because {reason}"
        return (
            f"step: one native call, {guarded.description}, for up to {ROWS} rows, on the parameters in place;"
            f"{guarded.how_with_gradients} otherwise as a sequence of one step; {guarded.noted}"
        )


class _BoundStep:
    """A step for one shape of x: the bound kernel, the shapes of what it is given, and tensors like its results.

    given: the shapes of a row of each state and of further rows; results: of the output and of each state.
    """

    def __init__(
        self,
        program: Step,
        values: Bindings,
        shape: torch.Size,
        given: Sequence[torch.Size],
        results: Sequence[torch.Size],
    ) -> None:
        rows = shape[:-1]
        bound = program.bind(values, rows[0] if rows else 1)
        self.call, self.derived = bound.call, bound.derived
        self.shapes = [shape, *(torch.Size((*rows, *row)) for row in given)]
        like = torch.empty(0, dtype=program.dtype)
        self.results = [program.target.empty((*rows, *row), like) for row in results]

    def begin(self, start: Iterable[Tensor] | None, like: Tensor, count: int) -> list[Tensor]:
        """Return the `count` states before the first step."""
        shapes = self.shapes[1 : count + 1]
        if start is None:
            return [like.new_zeros(shape) for shape in shapes]
        rows = len(like.shape) - 1
        return [vector.view(shape[rows:]).expand(shape) for vector, shape in zip(start, shapes, strict=True)]

    def restarted(
        self, tensors: Sequence[Tensor], reset: Tensor, start: Iterable[Tensor] | None, count: int
    ) -> Sequence[Tensor]:
        """Return x, `count` states and further rows, the states of the rows of `reset` as before the first step."""
        states = [
            torch.where(reset.view(*reset.shape, *[1] * (state.dim() - reset.dim())), begin, state)
            for state, begin in zip(tensors[1 : count + 1], self.begin(start, tensors[0], count), strict=True)
        ]
        return [tensors[0], *states, *tensors[count + 1 :]]


class _GuardedStep:
    """What is known about a cell or stack as long as nothing about it but the numbers in its tensors changes."""

    def __init__(self, core: nn.Module, target: str | None) -> None:
        self._core, self.target = core, target
        version(core)  # what code reads is looked up anew where the version is, so before it is noted
        self._guard = Guard(core)
        own = (*core.named_parameters(remove_duplicate=False), *core.named_buffers(remove_duplicate=False))
        self._declared, by_path = declared(core), paths(core)
        like = next((t for _, t in own), torch.empty(0))
        is_fit = not any(expected.is_memory for expected in self._declared.values())
        rows = {path: like.new_zeros(1, *self._declared[name].sizes) for path, name in by_path.items() if is_fit}
        self._values = Bindings(dict(own), rows).under("core")
        found = _program(core, self._values, target)
        self._program = found if isinstance(found, Step) else None
        self.reason = found if isinstance(found, str) else ""
        self._forms: dict[torch.Size, _BoundStep] = {}
        self._tensors = self._program.sources(self._values) if self._program else []
        # An address stands for a tensor: held here, its memory cannot become another's.
        self._memory = [t.detach() for t in self._tensors]
        self._places = list(map(_address, self._tensors))
        self._contiguous = list(map(_is_contiguous, self._tensors))
        if self._program is not None:
            self.description = self._program.kernel.description
            self._empty_like = self._program.target.empty_like
            self._dtype = self._program.dtype
            self._given = [by_path[path.removeprefix("core.")] for path in self._program.rows]
            self._nested = core.zeros(1, like=torch.empty(0, dtype=self._dtype))  # type: ignore[operator]
            self._states = [zeros.shape[1:] for zeros in leaves(self._nested)]
            self._count = len(self._nested) if isinstance(core, Cell) else -1
            top = last(core)
            first = self._states[len(self._states) - len(top.state_sizes)]
            self._results = [torch.Size([top.output_width]) if top.output_sizes else first, *self._states]
            self._by_name = top.by_name if len(top.output_sizes) > 1 else None

    def holds(self, core: nn.Module) -> bool:
        """Whether nothing has changed that this relies on."""
        return (
            core is self._core
            and self._guard.holds()
            and list(map(_address, self._tensors)) == self._places
            and list(map(_is_contiguous, self._tensors)) == self._contiguous
        )

    def step(
        self, x: Tensor, state: Any, start: Iterable[Tensor] | None, reset: Tensor | None, given: Given
    ) -> tuple[Any, Any] | None:
        """Return (output, state), or None where something does not fit."""
        if self._program is None or type(x) is not Tensor:
            return None
        form = self._forms.get(x.shape) or self._new_form(x)
        if form is None:
            return None
        is_flat = type(state) is tuple and len(state) == self._count
        tensors = (x, *state) if is_flat else self._all(form, x, state, start)
        if self._declared or given:
            if given.keys() != self._declared.keys():
                return None
            tensors = (*tensors, *(given[name] for name in self._given))
        if len(tensors) != len(form.shapes):
            return None
        dtype, is_adjacent = self._dtype, True
        for tensor, shape in zip(tensors, form.shapes, strict=True):
            if type(tensor) is not Tensor or tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_cpu:
                return None
            is_adjacent = is_adjacent and tensor.is_contiguous()
        if reset is not None and state is not None:
            tensors = form.restarted(tensors, reset, start, len(self._states))
        if self.wants_gradients(tensors):
            return self._with_gradients(tensors, given)
        if not is_adjacent:
            tensors = [t.contiguous() for t in tensors]
        new = list(map(self._empty_like, form.results))
        if form.derived:
            forks.prepare()
        derived = form.derived(self._values) if form.derived else ()
        form.call(*map(_address, chain(derived, tensors, new)))
        y = self._by_name(new[0]) if self._by_name else new[0]
        return y, tuple(new[1:]) if self._count >= 0 else nest(iter(new[1:]), self._nested)

    def wants_gradients(self, tensors: Iterable[Tensor]) -> bool:
        """Whether a step of these tensors is to have gradients."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in chain(tensors, self._tensors))

    def _with_gradients(self, tensors: Sequence[Tensor], given: Given) -> tuple[Any, Any] | None:
        """Return what PyTorch's own functions make of the step; None where it takes the way of a whole sequence.

        Compiled code would pack its matrices for one product, and again for the gradient.
        """
        if not self._trains_by_torch:
            return None
        x, *states = tensors[: len(self._states) + 1]
        y, new = torch_step.step(self._core, x, states, given)
        return y, tuple(new) if self._count >= 0 else nest(iter(new), self._nested)

    @cached_property
    def _trains_by_torch(self) -> bool:
        if self.target is not None or arithmetic(self._dtype) != self._dtype:
            return False
        like = torch.empty(0, dtype=self._dtype)
        width: Any = self._core.input_size
        x, states = like.new_zeros(1, width), [like.new_zeros(1, *sizes) for sizes in self._states]
        given = {name: like.new_zeros(1, *self._declared[name].sizes) for name in self._given}
        return torch_step.backpropagates(self._core, x, states, given)

    def step_under_autocast(
        self, x: Tensor, state: Any, start: Iterable[Tensor] | None, reset: Tensor | None, given: Given
    ) -> tuple[Any, Any] | None:
        """Return what `step` does, in the dtypes of a whole sequence under autocast.

        The step itself is that of the parameters, which are read in place: to round them would take longer than it.
        """
        tensors = [x, *([] if state is None else leaves(state))]
        if self._program is None or given or not all(type(t) is Tensor for t in tensors):
            return None
        dtype, low = self._dtype, torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            before = None if state is None else map_state(lambda s: s.to(dtype), state)
            found = self.step(x.to(dtype), before, start, reset, given)
        if found is None or dtype != torch.float32:
            return found
        return each(lambda y: y.to(low), found[0]), map_state(lambda s: s.to(low), found[1])

    def verify(
        self, core: Any, x: Tensor, state: Any, start: Iterable[Tensor] | None, found: tuple[Any, Any], given: Given
    ) -> None:
        """Compare what `step` has found with the step in float64, once a compiled step; raises MismatchError."""
        assert self._program is not None, "it has stepped"

        def batched(tensor: Tensor) -> Tensor:
            return tensor if x.dim() == 2 else tensor[None]

        if not self._program.checked:
            rows = list(map(batched, self._all(self._forms[x.shape], x, state, start)))
            before = as_rows(nest(iter(rows[1:]), self._nested))
            results = each(batched, found[0]), as_rows(map_state(batched, found[1]))
            bound = {path: batched(given[name]) for path, name in paths(core).items()}
            verify_step(bind(core, bound), rows[0], before, results, self._program.checked)

    @property
    def how_with_gradients(self) -> str:
        """What runs a step with gradients, where there are any."""
        if any(isinstance(m, Wrapper) and m.inference_only for m in self._core.modules()):
            return ""
        return (
            f" with gradients {'in PyTorch, quicker for one step' if self._trains_by_torch else 'by the target above'};"
        )

    @property
    def noted(self) -> str:
        """What was verified."""
        return noted(self._program.checked if self._program else {})

    def _new_form(self, x: Tensor) -> _BoundStep | None:
        shape = x.shape
        if not 1 <= len(shape) <= 2 or shape[-1] != self._core.input_size or not 1 <= shape[:-1].numel() <= ROWS:
            return None
        assert self._program is not None
        shapes = self._states + [torch.Size(self._declared[name].sizes) for name in self._given]
        form = self._forms[shape] = _BoundStep(self._program, self._values, shape, shapes, self._results)
        return form

    def _all(self, form: _BoundStep, x: Tensor, state: Any, start: Iterable[Tensor] | None) -> Sequence[Any]:
        """Return x and the tensors of a state in order; less where it is not nested as it should be."""
        if state is None:
            return [x, *form.begin(start, x, len(self._states))]
        found: list[Any] = [x]
        return found if flatten(state, self._nested, found) else ()


def unsteppable(core: nn.Module) -> str:
    """Return why a layer can take no single steps at all; "" where it can."""
    if any(isinstance(m, Wrapper) and m.training and m.lasts for m in core.modules()):
        return "masks that last a whole sequence cannot be streamed; call eval() first"
    if any(spec.per == "sequence" for m in core.modules() if isinstance(m, Cell) for spec in m.drawn().values()):
        return "noise that lasts a whole sequence cannot be streamed; call eval() first"
    if any(isinstance(m, Bidirectional) for m in core.modules()):
        return "a bidirectional layer needs the whole sequence and cannot be stepped"
    return ""


def _program(core: Any, values: Bindings, target: str | None) -> Step | str:
    """Return the compiled step of a cell or stack, or why there is none."""
    named = None if target is None else find(target)
    if isinstance(named, CellTarget):
        return f"the target {target} was requested"
    if any(expected.is_memory for expected in declared(core).values()):
        return "a context of as many rows as a call brings is given to it"
    like = next(iter(values.fixed.values()), None)
    if like is None or not like.is_floating_point():
        return "it has no parameters to take the dtype from"
    if not all(map(_is_plain, values.fixed.values())):
        return "its parameters are not all plain CPU tensors"
    compiler = running(like.dtype, like.device, named)
    if isinstance(compiler, str):
        return compiler
    drawing = next((m for m in core.modules() if not _is_fixed(m)), None)
    if drawing is not None:
        return f"{type(drawing).__name__} draws random tensors for every call, such as dropout masks"
    if reason := unsupported_reason(core):
        return reason
    key = ("a single step", compiler, like.dtype, *((name, t.shape) for name, t in values.fixed.items()))
    found: Step | str | None = programs.get((*key, version(core)))
    if found is None:
        dtype = arithmetic(like.dtype)
        wide = values if dtype == like.dtype else converted_values(values, dtype)
        try:
            with torch.autocast("cpu", enabled=False):
                found = Step.of(Flat(core), wide, like.dtype, compiler)  # type: ignore[arg-type]
        except UnsupportedError as error:
            found = str(error)
        programs.put((*key, version(core, is_traced=True)), found)
    return found


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_cpu and tensor.layout is torch.strided


def _is_fixed(module: nn.Module) -> bool:
    """Whether the mathematics of a part is the same at every step, without random draws."""
    if isinstance(module, Stack):
        return not (module.training and module.dropout)
    if isinstance(module, Wrapper):
        if module.training:
            return False
        own = dict(module.named_parameters())
        like = next(iter(own.values()), torch.empty(0)).new_zeros(1, 1, module.input_size)
        drawn = values_of(module, 1, 1, example_extras(module, like))
        same = drawn.fixed.keys() == own.keys() and all(drawn.fixed[name] is own[name] for name in own)
        return same and {*drawn.rows, *drawn.steps} == paths(module).keys()
    return not (isinstance(module, Bidirectional) or (isinstance(module, Cell) and module.drawn()))
