"""Transcribers: recordings or handwriting into characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.text import Text as Line

from everloop.data.datasets.digits import DigitsConfig, DigitStrings
from everloop.data.datasets.handwriting import GlyphsConfig, GlyphStrings, Handwriting, HandwritingConfig
from everloop.data.datasets.recordings import AudioConfig, Recordings
from everloop.data.datasets.transcribed import Transcribed
from everloop.data.error_policy import ErrorPolicy
from everloop.data.frames import FrameConfig
from everloop.data.readers.file_lists import FileColumns, named_texts
from everloop.data.readers.formats import audio_endings, find_audio, read_audio
from everloop.data.readers.lines import numbered, suffix
from everloop.data.readers.strokes import parse_drawing, read_drawings
from everloop.data.readers.transcripts import read_transcripts
from everloop.data.resampling import Upsampled
from everloop.data.settings import flag, only_one
from everloop.decode import ctc
from everloop.decode.generate import Beam, Greedy, Method
from everloop.decode.writer import Hypothesis
from everloop.errors import OptionError, RunError
from everloop.kinds.decoding import FUSION, Decoder, PredictOptions
from everloop.kinds.examples import Example, spread
from everloop.kinds.source import PredictSource
from everloop.models.kind import Kind
from everloop.models.transcriber import Transcriber, TranscriberConfig, distance
from everloop.train import Run

SEARCH = Beam(8)


@dataclass(frozen=True)
class TranscriberDataConfig(GlyphsConfig, DigitsConfig, AudioConfig):
    """What is read: recordings or handwriting with texts, or single characters to be joined to random strings."""


# each source with its settings; a source takes no other ones
SOURCES = {"audio": AudioConfig, "digits": DigitsConfig, "strokes": HandwritingConfig, "glyphs": GlyphsConfig}


# what frames are made of, and the settings of the model that say how
SOUND = "sound", tuple(field.name for field in fields(FrameConfig))
PEN = "the strokes of a pen", ("spacing",)


def check_settings(config: TranscriberDataConfig, shape: TranscriberConfig, source: str) -> None:
    """Check that all settings that were given are those of a source.

    Raises:
        OptionError: one is of other sources.
    """
    own = {name: {field.name for field in fields(settings)} for name, settings in SOURCES.items()}
    for field in fields(config):
        name = field.name
        if name not in own[source] | own.keys() and getattr(config, name) != field.default:
            of = " or ".join(flag(other) for other, names in own.items() if name in names)
            raise OptionError(f"{flag(name)} is for {of}; leave it out with {flag(source)}")
    of, others = PEN if source in ("audio", "digits") else SOUND
    for name in others:
        if getattr(shape, name) != getattr(TranscriberConfig, name):
            raise OptionError(f"{flag(name)} is for {of}; leave it out with {flag(source)}")


def dataset(config: TranscriberDataConfig, shape: TranscriberConfig, model: Transcriber | None) -> Transcribed:
    """Return the recordings or the handwriting that a configuration describes."""
    vocabulary = model.vocabulary if model else None
    data: Transcribed
    source = only_one({name: getattr(config, name) for name in SOURCES})
    if model is None:
        check_settings(config, shape, source)
    match source:
        case "audio":
            data = Recordings.from_config(config, shape.frames, vocabulary)
        case "digits":
            data = DigitStrings.from_config(config, shape.frames)
        case "strokes":
            data = Handwriting.from_config(config, shape.spacing, vocabulary)
        case _:
            data = GlyphStrings.from_config(config, shape.spacing)
    if model and model.vocabulary != data.vocabulary:
        raise RunError(f"the model was trained on other characters than {data.vocabulary!r}")
    return data


def create_model(data: Transcribed, shape: TranscriberConfig) -> Transcriber:
    """Return a model with fresh weights for the characters of some data."""
    if shape.reads not in (None, data.reads):
        raise OptionError(f"reads is {shape.reads!r}; the data are for {data.reads!r}, which it is without this option")
    return Transcriber.from_config(data.vocabulary, replace(shape, reads=data.reads))


def generate(model: Transcriber, sources: Sequence[Any], method: Method, length: int) -> list[list[Hypothesis]]:
    """Return transcripts of recordings, the best first; `length` bounds nothing, since a recording ends by itself."""
    match method:
        case Greedy():
            return [[one] for one in ctc.greedy(model, sources)]
        case Beam(width, _, n_best, fusion):
            return ctc.beam(model, sources, width=width, n_best=n_best, fusion=fusion)
    raise OptionError("a transcriber is decoded greedily or with a beam; it is not sampled")


def report(model: Transcriber, data: Transcribed, run: Run) -> Iterator[Line]:
    """Yield some transcripts and the character error rate, of the test split if there is one."""
    split = next((name for name in ("test", "valid") if name in data.splits), None)
    if split is not None and not run.interrupted:
        yield Line(decoding_metrics(model, data, split, Decoder(SEARCH))[1])


def examples(model: Transcriber, data: Transcribed, split: str, count: int) -> Iterator[Example]:
    """Yield recordings, what is said in them, and what the model hears."""
    some = [data[split][i] for i in spread(count, len(data[split]))]
    answers = generate(model, [samples for samples, _ in some], SEARCH, 0)
    for (samples, text), (best, *_) in zip(some, answers, strict=True):
        yield Example(
            f"{len(samples):,} {'samples' if samples.dim() == 1 else 'frames'}",
            text,
            best.text,
            f"log-probability {best.logp:.2f}",
        )


def decoding_metrics(
    model: Transcriber, data: Transcribed, split: str, decoder: Decoder
) -> tuple[dict[str, float | str], str]:
    """Return the character error rate of a split, and some transcripts with it in words."""
    clips = data[split]
    texts: list[str] = []
    for start in range(0, len(clips), 32):
        sources = [samples for samples, _ in clips[start : start + 32]]
        texts += [answers[0].text for answers in decoder(model, sources)]
    references = [text for _, text in clips]
    lines = [f"{text}   (right: {wanted})" for wanted, text in zip(references[:5], texts[:5], strict=True)]
    errors = sum(distance(a, b) for a, b in zip(references, texts, strict=True))
    count = sum(map(len, references))
    rate = f"{errors / count:.2%} ({errors:,} of {count:,} characters)"
    text = "\n".join([*lines, f"character error rate {rate} on {len(clips):,} {split} {data.unit}, {decoder}"])
    return {"character_error_rate": errors / count, "decoding": str(decoder)}, text


def predict(
    model: Transcriber, config: TranscriberDataConfig, source: PredictSource, options: PredictOptions
) -> Iterator[str]:
    """Yield for each recording a line, or one for each answer: its name, a tab, what is said.

    Of handwriting the number of its line takes the place of the name; the answer to an empty line is an empty one.
    """
    decoder = options.decoder(SEARCH)
    if model.pen:
        yield from _written(model, config, source, decoder)
        return
    source.chosen_format(audio_endings(), "text")
    upsampled = Upsampled()
    for chunk in source.chunks(_recordings(source)):
        sources = [read_audio(path, model.config.rate, upsampled) for path in chunk]
        for path, answers in zip(chunk, decoder(model, sources), strict=True):
            yield decoder.lines(str(path), answers)
    source.notes.extend(upsampled.notes())


def _written(
    model: Transcriber, config: TranscriberDataConfig, source: PredictSource, decoder: Decoder
) -> Iterator[str]:
    """Yield what is written on each line of a file of strokes."""
    source.chosen_format({".jsonl": "jsonl"}, "jsonl")

    def drawings() -> Iterator[tuple[int, Any]]:
        for number, line in source.lines():
            found = parse_drawing(line, config.fields, (), (source.place, number), source.errors) if line else None
            yield number, found and config.turned(found.strokes)

    for chunk in source.chunks(drawings()):
        filled = [strokes for _, strokes in chunk if strokes]
        answers = iter(decoder(model, filled) if filled else ())
        yield from (decoder.lines(str(number), next(answers)) if strokes else "\n" for number, strokes in chunk)


def _recordings(source: PredictSource) -> Iterator[Path]:
    """Yield the recordings that are meant: the file itself, all of a folder, or those a list names, one a line."""
    if source.path.is_dir():
        yield from find_audio(source.path)
    elif suffix(source.path) in audio_endings():
        yield source.path
    else:
        with source.open() as file:
            yield from (Path(line.strip()) for _, line in numbered(file, source.place, source.errors) if line.strip())


def evaluation_dataset(
    model: Transcriber, config: TranscriberDataConfig, path: Path, labels: Path | None
) -> Transcribed:
    """Return the recordings that a list of transcripts names, beside it or where those of training are, as test split.

    Handwriting is read as whole texts, of whatever split.
    """
    if labels is not None:
        raise OptionError("--labels is for IDX images; a transcriber's list holds the transcripts itself")
    errors = ErrorPolicy(config.malformed)
    if model.pen:
        drawings = read_drawings(path, config.fields, ("label",), errors)
        tests = (drawing._replace(split="test") for drawing in drawings)
        return Handwriting(tests, model.config.spacing, config, model.vocabulary, errors)
    upsampled = Upsampled()
    columns = FileColumns(config.file_column, config.text_column)
    first = next(named_texts(path, columns, "", ErrorPolicy("skip")), (0, "", ""))[1]
    folder = config.audio if config.audio and not (path.parent / first).is_file() else path.parent
    clips = read_transcripts(folder, path, model.config.frames, errors, upsampled, columns)
    data = Recordings({"test": clips}, model.config.frames, model.vocabulary, errors=errors)
    data.upsampled = {"test": upsampled}
    return data


KIND = Kind(
    model=Transcriber,
    model_config=TranscriberConfig,
    data_config=TranscriberDataConfig,
    description="Train a transcriber: from recordings or handwriting to characters.",
    dataset=dataset,
    create_model=create_model,
    evaluation_dataset=evaluation_dataset,
    predict=predict,
    predict_options=("decode", "beam", "n_best", *FUSION),
    method=SEARCH,
    generate=generate,
    decoding_metrics=decoding_metrics,
    examples=examples,
    report=report,
    also=("asr", "ctc", "handwriting", "speech", "speech-recognition", "speech-to-text"),
)
