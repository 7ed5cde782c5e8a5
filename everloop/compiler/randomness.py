"""Whether a step draws random numbers: such a step cannot be traced, since they differ from step to step."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from everloop.cell import Cell
from everloop.errors import UnsupportedError
from everloop.torch_private import TorchDispatchMode


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether PyTorch draws in this thread: its generators are those of all threads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= torch.Tag.nondeterministic_seeded in function.tags
        return function(*args, **(kwargs or {}))


class Randomness:
    """Around a step: whether it has drawn from PyTorch, from the generators of Python and NumPy, or from its own.

    The generators of Python and NumPy are those of all threads: where they have changed, another thread may have drawn
    from them meanwhile, and it is worth looking once more.
    """

    def __init__(self, cell: Cell) -> None:
        self.draws, self.states = _Draws(), list(_generators(cell))
        self.is_drawn = False
        self.torch_state, self.first = torch.get_rng_state(), self._now()

    def _now(self) -> list[Any]:
        return [get() for get, _ in self.states]

    def __enter__(self) -> None:
        self.before = self._now()
        self.draws.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self.draws.__exit__(*error)  # type: ignore[no-untyped-call]
        self.is_drawn = self.draws.found or list(map(_plain, self._now())) != list(map(_plain, self.before))

    @contextmanager
    def put_back_on_error(self) -> Iterator[None]:
        """Around all traces of a step: put the generators that it has drawn from back if it cannot be traced."""
        try:
            yield
        except UnsupportedError:
            if self.draws.found:
                torch.set_rng_state(self.torch_state)
            for (_, put), state in zip(self.states, self.first, strict=True):
                if self.is_drawn:
                    put(state)
            raise


def _generators(cell: Cell) -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Yield how the state is read and set of each generator of Python and NumPy that a step may draw from."""
    numpy: Any = sys.modules.get("numpy.random")
    yield random.getstate, random.setstate
    if numpy is not None:
        yield numpy.get_state, numpy.set_state
    for thing in _named(cell):
        if isinstance(thing, random.Random):
            yield thing.getstate, thing.setstate
        elif numpy is not None and isinstance(thing, numpy.RandomState):
            yield thing.get_state, thing.set_state
        elif numpy is not None and isinstance(thing, numpy.Generator):
            bits = thing.bit_generator
            yield partial(getattr, bits, "state"), partial(setattr, bits, "state")


def _plain(state: Any) -> Any:
    """Return the state of a generator in a form that compares."""
    if isinstance(state, dict):
        return repr(state)
    parts = state if isinstance(state, tuple) else (state.numpy(),)
    return [part.tobytes() if hasattr(part, "tobytes") else part for part in parts]


def _named(cell: Cell) -> Iterator[Any]:
    """Yield what a cell holds and what its step calls by a global name."""
    for module in cell.modules():
        yield from vars(module).values()
        step = getattr(module.__class__, "step", None)
        for name in getattr(getattr(step, "__code__", None), "co_names", ()):
            yield getattr(step, "__globals__", {}).get(name)
