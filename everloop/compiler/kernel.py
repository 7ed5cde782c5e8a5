"""How a compiled loop is called: the contract between the layers and the kernels of every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from everloop.compiler.time_axis import TimeAxis

Rows = Mapping[str, Tensor | None]


class Kernel(Protocol):
    """A loop that runs over a whole batch of sequences in one call. It takes any number of steps and rows.

    What a target specialises on sizes it compiles within the call, and keeps a bounded number of variants.
    """

    @property
    def description(self) -> str:
        """What it was made for and how it runs, in a few words for `explain()`."""

    @property
    def source(self) -> str:
        """The code that the target wrote for it, as text."""

    def __call__(
        self,
        time: TimeAxis,
        buffers: Mapping[str, Tensor],
        *,
        first: Rows | None = None,
        final: Rows | None = None,
        restart: Rows | None = None,
    ) -> None:
        """Run all steps of all sequences.

        Step s of a sequence is time s, or time length - 1 - s where time is reversed. A gradient loop takes the same
        steps in the opposite order. Where a sequence has ended, emits are zeros and states stay; what other buffers
        hold there is never read.

        Args:
            time: steps, lengths, resets, direction. Where it is compact, buffers of every step may be [N, n] too.
            buffers: every buffer of the loop but states and scratch, by name. Features are adjacent; the other axes
                have any strides, 0 for a row that many share. Matrices have any strides, and any dtype that the
                target says (`matrices`).
            first: rows [B, n] of each state before its first step; missing ones are zeros. These, `final` and `restart`
                have the dtype of the step; the kernel converts them where the loop holds a state in another.
            final: rows [B, n] that receive each state after the last step of each sequence; missing ones are not
                written. A sequence without a step keeps its first rows.
            restart: the vector [n] that each state becomes before a step with a reset; missing ones are zeros. In a
                gradient loop, for a carried gradient: receives the sum of what resets cut off.
        """


class StepKernel(Protocol):
    """One step of a loop, over parameters that are read where they are: the least work that a call can have."""

    @property
    def description(self) -> str:
        """As of a Kernel."""

    def over(self, batch: int, fixed: Mapping[str, Tensor], vary: Sequence[str]) -> Callable[..., None]:
        """Return a call of one step of `batch` rows over `fixed` vectors and matrices.

        The call takes the addresses of what `vary` names, in this order: a buffer, "first STATE" or "final STATE"; rows
        are [batch, n] without gaps. A state without "first" starts from zeros. Threads may call it at once.
        """
