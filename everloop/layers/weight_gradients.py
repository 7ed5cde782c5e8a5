"""The gradients of the matrices: products of rows of every step and sequence, some of them one step back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from everloop.compiler.plan import Factor, FactorPart
from everloop.compiler.target import LoopTarget
from everloop.compiler.time_axis import TimeAxis

MANY = 8  # where more than one row in so many has no row before it, rows one step back are copied


class WeightGradients:
    """buffers: rows of every step and sequence by name; state, restart: by name of the state.

    own: the buffers that nobody else reads now, so that they may change for a moment.
    """

    def __init__(
        self,
        target: LoopTarget,
        time: TimeAxis,
        buffers: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        restart: Mapping[str, Tensor | None],
        own: Collection[str],
    ) -> None:
        self.target, self.time, self.buffers, self.own = target, time, buffers, own
        self.state, self.restart = state, restart
        self._back: dict[str, Tensor] = {}
        self._begin: Tensor | None = None

    def gradient(self, pairs: Sequence[tuple[Factor, Factor]]) -> Tensor:
        """Return the sum of left.T @ right over all pairs, steps and sequences."""
        first, *others = (self._over_time(left, right) for left, right in pairs)
        for product in others:
            first.add_(product)
        return first

    def _over_time(self, left: Factor, right: Factor) -> Tensor:
        blocks = [[self._block(a, b) for b in right] for a in left]
        rows = [row[0] if len(row) == 1 else torch.cat(row, 1) for row in blocks]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _block(self, left: FactorPart, right: FactorPart) -> Tensor:
        if self.time.compact is None and bool(left.of) != bool(right.of):
            found = self._shifted(left, right) if right.of else self._shifted(right, left)
            if found is not None:
                return found if right.of else found.T
        return self.target.over_rows(self._rows(left), self._rows(right))

    def _rows(self, rows: FactorPart) -> Tensor:
        """Return the rows of every step, side by side."""
        if rows.of:
            return self._one_step_back(rows.name, rows.of)[:, rows.start : rows.stop]
        whole, compact = self.buffers[rows.name][..., rows.start : rows.stop], self.time.compact
        if compact is None:
            return self.time.flat(whole)
        return compact.at(whole, compact.place) if whole.dim() == 3 else whole

    def _shifted(self, now: FactorPart, past: FactorPart) -> Tensor | None:
        """Return the sum of now.T @ past, `past` one step behind, without a copy of it; None where that cannot be.

        The row before is equally far away for all rows but those at which a sequence begins or begins anew: these are
        zero in the product over all, and have one of their own. A difference of two sums would not do, because what is
        left out may be far larger than the rest.
        """
        time = self.time
        g, states = (time.flat(self.buffers[r.name][..., r.start : r.stop]) for r in (now, past))
        by = 1 if time.batch_major else time.batch
        if not (time.batch_major or time.reset is not None or (time.reverse and time.is_ragged)):
            start = self.state[past.of][:, past.start : past.stop]
            before = (states[by:], start) if time.reverse else (start, states[:-by])
            return self.target.over_rows(g, *before)
        begin = self._beginnings()
        if now.name not in self.own or MANY * len(begin) > len(g):
            return None
        other = begin + by if time.reverse else begin - by
        other = other[(other >= 0) & (other < len(g))]
        if not math.isfinite(states.index_select(0, other).sum()):  # zero times that is not zero
            return None
        left = g.index_select(0, begin)
        first = self.target.over_rows(left, self._start(past.of, begin)[:, past.start : past.stop])
        g.index_fill_(0, begin, 0)
        if time.steps > 1:
            now_rows, past_rows = (g[:-by], states[by:]) if time.reverse else (g[by:], states[:-by])
            first.add_(self.target.over_rows(now_rows, past_rows))
        g.index_copy_(0, begin, left)
        return first

    def _beginnings(self) -> Tensor:
        """Return the places of the rows that no row of their sequence stands before, in order."""
        if self._begin is None:
            self._begin = self.time.flat(self.time.starts()).nonzero()[:, 0]
        return self._begin

    def _start(self, name: str, places: Tensor) -> Tensor:
        """Return the states from which the rows at these places begin."""
        time, state, restart = self.time, self.state[name], self.restart[name]
        rows = state.index_select(0, places // time.steps if time.batch_major else places % time.batch)
        if time.reset is None:
            return rows
        is_reset = time.flat(time.reset)[places][:, None]
        return rows.masked_fill_(is_reset, 0) if restart is None else torch.where(is_reset, restart, rows)

    def _one_step_back(self, name: str, of: str) -> Tensor:
        """Return the state before every step."""
        if name not in self._back:
            make = self._padded_back if self.time.compact is None else self._compact_back
            self._back[name] = make(self.buffers[name], of)
        return self._back[name]

    def _padded_back(self, whole: Tensor, of: str) -> Tensor:
        time = self.time
        result = time.padded(whole.shape[-1], whole, self.target.empty)
        if time.reverse:
            result[:-1], result[-1] = whole[1:], 0
        else:
            result[1:], result[0] = whole[:-1], 0
        flat, begin = time.flat(result), self._beginnings()
        return flat.index_copy_(0, begin, self._start(of, begin))

    def _compact_back(self, whole: Tensor, of: str) -> Tensor:
        time, compact = self.time, self.time.compact
        assert compact is not None
        result = self.target.empty((len(compact), whole.shape[-1]), whole)
        nonempty = compact.num_nonempty
        torch.index_select(self.state[of], 0, compact.order[:nonempty], out=result[:nonempty])
        if whole.dim() == 2:
            rows, before = whole, compact.before()[nonempty:]
        else:
            rows, by = time.flat(whole), 1 if time.batch_major else time.batch
            before = compact.place[nonempty:] + (by if time.reverse else -by)
        torch.index_select(rows, 0, before, out=result[nonempty:])
        if time.reset is None:
            return result
        is_reset, restart = compact.at(time.reset[..., None], compact.place), self.restart[of]
        return result.masked_fill_(is_reset, 0) if restart is None else torch.where(is_reset, restart, result)
