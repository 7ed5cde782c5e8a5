"""Music as MIDI files: piano rolls written and read, by mido (the extra `midi`). A step is a quarter note."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everloop.data.files import read_bytes, write_atomically
from everloop.data.readers.chorales import KEYS, LOWEST
from everloop.errors import DataError, OptionError

TICKS = 480  # of a quarter note
VELOCITY = 72
DRUMS = 9  # the channel whose numbers are instruments, not pitches
MOST = 100_000  # steps of a piece


@dataclass(frozen=True)
class Note:
    """A note: its MIDI pitch, the step at which it begins, and how many steps it lasts."""

    pitch: int
    start: int
    length: int


def notes_of(roll: Tensor, *, repeat: bool = False) -> list[Note]:
    """Return the notes of a piano roll [T, 88], by their beginning.

    A roll does not say whether a pitch that sounds in two steps is held or struck again. Here it is one held note, or
    with `repeat` one note for each step.
    """
    notes = []
    for key, column in enumerate((roll > 0.5).T.tolist()):
        start = None
        for step, sounds in enumerate([*column, False]):
            if start is not None and (repeat or not sounds):
                notes.append(Note(LOWEST + key, start, step - start))
                start = None
            if sounds and start is None:
                start = step
    return sorted(notes, key=lambda note: (note.start, note.pitch))


def check_tempo(tempo: float) -> None:
    """Check steps a minute of a MIDI file.

    Raises:
        OptionError: there are too few or too many.
    """
    if not 4 <= tempo <= 1000:
        raise OptionError(f"tempo is {tempo:g} steps a minute; expected 4 to 1,000")


def write_midi(path: Path, roll: Tensor, *, tempo: float = 100.0, repeat: bool = False) -> None:
    """Write a piano roll [T, 88] as a MIDI file of one track.

    Args:
        path: the file.
        roll: which keys sound at each step.
        tempo: steps a minute.
        repeat: whether a pitch that goes on is struck again at each step; see `notes_of`.

    Raises:
        OptionError: mido is not installed, or there is no such tempo.
    """
    mido = _mido()
    check_tempo(tempo)
    events = []
    for note in notes_of(roll, repeat=repeat):
        # a note ends before another one of the same pitch begins
        events.append((note.start, 1, "note_on", note.pitch))
        events.append((note.start + note.length, 0, "note_off", note.pitch))
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
    now = 0
    for step, _, name, pitch in sorted(events):
        track.append(mido.Message(name, note=pitch, velocity=VELOCITY, time=(step - now) * TICKS))
        now = step
    track.append(mido.MetaMessage("end_of_track", time=(len(roll) - now) * TICKS))
    file = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=TICKS, tracks=[track]).save(file=file)
    write_atomically(path, file.getvalue())


def read_midi(path: Path) -> Tensor:
    """Return the piano roll [T, 88] of a MIDI file: a step is a quarter note, whatever the tempo.

    A step has the pitches that sound a quarter of it after its beginning, of all tracks but the drums; shorter notes
    between are not heard.

    Raises:
        DataError: missing, no MIDI file, without notes, or with pitches that a piano does not have.
        OptionError: mido is not installed.
    """
    mido = _mido()
    content = read_bytes(path, "MIDI file")
    try:
        file = mido.MidiFile(file=io.BytesIO(content))
        merged: Sequence[Any] = mido.merge_tracks(file.tracks)
    except (OSError, EOFError, ValueError, LookupError, TypeError, mido.KeySignatureError) as error:
        raise DataError(f"{path} is no MIDI file: {str(error) or 'it ends too early'}") from None
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise DataError(f"{path} has tracks one after another, or times in seconds; expected quarter notes")
    return _roll(path, merged, file.ticks_per_beat)


def _check_length(path: Path, steps: int) -> None:
    if steps > MOST:
        raise DataError(f"{path} lasts {steps:,} quarters; expected at most {MOST:,}")


def _roll(path: Path, messages: Iterable[Any], ticks: int) -> Tensor:
    now, heard = 0, set[tuple[int, int]]()
    began: dict[tuple[int, int], int] = {}  # by channel and pitch, what sounds now

    def ends(key: tuple[int, int]) -> None:
        if (start := began.pop(key, None)) is not None:
            heard.update((step, key[1]) for step in range(_step(start, ticks), _step(now, ticks)))

    for message in messages:
        now += message.time
        _check_length(path, now // ticks)
        if message.type in ("note_on", "note_off") and message.channel != DRUMS:
            key = message.channel, message.note
            ends(key)
            if message.type == "note_on" and message.velocity:
                began[key] = now
    for key in list(began):
        ends(key)
    if not heard:
        raise DataError(f"{path} has no note that sounds at a quarter; expected at least one")
    steps = max(-(-now // ticks), 1 + max(step for step, _ in heard))
    _check_length(path, steps)
    roll = torch.zeros(steps, KEYS)
    for step, pitch in heard:
        if not LOWEST <= pitch < LOWEST + KEYS:
            raise DataError(f"{path} has the pitch {pitch} at quarter {step + 1}; expected {LOWEST} to 108, of a piano")
        roll[step, pitch - LOWEST] = 1
    return roll


def _step(time: int, ticks: int) -> int:
    """Return the first step whose listening point, a quarter after its beginning, is not before a time."""
    return -((ticks - 4 * time) // (4 * ticks))


def _mido() -> Any:
    try:
        import mido
    except ImportError:
        raise OptionError("MIDI files need mido: pip install 'everloop[midi]'") from None
    return mido
