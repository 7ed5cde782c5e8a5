"""The processes that train one run together: which sequences of a batch each has, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from everloop.data.batching.batch import Batch
from everloop.errors import OptionError, TrainingError
from everloop.layers.rows import Rows, rows_of_batch
from everloop.models.loss import Loss
from everloop.models.model import Model

T = TypeVar("T")


class Ranks:
    """The processes that train one run together; one alone has all sequences, and nobody to tell.

    Of B sequences process `rank` of `world` has those from B * rank // world on. All have the same weights: they draw
    the same random numbers and add up their gradients before each update. Every method with something to tell or to
    ask is called by all of them, in the same order.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    @classmethod
    def joined(cls) -> Ranks:
        """Return the processes of torch.distributed's group; where there is none, this one alone."""
        is_joined = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size()) if is_joined else ALONE

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that reports, and writes the run folder."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    @property
    def command(self) -> str:
        """How as many processes are started that run the command line of this library."""
        if self.is_alone:
            return "everloop"
        here = os.environ.get("LOCAL_WORLD_SIZE") == str(self.world)  # torchrun tells how many this machine has
        return f"torchrun {f'--nproc-per-node {self.world}' if here else '…'} -m everloop"

    def check(self, batch: int) -> None:
        """Check that a batch can be shared.

        Raises:
            OptionError: its sequences are no multiple of the processes.
        """
        if batch % self.world:
            raise OptionError(
                f"batch is {batch}, shared by {self.world} processes; expected a multiple of {self.world}"
            )

    def loss(self, model: Model, batch: Any, state: Any, device: torch.device) -> Loss:
        """Return the loss of this process's sequences of a batch; of none, where there are fewer than processes."""
        if self.is_alone:
            return model.loss(batch.to(device), state)
        if not isinstance(batch, Batch):
            came = type(batch).__name__
            raise OptionError(f"a batch is {came}; several processes share an everloop.data.Batch, which has rows")
        start, stop = (batch.size * rank // self.world for rank in (self.rank, self.rank + 1))
        # with none of its own it reads the first, so that it draws what the others draw
        rows = Rows(start, stop, batch.size) if start < stop else Rows(0, 1, batch.size)
        with rows_of_batch(rows):
            loss = model.loss(batch.rows(rows.start, rows.stop).to(device), state)
        if start < stop:
            return loss
        nothing = loss.total.detach().new_zeros(())
        return replace(loss, total=nothing, count=0, sums=dict.fromkeys(loss.sums, (0.0, 0)), penalty=None)

    def sum(self, *values: float) -> Sequence[float]:
        """Return the sum over the processes of each value."""
        if self.is_alone:
            return values
        found = torch.tensor(values, dtype=torch.float64)
        with _together():
            dist.all_reduce(found)
        return found.tolist()

    def any(self, flag: bool) -> bool:
        """Return whether it is so in one of the processes."""
        return bool(self.sum(flag)[0])

    def agree(self, value: T) -> T:
        """Return the value that the first process has."""
        if self.is_alone:
            return value
        found: list[Any] = [value]
        with _together():
            dist.broadcast_object_list(found, 0)
        return found[0]  # type: ignore[no-any-return]

    def copy(self, model: nn.Module) -> None:
        """Give a model the weights and buffers that it has in the first process."""
        if self.is_alone:
            return
        for tensor in (*model.parameters(), *model.buffers()):
            with _together():
                dist.broadcast(tensor.detach(), 0)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make each gradient the sum of those of all processes; one that none of them has stays None."""
        if self.is_alone:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        has = gradients[0].new_tensor([p.grad is not None for p in parameters])
        flat = torch.cat([*(g.reshape(-1) for g in gradients), has])
        with _together():
            dist.all_reduce(flat)
        *parts, has = torch.split(flat, [*(p.numel() for p in parameters), len(has)])
        for p, part, is_there in zip(parameters, parts, has.tolist(), strict=True):
            p.grad = part.view_as(p).to(p.dtype) if is_there else None

    def whole(self, state: Any) -> Any:
        """Return the state of all sequences, whose tensors are [B, ...], in the first process; elsewhere None."""
        if self.is_alone:
            return state
        parts: list[Any] | None = [None] * self.world if self.is_first else None
        with _together():
            dist.gather_object(_each(state, Tensor.cpu), parts)
        return None if parts is None else _joined(parts)

    def own(self, state: Any) -> Any:
        """Return the part of the state of all sequences that belongs to those of this process."""
        return _each(state, lambda t: t[len(t) * self.rank // self.world : len(t) * (self.rank + 1) // self.world])


ALONE = Ranks(0, 1)


@contextmanager
def _together() -> Iterator[None]:
    """Around what needs all processes."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            "another of the processes that train this run has ended, so this one stops too; "
            "give the same command with --resume FOLDER to go on from the last checkpoint"
        ) from error


def _each(state: Any, change: Any) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    return tuple(_each(part, change) for part in state) if isinstance(state, tuple | list) else state


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat([*parts])
    return tuple(map(_joined, zip(*parts, strict=True))) if isinstance(parts[0], tuple) else parts[0]
