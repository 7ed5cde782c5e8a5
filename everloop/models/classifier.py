"""N → 1: one label for a whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.cell import Cell
from everloop.data.batching.padding import padded
from everloop.data.datasets.examples import Examples, ExamplesBatch
from everloop.data.settings import setting
from everloop.data.tokenize.symbols import PAD, UNKNOWN, Symbols
from everloop.data.tokenize.words import TextTokenizer, load_tokenizer, save_tokenizer
from everloop.errors import OptionError, ShapeError
from everloop.layers import Embedded
from everloop.layers.linear import Linear
from everloop.models.body import BodyConfig, Dropout, body, check, configured, embedded, word_dropout
from everloop.models.loss import Loss
from everloop.models.model import Model, several
from everloop.models.modes import evaluating
from everloop.models.outline import Block, Outline, Strand
from everloop.models.pooling import Pooling, PoolingMethod


@dataclass(frozen=True)
class ClassifierConfig(BodyConfig):
    """The shape of a classifier."""

    pooling: PoolingMethod = "max"
    """How the steps become one vector: the last, their mean, the largest values, or attention."""
    embedding: int = 128
    """Numbers that stand for a symbol of a text."""
    word_dropout: float = 0.0
    """Probability of taking a symbol for unknown while training."""
    label_smoothing: float = setting(0.0, old="smoothing")
    """Label smoothing while training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, ("embedding",), at_least=1)
        check(self, ("word_dropout", "label_smoothing"), below=1)


class Classifier(Model):
    """Gives a text or a series of numbers one label: embedding, layers, pooling, a head.

    Series are scaled by what `of` found in the training data, or by nothing.

    Args:
        reads: the tokenizer of texts, or how many numbers a step of a series has.
        labels: the labels.
        cell: a cell class, its name, or "file.py:Class".
        settings: those of ClassifierConfig, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """

    kind: ClassVar[str] = "classifier"
    labels_each: ClassVar[bool] = True
    config: ClassifierConfig
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        reads: TextTokenizer | int,
        labels: Symbols | Sequence[str],
        cell: type[Cell] | str = "lstm",
        **settings: Any,
    ) -> None:
        super().__init__()
        self.tokenizer = None if isinstance(reads, int) else reads
        self.labels = labels if isinstance(labels, Symbols) else Symbols(labels)
        self.config = config = configured(ClassifierConfig, cell, settings)
        self.features = features = reads if isinstance(reads, int) else 0
        if self.tokenizer is not None:
            self.embedding = nn.Embedding(len(self.tokenizer.symbols), config.embedding, padding_idx=PAD)
            nn.init.normal_(self.embedding.weight, std=0.3)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.recurrent = body(config, config.embedding if self.tokenizer else features, cell)
        size = self.recurrent.output_size
        self.pooling = Pooling(config.pooling, size, bidirectional=config.bidirectional)
        self.inputs = Dropout(config.dropped_inputs(embedded=self.tokenizer is not None))
        self.dropout = Dropout(config.dropout)
        self.head = Linear(size, len(self.labels))

    @classmethod
    def of(cls, data: Examples, config: ClassifierConfig | None = None) -> Classifier:
        """Return the untrained classifier that fits some data."""
        self = cls.from_config(data.tokenizer or data.features, data.labels, config or ClassifierConfig())
        if data.tokenizer is None:
            steps = torch.cat([x for x, _ in data["train"]]).double()
            # a number that hardly ever changes (the border of an image) is not blown up
            spread = steps.std(0, unbiased=False).clamp_min(0.1 * float(steps.std()))
            self.mean.copy_(steps.mean(0))
            self.scale.copy_(1 / spread.clamp_min(1e-8))
        return self

    def outline(self) -> Outline:
        head = Block("head", self.recurrent.output_size, len(self.labels))
        before: tuple[Block, ...] = ()
        if self.tokenizer is not None:
            before = (Block("embedding", len(self.tokenizer.symbols), self.config.embedding),)
        reads = "symbol" if before else "step"
        strand = Strand(self.recurrent, reads, "label", before, (head,), pooling=self.config.pooling)
        return Outline(self.kind, "N → 1", (strand,))

    def symbols_read(self, batch: ExamplesBatch, row: int = 0) -> dict[str, list[str]]:
        if self.tokenizer is None:
            return {}
        numbers = batch.x[: int(batch.lengths[row]), row].tolist()
        return {"recurrent": [self.tokenizer.symbols.symbols[i] for i in numbers]}

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores [B, K] of the labels. x: symbol numbers [T, B], or features [T, B, F]; lengths: [B]."""
        y = self._layers(x, lengths)
        return self.head(self.dropout(self.pooling(y, lengths)))  # type: ignore[no-any-return]

    def _layers(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return what the layers put out [T, B, n]."""
        if self.tokenizer is None:
            if x.dim() != 3 or x.shape[2] != self.features:
                raise ShapeError(f"Classifier: x is {list(x.shape)}; expected [T, B, {self.features}]")
            read: Tensor | Embedded = self.inputs((x - self.mean) * self.scale)
        else:
            if self.training and self.config.word_dropout:
                x = word_dropout(x, self.config.word_dropout, UNKNOWN)
            read = embedded(self.embedding, x, self.inputs)
        return self.recurrent(read, lengths=lengths)[0]  # type: ignore[no-any-return]

    def loss(self, batch: ExamplesBatch, state: Any = None) -> Loss:
        """Return the negative log-likelihood of the labels, and the accuracy."""
        scores = self(batch.x, batch.lengths)
        smoothing = self.config.label_smoothing if self.training else 0.0
        total = F.cross_entropy(scores, batch.y, reduction="sum", label_smoothing=smoothing)
        count = len(batch.y)
        return Loss(total, count, sums={"accuracy": (float((scores.argmax(-1) == batch.y).sum()), count)})

    def predictions(self, batch: ExamplesBatch) -> tuple[Tensor, Tensor]:
        """Return (the numbers [B] of the true labels, those of the most likely ones)."""
        return batch.y, self(batch.x, batch.lengths).argmax(-1)

    def read_in(self, sequences: Sequence[str | Tensor]) -> tuple[Tensor, Tensor]:
        """Return (x, lengths), as `forward` takes them, of texts or series [T, F]."""
        if self.tokenizer is not None:
            sequences = [torch.tensor(self.tokenizer.encode(text)) for text in sequences]  # type: ignore[arg-type]
        x, lengths = padded(sequences)
        return x.to(self.head.weight.device), lengths.to(self.head.weight.device)

    @torch.no_grad()
    def classify(self, sequences: Sequence[str | Tensor]) -> Tensor:
        """Return the probabilities [B, K] of the labels, for texts or series [T, F]."""
        several(sequences, "classify")
        if not len(sequences):
            return torch.zeros(0, len(self.labels))
        with evaluating(self):
            scores = self(*self.read_in(sequences))
        return scores.softmax(-1).cpu()  # type: ignore[no-any-return]

    @torch.no_grad()
    def weights(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return how much attention gives to each step of each sequence [T, B]; arguments as of `forward`.

        Raises:
            OptionError: the steps become one vector in another way.
        """
        if self.config.pooling != "attention":
            raise OptionError(f"pooling is {self.config.pooling!r}; only with 'attention' do steps have weights")
        with evaluating(self):
            return self.pooling.weights(self._layers(x, lengths), lengths)

    def write(self, folder: Path) -> None:
        """Write the labels, and what it reads, into a run folder."""
        self.labels.save(folder / "labels.json")
        save_tokenizer(folder, self.tokenizer or self.features)

    @classmethod
    def read(cls, folder: Path, config: ClassifierConfig) -> Classifier:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        reads: Any = load_tokenizer(folder, TextTokenizer)
        return cls.from_config(reads, Symbols.load(folder / "labels.json"), config)

    @classmethod
    def from_config(cls, reads: TextTokenizer | int, labels: Symbols, config: ClassifierConfig) -> Classifier:
        """Return the model that a configuration describes."""
        return cls(reads, labels, **vars(config))
