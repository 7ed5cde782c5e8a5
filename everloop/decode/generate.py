"""One interface to all decoding: greedy search, beam search, sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everloop.decode.beam import beam
from everloop.decode.ctc import ShallowFusion
from everloop.decode.single import draw, greedy
from everloop.decode.writer import Hypothesis, Writer, writer
from everloop.errors import OptionError
from everloop.models.kind import kind_of
from everloop.models.model import several


@dataclass(frozen=True)
class Greedy:
    """Always the most likely symbol."""


@dataclass(frozen=True)
class Sampling:
    """Symbols drawn; arguments as of `sample`. `num_samples` draws for each source."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    num_samples: int = 1
    seed: int | None = None


@dataclass(frozen=True)
class Beam:
    """The most likely sequences; arguments as of `beam`. `fusion`: a character model, for a transcriber."""

    width: int = 5
    length_penalty: float = 1.0
    n_best: int = 1
    fusion: ShallowFusion | None = None


Method = Greedy | Sampling | Beam


def generate(model: Any, sources: Sequence[Any], method: Method | None = None, *, length: int = 200) -> list[list[Any]]:
    """Return what a model writes for each source: one Hypothesis or several, the best first; Sketches for strokes.

    Args:
        model: a language model (sources: prompts), a translator (sentences), a generator of symbols (what it is
            given), a generator of strokes (labels), or a transcriber (recordings: samples [n]).
        sources: what the model reads.
        method: Greedy(), Sampling(…) or Beam(…); greedy by default.
        length: the most symbols written; a transcriber needs no such end.

    Raises:
        OptionError: this model cannot be decoded so.
    """
    method = method or Greedy()
    if length < 1:
        raise OptionError(f"length is {length}; expected at least 1")
    several(sources, "generate")
    if not sources:
        return []
    kind = kind_of(model)
    if kind is not None and kind.generate is not None:
        return kind.generate(model, sources, method, length)
    return write(writer(model), sources, method, length)


def write(by: Writer, sources: Sequence[Any], method: Method, length: int) -> list[list[Hypothesis]]:
    """Return what a Writer writes for each source; arguments as of `generate`."""
    match method:
        case Greedy():
            return [[one] for one in greedy(by, sources, length=length)]
        case Beam(width, length_penalty, n_best, fusion):
            if fusion is not None:
                raise OptionError("shallow fusion is for a transcriber; this model has its own probabilities")
            return beam(by, sources, width=width, length=length, length_penalty=length_penalty, n_best=n_best)
        case Sampling(temperature, top_k, top_p, num_samples, seed):
            repeated = [source for source in sources for _ in range(num_samples)]
            choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
            drawn = draw(by, repeated, length=length, **choice)  # type: ignore[arg-type]
            return [drawn[i : i + num_samples] for i in range(0, len(drawn), num_samples)]
