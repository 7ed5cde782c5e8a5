"""Translators: one language into another, or any sequence into another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text as Line

from everloop.data.datasets.parallel import Parallel, ParallelConfig, read_table_of_pairs
from everloop.data.error_policy import AS_TRAINED, ErrorPolicy
from everloop.data.readers.formats import table_endings
from everloop.data.readers.lines import suffix
from everloop.data.readers.parallel import read_pairs
from everloop.decode.bleu import bleu, sacrebleu_scores
from everloop.decode.generate import Beam
from everloop.decode.writer import Hypothesis
from everloop.errors import OptionError
from everloop.kinds.decoding import SYMBOLS, Decoder, PredictOptions
from everloop.kinds.examples import Example, spread
from everloop.kinds.source import PredictSource
from everloop.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from everloop.models.kind import Kind
from everloop.train import Run

BEAM = Beam(5)


def dataset(config: ParallelConfig, shape: EncoderDecoderConfig, model: EncoderDecoder | None) -> Parallel:
    """Return the pairs that a configuration describes."""
    return Parallel.from_config(config, (model.source, model.written) if model else None)


def create_model(data: Parallel, shape: EncoderDecoderConfig) -> EncoderDecoder:
    """Return a model with fresh weights for the languages of some data."""
    return EncoderDecoder.from_config(data.source, data.target, shape)


def report(model: EncoderDecoder, data: Parallel, run: Run) -> Iterator[Line]:
    """Yield some translations of validation sentences, and BLEU over all of them."""
    pairs = data.sentences["valid"]
    if not pairs or run.interrupted:
        return
    answers = translate(model, [source for source, _ in pairs[:5]], Decoder(BEAM))
    for (source, reference), (best, *_) in zip(pairs[:5], answers, strict=True):
        yield Line.assemble((source, "dim"), "\n  ", (best.text, "bold"), "\n  ", reference)
    yield Line(decoding_metrics(model, data, "valid", Decoder(BEAM))[1])


def examples(model: EncoderDecoder, data: Parallel, split: str, count: int) -> Iterator[Example]:
    """Yield sentences, their translations in the data, and those of the model."""
    pairs = data.sentences[split]
    some = [pairs[i] for i in spread(count, len(pairs))]
    answers = translate(model, [source for source, _ in some], Decoder(BEAM))
    for (source, reference), (best, *_) in zip(some, answers, strict=True):
        yield Example(source, reference, best.text, f"log-probability {best.logp:.2f}", source=source)


def decoding_metrics(
    model: EncoderDecoder, data: Parallel, split: str, decoder: Decoder
) -> tuple[dict[str, float | str], str]:
    """Return BLEU over the sentences of a split, and with sacrebleu chrF, as numbers and in words."""
    pairs = data.sentences[split]
    answers = [best.text for best, *_ in translate(model, [source for source, _ in pairs], decoder)]
    references = [target.lower() if data.config.lower else target for _, target in pairs]
    case = ", lower case" if data.config.lower else ""
    score = bleu(answers, references)
    text = f"BLEU {score:.2f} on {len(pairs):,} {split} sentences ({decoder}{case})"
    others = sacrebleu_scores(answers, references, lower=bool(data.config.lower))
    if others:
        text += f", chrF2 {others['chrf2']:.2f}\nsacrebleu {others['signature']}"
    return {"bleu": score, **others, "decoding": str(decoder)}, text


def predict(
    model: EncoderDecoder, config: ParallelConfig, source: PredictSource, options: PredictOptions
) -> Iterator[str]:
    """Yield the translation of each line, an empty line stays empty; or several, each after the line's number."""
    decoder = options.decoder(BEAM)
    for chunk in source.chunks(source.texts(config.source_column, config.columns)):
        answers = iter(translate(model, [line for _, line in chunk if line.strip()], decoder))
        for number, line in chunk:
            if decoder.several:
                yield decoder.lines(str(number), next(answers)) if line.strip() else ""
            else:
                yield f"{next(answers)[0] if line.strip() else ''}\n"


def evaluation_dataset(model: EncoderDecoder, config: ParallelConfig, path: Path, labels: Path | None) -> Parallel:
    """Return the pairs of a table, or of a file and of the file of its translations, as the test split."""
    errors = ErrorPolicy(config.malformed, column_advice=AS_TRAINED)
    if labels is None and config.format == "auto" and suffix(path) not in table_endings():
        raise OptionError(
            "a translator is evaluated on two files, or on a table of pairs: everloop evaluate RUN SOURCE --labels "
            "TRANSLATIONS, or everloop evaluate RUN TABLE"
        )
    pairs = read_pairs(path, labels, errors) if labels else read_table_of_pairs(path, config, errors)
    return Parallel((), (), config, (model.source, model.written), pairs, errors)


def translate(
    model: EncoderDecoder, sentences: Sequence[str], decoder: Decoder, batch: int = 64
) -> list[list[Hypothesis]]:
    """Return the translations of sentences, the best of each first; sentences of similar length share a batch."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    found: list[list[Hypothesis]] = [[]] * len(sentences)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        length = 2 * max(len(model.source.encode(sentences[i])) for i in group) + 10
        for i, answers in zip(group, decoder(model, [sentences[i] for i in group], length=length), strict=True):
            found[i] = answers
    return found


KIND = Kind(
    model=EncoderDecoder,
    model_config=EncoderDecoderConfig,
    data_config=ParallelConfig,
    description="Train an encoder-decoder: it reads a line and writes that of the other file, or the other column.",
    dataset=dataset,
    create_model=create_model,
    evaluation_dataset=evaluation_dataset,
    predict=predict,
    predict_options=(*SYMBOLS, "columns"),
    method=BEAM,
    decoding_metrics=decoding_metrics,
    examples=examples,
    report=report,
    also=("encoder-decoder", "machine-translation", "nmt", "seq2seq", "summarization", "translation"),
)
