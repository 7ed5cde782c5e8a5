"""How a model is asked to answer: one set of words for all kinds; each takes some of them and refuses the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from everloop.cli.options import flag
from everloop.data.settings import setting
from everloop.decode.ctc import Helper
from everloop.decode.generate import Beam, Greedy, How, Sampling
from everloop.decode.writer import Hypothesis
from everloop.errors import OptionError, RunError
from everloop.models import LanguageModel, load

BEAM = ("decode", "beam", "n_best")
BEAMS = {"beam": "width", "n_best": "n_best", "length_penalty": "length_penalty"}  # options and the fields of a Beam
HELP = {"language_model": "model", "lm_weight": "weight", "insertion_bonus": "bonus", "lm_context": "context"}
SAMPLING = ("temperature", "top_k", "top_p", "seed", "num_samples")
Judged = tuple[dict[str, float | str], str]  # figures by name, and what is printed
WRITING = (*BEAM, "length_penalty", *SAMPLING, "max_length")


@dataclass(frozen=True)
class Decoding:
    """Models that write: greedily, with a beam, or by sampling; what is not said is as fits the kind."""

    decode: Literal["greedy", "beam", "sample"] | None = None
    """How; by default as the options below imply, or a beam for translators and transcribers, drawn for generators."""
    beam: int | None = setting(None, old="width")
    """Beam: hypotheses kept at a time."""
    n_best: int | None = setting(None, old="best")
    """Beam: answers for each source, the best first, a line each, with their log-probability."""
    length_penalty: float | None = setting(None, old="penalty")
    """Beam: how far long answers are favoured; 0: not at all."""
    temperature: float | None = None
    """Sampling: below 1 bolder, above 1 more varied, 0 always the most likely symbol."""
    top_k: int | None = None
    """Sampling: draw from this many most likely symbols alone."""
    top_p: float | None = None
    """Sampling: draw from the fewest symbols that together have this probability."""
    num_samples: int | None = setting(None, old="count")
    """Sampling: answers for each source, a line each, with their log-probability."""
    seed: int | None = None
    """Sampling: the same seed gives the same answers to the same file."""
    max_length: int | None = setting(None, old="longest")
    """The most symbols of an answer; by default twice a translator's source and 10, and 200 for a generator."""
    language_model: Path | None = None
    """Beam of a transcriber: run folder of a character model that says which texts are plausible."""
    lm_weight: float | None = setting(None, old="weight")
    """How much the log-probabilities of the character model count; by default 0.5."""
    insertion_bonus: float | None = setting(None, old="bonus")
    """What is added for each character, beside the character model; by default 0."""
    lm_context: str | None = setting(None, old="context")
    """What stands before a text, for the character model; by default a newline."""
    trust_code: tyro.conf.Suppress[bool] = False
    """Whether the character model may run code of its own; as the same option of the run that is asked."""

    def given(self) -> dict[str, Any]:
        """Return what was said, by name."""
        fields = [field for field in dataclasses.fields(self) if field.name != "trust_code"]
        found = {field.name: (getattr(self, field.name), field.default) for field in fields}
        return {name: value for name, (value, default) in found.items() if value != default}

    def check(self, kind: str, takes: Collection[str]) -> None:
        """Check that a kind takes what was said.

        Raises:
            OptionError: it does not; the message tells what it takes.
        """
        for name in self.given():
            if name not in takes:
                known = ", ".join(map(flag, takes)) or "none of these options"
                raise OptionError(f"{flag(name)} does not apply to a {kind}; it takes {known}")

    def way(self, default: How) -> Way:
        """Return how to decode; `default` where nothing else was said.

        Raises:
            OptionError: the options contradict each other, or one is out of range.
        """
        said = self.given()
        draws = {name: said[name] for name in SAMPLING if name in said}
        beams = {name: said[option] for option, name in BEAMS.items() if option in said}
        helps = {name: said[name] for name in HELP if name in said}
        ways = {"sample": draws, "beam": [*(option for option in BEAMS if option in said), *helps]}
        implied = [name for name, options in ways.items() if options]
        if not self.decode and len(implied) > 1:
            both = " and ".join(flag(next(iter(ways[name]))) for name in implied)
            raise OptionError(f"{both} exclude each other: one is for sampling, the other for a beam")
        chosen = self.decode or (implied[0] if implied else "")
        for name in implied:
            if name != chosen:
                raise OptionError(f"{flag(next(iter(ways[name])))} is for --decode {name}; this is {chosen}")
        if "max_length" in said and said["max_length"] < 1:
            raise OptionError(f"max_length is {said['max_length']}; expected at least 1")
        match chosen:
            case "greedy":
                return Way(Greedy(), self.max_length)
            case "sample":
                return Way(_sampling(default, draws), self.max_length)
            case "beam":
                base = default if isinstance(default, Beam) else Beam()
                beams.setdefault("width", max(base.width, beams.get("n_best", 1)))
                return Way(replace(base, **beams, helper=_helper(helps, self.trust_code)), self.max_length)
        return Way(default, self.max_length)


@dataclass(frozen=True)
class Asked(Decoding):
    """How the model answers: each kind takes some of these and refuses the others."""

    probabilities: bool = False
    """Classifiers and taggers: a table with the probability of every label."""
    columns: tuple[str, ...] = ()
    """Classifiers and forecasters: names of the columns of a table without a header; by default as in training."""
    plans: Path | None = None
    """Forecasters with planned columns: a table with these columns (and the time, if the run has one) to come."""
    array: str | None = None
    """Generators of vectors: name of the array in an .npz file; by default as in training."""
    svg: Path | None = None
    """Generators of strokes: also write all drawings as an SVG picture."""
    png: Path | None = None
    """Generators of strokes: also write all drawings as a PNG picture."""
    every: int | None = None
    """Forecasters: rows after which a forecast is written; by default one at the end."""


class Way:
    """How sources are decoded, batch after batch. With a seed each batch draws other numbers.

    Args:
        how: greedy, a beam or sampling.
        max_length: the most symbols of an answer; None: as fits the kind.
    """

    def __init__(self, how: How, max_length: int | None = None) -> None:
        self.how, self.max_length, self.turn = how, max_length, 0

    def next(self) -> How:
        """Return how to decode the next batch."""
        turn, self.turn = self.turn, self.turn + 1
        if isinstance(self.how, Sampling) and self.how.seed is not None:
            return replace(self.how, seed=self.how.seed + turn * 1_000_003)
        return self.how

    @property
    def several(self) -> bool:
        """Whether a source may get more than one answer."""
        match self.how:
            case Beam(n_best=answers) | Sampling(num_samples=answers):
                return answers > 1
        return False

    def lines(self, name: str, found: Sequence[Hypothesis]) -> str:
        """Return the answers to one source: its name and the text; of several each with its log-probability."""
        if not self.several:
            return f"{name}\t{found[0].text}\n"
        return "".join(f"{name}\t{one.logp:.4f}\t{one.text}\n" for one in found)

    def __str__(self) -> str:
        match self.how:
            case Beam(width, helper=helper):
                return f"beam {width}" + (" with a character model" if helper else "")
            case Sampling(temperature):
                return f"drawn at temperature {temperature:g}"
        return "greedy"


def _sampling(default: How, draws: dict[str, Any]) -> Sampling:
    if draws.get("num_samples", 1) < 1:
        raise OptionError(f"num_samples is {draws['num_samples']}; expected at least 1")
    if not 0 <= draws.get("seed", 0) < 2**31:
        raise OptionError(f"seed is {draws['seed']}; expected a whole number from 0 to {2**31 - 1}")
    return replace(default if isinstance(default, Sampling) else Sampling(), **draws)


def _helper(said: dict[str, Any], trust_code: bool) -> Helper | None:
    """Return the character model that was named.

    Raises:
        OptionError: its weight, bonus or context was given, but no model.
        RunError: the run holds another kind, or code that is not trusted.
    """
    if not said:
        return None
    options = dict(said)
    run = options.pop("language_model", None)
    if run is None:
        raise OptionError(f"{flag(next(iter(said)))} is for a character model; name its run with --language-model RUN")
    model = load(run, trust_code=trust_code)
    if not isinstance(model, LanguageModel):
        raise RunError(f"{run} holds a {model.kind}; expected a language model")
    return Helper(model, **{HELP[name]: value for name, value in options.items()})
