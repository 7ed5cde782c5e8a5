"""`everloop train transcriber`: recordings into characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from everloop.cli.asked import BEAM, HELP, Asked, Judged, Way
from everloop.cli.figures import print_notes
from everloop.cli.kind import Common, check_one, train_kind
from everloop.cli.source import Source
from everloop.data import Vocabulary
from everloop.data.datasets.digits import DigitsConfig, DigitStrings
from everloop.data.datasets.recordings import AudioConfig, Recordings
from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import find_files
from everloop.data.readers.formats import read_audio
from everloop.data.readers.lines import numbered
from everloop.data.readers.transcripts import read_transcripts
from everloop.decode.generate import Beam, generate
from everloop.errors import RunError
from everloop.models.transcriber import Transcriber, TranscriberConfig, distance
from everloop.train import Run

KIND, TAKES, DEFAULT = Transcriber.kind, (*BEAM, *HELP), Beam(8)


@dataclass(frozen=True)
class SoundConfig(DigitsConfig, AudioConfig):
    """Which recordings are read: a folder with transcripts, or single digits to be joined to random strings."""


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train transcriber` can be told."""

    data: SoundConfig = field(default_factory=SoundConfig)
    model: TranscriberConfig = field(default_factory=TranscriberConfig)


def main(args: Sequence[str]) -> int:
    """Run `everloop train transcriber`."""
    return train_kind(KIND, Options, prepare, show, args, "Train a transcriber: from recordings to characters.")


def prepare(options: Options, resumed: Path | None) -> tuple[Recordings | DigitStrings, Transcriber]:
    """Return the recordings and the untrained model of these options."""
    data: Recordings | DigitStrings
    known = Vocabulary.load(resumed / "vocabulary.json") if resumed else None
    if check_one({"audio": options.data.audio, "digits": options.data.digits}) == "digits":
        data = DigitStrings.from_config(options.data, options.model.frames)
    else:
        data = Recordings.from_config(options.data, options.model.frames, known)
    print_notes(data, options.train.batch)
    if known is not None and known != data.vocabulary:
        raise RunError(f"{resumed} was trained on other characters than {data.vocabulary!r}")
    return data, Transcriber.from_config(data.vocabulary, options.model)


def show(model: Transcriber, data: Recordings | DigitStrings, run: Run) -> None:
    """Print some transcripts and the character error rate, of the test part if there is one."""
    part = next((name for name in ("test", "valid") if name in data.splits), None)
    if part is not None and not run.interrupted:
        Console().print(decoded(model, data, part)[1], soft_wrap=True)


def decoded(model: Transcriber, data: Recordings | DigitStrings, part: str, way: Way | None = None) -> Judged:
    """Return the character error rate of a part, and some transcripts with it in words."""
    clips = data[part]
    heard: list[str] = []
    way = way or Way(DEFAULT)
    for start in range(0, len(clips), 32):
        sources = [samples for samples, _ in clips[start : start + 32]]
        heard += [hypotheses[0].text for hypotheses in generate(model, sources, way.next())]
    said = [text for _, text in clips]
    lines = [f"{text}   (said: {wanted})" for wanted, text in zip(said[:5], heard[:5], strict=True)]
    wrong = sum(distance(a, b) for a, b in zip(said, heard, strict=True))
    count = sum(map(len, said))
    rate = f"{wrong / count:.2%} ({wrong:,} of {count:,} characters)"
    text = "\n".join([*lines, f"character error rate {rate} on {len(clips):,} {part} recordings, {way}"])
    return {"character_error_rate": wrong / count, "decoding": str(way)}, text


def predict(model: Transcriber, config: SoundConfig, source: Source, asked: Asked) -> Iterator[str]:
    """Yield for each recording a line, or one for each answer: its name, a tab, what is said."""
    way = asked.way(DEFAULT)
    source.chosen({".wav": "wav"}, "text")
    for chunk in source.chunks(_recordings(source)):
        sources = [read_audio(path, model.config.rate) for path in chunk]
        for path, hypotheses in zip(chunk, generate(model, sources, way.next()), strict=True):
            yield way.lines(str(path), hypotheses)


def _recordings(source: Source) -> Iterator[Path]:
    """Yield the recordings that are meant: the file itself, all of a folder, or those a list names, one a line."""
    if source.path.is_dir():
        yield from find_files([source.path], "*.wav")
    elif source.path.suffix.lower() == ".wav":
        yield source.path
    else:
        with source.open() as file:
            yield from (Path(line.strip()) for _, line in numbered(file, source.place, source.errors) if line.strip())


def given(model: Transcriber, config: SoundConfig, path: Path, labels: Path | None = None) -> Recordings:
    """Return the recordings that a list of transcripts names, beside it, as the test part of the model's data."""
    errors = ErrorPolicy(config.malformed)
    clips = read_transcripts(path.parent, path, model.config.frames, errors)
    return Recordings({"test": clips}, model.config.frames, model.vocabulary, errors=errors)


def own(model: Transcriber, config: SoundConfig) -> Recordings | DigitStrings:
    """Return the data that the model was trained with."""
    if config.digits is not None:
        return DigitStrings.from_config(config, model.config.frames)
    return Recordings.from_config(config, model.config.frames, model.vocabulary)
