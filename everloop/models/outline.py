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

    topology: in the words of the field, N → N and so on, where M is another length than N. attention: of the decoder to
    the outputs of the encoder, or of the one strand to what it is given.
    """

    name: str
    topology: str
    strands: tuple[Strand, ...]
    context: Context = ""
    attention: Block | None = None

    @property
    def attends_to_given(self) -> bool:
        """Whether each step looks at what is given, and not at the outputs of an encoder."""
        return self.attention is not None and len(self.strands) == 1

    @property
    def when_given(self) -> str:
        """In words, when the last strand sees what it is given."""
        if self.strands[-1].given_at == "first":
            return "at the first step"
        return "at every step and by attention" if self.attends_to_given else "at every step"

    def has(self, layers: object) -> bool:
        """Return whether these are layers of a strand, and no part of what comes before."""
        return any(strand.recurrent is layers for strand in self.strands)
