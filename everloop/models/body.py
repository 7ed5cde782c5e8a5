"""The recurrent layers inside a model: any cell, in one or both directions, with the dropouts of the literature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from everloop import cells, torch_private
from everloop.cell import Cell
from everloop.data.settings import old_names, unknown_setting
from everloop.errors import OptionError
from everloop.layers import Embedded, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from everloop.layers.dropout import Wrapper, row_dropout
from everloop.layers.recompute import Recompute
from everloop.layers.rows import drawn

Option = int | float | bool | str
Config = TypeVar("Config", bound="LayersConfig")
LARGEST = 2**31 - 1  # of a size: beyond it no memory would do, and PyTorch's own errors tell of its insides


@dataclass(frozen=True)
class LayersConfig:
    """The recurrent layers of any model: which cell, how many, what noise while training, which first weights."""

    cell: str = "lstm"
    """A cell by name, or your own as file.py:Class."""
    hidden: int = 128
    """Units of each layer, in each direction."""
    layers: int = 1
    """Recurrent layers, one above the other."""
    dropout: float = 0.0
    """Probability of dropping a number after an embedding, between the layers and before the head."""
    recurrent_dropout: float = 0.0
    """Probability of dropping a unit of the recurrence, for a whole sequence (Gal and Ghahramani 2016)."""
    variational_dropout: float = 0.0
    """Probability of dropping a number that a layer reads, for a whole sequence (Gal and Ghahramani 2016)."""
    weight_drop: float = 0.0
    """Probability of dropping a recurrent weight, for a whole batch (Merity et al. 2018)."""
    zoneout: dict[str, float] = field(default_factory=dict)
    """Probability that a unit of a state keeps its old value, by state, for instance h 0.05 c 0.5 (Krueger 2017)."""
    orthogonal: bool = False
    """Whether the recurrent matrices start orthogonal (Saxe et al. 2014)."""
    forget_bias: float | None = None
    """First value of the bias of the forget gate; 1 is usual (Jozefowicz et al. 2015)."""
    recompute: Recompute = None
    """Steps of a segment of which training keeps the first states alone, and computes the others once more: less memory
    for more time, on long windows. auto: eight roots of the steps; 0: keeps all; by default only large matrices as
    states are treated so."""
    options: dict[str, Option] = field(default_factory=dict)
    """Options of the cell by name, for instance proj_size."""

    def __str__(self) -> str:
        return f"{self.cell} {self.layers}×{self.hidden}"

    def __post_init__(self) -> None:
        check(self, ("hidden", "layers"), at_least=1)
        check(self, ("dropout", "recurrent_dropout", "variational_dropout", "weight_drop"), below=1)
        if isinstance(self.recompute, int):
            check(self, ("recompute",), at_least=0)


@dataclass(frozen=True)
class BodyConfig(LayersConfig):
    """The recurrent layers of a model that reads whole sequences."""

    bidirectional: bool = True
    """Whether each layer reads in both directions."""
    input_dropout: float | None = None
    """Probability of dropping a number that the layers read; by default `dropout` of embeddings, 0 of series."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_dropout is not None:
            check(self, ("input_dropout",), below=1)

    def dropped_inputs(self, *, embedded: bool) -> float:
        """Return the probability of dropping a number that the layers read."""
        return (self.dropout if embedded else 0.0) if self.input_dropout is None else self.input_dropout


def body(config: BodyConfig, input_size: int, kind: type[Cell] | str) -> Recurrent:
    """Return the layers that a configuration describes, in one or both directions. `kind`: the cell, or its name."""
    return layers_of(config, input_size, kind, bidirectional=config.bidirectional)


def layers_of(
    config: LayersConfig,
    input_size: int,
    kind: type[Cell] | str,
    *,
    hidden: int | None = None,
    bidirectional: bool = False,
    last: int | None = None,
    locked: bool = False,
) -> Recurrent:
    """Return the layers that a configuration describes, of a cell or its name, if wished with another size.

    last: the units of the last layer, where they are others. locked: whether dropout between the layers drops the same
    numbers at all steps.

    Raises:
        OptionError: the cell has no such option, state or gate, several outputs, or nothing that a dropout could drop.
    """
    made: Any = cells.named(kind) if isinstance(kind, str) else kind
    cell: Cell = made(input_size, hidden or config.hidden, **config.options)
    if cell.output_type is not None:
        names = ", ".join(cell.output_sizes)
        raise OptionError(f"cell {config.cell} has several outputs, {names}; a model reads one")
    if (config.recurrent_dropout or config.weight_drop) and not cell.recurrent_matrices():
        raise OptionError(f"cell {config.cell} has no recurrent matrix for recurrent_dropout or weight_drop")
    between = config.dropout if config.layers > 1 else 0.0
    if last is None and not (locked and between):
        cell = _noisy(cell, config, config.variational_dropout)
        recurrent = Recurrent(
            cell, layers=config.layers, bidirectional=bidirectional, dropout=between, recompute=config.recompute
        )
    else:
        assert not bidirectional, "of layers that all are alike alone"
        levels, size = [], input_size
        for level in range(config.layers):
            units = last if last is not None and level == config.layers - 1 else hidden or config.hidden
            both = 1 - (1 - config.variational_dropout) * (1 - between)  # what is dropped on the way into a layer
            inputs = both if locked and level else config.variational_dropout
            levels.append(_noisy(made(size, units, **config.options), config, inputs))
            size = levels[-1].output_size
        stack = Stack(levels, dropout=0.0 if locked else between)
        recurrent = Recurrent(stack, recompute=config.recompute)
    if config.orthogonal or config.forget_bias is not None:
        for part in recurrent.modules():
            if isinstance(part, Cell) and not isinstance(part, Wrapper):
                part.reset_parameters(orthogonal=config.orthogonal, forget_bias=config.forget_bias)
    return recurrent


def _noisy(cell: Cell, config: LayersConfig, inputs: float) -> Cell:
    """Return a cell with the noise of a configuration, of what it reads with another rate."""
    if config.recurrent_dropout or inputs:
        cell = VariationalDropout(cell, inputs=inputs, recurrence=config.recurrent_dropout)
    if config.weight_drop:
        cell = WeightDrop(cell, config.weight_drop)
    return Zoneout(cell, **config.zoneout) if config.zoneout else cell


def configured(kind: type[Config], cell: type[Cell] | str | None, settings: Mapping[str, Any]) -> Config:
    """Return a configuration from settings by name; a cell may be a class.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """
    names, olds = [f.name for f in fields(kind)], old_names(kind)
    named: dict[str, Any] = {} if cell is None else {"cell": cells.address_of(cell)}
    for given, value in settings.items():
        name = olds.get(given, given)
        if name not in names:
            raise OptionError(unknown_setting("setting", name, names))
        named[name] = value
    return kind(**named)


def check(config: Any, names: tuple[str, ...], *, at_least: float | None = None, below: float | None = None) -> None:
    """Check settings: at least so much, or a fraction from 0 up to, not including, `below`.

    Raises:
        OptionError: one is not.
    """
    for name in names:
        value = getattr(config, name)
        if at_least is not None and value < at_least:
            raise OptionError(f"{name} is {value}; expected at least {at_least}")
        if value > LARGEST:
            raise OptionError(f"{name} is {value}; expected at most {LARGEST}")
        if below is not None and not 0 <= value < below:
            raise OptionError(f"{name} is {value}; expected a fraction below {below}")


class Dropout(nn.Module):
    """Dropout of rows [T, B, n] or [B, n], as `row_dropout`; if `locked` of the same numbers at all steps.

    Locked: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016.
    """

    def __init__(self, rate: float, locked: bool = False) -> None:
        super().__init__()
        self.rate, self.locked = rate, locked

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows with noise in training, without it in evaluation."""
        if not (self.training and self.rate and self.locked and rows.dim() == 3):
            return row_dropout(rows, self.rate) if self.training else rows
        return rows * row_dropout(torch.ones_like(rows[:1]), self.rate)

    def extra_repr(self) -> str:
        return f"{self.rate}{', locked' if self.locked else ''}"


def embedded(embedding: nn.Module, numbers: Tensor, dropout: Dropout) -> Tensor | Embedded:
    """Return what layers read of symbols [...]: their numbers and the table, so that each is multiplied once.

    Or their rows [..., E], where single numbers of these are dropped, or a call of the embedding does more than that.
    """
    if isinstance(embedding, nn.Embedding) and _only_looks_up(embedding) and not (dropout.training and dropout.rate):
        return Embedded(numbers, embedding.weight, embedding.padding_idx)
    rows: Tensor = dropout(embedding(numbers))
    return rows


def _only_looks_up(embedding: nn.Embedding) -> bool:
    """Whether a call is PyTorch's own, has no hooks, and does nothing but give rows and add their gradients up."""
    hooks = (
        embedding._forward_hooks,
        embedding._forward_pre_hooks,
        embedding._backward_hooks,
        embedding._backward_pre_hooks,
    )
    if type(embedding) is not nn.Embedding or "forward" in vars(embedding):
        return False
    has_options = embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse
    return not (has_options or any(hooks) or torch_private.has_global_hooks())


def word_dropout(numbers: Tensor, rate: float, unknown: int) -> Tensor:
    """Return symbol numbers of which a fraction is replaced by that of the unknown symbol; padding stays.

    Word dropout, as in Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
    ACL 2015. It also teaches the model what to think of words it does not know.
    """
    gone = (drawn(partial(torch.rand, device=numbers.device), tuple(numbers.shape), 1) < rate) & (numbers != 0)
    return numbers.masked_fill(gone, unknown)
