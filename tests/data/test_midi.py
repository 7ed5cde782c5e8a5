"""MIDI files: what is written is read back by mido, pitch by pitch; what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mido
import pytest
from torch import Tensor

from everloop.data.readers.chorales import piano_roll
from everloop.data.readers.midi import TICKS, Note, notes_of, read_midi, write_midi
from everloop.errors import DataError, OptionError
from tests.stubs import cannot_be_imported

PIECE = [[60, 64], [60, 67], [], [60], [108], [21, 108]]


def roll(steps: list[list[int]] = PIECE) -> Tensor:
    return piano_roll(steps, "a piece")


def sounding(path: Path) -> list[tuple[int, int, int]]:
    """Return (pitch, beginning, end) of the notes of a file in ticks, as mido alone reads them."""
    found, began, now = [], {}, 0
    for message in mido.MidiFile(path).tracks[0]:
        now += message.time
        if message.type == "note_on":
            assert message.note not in began, "struck before it ended"
            began[message.note] = now
        elif message.type == "note_off":
            found.append((message.note, began.pop(message.note), now))
    assert not began
    return sorted(found)


def write(path: Path, *tracks: list[Any], ticks: int = 96, kind: int = 1) -> Path:
    mido.MidiFile(type=kind, ticks_per_beat=ticks, tracks=[mido.MidiTrack(track) for track in tracks]).save(path)
    return path


def on(note: int, time: int, velocity: int = 60, channel: int = 0) -> Any:
    return mido.Message("note_on", note=note, velocity=velocity, channel=channel, time=time)


def off(note: int, time: int, channel: int = 0) -> Any:
    return mido.Message("note_off", note=note, channel=channel, time=time)


def test_what_goes_on_is_one_note_or_one_for_each_step() -> None:
    held = [(60, 0, 2), (64, 0, 1), (67, 1, 1), (60, 3, 1), (108, 4, 2), (21, 5, 1)]
    assert notes_of(roll()) == [Note(*note) for note in held]
    struck = [(60, 0), (64, 0), (60, 1), (67, 1), (60, 3), (108, 4), (21, 5), (108, 5)]
    assert notes_of(roll(), repeat=True) == [Note(pitch, start, 1) for pitch, start in struck]
    assert notes_of(roll([[], []])) == notes_of(roll([])) == []


@pytest.mark.parametrize("repeat", [False, True])
def test_a_file_has_the_pitches_the_times_and_the_tempo(tmp_path: Path, repeat: bool) -> None:
    path = tmp_path / "a.mid"
    write_midi(path, roll(), tempo=90, repeat=repeat)
    file = mido.MidiFile(path)
    tempos = [message.tempo for message in file.tracks[0] if message.type == "set_tempo"]
    assert tempos == [round(60e6 / 90)]
    assert (file.type, file.ticks_per_beat) == (0, TICKS)
    assert file.length == pytest.approx(len(PIECE) * 60 / 90, abs=1e-5)
    notes = notes_of(roll(), repeat=repeat)
    assert sounding(path) == sorted((n.pitch, n.start * TICKS, (n.start + n.length) * TICKS) for n in notes)
    assert read_midi(path).equal(roll())


@pytest.mark.parametrize("steps", [[[60]], [[60], []], [[], [60, 61, 62]], PIECE * 41])
def test_what_is_written_is_read(tmp_path: Path, steps: list[list[int]]) -> None:
    for repeat in (False, True):
        write_midi(tmp_path / "a.mid", roll(steps), repeat=repeat)
        assert read_midi(tmp_path / "a.mid").equal(roll(steps))


def test_others_files_are_heard_a_quarter_after_each_beat(tmp_path: Path) -> None:
    early = [on(60, 0), off(60, 94), on(62, 0), on(62, 96, velocity=0), on(64, 6), off(64, 40), on(65, 0), off(65, 52)]
    # 60 ends and 62 begins two ticks too early, 64 begins four too late and is an eighth as 65 is, which lies between
    other = [on(48, 0, channel=1), off(48, 288, channel=1), on(35, 0, channel=9), off(35, 96, channel=9)]
    found = read_midi(write(tmp_path / "b.mid", early, other))
    assert found.equal(roll([[60, 48], [62, 48], [64, 48], []]))


def test_a_note_on_two_channels_sounds_until_both_end_and_one_without_end_until_the_last(tmp_path: Path) -> None:
    track = [on(60, 0), on(60, 0, channel=1), off(60, 96), off(60, 96, channel=1), on(72, 0), on(50, 96), off(50, 96)]
    assert read_midi(write(tmp_path / "c.mid", track)).equal(roll([[60], [60], [72], [72, 50]]))


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            read_midi(path)
        return str(caught.value)

    assert "no such MIDI file" in message(tmp_path / "none.mid")
    good = write(tmp_path / "good.mid", [on(60, 0), off(60, 96)]).read_bytes()
    for name, content in {"empty": b"", "text": b"no music at all", "cut": good[:-9], "head": good[:16]}.items():
        (tmp_path / name).write_bytes(content)
        told = message(tmp_path / name)
        assert told.startswith(f"{tmp_path / name} is no MIDI file: ")
        assert not told.endswith(": ")
    assert "has no note that sounds" in message(write(tmp_path / "silent.mid", [on(60, 30), off(60, 60)]))
    assert "has the pitch 20 at quarter 2" in message(write(tmp_path / "low.mid", [on(20, 96), off(20, 96)]))
    assert "one after another" in message(write(tmp_path / "two.mid", [on(60, 0), off(60, 96)], kind=2))
    (tmp_path / "seconds.mid").write_bytes(good[:12] + b"\xe7\x28" + good[14:])
    assert "times in seconds" in message(tmp_path / "seconds.mid")
    assert "at most 100,000" in message(write(tmp_path / "long.mid", [on(60, 0), off(60, 96), off(60, 10**7)]))
    for tempo in (3.0, 1001.0, float("nan")):
        with pytest.raises(OptionError, match="expected 4 to 1,000"):
            write_midi(tmp_path / "a.mid", roll(), tempo=tempo)
    cannot_be_imported("mido", ImportError, tmp_path, monkeypatch)
    for call in (lambda: read_midi(tmp_path / "good.mid"), lambda: write_midi(tmp_path / "a.mid", roll())):
        with pytest.raises(OptionError, match=r"MIDI files need mido: pip install 'everloop\[midi\]'"):
            call()
