"""Recordings: frames against NumPy, WAV files of every width, transcripts, strings of digits."""

from __future__ import annotations

import cmath
import math
import shutil
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.data.augmentation import AugmentConfig, augmented
from everloop.data.datasets.digits import DigitsConfig, DigitStrings
from everloop.data.datasets.recordings import AudioConfig, Recordings
from everloop.data.frames import FrameConfig, log_mel, mel_filters, normalised
from everloop.data.readers.wav import read_wav
from everloop.data.trimming import trimmed
from everloop.errors import DataError, OptionError
from everloop.kinds.transcriber import TranscriberDataConfig
from everloop.models.transcriber import Transcriber, TranscriberConfig

FRAMES = FrameConfig(rate=8000, mels=20)


def write_wav(path: Path, samples: Any, rate: int = 8000, width: int = 2, channels: int = 1) -> None:
    scaled = np.round(np.asarray(samples) * (2 ** (8 * width - 1) - 1))
    raw = (scaled + 128).astype(np.uint8) if width == 1 else scaled.astype({2: "<i2", 4: "<i4"}[width])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())


def test_frames_are_those_of_numpy() -> None:
    samples = torch.randn(1234).double() * 0.2
    found = log_mel(samples, FRAMES).numpy()
    width, hop, size = 200, 80, 256
    x = samples.numpy()
    assert found.shape == ((1234 - width) // hop + 1, 20)
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / width) for n in range(width)])
    top = 2595 * math.log10(1 + 4000 / 700)
    centres = [700 * (10 ** (top * i / 21 / 2595) - 1) for i in range(22)]
    for t in (0, 5, len(found) - 1):
        part = x[t * hop : t * hop + width] * hann
        power = [
            abs(sum(float(part[n]) * cmath.exp(-2j * math.pi * k * n / size) for n in range(width))) ** 2
            for k in range(size // 2 + 1)
        ]
        for m in range(20):
            low, middle, high = centres[m : m + 3]
            energy = 0.0
            for k in range(size // 2 + 1):
                f = k * 8000 / size
                share = (f - low) / (middle - low) if f <= middle else (high - f) / (high - middle)
                energy += max(0.0, share) * power[k]
            assert found[t, m] == pytest.approx(math.log(energy + 1e-6), rel=1e-9)


def test_a_tone_is_loudest_in_its_band() -> None:
    time = torch.arange(8000) / 8000
    bands = [int(log_mel(torch.sin(2 * math.pi * f * time), FRAMES).mean(0).argmax()) for f in (200, 700, 1500, 3000)]
    assert bands == sorted(set(bands))


def test_normalised_frames_forget_loudness() -> None:
    samples = torch.randn(4000).double()
    a, b = (normalised(log_mel(samples * gain, FRAMES)) for gain in (1.0, 3.0))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(a.mean(0), torch.zeros(20).double(), rtol=0, atol=1e-9)


def test_frames_of_all_bands_together_keep_the_timbre() -> None:
    """Training, held out strings and models normalise alike; NumPy tells how."""
    frames = FrameConfig(rate=8000, mels=20, per_band=False)
    samples = torch.sin(torch.arange(4000) * 0.3) + 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    plain = log_mel(samples, frames)
    found = normalised(plain, per_band=False)
    heard = plain.double().numpy()
    expected = (heard - heard.mean()) / (heard.std() + 1e-3)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    assert float(found.mean(0).amax() - found.mean(0).amin()) > 1  # the band of the sine stays louder than others
    data = Recordings({"train": [(samples, "a")], "valid": [(samples, "a")]}, frames)
    model = Transcriber(data.vocabulary, rate=8000, mels=20, per_band=False)
    changed = augmented(samples, frames, AugmentConfig(), torch.Generator())
    for same in (data.frames_of(samples), model.read_in([samples])[0][:, 0], changed):
        torch.testing.assert_close(same, found, rtol=0, atol=0)
    assert not Transcriber(data.vocabulary, rate=8000, mels=20).read_in([samples])[0][:, 0].equal(found)
    assert TranscriberConfig(rate=8000, mels=20, per_band=False).frames == frames


def test_what_is_far_below_the_loudest_frame_is_heard_as_silence() -> None:
    samples = torch.cat([torch.randn(1200), torch.zeros(400), 1e-3 * torch.randn(800)]).double() * 0.1
    frames = FrameConfig(rate=8000, mels=20, dynamic_range=40.0)
    whole, limited = log_mel(samples, FRAMES), log_mel(samples, frames)
    quiet = math.log((whole.exp() - 1e-6).mean(1).max() * 1e-4 + 1e-6)
    torch.testing.assert_close(limited[-1], torch.full((20,), quiet).double(), rtol=0, atol=0.1)
    expected = ((whole.exp() - 1e-6) + (whole.exp() - 1e-6).mean(1).max() * 1e-4 + 1e-6).log()
    torch.testing.assert_close(limited, expected)
    assert log_mel(torch.zeros(400), frames).isfinite().all()
    with pytest.raises(OptionError, match="dynamic_range is 0 dB; expected a number above 0"):
        TranscriberConfig(dynamic_range=0)
    assert TranscriberConfig(rate=8000, mels=20, dynamic_range=40.0).frames == frames


def test_trimmed_samples_are_from_the_first_to_the_last_loud_part() -> None:
    levels = torch.tensor([1e-3, 0.1, 1.0, 0.01, 0.5, 1e-3, 1e-4]).repeat_interleave(800)
    noise = (2 * torch.randint(2, levels.shape) - 1) * levels
    for decibels, kept in ((5, (2, 3)), (7, (2, 5)), (21, (1, 5)), (61, (0, 6)), (99, (0, 7))):
        found = trimmed(noise, decibels, 8000)
        first, last = (800 * n for n in kept)
        if decibels == 5:  # 0.12 seconds stay
            first, last = first - 80, first - 80 + 960
        assert found.equal(noise[first:last])
    for short in (0, 1, 79, 960):
        assert trimmed(noise[:short], 10, 8000).equal(noise[:short])
    assert len(trimmed(torch.zeros(2000), 10, 8000)) == 2000
    assert len(trimmed(torch.eye(2000)[1999], 10, 8000)) == 960  # the end alone is loud


def test_filters_that_are_too_narrow_are_refused() -> None:
    with pytest.raises(OptionError, match="fewer mels"):
        mel_filters(FrameConfig(rate=8000, mels=120), 256)
    with pytest.raises(DataError, match="expected at least 200"):
        log_mel(torch.zeros(150), FRAMES)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_wav_files_of_every_width(tmp_path: Path, width: int) -> None:
    samples = np.sin(np.arange(300) / 7) * 0.9
    write_wav(tmp_path / "a.wav", samples, width=width)
    found, rate = read_wav(tmp_path / "a.wav")
    assert rate == 8000
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), samples, atol=2.5 / 2 ** (8 * width - 1) + 1e-6)


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.stack([np.full(50, 0.5), np.full(50, -0.25)], 1)
    write_wav(tmp_path / "a.wav", both, channels=2)
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[0].numpy(), 0.125, atol=1e-4)


def test_other_files_are_refused_with_their_name(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"RIFFxxxxnothing")
    with pytest.raises(DataError, match=r"b\.wav is no WAV file"):
        read_wav(tmp_path / "b.wav")
    with pytest.raises(DataError, match=r"c\.wav: no such file; did you mean .*b\.wav"):
        read_wav(tmp_path / "c.wav")


def test_transcripts_name_recordings(tmp_path: Path) -> None:
    for name, seconds in (("a", 0.5), ("b", 0.1), ("c", 0.2)):
        write_wav(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, int(8000 * seconds)))
    said = tmp_path / "said.tsv"
    said.write_text("a.wav\tone two\nb.wav\ttwo\n\nc.wav\tone\n")
    config = AudioConfig(audio=tmp_path, transcripts=said, valid_transcripts=said, seconds=0.4)
    data = Recordings.from_config(config, FRAMES)
    assert data.splits == ("train", "valid")
    assert [text for _, text in data["train"]] == ["two", "one"]
    assert data.vocabulary.symbols == tuple(" enotw")
    assert data.notes(3)[1] == "valid: 3 recordings, 1 seconds, 13 characters, padding 0.0%"
    frames = [(n - 200) // 80 + 1 for n in (4000, 800, 1600)]
    assert [FRAMES.count(n) for n in (4000, 800, 1600, 199, 200, 279, 280)] == [*frames, 0, 1, 1, 2]
    (batch,) = data.epoch("valid", 0, batch=1)[2:]
    assert batch.frames.shape == ((4000 - 200) // 80 + 1, 1, 20)
    assert "".join(data.vocabulary.symbols[n] for n in data.epoch("train", 0, batch=1, seed=3)[0].labels[0]) in "onetwo"
    assert data.fingerprint == Recordings.from_config(config, FRAMES).fingerprint


def test_malformed_transcripts(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(800))
    said = tmp_path / "said.tsv"
    for line, message in (("a.wav one", "NAME.wav TAB TEXT"), ("x.wav\tone", "name of a recording")):
        said.write_text(f"a.wav\tone\n{line}\n")
        with pytest.raises(DataError, match=f"line 2: .*{message}"):
            Recordings.from_config(AudioConfig(tmp_path, said), FRAMES)
        data = Recordings.from_config(AudioConfig(tmp_path, said, malformed="skip"), FRAMES)
        assert (len(data["train"]), data.errors.skipped) == (1, 1)


def digit_recordings(count: int = 20) -> dict[str, list[torch.Tensor]]:
    """Return tones that fade: each digit has a pitch of its own, each recording a length of its own."""
    found = {}
    for d in range(4):
        sizes = [900 + 40 * i for i in range(count)]
        tones = [torch.sin(torch.arange(n) * (0.2 + 0.35 * d)) * torch.linspace(0.9, 0.05, n) for n in sizes]
        found[str(d)] = [tone + 0.01 * torch.randn(len(tone)) for tone in tones]
    return found


def test_strings_are_joined_from_the_recordings_of_their_part() -> None:
    found = {"ann": digit_recordings()}
    data = DigitStrings(found, DigitsConfig(split=(0.5, 0.25, 0.25), strings=30, held=12, speed=0, gain=0), FRAMES)
    parts = {name: {id(s) for some in part["ann"].values() for s in some} for name, part in data.recordings.items()}
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [40, 20, 20]
    assert not parts["train"] & parts["valid"]
    assert not parts["test"] & (parts["valid"] | parts["train"])
    samples, text = data.clip("valid", 7)
    assert 3 <= len(text) <= 7
    at = 0
    for digit in text:
        piece = next(s for s in data.recordings["valid"]["ann"][digit] if samples[at : at + len(s)].equal(s))
        at += len(piece)
    assert at == len(samples)


def test_training_strings_are_new_in_every_pass_and_the_others_never() -> None:
    data = DigitStrings({"ann": digit_recordings()}, DigitsConfig(strings=10, held=6, split=(0.5, 0.25, 0.25)), FRAMES)
    first, again, second = (data.epoch("train", n, batch=4, seed=1) for n in (0, 0, 1))
    assert [len(first), len(data.epoch("valid", 0, batch=4))] == [3, 2]
    assert first[2].frames.equal(again[2].frames)
    assert not (first[0].labels.shape == second[0].labels.shape and first[0].labels.equal(second[0].labels))
    assert data.epoch("valid", 0, batch=6)[0].frames.equal(data.epoch("valid", 5, batch=6, seed=9)[0].frames)
    texts = [text for _, text in data["test"]]
    labels = data.epoch("test", 0, batch=6)[0]
    assert texts == [
        "".join(map(str, row[:n])) for row, n in zip(labels.labels.tolist(), labels.label_lengths.tolist(), strict=True)
    ]


def test_speed_and_gain_change_training_alone() -> None:
    plain, played = (
        DigitStrings({"ann": digit_recordings()}, DigitsConfig(split=(0.5, 0.5, 0), speed=s, gain=s), FRAMES)
        for s in (0.0, 0.2)
    )
    assert len(plain.clip("train", 5)[0]) != len(played.clip("train", 5)[0])
    assert len(plain.clip("valid", 5)[0]) == len(played.clip("valid", 5)[0])
    assert plain.fingerprint != played.fingerprint
    assert plain.splits == ("train", "valid")


def test_pauses_are_faint_noise_around_digits_of_training() -> None:
    found = {"ann": {digit: [torch.full((800,), 2.0)] * 4 for digit in "01"}}
    config = DigitsConfig(split=(0.5, 0.5, 0.0), strings=40, held=9, speed=0, gain=0, pause=0.1)
    data = DigitStrings(found, config, FRAMES)
    sizes, levels = [], []
    for samples, text in data["train"]:
        noise = samples != 2
        assert int((~noise).sum()) == 800 * len(text)
        begins = (noise.int().diff(prepend=torch.zeros(1).int()) == 1).nonzero()[:, 0].tolist()
        ends = [*(noise.int().diff() == -1).nonzero()[:, 0].add(1).tolist(), len(samples)][: len(begins)]
        assert len(begins) <= len(text) + 1
        sizes += [end - begin for begin, end in zip(begins, ends, strict=True)]
        parts = [samples[begin:end] for begin, end in zip(begins, ends, strict=True) if end - begin > 100]
        levels += [float(20 * torch.log10(part.square().mean().sqrt() / 2)) for part in parts]
    assert 0 < min(sizes) < 50
    assert 400 < max(sizes) <= 800
    assert -62 < min(levels) < -50
    assert -25 < max(levels) < -13
    assert all(bool((samples == 2).all()) for samples, _ in data["valid"])
    assert data.steps("train").tolist() == [FRAMES.count(len(samples)) for samples, _ in data["train"]]
    with pytest.raises(OptionError, match=r"pause is -0\.1 seconds; expected 0 or more"):
        DigitsConfig(pause=-0.1)


def test_digits_of_training_are_cut_each_at_another_place() -> None:
    fading = 0.9 * 10 ** -(torch.arange(8000) / 2000)  # 10 dB each 1,000 samples
    found = {"ann": {digit: [fading * (1 - 2 * (torch.arange(8000) % 2))] * 4 for digit in "01"}}
    split, trim = (0.5, 0.5, 0.0), (20.0, 60.0)
    config = DigitsConfig(split=split, strings=40, held=9, speed=0, gain=0, min_length=1, max_length=1, trim=trim)
    data = DigitStrings(found, config, FRAMES)
    sizes = [len(samples) for samples, _ in data["train"]]
    assert 2000 <= min(sizes) < 2600
    assert 5400 < max(sizes) <= 6080
    assert {len(samples) for samples, _ in data["valid"]} == {8000}
    assert data.steps("train").tolist() == [FRAMES.count(size) for size in sizes]
    with pytest.raises(OptionError, match=r"trim is 60 to 20 dB; expected the tightest first"):
        DigitsConfig(trim=(60, 20))


def test_settings_of_all_bases_are_checked() -> None:
    with pytest.raises(OptionError, match="vtlp is 2"):
        DigitsConfig(vtlp=2)
    with pytest.raises(OptionError, match="min_length is 5, max_length 4; expected at least 1"):
        DigitsConfig(min_length=5, max_length=4)
    with pytest.raises(OptionError, match="pitch_shift is 13"):
        TranscriberDataConfig(pitch_shift=13)
    with pytest.raises(OptionError, match="gap is 2 to 1"):
        TranscriberDataConfig(gap=(2, 1))
    with pytest.raises(OptionError, match="pause is nan"):
        TranscriberDataConfig(pause=math.nan)


def test_a_string_is_of_one_speaker_and_those_held_out_are_the_test_split() -> None:
    found = {
        name: {digit: [torch.full((800,), float(level))] * 4 for digit in "01"} for level, name in enumerate("abc", 1)
    }
    config = DigitsConfig(test_speakers=("b",), split=(0.5, 0.25, 0.25), strings=20, held=9, speed=0, gain=0)
    data = DigitStrings(found, config, FRAMES)
    heard = {name: {tuple(sorted(set(samples.tolist()))) for samples, _ in data[name]} for name in data.splits}
    assert heard == {"train": {(1.0,), (3.0,)}, "valid": {(1.0,), (3.0,)}, "test": {(2.0,)}}
    counts = {
        name: [len(x) for digits in part.values() for x in digits.values()] for name, part in data.recordings.items()
    }
    assert counts == {"train": [3] * 4, "valid": [1] * 4, "test": [4] * 2}
    assert data.describe(4)[2].startswith("test: 9 strings, joined from 8 recordings, spoken by b, padding")
    with pytest.raises(DataError, match="unknown speaker 'd'"):
        DigitStrings(found, DigitsConfig(test_speakers=("d",)), FRAMES)
    with pytest.raises(DataError, match="expected at least one to train on"):
        DigitStrings(found, DigitsConfig(test_speakers=("a", "b", "c")), FRAMES)
    del found["c"]["1"]
    with pytest.raises(DataError, match="speaker c has no recording of 1"):
        DigitStrings(found, config, FRAMES)


def test_synthetic_voices_say_their_share_of_the_training_strings_alone() -> None:
    levels = {name: float(level) for level, name in enumerate(("ann", "bob", "tin", "zinc"), 1)}
    voices = {name: {digit: [torch.full((800,), level)] * 4 for digit in "01"} for name, level in levels.items()}
    found, synthetic = ({name: voices[name] for name in names} for names in (("ann", "bob"), ("tin", "zinc")))
    settings: Any = {
        "test_speakers": ("bob",),
        "split": (0.5, 0.5, 0.0),
        "strings": 400,
        "held": 9,
        "speed": 0,
        "gain": 0,
    }
    config = DigitsConfig(synthetic=Path("voices"), synthetic_share=0.25, **settings)
    data = DigitStrings(found, config, FRAMES, synthetic)
    heard = {name: [set(samples.tolist()) for samples, _ in data[name]] for name in data.splits}
    assert {name: {*map(tuple, some)} for name, some in heard.items()} == {
        "train": {(1.0,), (3.0,), (4.0,)},
        "valid": {(1.0,)},
        "test": {(2.0,)},
    }
    said = sum(some <= {3.0, 4.0} for some in heard["train"])
    assert abs(said - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)
    assert data.steps("train").tolist() == [FRAMES.count(len(samples)) for samples, _ in data["train"]]
    assert "25% of them by 2 synthetic voices" in data.describe(4)[0]
    plain = DigitStrings(found, DigitsConfig(**settings), FRAMES)
    fewer = DigitStrings(found, config, FRAMES, {"tin": voices["tin"]})
    assert len({plain.fingerprint, data.fingerprint, fewer.fingerprint}) == 3
    with pytest.raises(DataError, match="bob is a speaker and a synthetic voice"):
        DigitStrings(found, config, FRAMES, {"bob": voices["bob"]})
    with pytest.raises(DataError, match="speaker tin has no recording of 1"):
        DigitStrings(found, config, FRAMES, {"tin": {"0": voices["tin"]["0"]}})
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(OptionError, match=r"synthetic_share is .*; expected a fraction above 0, up to 1"):
            DigitsConfig(synthetic=Path("voices"), synthetic_share=share)
    with pytest.raises(OptionError, match="without voices; name them with synthetic"):
        DigitsConfig(synthetic_share=0.25)


def test_folders_of_digits(tmp_path: Path) -> None:
    for name in ("0_ann_0", "0_ann_1", "1_ann_0", "1_ann_1", "0_bob_0"):
        write_wav(tmp_path / f"{name}.wav", np.zeros(800))
    config = DigitsConfig(tmp_path, speakers=("ann",), split=(0.5, 0.5, 0.0))
    data = DigitStrings.from_config(config, FRAMES)
    assert repr(data) == "DigitStrings(train 1,024, valid 256 strings, 2 characters)"
    with pytest.raises(DataError, match="did you mean 'ann'"):
        DigitStrings.from_config(DigitsConfig(tmp_path, speakers=("anna",)), FRAMES)
    (tmp_path / "voices").mkdir()
    for digit in "01":
        write_wav(tmp_path / "voices" / f"{digit}_tin_0.wav", np.zeros(800))
    more = replace(config, digits=tmp_path / "real", synthetic=tmp_path / "voices")
    (tmp_path / "real").mkdir()
    for path in tmp_path.glob("*_ann_*.wav"):
        shutil.copy(path, tmp_path / "real")
    assert [*DigitStrings.from_config(more, FRAMES).synthetic] == ["tin"]
    with pytest.raises(DataError, match="none is left for its"):
        DigitStrings.from_config(DigitsConfig(tmp_path, speakers=("ann",), split=(0.9, 0.05, 0.05)), FRAMES)
    write_wav(tmp_path / "seven.wav", np.zeros(800))
    with pytest.raises(DataError, match=r"seven\.wav: expected a name such as"):
        DigitStrings.from_config(config, FRAMES)


def test_padding_is_told() -> None:
    clips = [(torch.zeros(n), "a") for n in (1000, 900, 2000, 1900)]
    data = Recordings({"train": clips, "valid": clips}, FRAMES)
    frames = [(n - 200) // 80 + 1 for n in (900, 1000, 1900, 2000)]
    expected = 1 - sum(frames) / (2 * frames[1] + 2 * frames[3])
    for note in data.notes(2):
        assert note.endswith(f"padding {expected:.1%}")
    strings = DigitStrings({"ann": digit_recordings()}, DigitsConfig(strings=20, held=6), FRAMES)
    for name, note in zip(strings.splits, strings.notes(4), strict=True):
        lengths = [batch.lengths for batch in strings.epoch(name, 0, batch=4)]
        made = sum(len(some) * int(some.max()) for some in lengths)
        assert note.endswith(f"padding {1 - sum(int(some.sum()) for some in lengths) / made:.1%}")
