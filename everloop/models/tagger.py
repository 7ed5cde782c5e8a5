"""N → N: a label for each step of a sequence, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.cell import Cell
from everloop.data.batching.padding import padded
from everloop.data.datasets.tagged import Tagged, TaggedBatch
from everloop.data.pictures import PictureSize
from everloop.data.settings import setting
from everloop.data.tokenize.symbols import PAD, UNKNOWN, Symbols
from everloop.data.tokenize.words import Words, WordTokenizer, load_tokenizer, save_tokenizer
from everloop.errors import OptionError
from everloop.layers import Embedded
from everloop.layers.linear import Linear
from everloop.layers.rows import rows_of_batch
from everloop.models.body import BodyConfig, Dropout, body, check, configured, embedded, word_dropout
from everloop.models.crf import LinearChainCRF
from everloop.models.loss import Loss
from everloop.models.model import Model, several
from everloop.models.modes import evaluating
from everloop.models.outline import Block, Outline, Strand
from everloop.models.picture_encoder import PictureEncoder, PicturesConfig
from everloop.models.pooling import Pooling

Output = Literal["softmax", "crf", "several"]


@dataclass(frozen=True)
class TaggerConfig(PicturesConfig, BodyConfig):
    """The shape of a tagger."""

    output: Output = "softmax"
    """One label a step, each on its own (softmax) or all together (crf), or several labels a step."""
    embedding: int = 100
    """Numbers that stand for a word, or for a picture."""
    char_embedding: int = setting(32, old="characters")
    """Numbers that stand for a character of a word; 0: words are not spelled."""
    char_hidden: int = setting(64, old="spelling")
    """Units, in each direction, of the layer that reads the characters of a word."""
    word_dropout: float = 0.0
    """Probability of taking a word for unknown while training; its characters stay."""
    label_smoothing: float = setting(0.0, old="smoothing")
    """Label smoothing while training, with softmax."""

    def __post_init__(self) -> None:
        BodyConfig.__post_init__(self)
        PicturesConfig.__post_init__(self)
        check(self, ("embedding", "char_hidden"), at_least=1)
        check(self, ("char_embedding",), at_least=0)
        check(self, ("word_dropout", "label_smoothing"), below=1)
        if self.output not in ("softmax", "crf", "several"):
            raise OptionError(f"output is {self.output!r}; expected 'softmax', 'crf' or 'several'")


class Tagger(Model):
    """Gives every step of a sequence a label: words and what their characters say, vectors or pictures; layers; a head.

    Ling et al., "Finding function in form: compositional character models for open vocabulary word representation",
    EMNLP 2015; Huang, Xu and Yu, "Bidirectional LSTM-CRF models for sequence tagging", 2015.

    Args:
        reads: the tokenizer of words, how many numbers a step of a sequence of vectors has, or how large pictures are.
        labels: the labels; with output "several" any number of them holds at a step.
        cell: a cell class, its name, or "file.py:Class".
        settings: those of TaggerConfig, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """

    kind: ClassVar[str] = "tagger"
    labels_each: ClassVar[bool] = True
    config: TaggerConfig

    def __init__(
        self,
        reads: WordTokenizer | int | PictureSize,
        labels: Symbols | Sequence[str],
        cell: type[Cell] | str = "lstm",
        **settings: Any,
    ) -> None:
        super().__init__()
        self.tokenizer = reads if isinstance(reads, WordTokenizer) else None
        self.labels = labels if isinstance(labels, Symbols) else Symbols(labels)
        self.config = config = configured(TaggerConfig, cell, settings)
        self.features: int | PictureSize = 0 if isinstance(reads, WordTokenizer) else reads
        size = reads if isinstance(reads, int) else config.embedding
        if isinstance(reads, PictureSize):
            self.pictures = PictureEncoder(reads, config.channels, size, config.residual)
        if self.tokenizer is not None:
            self.embedding = nn.Embedding(len(self.tokenizer.words), size, padding_idx=PAD)
            if config.char_embedding:
                self.character = nn.Embedding(len(self.tokenizer.characters), config.char_embedding, padding_idx=PAD)
                first = {"orthogonal": config.orthogonal, "forget_bias": config.forget_bias}
                spell = BodyConfig(config.cell, config.char_hidden, options=config.options, **first)  # type: ignore[arg-type]
                self.speller = body(spell, config.char_embedding, cell)
                self.spelled = Pooling("last", self.speller.output_size, bidirectional=True)
                size += self.speller.output_size
        self.recurrent = body(config, size, cell)
        self.inputs = Dropout(config.dropped_inputs(embedded=self.tokenizer is not None))
        self.dropout = Dropout(config.dropout)
        self.head = Linear(self.recurrent.output_size, len(self.labels))
        self.crf = LinearChainCRF(len(self.labels)) if config.output == "crf" else None

    @classmethod
    def of(cls, data: Tagged, config: TaggerConfig | None = None) -> Tagger:
        """Return the untrained tagger that fits some data.

        Raises:
            OptionError: the data has several labels a step and the configuration one, or the other way round.
        """
        config = config or TaggerConfig(output="several" if data.several else "softmax")
        if (config.output == "several") != data.several:
            raise OptionError(
                f"output is {config.output!r}; the data has {'several labels' if data.several else 'one label'} a step"
            )
        return cls.from_config(data.tokenizer or data.features, data.labels, config)

    def outline(self) -> Outline:
        before: tuple[Block, ...] = ()
        if self.tokenizer is not None:
            name = "embedding and spelling" if self.config.char_embedding else "embedding"
            before = (Block(name, len(self.tokenizer.words), self.recurrent.input_size),)
        elif isinstance(self.features, PictureSize):
            before = (self.pictures.block(),)
        after: tuple[Block, ...] = (Block("head", self.recurrent.output_size, len(self.labels)),)
        if self.crf is not None:
            after += (Block("CRF", len(self.labels), len(self.labels)),)
        return Outline(self.kind, "N → N", (Strand(self.recurrent, self.target, "label", before, after),))

    def symbols_read(self, batch: TaggedBatch, row: int = 0) -> dict[str, list[str]]:
        if self.tokenizer is None or not isinstance(batch.x, Words):
            return {}
        numbers = batch.x.numbers[: int(batch.lengths[row]), row].tolist()
        return {"recurrent": [self.tokenizer.words.symbols[i] for i in numbers]}

    @property
    def target(self) -> str:
        if isinstance(self.features, PictureSize):
            return "frame"
        return "word" if self.tokenizer else "step"

    def forward(self, x: Words | Tensor, lengths: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return (scores [T, B, K] of the labels, state). x: words, or features [T, B, F], or pictures; lengths: [B].

        Pictures are [T, B, height, width, channels] of 0 to 255.
        """
        y, state = self.recurrent(self._read(x), state, lengths=lengths)
        return self.head(self.dropout(y)), state

    def _read(self, x: Words | Tensor) -> Tensor | Embedded:
        if isinstance(x, Tensor):
            rows = self.pictures(x) if x.dim() == 5 else x.to(self.head.weight.dtype)
            return self.inputs(rows)  # type: ignore[no-any-return]
        numbers = x.numbers
        if self.training and self.config.word_dropout:
            numbers = word_dropout(numbers, self.config.word_dropout, UNKNOWN)
        if not self.config.char_embedding:
            return embedded(self.embedding, numbers, self.inputs)
        words = self.embedding(numbers)
        # each different word is spelled once, however often it occurs
        with rows_of_batch(None):
            characters = embedded(self.character, x.spelled, self.dropout)
            y, _ = self.speller(characters, lengths=x.spelled_lengths)
        rows = torch.cat([words, F.embedding(x.which, self.spelled(y, x.spelled_lengths))], -1)
        return self.inputs(rows)  # type: ignore[no-any-return]

    def loss(self, batch: TaggedBatch, state: Any = None) -> Loss:
        """Return the negative log-likelihood of the labels, and outside of training the accuracy."""
        scores, _ = self(batch.x, batch.lengths)
        mask, smoothing = batch.mask, self.config.label_smoothing if self.training else 0.0
        count = int(batch.lengths.sum())
        if self.config.output == "several":
            return Loss(F.binary_cross_entropy_with_logits(scores[mask], batch.y[mask], reduction="sum"), count)
        if self.crf is not None:
            total = self.crf(scores, batch.y, batch.lengths).sum()
        else:
            total = F.cross_entropy(scores[mask], batch.y[mask], reduction="sum", label_smoothing=smoothing)
        return Loss(total, count, sums={} if self.training else self._accuracy(batch, scores))

    def _accuracy(self, batch: TaggedBatch, scores: Tensor) -> dict[str, tuple[float, int]]:
        right = self._best(scores, batch.lengths) == batch.y
        mask = batch.mask
        sums = {"accuracy": (float((right & mask).sum()), int(mask.sum()))}
        if isinstance(batch.x, Words):
            unknown = mask & (batch.x.numbers == UNKNOWN)
            sums["unknown"] = float((right & unknown).sum()), int(unknown.sum())
        return sums

    def predictions(self, batch: TaggedBatch) -> tuple[Tensor, Tensor]:
        """Return (true labels, likely labels) of the steps that exist: numbers [N], or truth values [N, K]."""
        scores, _ = self(batch.x, batch.lengths)
        mask = batch.mask
        if self.config.output == "several":
            return batch.y[mask] > 0.5, scores[mask] > 0
        return batch.y[mask], self._best(scores, batch.lengths)[mask]

    def _best(self, scores: Tensor, lengths: Tensor) -> Tensor:
        return self.crf.decode(scores, lengths)[0] if self.crf is not None else scores.argmax(-1)

    @torch.no_grad()
    def tag(self, sequences: Sequence[Sequence[str] | Tensor]) -> list[list[str]]:
        """Return the label of each step of sequences of words, of features [T, F], or of pictures.

        Raises:
            OptionError: the model gives several labels a step.
        """
        if self.config.output == "several":
            raise OptionError("this tagger gives several labels a step; ask for probabilities")
        if not sequences:
            return []
        scores, lengths = self._scores(sequences)
        best, names = self._best(scores, lengths).T.tolist(), self.labels.symbols
        return [[names[i] for i in row[:n]] for row, n in zip(best, lengths.tolist(), strict=True)]

    @torch.no_grad()
    def probabilities(self, sequences: Sequence[Sequence[str] | Tensor]) -> list[Tensor]:
        """Return the probability [T, K] of each label at each step; with a CRF that over all sequences of labels."""
        if not sequences:
            return []
        scores, lengths = self._scores(sequences)
        if self.crf is not None:
            sure = self.crf.marginals(scores, lengths)
        else:
            sure = scores.sigmoid() if self.config.output == "several" else scores.softmax(-1)
        return [row[:n].cpu() for row, n in zip(sure.unbind(1), lengths.tolist(), strict=True)]

    def _scores(self, sequences: Sequence[Any]) -> tuple[Tensor, Tensor]:
        several(sequences, "tag")
        for words in sequences:
            several(words, "tag", "list of words")
        device = self.head.weight.device
        x, lengths = self.tokenizer.batch(sequences) if self.tokenizer else padded(sequences)
        with evaluating(self):
            scores, _ = self(x.to(device), lengths.to(device))
        return scores, lengths.to(device)

    def write(self, folder: Path) -> None:
        """Write the labels, and what it reads, into a run folder."""
        self.labels.save(folder / "labels.json")
        save_tokenizer(folder, self.tokenizer or self.features)

    @classmethod
    def read(cls, folder: Path, config: TaggerConfig) -> Tagger:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        reads: Any = load_tokenizer(folder, WordTokenizer)
        return cls.from_config(reads, Symbols.load(folder / "labels.json"), config)

    @classmethod
    def from_config(cls, reads: WordTokenizer | int | PictureSize, labels: Symbols, config: TaggerConfig) -> Tagger:
        """Return the model that a configuration describes."""
        return cls(reads, labels, **vars(config))
