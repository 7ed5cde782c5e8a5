"""N → shorter M, not aligned: frames are read, and characters written without saying which frame each belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from everloop.cell import Cell
from everloop.data import Vocabulary
from everloop.data.batching.batch import sequence_mask
from everloop.data.batching.padding import padded
from everloop.data.datasets.transcribed import TranscribedBatch
from everloop.data.frames import FrameConfig, log_mel, normalised
from everloop.data.pen import FEATURES, pen_frames
from everloop.errors import DataError, OptionError
from everloop.layers.linear import Linear
from everloop.models.body import Dropout, LayersConfig, check, configured, layers_of
from everloop.models.loss import Loss
from everloop.models.model import Model
from everloop.models.outline import Block, Outline, Strand


@dataclass(frozen=True)
class TranscriberConfig(LayersConfig):
    """The shape of a transcriber, and the frames it reads."""

    cell: str = "lstm"
    """A cell by name, or your own as file.py:Class."""
    hidden: int = 128
    """Units of each layer and direction."""
    layers: int = 2
    """Recurrent layers, one above the other."""
    bidirectional: bool = True
    """Whether the layers read in both directions; a model that reads forward only can be streamed."""
    dropout: float = 0.2
    """Probability of dropping a number before the layers, between them and before the head."""
    stacked: int = 3
    """Frames that the layers read as one step."""
    reads: Literal["sound", "pen"] | None = None
    """What it reads: sound, or the strokes of a pen; by default what the data are."""
    rate: int = 16_000
    """Samples a second."""
    window: float = 0.025
    """Seconds of sound that one frame sees."""
    hop: float = 0.010
    """Seconds from one frame to the next."""
    mels: int = 40
    """Mel bands of a frame."""
    dynamic_range: float = math.inf
    """Decibels below the loudest frame of a recording; what is quieter is heard as that, so that it does not matter how
    silent a pause is."""
    per_band: bool = True
    """Whether each band has mean 0 and deviation 1 over a recording, so that the microphone does not matter; otherwise
    all bands together have: better for few sounds by the microphones of the training."""
    spacing: float = 0.08
    """Pen strokes: how long a frame is, where the height of a text is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, ("stacked", "rate", "mels"), at_least=1)
        if not 0 < self.hop <= self.window:
            raise OptionError(f"hop is {self.hop} s and window {self.window} s; expected 0 < hop ≤ window")
        if not self.dynamic_range > 0:
            raise OptionError(f"dynamic_range is {self.dynamic_range} dB; expected a number above 0")
        if not 0 < self.spacing < math.inf:
            raise OptionError(f"spacing is {self.spacing}; expected a number above 0")
        if self.reads not in (None, "sound", "pen"):
            raise OptionError(f"reads is {self.reads!r}; expected 'sound' or 'pen'")

    @property
    def frames(self) -> FrameConfig:
        """How samples become frames."""
        return FrameConfig(self.rate, self.window, self.hop, self.mels, self.dynamic_range, self.per_band)

    @property
    def features(self) -> int:
        """The numbers of a frame."""
        return FEATURES if self.reads == "pen" else self.mels


class Transcriber(Model):
    """Reads frames and says at each step a character or "blank"; all ways to say a text add up (CTC).

    Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification", ICML 2006.

    Args:
        vocabulary: the characters; the blank has the number after them.
        cell: a cell class, its name, or "file.py:Class".
        settings: those of TranscriberConfig, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """

    kind: ClassVar[str] = "transcriber"

    def __init__(self, vocabulary: Vocabulary, cell: type[Cell] | str = "lstm", **settings: Any) -> None:
        super().__init__()
        config = configured(TranscriberConfig, cell, settings)
        self.config, self.vocabulary, self.blank = config, vocabulary, len(vocabulary)
        self.dropout = Dropout(config.dropout)
        self.recurrent = layers_of(config, config.features * config.stacked, cell, bidirectional=config.bidirectional)
        self.head = Linear(self.recurrent.output_size, len(vocabulary) + 1)

    def outline(self) -> Outline:
        many, stacked = len(self.vocabulary) + 1, self.config.stacked
        after = (Block("head", self.recurrent.output_size, many),)
        reads = f"{stacked} frames" if stacked > 1 else "frame"
        strand = Strand(self.recurrent, reads, f"{self.target} or blank", after=after)
        return Outline(self.kind, "N → M, CTC", (strand,))

    @property
    def target(self) -> str:
        return "character"

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (log-probabilities [S, B, V + 1], steps of each [B]) for frames [T, B, F] of `lengths` [B]."""
        n = self.config.stacked
        steps = (lengths + n - 1) // n
        whole = F.pad(frames, (0, 0, 0, 0, 0, -len(frames) % n))
        x = whole.view(-1, n, *whole.shape[1:]).transpose(1, 2).flatten(2)
        y, _ = self.recurrent(self.dropout(x), lengths=steps)
        return self.head(self.dropout(y)).log_softmax(-1), steps

    def loss(self, batch: TranscribedBatch, state: Any = None) -> Loss:
        """Return the negative log-probability of the transcripts; outside of training also the accuracy.

        The accuracy is one minus the character errors (left out, put in, taken for another) per character.

        Raises:
            DataError: a recording has fewer steps than its transcript needs.
        """
        log_probs, steps = self(batch.frames, batch.lengths)
        labels, lengths = batch.labels, batch.label_lengths
        inside = sequence_mask(lengths, labels.shape[1]).T[:, 1:]
        needed = lengths + ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)
        if bool((short := steps < needed).any()):
            b = int(short.nonzero()[0])
            raise DataError(
                f"a transcript of {int(lengths[b])} characters needs {int(needed[b])} steps, its recording has "
                f"{int(steps[b])}; take fewer stacked frames or a {'smaller spacing' if self.pen else 'shorter hop'}"
            )
        total = F.ctc_loss(log_probs, labels, steps, lengths, blank=self.blank, reduction="sum")
        count = int(lengths.sum())
        if self.training:
            return Loss(total, count)
        found = self.best_paths(log_probs, steps)
        references = [row[:n] for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)]
        errors = sum(distance(a, b) for a, b in zip(references, found, strict=True))
        return Loss(total, count, sums={"accuracy": (float(count - errors), count)})

    def best_paths(self, log_probs: Tensor, steps: Tensor) -> list[list[int]]:
        """Return what the most likely path of each recording says: repetitions once, then blanks away."""
        paths = log_probs.argmax(-1).T.tolist()
        return [
            [symbol for symbol, _ in groupby(path[:n]) if symbol != self.blank]
            for path, n in zip(paths, steps.tolist(), strict=True)
        ]

    @property
    def pen(self) -> bool:
        """Whether it reads the strokes of a pen."""
        return bool(self.config.reads == "pen")

    def read_in(self, sources: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return (frames [T, B, F], lengths [B]) of what is read.

        A source is a recording, samples [n] at the model's rate; for a pen strokes, each the points [n, 2] of a line,
        with y growing upwards; or frames [T, F].
        """
        frames, lengths = padded([self._frames(source) for source in sources])
        weight = self.head.weight
        return frames.to(weight), lengths.to(weight.device)

    def _frames(self, source: Any) -> Tensor:
        if isinstance(source, Tensor) and source.dim() == 2:
            return source
        if self.pen:
            return pen_frames(source, self.config.spacing)
        return normalised(log_mel(source, self.config.frames), per_band=self.config.per_band)

    def text(self, symbols: Sequence[int]) -> str:
        """Return what these numbers say."""
        return self.vocabulary.decode(symbols)

    def write(self, folder: Path) -> None:
        """Write the vocabulary into a run folder."""
        self.vocabulary.save(folder / "vocabulary.json")

    @classmethod
    def read(cls, folder: Path, config: TranscriberConfig) -> Transcriber:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        return cls.from_config(Vocabulary.load(folder / "vocabulary.json"), config)

    @classmethod
    def from_config(cls, vocabulary: Vocabulary, config: TranscriberConfig) -> Transcriber:
        """Return the model that a configuration describes."""
        return cls(vocabulary, **vars(config))


def distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return how many symbols must be put in, left out or changed to make `b` of `a` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]
