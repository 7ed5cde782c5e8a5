"""Chorales: polyphonic music as piano rolls, a JSON file with a list of pitches for each step of each piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everloop.data.files import parse_json
from everloop.data.readers.lines import unpacked
from everloop.errors import DataError

LOWEST, KEYS = 21, 88  # the piano, as MIDI pitches
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
PITCHES = tuple(f"{NAMES[pitch % 12]}{pitch // 12 - 1}" for pitch in range(LOWEST, LOWEST + KEYS))


def read_chorales(path: str | Path) -> dict[str, list[Tensor]]:
    """Return the pieces of each split as piano rolls [T, 88] of 0 and 1.

    Raises:
        DataError: missing, or not such a file; the message names split, piece and step.
    """
    try:
        content: Any = parse_json(unpacked(path))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(pieces, list) for pieces in content.values()):
        raise DataError(f"{path} is no file of chorales; expected an object with a list of pieces for each split")
    return {
        part: [piano_roll(piece, f"{path}: {part}, piece {number}") for number, piece in enumerate(pieces)]
        for part, pieces in content.items()
    }


def piano_roll(piece: Any, where: str) -> Tensor:
    """Return a piece [T, 88] from a list of the MIDI pitches of each step.

    Raises:
        DataError: a step is not a list of pitches of a piano.
    """
    if not isinstance(piece, list):
        raise DataError(f"{where} is {type(piece).__name__}; expected a list of steps")
    roll = torch.zeros(len(piece), KEYS)
    for step, pitches in enumerate(piece):
        right = isinstance(pitches, list) and all(isinstance(p, int) and LOWEST <= p < LOWEST + KEYS for p in pitches)
        if not right:
            raise DataError(f"{where}, step {step} is {pitches!r}; expected MIDI pitches from {LOWEST} to 108")
        roll[step, [pitch - LOWEST for pitch in pitches]] = 1
    return roll


def transposed(roll: Tensor, by: int) -> Tensor:
    """Return a piece some semitones higher; by fewer where it would leave the piano."""
    used = roll.any(0).nonzero()[:, 0]
    if not len(used):
        return roll
    by = max(-int(used[0]), min(by, KEYS - 1 - int(used[-1])))
    return torch.roll(roll, by, dims=1)


def splits(path: Path) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return, of each piece of each split, the frames read and the frames that follow them."""
    pieces = read_chorales(path)
    return {name: [(roll[:-1], roll[1:]) for roll in rolls if len(roll) > 1] for name, rolls in pieces.items()}
