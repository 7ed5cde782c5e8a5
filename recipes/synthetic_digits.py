"""Digits said by synthetic voices, of espeak-ng and flite: further speakers for spoken_digits.

    python synthetic_digits.py --out voices

espeak-ng and flite are programs of their own (Debian and Ubuntu: apt install espeak-ng flite). Written are WAV files
named DIGIT_VOICE_0.wav, ten for each voice. Every other voice of espeak-ng has an accent of English; the others say
English digits by the sounds of another language, as people do who have learned English later: the words below are
spelled so that a reader of that language says them. Their larynx and vocal tract (the "variants" of espeak-ng), pitch
and speed are drawn at random, and so are those of flite's five American and Scottish voices. The same seed makes the
same voices, with the same versions of the programs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
from pathlib import Path

ENGLISH = "zero one two three four five six seven eight nine"
ACCENTS = ("en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
FOREIGN = {
    "de": "siro wann tuh sri for faif siks sewen eht nain",
    "fr": "ziro ouane tou sri faure faïve sixe sévenne éte naïne",
    "es": "siro uan tu tri for faiv siks seven eit nain",
    "it": "ziro uan tu tri for faiv sics seven eit nain",
    "el": "ζίροου ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν",
    "nl": "ziero wan toe srie for faaiv siks seven eet nain",
    "pl": "zirou łan tu sri for fajw siks sewen ejt najn",
    "pt": "zirou uan tu tri for faiv siks séven eit nain",
    "ro": "zirou uan tu sri for faiv sics seven eit nain",
    "cs": "zirou van tú srí fór fajv siks sevn ejt najn",
    "sv": "siro wann to tri får fajv siks seven ejt najn",
    "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    "ru": "зиро уан ту сри фор файв сикс севен эйт найн",
}
UNLIKE_SPEECH = ("whisper", "Demonic", "UniRobot", "croak", "anikaRobot", "robosoft", "Tweaky", "klatt6", "fast")
FLITE = {"kal16": 105, "awb": 130, "rms": 95, "slt": 170}  # voices, and their pitch in Hz


def variants() -> list[str]:
    """Return the variants of espeak-ng that sound like people."""
    lines = said_by("espeak-ng", "--voices=variant").splitlines()[1:]
    names = {part.removeprefix("!v/") for line in lines for part in line.split() if part.startswith("!v/")}
    return sorted(name for name in names if not name.startswith(UNLIKE_SPEECH))


def said_by(*command: str) -> str:
    """Return what a program writes.

    Raises:
        SystemExit: it is not installed, or fails.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not installed; expected espeak-ng and flite on the path") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)}: {error.stderr.strip()}") from None


def espeak(number: int, names: list[str], chosen: random.Random) -> list[list[str]]:
    """Return the commands by which voice `number` of espeak-ng says each digit; the name of the file is to come."""
    foreign = number % 2 == 1
    language = chosen.choice([*FOREIGN] if foreign else ACCENTS)
    voice = f"{language}+{chosen.choice(names)}"
    pitch, speed = chosen.randint(15, 85), chosen.randint(110, 210)  # of 0 to 99, and in words a minute
    commands = []
    for word in (FOREIGN[language] if foreign else ENGLISH).split():
        varied = f"-p {pitch + chosen.randint(-8, 8)} -s {speed + chosen.randint(-20, 20)}"
        commands.append(["espeak-ng", "-v", voice, *varied.split(), word, "-w"])
    return commands


def flite(chosen: random.Random) -> list[list[str]]:
    """Return the commands by which a voice of flite says each digit; the name of the file is to come."""
    voice = chosen.choice([*FLITE])
    pitch = FLITE[voice] * chosen.uniform(0.8, 1.3)
    commands = []
    for word in ENGLISH.split():
        stretch = f"duration_stretch={chosen.uniform(0.8, 1.5):.2f}"
        varied = f"int_f0_target_mean={pitch * chosen.uniform(0.95, 1.05):.0f}"
        commands.append(["flite", "-voice", voice, "--setf", stretch, "--setf", varied, "-t", word, "-o"])
    return commands


def main() -> None:
    """Write the digits of all voices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    parser.add_argument("--espeak", type=int, default=200, help="voices of espeak-ng")
    parser.add_argument("--flite", type=int, default=60, help="voices of flite")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chosen, names = random.Random(options.seed), variants()
    voices = {f"espeak{i}": espeak(i, names, chosen) for i in range(options.espeak)}
    voices |= {f"flite{i}": flite(chosen) for i in range(options.flite)}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, commands in voices.items():
        for digit, command in enumerate(commands):
            said_by(*command, str(options.out / f"{digit}_{name}_0.wav"))
    print(f"{len(voices):,} voices in {options.out}")


if __name__ == "__main__":
    main()
