"""Options of decoding and of predicting: one set for all kinds; each kind takes some of them and refuses the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from everloop.data.settings import flag, setting
from everloop.decode.ctc import ShallowFusion
from everloop.decode.generate import Beam, Greedy, Method, Sampling, generate
from everloop.decode.writer import Hypothesis
from everloop.errors import OptionError, RunError
from everloop.models import LanguageModel, load

# options, and the names of the fields of Beam, ShallowFusion and Sampling that they set
BEAM = {"beam": "width", "n_best": "n_best", "length_penalty": "length_penalty"}
FUSION = {"language_model": "model", "lm_weight": "weight", "insertion_bonus": "bonus", "lm_context": "context"}
SAMPLING = {name: name for name in ("temperature", "top_k", "top_p", "seed", "num_samples")}
SYMBOLS = ("decode", *BEAM, *SAMPLING, "max_length")  # for kinds that write symbol after symbol


@dataclass(frozen=True)
class DecodingOptions:
    """For models that write sequences: greedy search, beam search or sampling; the defaults depend on the kind."""

    decode: Literal["greedy", "beam", "sample"] | None = None
    """The method; by default as the options below imply, or a beam for translators and transcribers, sampling for
    generators from labels, greedy from vectors and pictures."""
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
    """Beam of a transcriber: run folder of a character model whose log-probabilities are added (shallow fusion)."""
    lm_weight: float | None = setting(None, old="weight")
    """Weight of the log-probabilities of the character model; by default 0.5."""
    insertion_bonus: float | None = setting(None, old="bonus")
    """What is added for each character, beside the character model; by default 0."""
    lm_context: str | None = setting(None, old="context")
    """What the character model reads before a text; by default a newline."""

    trust_code: tyro.conf.Suppress[bool] = False
    """For the character model, as in `everloop.models.load`; the same option of the verb sets it."""

    def chosen(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by name."""
        fields = [field for field in dataclasses.fields(self) if field.name != "trust_code"]
        found = {field.name: (getattr(self, field.name), field.default) for field in fields}
        return {name: value for name, (value, default) in found.items() if value != default}

    def check(self, kind: str, known: Collection[str]) -> None:
        """Check that a kind takes all options that were chosen.

        Raises:
            OptionError: it does not; the message tells what it takes.
        """
        for name in self.chosen():
            if name not in known:
                takes = ", ".join(map(flag, known)) or "none of these options"
                raise OptionError(f"{flag(name)} does not apply to a {kind}; it takes {takes}")

    def decoder(self, default: Method) -> Decoder:
        """Return the decoder; it uses `default` where no option says otherwise.

        Raises:
            OptionError: the options contradict each other, or one is out of range.
        """
        chosen = self.chosen()
        groups: dict[Literal["sample", "beam"], dict[str, str]] = {"sample": SAMPLING, "beam": BEAM | FUSION}
        implied = {name: [o for o in group if o in chosen] for name, group in groups.items()}
        implied = {name: options for name, options in implied.items() if options}
        if not self.decode and len(implied) > 1:
            both = " and ".join(flag(options[0]) for options in implied.values())
            raise OptionError(f"{both} exclude each other: one is for sampling, the other for a beam")
        method = self.decode or next(iter(implied), None)
        for name, options in implied.items():
            if name != method:
                raise OptionError(f"{flag(options[0])} is for --decode {name}; this is {method}")
        if self.max_length is not None and self.max_length < 1:
            raise OptionError(f"max_length is {self.max_length}; expected at least 1")
        match method:
            case "greedy":
                return Decoder(Greedy(), self.max_length)
            case "sample":
                base = default if isinstance(default, Sampling) else Sampling()
                return Decoder(_checked(replace(base, **_fields(chosen, SAMPLING))), self.max_length)
            case "beam":
                search, fields = default if isinstance(default, Beam) else Beam(), _fields(chosen, BEAM)
                fields.setdefault("width", max(search.width, fields.get("n_best", 1)))
                fusion = _fusion({name: chosen[name] for name in FUSION if name in chosen}, self.trust_code)
                return Decoder(replace(search, **fields, fusion=fusion), self.max_length)
        return Decoder(default, self.max_length)


@dataclass(frozen=True)
class PredictOptions(DecodingOptions):
    """How the model answers: each kind takes some of these and refuses the others."""

    probabilities: bool = False
    """Classifiers and taggers: a table with the probability of every label."""
    columns: tuple[str, ...] = ()
    """All but generators and transcribers: names of the columns of a table without a header, or of a CoNLL file; by
    default as in training."""
    plans: Path | None = None
    """Forecasters with planned columns: a table with these columns (and the time, if the run has one) to come."""
    array: str | None = None
    """Generators from vectors or pictures: name of the array in an .npz file; by default as in training."""
    svg: Path | None = None
    """Generators of strokes: also write all drawings as an SVG picture."""
    png: Path | None = None
    """Generators of strokes: also write all drawings as a PNG picture."""
    stride: int | None = setting(None, old="every")
    """Forecasters: rows after which a forecast is written; by default one at the end."""


class Decoder:
    """Decodes sources batch after batch by one method. With a seed each batch draws other numbers.

    Args:
        method: greedy search, beam search or sampling.
        max_length: the most symbols of an answer; None: as the caller of the decoder says.
    """

    def __init__(self, method: Method, max_length: int | None = None) -> None:
        self.method, self.max_length, self.batches = method, max_length, 0

    def __call__(self, model: Any, sources: Sequence[Any], *, length: int = 200) -> list[list[Any]]:
        """Return the answers to each source of one batch; of at most `length` symbols if there is no max_length."""
        method = self.method
        if isinstance(method, Sampling) and method.seed is not None:
            method = replace(method, seed=method.seed + self.batches * 1_000_003)
        self.batches += 1
        return generate(model, sources, method, length=self.max_length or length)

    @property
    def several(self) -> bool:
        """Whether a source may get more than one answer."""
        match self.method:
            case Beam(n_best=answers) | Sampling(num_samples=answers):
                return answers > 1
        return False

    def lines(self, name: str, answers: Sequence[Hypothesis]) -> str:
        """Return the answers to one source: its name and the text; of several each with its log-probability."""
        if not self.several:
            return f"{name}\t{answers[0].text}\n"
        return "".join(f"{name}\t{one.logp:.4f}\t{one.text}\n" for one in answers)

    def __str__(self) -> str:
        match self.method:
            case Beam(width, fusion=fusion):
                return f"beam {width}" + (" with a character model" if fusion else "")
            case Sampling(temperature):
                return f"drawn at temperature {temperature:g}"
        return "greedy"


def _fields(chosen: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names[option]: value for option, value in chosen.items() if option in names}


def _checked(sampling: Sampling) -> Sampling:
    if sampling.num_samples < 1:
        raise OptionError(f"num_samples is {sampling.num_samples}; expected at least 1")
    if not 0 <= (sampling.seed or 0) < 2**31:
        raise OptionError(f"seed is {sampling.seed}; expected an integer from 0 to {2**31 - 1}")
    return sampling


def _fusion(options: dict[str, Any], trust_code: bool) -> ShallowFusion | None:
    """Return the character model that the options name.

    Raises:
        OptionError: its weight, bonus or context was given, but no model.
        RunError: the run holds another kind, or code that is not trusted.
    """
    if not options:
        return None
    if "language_model" not in options:
        first = flag(next(iter(options)))
        raise OptionError(f"{first} is for a character model; name its run with --language-model RUN")
    run = options["language_model"]
    model = load(run, trust_code=trust_code)
    if not isinstance(model, LanguageModel):
        raise RunError(f"{run} holds a {model.kind}; expected a language model")
    return ShallowFusion(**_fields({**options, "language_model": model}, FUSION))
