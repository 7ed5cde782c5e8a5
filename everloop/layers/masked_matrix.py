"""A matrix that sees its rows through a mask: `h @ M.T` means `(h * mask) @ matrix.T`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from everloop.errors import CellError


class MaskedMatrix:
    """Stands for a recurrent matrix inside a step; only products with rows can be taken of it.

    Args:
        matrix: [m, k], or several of these, [n, m, k].
        spans: the columns that the mask covers, each as wide as the mask.
        mask: [B, n].
    """

    def __init__(self, matrix: Tensor, spans: Sequence[slice], mask: Tensor, transposed: bool = False) -> None:
        self.matrix, self.spans, self.mask, self.transposed = matrix, spans, mask, transposed

    def __getitem__(self, index: int) -> MaskedMatrix:
        """Return one matrix of several [n, m, k]."""
        if self.matrix.dim() < 3 or not isinstance(index, int):
            raise CellError(f"recurrent dropout met the recurrent matrix at {index!r}; expected whole matrices")
        return MaskedMatrix(self.matrix[index], self.spans, self.mask)

    @property
    def T(self) -> MaskedMatrix:
        return MaskedMatrix(self.matrix, self.spans, self.mask, not self.transposed)

    @property
    def mT(self) -> MaskedMatrix:
        return self.T

    def t(self) -> MaskedMatrix:
        """Return the transpose."""
        return self.T

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    def __rmatmul__(self, rows: Tensor) -> Tensor:
        if not self.transposed:
            raise CellError("recurrent dropout expects the recurrent matrix transposed, as in h @ self.R.T")
        return self._see(rows) @ self.matrix.T

    def _see(self, rows: Tensor) -> Tensor:
        parts, start = [], 0
        for span in self.spans:
            parts += [rows[..., start : span.start]] if span.start > start else []
            parts.append(rows[..., span] * self.mask)
            start = span.stop
        parts += [rows[..., start:]] if start < self.matrix.shape[-1] else []
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm):
            return args[1].__rmatmul__(args[0])
        if func is linear:
            product = args[1].T.__rmatmul__(args[0])
            offset = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            return product if offset is None else product + offset
        name = getattr(func, "__name__", func)
        raise CellError(
            f"recurrent dropout met the recurrent matrix in {name}; expected only products such as h @ self.R.T, which"
            " tell what of h each column sees. Matrices by head have columns for a part of h each: take WeightDrop,"
            " which drops weights, or let the cell multiply what it feeds back by a mask that it declares,"
            ' mask(H, p=…, per="sequence")'
        )
