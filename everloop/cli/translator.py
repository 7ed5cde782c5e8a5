"""`everloop train translator`: one language into another, or any sequence into another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text as Line

from everloop.cli.asked import WRITING, Asked, Judged, Way
from everloop.cli.figures import print_notes
from everloop.cli.kind import Common, train_kind
from everloop.cli.source import Source
from everloop.data.datasets.parallel import Parallel, ParallelConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import numbered
from everloop.data.readers.parallel import read_pairs
from everloop.data.tokenize.pieces import Pieces
from everloop.decode.bleu import bleu
from everloop.decode.generate import Beam, generate
from everloop.decode.writer import Hypothesis
from everloop.errors import OptionError
from everloop.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from everloop.train import Run

KIND, TAKES, DEFAULT = EncoderDecoder.kind, WRITING, Beam(5)


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train translator` can be told."""

    data: ParallelConfig = field(default_factory=ParallelConfig)
    model: EncoderDecoderConfig = field(default_factory=EncoderDecoderConfig)


def main(args: Sequence[str]) -> int:
    """Run `everloop train translator`."""
    text = "Train an encoder-decoder: it reads a line and writes that of the other file."
    return train_kind(KIND, Options, prepare, show, args, text)


def prepare(options: Options, resumed: Path | None) -> tuple[Parallel, EncoderDecoder]:
    """Return the pairs and the untrained model of these options."""
    known = (Pieces.load(resumed / "source.json"), Pieces.load(resumed / "target.json")) if resumed else None
    data = Parallel.from_config(options.data, known)
    print_notes(data, options.train.batch)
    return data, EncoderDecoder.from_config(data.source, data.target, options.model)


def show(model: EncoderDecoder, data: Parallel, run: Run) -> None:
    """Print some translations of validation sentences, and BLEU over all of them."""
    pairs = data.sentences["valid"]
    if not pairs or run.interrupted:
        return
    console = Console()
    written = translate(model, [source for source, _ in pairs[:5]], Way(DEFAULT))
    for (source, wanted), (best, *_) in zip(pairs[:5], written, strict=True):
        console.print(Line(source, "dim"), Line(f"  {best}", "bold"), Line(f"  {wanted}"), sep="\n", soft_wrap=True)
    console.print(decoded(model, data, "valid")[1], soft_wrap=True)


def decoded(model: EncoderDecoder, data: Parallel, part: str, way: Way | None = None) -> Judged:
    """Return BLEU over the sentences of a part, as a number and in words."""
    pairs = data.sentences[part]
    way = way or Way(DEFAULT)
    written = [best.text for best, *_ in translate(model, [source for source, _ in pairs], way)]
    references = [target.lower() if data.config.lower else target for _, target in pairs]
    case = ", lower case" if data.config.lower else ""
    score = bleu(written, references)
    return {"bleu": score, "decoding": str(way)}, f"BLEU {score:.2f} on {len(pairs):,} {part} sentences ({way}{case})"


def predict(model: EncoderDecoder, config: ParallelConfig, source: Source, asked: Asked) -> Iterator[str]:
    """Yield the translation of each line, an empty line stays empty; or several, each after the line's number."""
    way = asked.way(DEFAULT)
    source.chosen({}, "text")
    with source.open() as file:
        for chunk in source.chunks(numbered(file, source.place, source.errors)):
            written = iter(translate(model, [line for _, line in chunk if line.strip()], way))
            for number, line in chunk:
                if way.several:
                    yield way.lines(str(number), next(written)) if line.strip() else ""
                else:
                    yield f"{next(written)[0] if line.strip() else ''}\n"


def given(model: EncoderDecoder, config: ParallelConfig, path: Path, labels: Path | None = None) -> Parallel:
    """Return the pairs of a file, or of two, as the test part of the model's data."""
    errors = ErrorPolicy(config.malformed)
    if labels is None:
        raise OptionError("a translator is evaluated on two files: everloop evaluate RUN SOURCE --labels TRANSLATIONS")
    return Parallel((), (), config, (model.source, model.written), read_pairs(path, labels, errors), errors)


def own(model: EncoderDecoder, config: ParallelConfig) -> Parallel:
    """Return the data that the model was trained with."""
    return Parallel.from_config(config, (model.source, model.written))


def translate(model: EncoderDecoder, sentences: Sequence[str], way: Way, batch: int = 64) -> list[list[Hypothesis]]:
    """Return the translations of sentences, the best of each first; those of about the same length at a time."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    found: list[list[Hypothesis]] = [[]] * len(sentences)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        longest = max(len(model.source.encode(sentences[i])) for i in group)
        length = way.max_length or 2 * longest + 10
        written = generate(model, [sentences[i] for i in group], way.next(), length=length)
        for i, hypotheses in zip(group, written, strict=True):
            found[i] = hypotheses
    return found
