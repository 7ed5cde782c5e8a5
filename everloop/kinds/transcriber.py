"""Transcribers: recordings into characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text as Line

from everloop.data.datasets.digits import DigitsConfig, DigitStrings
from everloop.data.datasets.recordings import AudioConfig, Recordings
from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import find_files
from everloop.data.readers.formats import read_audio
from everloop.data.readers.lines import numbered
from everloop.data.readers.transcripts import read_transcripts
from everloop.data.settings import only_one
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
class SoundConfig(DigitsConfig, AudioConfig):
    """Which recordings are read: a folder with transcripts, or single digits to be joined to random strings."""


def dataset(config: SoundConfig, shape: TranscriberConfig, model: Transcriber | None) -> Recordings | DigitStrings:
    """Return the recordings that a configuration describes."""
    if only_one({"audio": config.audio, "digits": config.digits}) == "audio":
        return Recordings.from_config(config, shape.frames, model.vocabulary if model else None)
    data = DigitStrings.from_config(config, shape.frames)
    if model and model.vocabulary != data.vocabulary:
        raise RunError(f"the model was trained on other characters than {data.vocabulary!r}")
    return data


def create_model(data: Recordings | DigitStrings, shape: TranscriberConfig) -> Transcriber:
    """Return a model with fresh weights for the characters of some data."""
    return Transcriber.from_config(data.vocabulary, shape)


def generate(model: Transcriber, sources: Sequence[Any], method: Method, length: int) -> list[list[Hypothesis]]:
    """Return transcripts of recordings, the best first; `length` bounds nothing, since a recording ends by itself."""
    match method:
        case Greedy():
            return [[one] for one in ctc.greedy(model, sources)]
        case Beam(width, _, n_best, fusion):
            return ctc.beam(model, sources, width=width, n_best=n_best, fusion=fusion)
    raise OptionError("a transcriber is decoded greedily or with a beam; it is not sampled")


def report(model: Transcriber, data: Recordings | DigitStrings, run: Run) -> Iterator[Line]:
    """Yield some transcripts and the character error rate, of the test split if there is one."""
    split = next((name for name in ("test", "valid") if name in data.splits), None)
    if split is not None and not run.interrupted:
        yield Line(decoding_metrics(model, data, split, Decoder(SEARCH))[1])


def examples(model: Transcriber, data: Recordings | DigitStrings, split: str, count: int) -> Iterator[Example]:
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
    model: Transcriber, data: Recordings | DigitStrings, split: str, decoder: Decoder
) -> tuple[dict[str, float | str], str]:
    """Return the character error rate of a split, and some transcripts with it in words."""
    clips = data[split]
    texts: list[str] = []
    for start in range(0, len(clips), 32):
        sources = [samples for samples, _ in clips[start : start + 32]]
        texts += [answers[0].text for answers in decoder(model, sources)]
    references = [text for _, text in clips]
    lines = [f"{text}   (said: {wanted})" for wanted, text in zip(references[:5], texts[:5], strict=True)]
    errors = sum(distance(a, b) for a, b in zip(references, texts, strict=True))
    count = sum(map(len, references))
    rate = f"{errors / count:.2%} ({errors:,} of {count:,} characters)"
    text = "\n".join([*lines, f"character error rate {rate} on {len(clips):,} {split} recordings, {decoder}"])
    return {"character_error_rate": errors / count, "decoding": str(decoder)}, text


def predict(model: Transcriber, config: SoundConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield for each recording a line, or one for each answer: its name, a tab, what is said."""
    decoder = options.decoder(SEARCH)
    source.chosen_format({".wav": "wav"}, "text")
    for chunk in source.chunks(_recordings(source)):
        sources = [read_audio(path, model.config.rate) for path in chunk]
        for path, answers in zip(chunk, decoder(model, sources), strict=True):
            yield decoder.lines(str(path), answers)


def _recordings(source: PredictSource) -> Iterator[Path]:
    """Yield the recordings that are meant: the file itself, all of a folder, or those a list names, one a line."""
    if source.path.is_dir():
        yield from find_files([source.path], "*.wav")
    elif source.path.suffix.lower() == ".wav":
        yield source.path
    else:
        with source.open() as file:
            yield from (Path(line.strip()) for _, line in numbered(file, source.place, source.errors) if line.strip())


def evaluation_dataset(model: Transcriber, config: SoundConfig, path: Path, labels: Path | None) -> Recordings:
    """Return the recordings that a list of transcripts names, beside it, as the test split of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images; a transcriber's list holds the transcripts itself")
    errors = ErrorPolicy(config.malformed)
    clips = read_transcripts(path.parent, path, model.config.frames, errors)
    return Recordings({"test": clips}, model.config.frames, model.vocabulary, errors=errors)


KIND = Kind(
    model=Transcriber,
    model_config=TranscriberConfig,
    data_config=SoundConfig,
    description="Train a transcriber: from recordings to characters.",
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
    also=("asr", "ctc", "speech", "speech-recognition", "speech-to-text"),
)
