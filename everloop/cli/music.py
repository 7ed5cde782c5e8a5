"""`everloop sample RUN` of a model of piano rolls: it goes on with a piece, in words, as MIDI or as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everloop.cli.options import note, write
from everloop.data.readers.chorales import PITCHES
from everloop.data.readers.midi import check_tempo, read_midi, write_midi
from everloop.decode.generate import Sampling
from everloop.decode.music import compose
from everloop.draw.figure import ENDINGS, check_ending
from everloop.draw.piano_roll import draw_piano_roll
from everloop.draw.scene import Theme
from everloop.errors import DataError, OptionError
from everloop.models import Tagger
from everloop.report.opened import Opened

MIDI = (".mid", ".midi")


@dataclass(frozen=True)
class MusicOptions:
    """For models of music alone, which continue a piece."""

    out: tuple[Path, ...] = ()
    """Files to write instead of printing the notes; each ending says how: .mid (MIDI, needs mido), and the piano roll
    as .svg, .png (needs matplotlib), .txt."""
    given: int = 32
    """Steps of the piece that the model reads before it goes on; 0: all."""
    voices: int | None = None
    """Keys that sound at each step; by default as many as in most steps of the piece. 0: each key is drawn by its own
    probability."""
    apart: int = 2
    """Semitones between keys that sound at once, at the least; 1: any."""
    tempo: float = 100.0
    """Of a MIDI file: steps a minute, which are quarter notes."""
    repeat: bool = False
    """Whether a key that goes on is struck again at each step; otherwise it is one long note."""
    theme: Theme = "light"
    """Of a picture: for light or dark paper."""


def continue_piece(
    opened: Opened, model: Tagger, prompt: str, method: Sampling, length: int, music: MusicOptions
) -> None:
    """Print or write how a model goes on with a piece.

    Raises:
        OptionError: an option is out of range, or is for models of symbols.
        DataError: the piece is missing or no music.
    """
    if method.top_k is not None or method.top_p is not None:
        raise OptionError("--top-k and --top-p are for symbols; music takes --temperature and --voices")
    if music.given < 0:
        raise OptionError(f"given is {music.given}; expected 0 (all) or more")
    check_tempo(music.tempo)
    piece, name = _piece(opened, prompt)
    given = piece[: music.given] if music.given else piece
    for path in music.out:
        if path.suffix.lower() not in MIDI:
            check_ending(path, (*MIDI, *ENDINGS))
    how: dict[str, Any] = {"temperature": method.temperature, "voices": _voices(music, given), "apart": music.apart}
    steps = compose(model, given, length=length, seed=method.seed, **how)
    if not music.out:
        for step in (*given, *steps):
            write(" ".join(key for key, sounds in zip(PITCHES, step.tolist(), strict=True) if sounds) + "\n")
        return
    roll = torch.stack([*given, *steps])
    title = f"{len(given)} steps of {name}, and {len(roll) - len(given)} composed"
    for path in music.out:
        if path.suffix.lower() in MIDI:
            write_midi(path, roll, tempo=music.tempo, repeat=music.repeat)
        else:
            draw_piano_roll(roll, len(given), title=title, repeat=music.repeat).write(path, music.theme)
        note(f"{title}: {path}")


def _voices(music: MusicOptions, given: Tensor) -> int | None:
    """Return how many keys sound at each step; None: that is left to their probabilities."""
    voices = int((given > 0.5).sum(1).mode().values) if music.voices is None else music.voices
    return voices or None


def _piece(opened: Opened, prompt: str) -> tuple[Tensor, str]:
    """Return a piano roll and its name: of a MIDI file, or of a piece that was held out of training, by its number."""
    if prompt != "\n" and not prompt.isdigit():
        path = Path(prompt)
        if path.suffix.lower() not in MIDI:
            raise OptionError(f"the prompt is {prompt!r}; expected a MIDI file (.mid) or the number of a piece, from 0")
        return read_midi(path), path.name
    number = int(prompt.strip() or 0)
    try:
        data, split = opened.read(None)
    except DataError as error:
        raise DataError(f"the pieces of the run's data are not there: {error}; name a MIDI file") from error
    if number >= len(data[split]):
        raise DataError(f"there is no piece {number} in the {split} split; expected 0 to {len(data[split]) - 1}")
    x, y = data[split][number]
    return torch.cat([x, y[-1:]]), f"piece {number} of the {split} split"
