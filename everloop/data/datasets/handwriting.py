"""Handwriting: pen strokes with what is written, whole texts, or single characters joined to random strings."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.dataset import SPLITS, shortened
from everloop.data.datasets.strokes import DrawingFields
from everloop.data.datasets.transcribed import Clip, JoinedConfig, JoinedStrings, Transcribed
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Array, Zip
from everloop.data.pen import FEATURES, pen_frames
from everloop.data.ragged import RaggedArray, Strings
from everloop.data.readers.strokes import Drawing, StrokeFields, read_drawings
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError, OptionError, unknown


@dataclass(frozen=True)
class HandwritingConfig(DrawingFields):
    """Which handwriting is read."""

    strokes: Path | None = None
    """JSON lines (.gz is unpacked) of pen strokes, a text a line."""
    writer_field: str = "writer"
    """Field that says who wrote it, if the file knows; nobody may be in two splits."""
    upward: bool = True
    """Whether y grows upwards, as on a pen tablet; otherwise downwards, as on a screen."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""

    def turned(self, strokes: Sequence[Any]) -> Sequence[Any]:
        """Return strokes with y growing upwards."""
        return strokes if self.upward else [[(x, -y) for x, y in stroke] for stroke in strokes]

    @property
    def fields(self) -> StrokeFields:
        """The names of the fields."""
        return StrokeFields(self.stroke_field, self.label_field, self.split_field, self.writer_field)


@dataclass(frozen=True)
class GlyphsConfig(HandwritingConfig, JoinedConfig):
    """Which single characters are read, and how they are joined. The longer side of each is scaled to 1."""

    glyphs: Path | None = None
    """JSON lines (.gz is unpacked) of pen strokes, a character a line, joined to random strings of one writer each."""
    gap: tuple[float, float] = (0.0, 0.4)
    """Joined strings: the smallest and the largest space between two characters."""
    resize: float = 0.15
    """Joined strings: a character is by up to this fraction larger or smaller."""
    shift: float = 0.1
    """Joined strings: a character stands by up to this much higher or lower."""
    slant: float = 0.3
    """Joined strings: in training each leans by up to this much; x moves by so much of y."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gap[0] <= self.gap[1]:
            raise OptionError(f"gap is {self.gap[0]} to {self.gap[1]}; expected the smallest first, then the largest")
        if not 0 <= self.resize < 1:
            raise OptionError(f"resize is {self.resize}; expected a fraction below 1")


class WrittenDataset(Transcribed):
    """Handwriting with what is written. An item is (frames [T, 4], text), as `everloop.data.pen` makes them."""

    reads = "pen"

    def frames_of(self, source: Tensor) -> Tensor:
        return source


class Handwriting(WrittenDataset):
    """Texts as they were written.

    Args:
        drawings: the texts: strokes, what is written, the split (train, valid or test), and who wrote it or "".
        spacing: how long a frame is; see `pen_frames`.
        config: how they are read.
        vocabulary: the characters; by default those of all splits.
        errors: takes texts that are empty.

    Raises:
        DataError: there is nothing to train on, a split has another name, or a writer is in two splits.
    """

    unit = "texts"

    def __init__(
        self,
        drawings: Iterable[Drawing],
        spacing: float,
        config: HandwritingConfig | None = None,
        vocabulary: Vocabulary | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or HandwritingConfig(), errors)
        rows = {name: RaggedArray("float32", FEATURES) for name in SPLITS}
        texts = {name: Strings() for name in SPLITS}
        found: set[str] = set()
        for drawing in checked(drawings):
            if not drawing.label:
                self.errors.refuse(f"a text of the {drawing.split} split is empty", "what is written")
                continue
            rows[drawing.split].append(pen_frames(self.config.turned(drawing.strokes), spacing))
            texts[drawing.split].append(drawing.label)
            found |= set(drawing.label)
        self.items = {name: Zip(rows[name], texts[name]) for name in SPLITS if len(texts[name])}
        self.lengths = {name: rows[name].lengths for name in self.items}
        if "train" not in self.items and vocabulary is None:
            raise DataError("there is no handwriting to train on; expected at least one text of the split train")
        self.vocabulary = vocabulary or Vocabulary(sorted(found))

    @classmethod
    def from_config(
        cls, config: HandwritingConfig, spacing: float, vocabulary: Vocabulary | None = None
    ) -> Handwriting:
        """Return the handwriting that a configuration describes."""
        if config.strokes is None:
            raise DataError("no handwriting given; name a file of JSON lines with --strokes")
        errors = ErrorPolicy(config.malformed)
        drawings = read_drawings(config.strokes, config.fields, ("label", "split"), errors)
        return cls(drawings, spacing, config, vocabulary, errors)

    def content(self) -> Iterator[bytes]:
        yield repr(self.vocabulary.symbols).encode("utf-8", "replace")
        for name, items in self.items.items():
            for frames, text in items:
                yield f"{name} {len(frames)} {text}".encode("utf-8", "replace")
                yield frames.numpy().tobytes()

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{sum(len(text) for _, text in self[split]):,} characters",)

    def first(self, split: str) -> str:
        return shortened(self[split][0][1])


class GlyphStrings(JoinedStrings, WrittenDataset):
    """Random strings joined from single characters, each string from those of one writer, side by side.

    The longer side of each character is scaled to 1, since files mix tablets, and then changed as the configuration
    says. The strings of validation and test are the same in every pass, and nobody who writes there writes in training.

    Args:
        drawings: the characters: strokes, which character, the split, and who wrote it or "".
        spacing: how long a frame is; see `pen_frames`.
        config: how they are joined.

    Raises:
        DataError: there is nothing to train on, a label is not one character, a split has another name, or a writer
            is in two splits.
    """

    config: GlyphsConfig

    def __init__(self, drawings: Iterable[Drawing], spacing: float, config: GlyphsConfig | None = None) -> None:
        super().__init__(config or GlyphsConfig())
        self.spacing = spacing
        self.glyphs = {name: RaggedArray("float32", 3) for name in SPLITS}
        self.labels: dict[str, list[str]] = {name: [] for name in SPLITS}
        self.writers: dict[str, list[str]] = {name: [] for name in SPLITS}
        self.of_writer: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in SPLITS}
        for drawing in checked(drawings):
            if len(drawing.label) != 1:
                raise DataError(
                    f"the label of a glyph is {drawing.label!r}; expected one character (--strokes reads whole texts)"
                )
            name = drawing.split
            self.of_writer[name][drawing.writer].append(len(self.labels[name]))
            self.glyphs[name].append(scaled(self.config.turned(drawing.strokes)))
            self.labels[name].append(sys.intern(drawing.label))
            self.writers[name].append(sys.intern(drawing.writer))
        if not self.labels["train"]:
            raise DataError("there are no glyphs to train on; expected at least one of the split train")
        self.vocabulary = Vocabulary(sorted({label for labels in self.labels.values() for label in labels}))
        self.used = [name for name in SPLITS if self.labels[name]]
        self.items = {name: self.items_of_pass(name) for name in self.used}

    @classmethod
    def from_config(cls, config: GlyphsConfig, spacing: float) -> GlyphStrings:
        """Return the strings that a configuration describes."""
        if config.glyphs is None:
            raise DataError("no glyphs given; name a file of JSON lines with --glyphs")
        errors = ErrorPolicy(config.malformed)
        data = cls(read_drawings(config.glyphs, config.fields, ("label", "split"), errors), spacing, config)
        data.errors = errors
        return data

    def content(self) -> Iterator[bytes]:
        c = self.config
        joined = (c.min_length, c.max_length, c.strings, c.held, c.gap, c.resize, c.shift, c.slant, self.spacing)
        yield repr((joined, self.used)).encode()
        for name in self.used:
            yield repr((self.labels[name], self.writers[name])).encode("utf-8", "replace")
            yield from (glyph.numpy().tobytes() for glyph in self.glyphs[name])

    def clip(self, split: str, number: int) -> Clip:
        c, generator = self.config, self.generator(number)
        count, everyone = self.length(generator), self.labels[split]
        first = int(torch.randint(len(everyone), (), generator=generator))
        his = self.of_writer[split][self.writers[split][first]]
        chosen = [first, *(his[i] for i in torch.randint(len(his), (count - 1,), generator=generator).tolist())]
        changes = torch.rand(count, 3, generator=generator, dtype=torch.float64).numpy()
        lean = (2 * float(torch.rand((), generator=generator)) - 1) * c.slant if split == "train" else 0.0
        strokes: list[Array] = []
        edge = 0.0
        for glyph, (gap, size, height) in zip(chosen, changes, strict=True):
            points = self.glyphs[split][glyph].numpy().astype(np.float64)
            points[:, :2] *= 1 + (2 * size - 1) * c.resize
            points[:, 0] += edge
            edge = points[:, 0].max() + c.gap[0] + gap * (c.gap[1] - c.gap[0])
            points[:, 1] += (2 * height - 1) * c.shift
            points[:, 0] += lean * points[:, 1]
            strokes += np.split(points[:, :2], points[:, 2].nonzero()[0][1:])
        return pen_frames(strokes, self.spacing), "".join(everyone[glyph] for glyph in chosen)

    def steps(self, split: str) -> Array:
        return np.array([len(frames) for frames, _ in self[split]])

    def sizes(self, split: str) -> Sequence[str]:
        return f"joined from {len(self.labels[split]):,} glyphs", f"{len(self.of_writer[split]):,} writers"


def scaled(strokes: Sequence[Any]) -> Array:
    """Return strokes as points [n, 3]: x and y from 0 on, the longer side 1; 1 where a stroke begins, else 0."""
    lines = [np.asarray(stroke, dtype=np.float64).reshape(-1, 2) for stroke in strokes if len(stroke)]
    points = np.concatenate(lines)
    low = points.min(0)
    begins = np.concatenate([[1.0, *[0.0] * (len(line) - 1)] for line in lines])
    return np.concatenate([(points - low) / (float((points - low).max()) or 1.0), begins[:, None]], 1)


def checked(drawings: Iterable[Drawing]) -> Iterator[Drawing]:
    """Yield drawings as they are.

    Raises:
        DataError: one is of a split that there is not, or of a writer who is in another split too.
    """
    splits: dict[str, str] = {}
    for drawing in drawings:
        if drawing.split not in SPLITS:
            raise DataError(unknown("split", drawing.split, SPLITS))
        before = splits.setdefault(drawing.writer, drawing.split) if drawing.writer else drawing.split
        if before != drawing.split:
            raise DataError(
                f"writer {drawing.writer!r} is in the splits {before} and {drawing.split}; expected each in one alone, "
                "so that what is held out is by people whom the model has never seen"
            )
        yield drawing
