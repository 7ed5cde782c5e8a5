"""What a model is made of, from what it reads to what it writes, for figures and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everloop.layers import Recurrent

Context = Literal["", "initial", "every-step", "attention"]


@dataclass(frozen=True)
class Block:
    """A part without a memory, with the number of features that it reads and writes."""

    name: str
    reads: int
    writes: int

    def __str__(self) -> str:
        return f"{self.name} {self.reads} → {self.writes}"


@dataclass(frozen=True)
class Strand:
    """One network over time.

    Args:
        recurrent: its layers.
        reads: what it reads at each step, as a word.
        writes: what it writes, as a word; "" where only its states or outputs are used.
        before, after: what each step, or the one vector of `pooling`, goes through.
        pooling: how the steps become one vector ("last", "mean", …); "" where each step is written.
        given: what comes in beside the steps, and where: at the first or at every step.
        given_name: what it is called.
        feeds_back: whether each step reads what the one before wrote.
    """

    recurrent: Recurrent
    reads: str
    writes: str = ""
    before: tuple[Block, ...] = ()
    after: tuple[Block, ...] = ()
    pooling: str = ""
    given: Block | None = None
    given_name: str = ""
    given_at: Literal["first", "every-step"] = "every-step"
    feeds_back: bool = False


@dataclass(frozen=True)
class Outline:
    """A model: one strand, or an encoder and a decoder with what the decoder is told of the encoder.

    topology: in the words of the field, N → N and so on, where M is another length than N.
    """

    name: str
    topology: str
    strands: tuple[Strand, ...]
    context: Context = ""
    attention: Block | None = None

    def has(self, layers: object) -> bool:
        """Return whether these are layers of a strand, and no part of what comes before."""
        return any(strand.recurrent is layers for strand in self.strands)
