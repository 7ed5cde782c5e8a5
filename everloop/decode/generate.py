"""One interface to all decoding: greedy search, beam search, sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everloop.decode import ctc
from everloop.decode.beam import beam
from everloop.decode.ctc import ShallowFusion
from everloop.decode.single import draw, greedy
from everloop.decode.sketch import Sketch, sketch
from everloop.decode.writer import Hypothesis, writer
from everloop.errors import OptionError
from everloop.models.generator import Generator
from everloop.models.transcriber import Transcriber


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
    if not sources:
        return []
    if isinstance(model, Transcriber):
        return _transcribe(model, sources, method)
    if isinstance(model, Generator) and model.vocabulary is None:
        return _sketch(model, sources, method, length)
    by = writer(model)
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


def _transcribe(model: Transcriber, sources: Sequence[Any], method: Method) -> list[list[Hypothesis]]:
    match method:
        case Greedy():
            return [[one] for one in ctc.greedy(model, sources)]
        case Beam(width, _, n_best, fusion):
            return ctc.beam(model, sources, width=width, n_best=n_best, fusion=fusion)
    raise OptionError("a transcriber is decoded greedily or with a beam; it is not sampled")


def _sketch(model: Generator, sources: Sequence[Any], method: Method, length: int) -> list[list[Sketch]]:
    match method:
        case Greedy():
            return [[one] for one in sketch(model, sources, temperature=0, length=length)]
        case Sampling(temperature, None, None, num_samples, seed):
            repeated = [source for source in sources for _ in range(num_samples)]
            drawn = sketch(model, repeated, temperature=temperature, length=length, seed=seed)
            return [drawn[i : i + num_samples] for i in range(0, len(drawn), num_samples)]
    raise OptionError("strokes are drawn greedily or by sampling at a temperature; their steps cannot be counted off")
