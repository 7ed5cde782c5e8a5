"""The layer: a cell run over time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from everloop.cell import Cell
from everloop.compiler import forks
from everloop.compiler.embedded import Embedded
from everloop.compiler.time_axis import TimeAxis
from everloop.errors import CellError, OptionError, ShapeError
from everloop.layers.bidirectional import Bidirectional
from everloop.layers.dispatch import chosen
from everloop.layers.dropout import checked_rate
from everloop.layers.explanation import explanation
from everloop.layers.extras import Extras, checked_extras, declared
from everloop.layers.input_form import InputForm, unpack
from everloop.layers.nested import as_rows, each, leaves, map_state, nest, shaped_like
from everloop.layers.over_time import over_time
from everloop.layers.recompute import Recompute, asked_steps
from everloop.layers.recording import recorded
from everloop.layers.single_step import Stepper, unsteppable
from everloop.layers.stack import Stack
from everloop.layers.validation import checked_input, checked_lengths, checked_reset, checked_state


class Recurrent(nn.Module):
    """Any cell over time: takes x, lengths, resets and a state, returns (output, state); remembers nothing.

    Args:
        cell: a cell, a Stack or a Bidirectional.
        layers: how many of it, one above the other, each with weights of its own.
        bidirectional: whether each layer reads in both directions; outputs are concatenated.
        dropout: rate between layers, in training; of no use, with a warning, where there is one layer.
        batch_first: whether x, reset and the output are [B, T, ...] instead of [T, B, ...], as in torch.nn.
        learned_state: whether the initial state is learned; it is zero otherwise.
        target: how to run: "llvm" (native code), "eager" (plain PyTorch) or another registered target; None takes the
            best that can run this cell.
        check: whether each newly compiled cell is first verified on the data of the call, on up to 12 steps of 6
            sequences (4 of 3 for more than a million parameters): output, states and, in training, all gradients,
            against the step in float64, row by row. Once for each kind of call (with lengths, resets, gradients), and
            for `step`. No effect on eager.
        recompute: steps of a segment. Training keeps the state before each segment, and in the backward pass computes
            what is in it once more: a long sequence then needs about the memory of one segment. "auto": eight roots of
            T steps, and sequences of less than 64 steps as None. 0 keeps all; None does so too, but for states that are
            matrices and many: segments of 256 MiB, or of the root of T steps. Transforms of torch.func keep all.

    Raises:
        CellError: the cell cannot be repeated for several layers.
    """

    def __init__(
        self,
        cell: Cell | Stack | Bidirectional,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
        learned_state: bool = False,
        target: str | None = None,
        check: bool = False,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        if not isinstance(layers, int) or layers < 1:
            raise OptionError(f"Recurrent: layers is {layers!r}; expected an integer of at least 1")
        if not isinstance(cell, Cell | Stack | Bidirectional):
            came = cell.__name__ if isinstance(cell, type) else type(cell).__name__
            raise CellError(f"Recurrent: cell is {came}; expected an instance of Cell, Stack or Bidirectional")
        dropout = checked_rate("dropout", dropout)
        if dropout and layers == 1:
            text = f"Recurrent: dropout={dropout} is between layers; with layers=1 nothing is dropped"
            warnings.warn(text, stacklevel=2)
        chosen(target)
        level: Any = cell
        levels: list[Any] = []
        for _ in range(layers):
            level = cell if not levels else level.like(levels[-1].output_size)
            levels.append(Bidirectional(level) if bidirectional else level)
        core: Any = levels[0] if layers == 1 else Stack(levels, dropout=dropout)
        self.cell: Any = core
        is_steps = isinstance(recompute, int) and not isinstance(recompute, bool) and recompute >= 0
        if not (is_steps or recompute in ("auto", None)):
            raise OptionError(f"Recurrent: recompute is {recompute!r}; expected steps, 0 for none, or None; or 'auto'")
        self.batch_first, self.target, self.check = batch_first, target, check
        self.recompute: Recompute = recompute
        zeros = map_state(lambda s: s[0].flatten(), core.zeros(1, like=next(self.parameters(), torch.empty(0))))
        self.start = nn.ParameterList(leaves(zeros)) if learned_state else None
        self._stepper = Stepper()

    @property
    def input_size(self) -> int:
        """I, the number of features of x."""
        return self.cell.input_size  # type: ignore[no-any-return]

    @property
    def output_size(self) -> int:
        """The number of features of the output, of several the first."""
        return self.cell.output_size  # type: ignore[no-any-return]

    def forward(
        self,
        x: Tensor | PackedSequence | Embedded,
        state: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        generator: torch.Generator | None = None,
        **given: Any,
    ) -> tuple[Any, Any]:
        """Return (output, state) of the whole sequence.

        Args:
            x: [T, B, I] ([B, T, I] if `batch_first`), [T, I] for one sequence, a PackedSequence, or Embedded symbols,
                whose rows are x.
            state: as returned by an earlier call, or None for the initial state.
            lengths: steps of each sequence, [B], any order, zero allowed; the output is zero from there on.
            reset: bool, or numbers 0 and 1, [T, B] ([B, T] if `batch_first`): the state becomes the initial one before
                that step.
            generator: what draws dropout, noise and masks; None: PyTorch's own. It cannot be part of a graph.
            given: what the cells declare besides, by name: inputs in the form of x, contexts [B, …], of a memory
                its lengths too (NAME_lengths). `torch.export` with sizes that are free wants them as named arguments
                of a module around the layer (docs/your-own-cell.md).

        Returns:
            The output in the form of x (its features: `output_size`), of a cell that declares several outputs a
            NamedTuple of them; and the state after the last step of each sequence: a tuple of [B, H] ([B, …] with
            the axes of its declaration), for stacks and directions a tuple of such tuples.

        Raises:
            OptionError: something that the cells declare is missing, or something is given that they do not.
            ShapeError: something does not fit; the message names what came and what was expected.
            MismatchError: `check` found a compiled cell to be wrong.
        """
        if generator is not None and torch.compiler.is_compiling():
            raise OptionError("Recurrent: a generator cannot be part of a graph; leave it out inside torch.compile")
        form, x, state, start, time, extras = self._checked(x, state, lengths, reset, given, generator)
        y, after = over_time(self.cell, x, as_rows(state), start, time, extras, self.target, self.check)
        after = shaped_like(after, state)
        return each(lambda rows: form.outward(rows, time.lengths), y), form.state_outward(after)

    def _checked(
        self,
        x: Tensor | PackedSequence | Embedded,
        state: Any,
        lengths: Any,
        reset: Any,
        given: dict[str, Any],
        generator: torch.Generator | None,
        is_exact: bool = False,
    ) -> tuple[InputForm, Tensor, Any, Any, TimeAxis, Extras]:
        """Return the form of x, then x [T, B, I], the state, the vectors a reset returns to, the time, and the rest."""
        if not torch.compiler.is_compiling():
            forks.prepare()
        form, dtype = InputForm(batch_first=self.batch_first), self._dtype()
        if isinstance(x, PackedSequence):
            if lengths is not None or reset is not None:
                raise ShapeError("Recurrent: a PackedSequence has its own lengths and no resets; pad it to give these")
            form = InputForm(packed=x)
            x, lengths = unpack(x)
        embedded = None
        if isinstance(x, Embedded):
            embedded, x = x, x.rows()
        checked_input("Recurrent", x, self.input_size, dtype)
        if x.dim() == 2:
            form = InputForm(is_single=True)
        reset = checked_reset("Recurrent", reset, x)
        extras = checked_extras(self.cell, given, x, form, generator, is_exact)
        x, reset = form.inward(x), None if reset is None else form.inward(reset)
        x = x.to(dtype or x.dtype)  # autocast may bring another one
        if embedded is not None:
            extras = replace(extras, read=(x, embedded._replace(numbers=form.inward(embedded.numbers))))
        zeros = self.cell.zeros(x.shape[1], like=x)
        start = None if self.start is None else nest(iter(self.start), zeros)
        if state is not None:
            expected = map_state(lambda s: s[0], zeros) if form.is_single else zeros
            state = form.state_inward(checked_state("Recurrent", state, expected))
        else:
            state = zeros if start is None else map_state(lambda s, z: s.view(z.shape[1:]).expand_as(z), start, zeros)
        lengths = checked_lengths("Recurrent", lengths, x)
        segment = asked_steps(self.recompute, x.shape[0])
        return form, x, state, start, TimeAxis.of(x, lengths, reset, segment=segment), extras

    def step(
        self,
        x_t: Tensor | Embedded,
        state: Any = None,
        *,
        reset: Tensor | None = None,
        generator: torch.Generator | None = None,
        **given: Any,
    ) -> tuple[Any, Any]:
        """Return (output, state) after one more time step; equals the whole-sequence call.

        x_t: [B, I], [I] for one sequence, or Embedded symbols; state: as returned by the step before, None to begin;
        reset: [B], which sequences begin anew before this step; generator and `given` as of `forward`, inputs
        [B, size]. Up to 256 rows are one native call, which reads the parameters where they are; with gradients they
        are PyTorch's own functions, which are quicker for one step than code that packs its matrices first.
        """
        if isinstance(x_t, Embedded):
            x_t = x_t.rows()
        if reset is not None and isinstance(x_t, Tensor):
            reset = checked_reset("Recurrent.step", reset, x_t)
        if not (self._seen_by() or torch.compiler.is_compiling()):
            found = self._stepper.step(self._modules["cell"], x_t, state, self.start, self.target, reset, given)
            if found is not None:
                if self.check and reset is None:
                    self._stepper.verify(self._modules["cell"], x_t, state, self.start, found, given)
                return found
        reason = unsteppable(self)
        if reason:
            raise OptionError(f"Recurrent.step: {reason}")
        if not isinstance(x_t, Tensor) or x_t.dim() not in (1, 2):
            came = f"has {x_t.dim()} axes" if isinstance(x_t, Tensor) else f"is {type(x_t).__name__}"
            raise ShapeError(f"Recurrent.step: x_t {came}; expected [B, I], or [I] for one sequence")
        time = 1 if x_t.dim() == 2 and self.batch_first else 0
        if given:
            wanted = declared(self.cell)
            is_step = {name: name in wanted and wanted[name].kind == "input" for name in given}
            given = {k: v.unsqueeze(time) if is_step[k] and isinstance(v, Tensor) else v for k, v in given.items()}
        reset = None if reset is None else reset.unsqueeze(time)
        y, after = self(x_t.unsqueeze(time), state, reset=reset, generator=generator, **given)
        return each(lambda rows: rows.squeeze(time), y), after

    def record(
        self,
        x: Tensor | PackedSequence | Embedded,
        *names: str,
        state: Any = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        generator: torch.Generator | None = None,
        **given: Any,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Return (output, state, sequences by name) of the whole sequence, with gradients; arguments as of `forward`.

        names: states, and local names of the step, which have the value they had when it returned: gates, for instance.
            In stacks and directions they follow the place of their cell, as "members.1.c" or "ahead.f".

        Raises:
            OptionError: a name is unknown; the message lists the known ones.
        """
        if torch.compiler.is_compiling():
            raise OptionError("Recurrent.record: it cannot be part of a graph; call it outside torch.compile")
        form, rows, state, start, time, extras = self._checked(
            x, state, lengths, reset, given, generator, is_exact=True
        )
        core, recordings = recorded(self.cell, names, extras)
        y, after = over_time(core, rows, as_rows(state), start, time, extras, self.target, self.check)
        after = form.state_outward(shaped_like(after, state))
        found = {prefix + name: t for prefix, cell in recordings.items() for name, t in cell.found.items()}

        def outward(sequence: Tensor) -> Any:
            return form.outward(sequence, time.lengths)

        return each(outward, y), after, {name: outward(found[name]) for name in names}

    def explain(self) -> str:
        """Return which target runs each cell, what it takes out of the loop, fuses and saves, how it steps, and why."""
        step = self._stepper.explain(self.cell, self._seen_by(), self.target)
        start = () if self.start is None else self.start
        return f"{explanation(self.cell, target=chosen(self.target), start=start)}\n\n\n{step}"

    def _seen_by(self) -> str:
        """Return what requires that single steps go through forward; "" where nothing does."""
        if type(self).forward is not Recurrent.forward:
            return f"{type(self).__name__} overrides forward"
        return "forward has hooks" if self._forward_hooks or self._forward_pre_hooks else ""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._stepper = Stepper()  # let go of the memory that the parameters leave
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _dtype(self) -> torch.dtype | None:
        first = _first(self)  # a cell may have nothing to learn
        return None if first is None else first.dtype

    def extra_repr(self) -> str:
        return f"batch_first={self.batch_first}, learned_state={self.start is not None}{', check=True' * self.check}"


def _first(module: nn.Module) -> Any:
    """Return the first parameter, as next(module.parameters()) does, in a tenth of the time."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for inside in module._modules.values():
        found = None if inside is None else _first(inside)
        if found is not None:
            return found
    return None
