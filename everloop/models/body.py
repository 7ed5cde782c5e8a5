"""The recurrent layers inside a model: any cell, in one or both directions, with the dropouts of the literature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell
from everloop.errors import OptionError, unknown
from everloop.layers import Recurrent, VariationalDropout
from everloop.models.language_model import Option, _name

Config = TypeVar("Config", bound="BodyConfig")


@dataclass(frozen=True)
class BodyConfig:
    """The recurrent layers of a model."""

    cell: str = "lstm"
    """A cell by name, or your own as file.py:Class."""
    hidden: int = 128
    """Units of each layer, in each direction."""
    layers: int = 1
    """Recurrent layers, one above the other."""
    bidirectional: bool = True
    """Whether each layer reads in both directions."""
    dropout: float = 0.0
    """Probability of dropping a number after an embedding, between the layers and before the head."""
    input_dropout: float | None = None
    """Probability of dropping a number that the layers read; by default `dropout` of embeddings, 0 of series."""
    recurrent_dropout: float = 0.0
    """Probability of dropping a unit of the recurrence, for a whole sequence."""
    options: dict[str, Option] = field(default_factory=dict)
    """Options of the cell by name, for instance proj_size."""

    def __post_init__(self) -> None:
        check(self, ("hidden", "layers"), at_least=1)
        check(self, ("dropout", "recurrent_dropout"), below=1)
        if self.input_dropout is not None:
            check(self, ("input_dropout",), below=1)

    def dropped_inputs(self, *, embedded: bool) -> float:
        """Return the probability of dropping a number that the layers read."""
        return (self.dropout if embedded else 0.0) if self.input_dropout is None else self.input_dropout


def body(config: BodyConfig, input_size: int) -> Recurrent:
    """Return the layers that a configuration describes."""
    made: Any = cells.named(config.cell)
    cell = made(input_size, config.hidden, **config.options)
    if config.recurrent_dropout:
        cell = VariationalDropout(cell, recurrence=config.recurrent_dropout)
    between = config.dropout if config.layers > 1 else 0.0
    return Recurrent(cell, layers=config.layers, bidirectional=config.bidirectional, dropout=between)


def configured(kind: type[Config], cell: type[Cell] | str | None, settings: Mapping[str, Any]) -> Config:
    """Return a configuration from settings by name; a cell may be a class.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """
    names = [f.name for f in fields(kind)]
    for name in settings:
        if name not in names:
            raise OptionError(unknown("setting", name, names))
    named: dict[str, Any] = {} if cell is None else {"cell": _name(cell)}
    return kind(**named, **settings)


def check(config: Any, names: tuple[str, ...], *, at_least: float | None = None, below: float | None = None) -> None:
    """Check settings: at least so much, or a share from 0 up to, not including, `below`.

    Raises:
        OptionError: one is not.
    """
    for name in names:
        value = getattr(config, name)
        if at_least is not None and value < at_least:
            raise OptionError(f"{name} is {value}; expected at least {at_least}")
        if below is not None and not 0 <= value < below:
            raise OptionError(f"{name} is {value}; expected a share below {below}")


def forgotten(numbers: Tensor, rate: float, unknown: int) -> Tensor:
    """Return symbol numbers of which a share is replaced by that of the unknown symbol; padding stays.

    Word dropout, as in Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
    ACL 2015. It also teaches the model what to think of words it does not know.
    """
    gone = (torch.rand(numbers.shape, device=numbers.device) < rate) & (numbers != 0)
    return numbers.masked_fill(gone, unknown)
