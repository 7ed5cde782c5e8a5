"""Sound files that soundfile reads: every format, 24 bits, floating point, other rates; what is said without it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from everloop.data import AudioConfig, DigitsConfig, DigitStrings, FrameConfig, Recordings
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.formats import FORMATS, find_audio, read_audio
from everloop.data.readers.transcripts import read_transcripts
from everloop.errors import DataError, OptionError, UnsupportedError
from tests.stubs import cannot_be_imported

TONE = 0.5 * np.sin(np.arange(4000) * 2 * math.pi * 440 / 8000)


def write(path: Path, subtype: str | None = None, rate: int = 8000, channels: int = 1) -> Path:
    soundfile.write(path, np.stack([TONE] * channels, 1), rate, subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "PCM_32", 1e-6),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.wav", "ULAW", 2e-2),
        ("a.flac", "PCM_16", 1e-4),
        ("a.FLAC", "PCM_24", 1e-6),
        ("a.aiff", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 5e-2),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_has_the_samples_that_were_written(
    tmp_path: Path, name: str, subtype: str, error: float, channels: int
) -> None:
    found = read_audio(write(tmp_path / name, subtype, channels=channels), 8000)
    assert (found.dtype, found.shape) == (torch.float32, (4000,))
    np.testing.assert_allclose(found.numpy()[200:-200], TONE[200:-200], atol=error)


@pytest.mark.parametrize(("name", "rate"), [("a.mp3", 8000), ("a.opus", 8000)])
def test_lossy_formats_keep_the_tone(tmp_path: Path, name: str, rate: int) -> None:
    form = "OGG" if name == "a.opus" else "MP3"
    soundfile.write(tmp_path / name, TONE, rate, format=form, subtype="OPUS" if name == "a.opus" else None)
    found = read_audio(tmp_path / name, rate).numpy()
    assert 4000 <= len(found) <= 8000  # MP3 has whole frames, and silence before the first
    spectrum = np.abs(np.fft.rfft(found[1000:3000]))
    assert spectrum.argmax() * rate / 2000 == pytest.approx(440, abs=5)


def test_another_rate_is_resampled_to_that_of_the_model(tmp_path: Path) -> None:
    time = np.arange(44_100) / 44_100
    soundfile.write(tmp_path / "a.flac", 0.5 * np.sin(2 * math.pi * 440 * time), 44_100, subtype="PCM_24")
    found = read_audio(tmp_path / "a.flac", 8000).numpy()
    expected = 0.5 * np.sin(2 * math.pi * 440 * np.arange(8000) / 8000)
    assert len(found) == 8000
    np.testing.assert_allclose(found[50:-50], expected[50:-50], atol=1e-3)
    assert len(read_audio(tmp_path / "a.flac")) == 44_100


def test_recordings_and_digits_of_any_format(tmp_path: Path) -> None:
    for name in ("0_ann_0.flac", "0_ann_1.ogg", "1_ann_0.wav", "1_ann_1.wav"):
        write(tmp_path / name, "PCM_24" if name.endswith("wav") else None)
    (tmp_path / "README.txt").write_text("no sound")
    assert [path.name for path in find_audio(tmp_path)] == ["0_ann_0.flac", "0_ann_1.ogg", "1_ann_0.wav", "1_ann_1.wav"]
    frames = FrameConfig(rate=16_000, mels=20)
    digits = DigitStrings.from_config(DigitsConfig(tmp_path, split=(0.5, 0.5, 0.0)), frames)
    assert [len(x) for x in digits.recordings["train"]["ann"].values()] == [1, 1]
    said = tmp_path / "said.tsv"
    said.write_text("0_ann_0.flac\tzero\n1_ann_0.wav\tone\n")
    recordings = Recordings.from_config(AudioConfig(tmp_path, said), frames)
    assert [len(samples) for samples, _ in recordings["train"]] == [8000, 8000]
    slower = "has 8,000 samples a second, 16,000 are asked for"
    assert recordings.notes(2)[-1] == (
        f"train: 2 recordings of lower rates are upsampled, the first: {tmp_path / '0_ann_0.flac'} {slower}"
    )
    assert digits.notes(2)[-1].startswith("recordings: 4 recordings of lower rates are upsampled, the first:")
    write(tmp_path / "0_ann_0.flac", rate=16_000)
    again = Recordings.from_config(AudioConfig(tmp_path, said), frames)
    assert again.notes(2)[-1] == f"train: upsampled: {tmp_path / '1_ann_0.wav'} {slower}"
    assert not [
        note
        for note in Recordings.from_config(AudioConfig(tmp_path, said), FrameConfig(rate=8000, mels=20)).notes(2)
        if "upsampled" in note
    ]


def test_files_that_are_no_sound_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(b"fLaC and nothing")
    with pytest.raises(DataError, match=r"a\.flac is no sound file that can be read: "):
        read_audio(tmp_path / "a.flac")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"a\.wav is no WAV file that can be read: it ends too early"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(DataError, match=r"b\.ogg: no such file"):
        read_audio(tmp_path / "b.ogg")
    (tmp_path / "a.m4a").write_bytes(b"")
    with pytest.raises(OptionError, match=r"a\.m4a: the name tells no format; expected one that ends in \.wav, \.flac"):
        read_audio(tmp_path / "a.m4a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"has no sound file; expected files that end in \.wav, \.flac"):
        find_audio(tmp_path / "empty")
    said = tmp_path / "said.tsv"
    said.write_text("a.flac\tone\n")
    with pytest.raises(DataError, match=r"line 1: .*no sound file.*; expected a recording that can be read"):
        read_transcripts(tmp_path, said, FrameConfig(), ErrorPolicy())


@pytest.mark.parametrize("error", [ModuleNotFoundError, ImportError, OSError])
def test_without_soundfile_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    for name, subtype in (("a.flac", None), ("b.wav", "PCM_24"), ("c.wav", "FLOAT"), ("d.wav", "PCM_16")):
        write(tmp_path / name, subtype)
    cannot_be_imported("soundfile", error, tmp_path, monkeypatch)
    for name in ("a.flac", "b.wav", "c.wav"):
        with pytest.raises(UnsupportedError, match=rf"{name}: .* needs soundfile: pip install 'everloop\[audio\]'"):
            read_audio(tmp_path / name)
    assert len(read_audio(tmp_path / "d.wav")) == 4000
    assert [one.name for one in FORMATS if one.audio] == ["wav", "sound"]


def test_recordings_take_the_changes_of_any_configuration() -> None:
    data = Recordings({"train": [(torch.zeros(4000), "a")]}, FrameConfig(), augment=AudioConfig(noise=(10, 30)))
    assert data.config.noise == (10, 30)
