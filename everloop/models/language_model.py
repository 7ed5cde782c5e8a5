"""A language model: the next symbol of a text from those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop import cells
from everloop.cell import Cell
from everloop.data import Vocabulary, Window
from everloop.data.tokenize.load import load_vocabulary
from everloop.errors import DataError, OptionError
from everloop.layers import Embedded
from everloop.layers.dropout import dropped
from everloop.layers.linear import Linear
from everloop.models.body import Dropout, LayersConfig, Option, check, configured, embedded, layers_of
from everloop.models.loss import Loss, Score, activation_penalty, symbols_loss
from everloop.models.model import Model
from everloop.models.modes import evaluating
from everloop.models.outline import Block, Outline, Strand


@dataclass(frozen=True)
class LanguageModelConfig(LayersConfig):
    """The shape of a language model."""

    cell: str = "gru"
    """A cell by name, or your own as file.py:Class."""
    hidden: int = 512
    """Units of each layer."""
    layers: int = 2
    """Recurrent layers, one above the other."""
    embedding: int | None = None
    """Numbers that stand for a symbol; by default at most 128, or as many as the output of the layers if tied."""
    tied: bool = False
    """Whether embedding and head share their weights."""
    last_hidden: int | None = None
    """Units of the last layer; by default as many as of the others. With tied weights the size of the embedding."""
    input_dropout: float | None = None
    """Probability of dropping a number of a symbol's vector; by default that of `dropout`."""
    output_dropout: float | None = None
    """Probability of dropping a number that the head reads; by default that of `dropout`."""
    locked: bool = False
    """Whether `dropout`, `input_dropout` and `output_dropout` drop the same numbers at all steps of a window (locked or
    variational dropout: Gal and Ghahramani 2016, Merity et al. 2018)."""
    embedding_dropout: float = 0.0
    """Probability of dropping a symbol's vector, for a whole batch (Gal and Ghahramani 2016)."""
    label_smoothing: float = 0.0
    """Label smoothing while training."""
    activation_regularization: float = 0.0
    """What the mean square of what the head reads costs while training (AR, Merity et al. 2017; usual: 2)."""
    temporal_regularization: float = 0.0
    """What the mean square of changes of the output from step to step costs while training (TAR; usual: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding is not None:
            check(self, ("embedding",), at_least=1)
        if self.last_hidden is not None:
            check(self, ("last_hidden",), at_least=1)
        check(self, ("label_smoothing", "embedding_dropout"), below=1)
        check(self, tuple(n for n in ("input_dropout", "output_dropout") if getattr(self, n) is not None), below=1)
        for name in ("activation_regularization", "temporal_regularization"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} is {getattr(self, name)}; expected 0 or more")


class LanguageModel(Model):
    """Predicts each symbol of a text from those before it: embedding, recurrent layers, linear head.

    Bengio et al., "A neural probabilistic language model", JMLR 2003; Mikolov et al., "Recurrent neural network
    based language model", Interspeech 2010.

    Args:
        vocabulary: the symbols; V of them.
        cell: a cell class, its name, or "file.py:Class".
        hidden: H, the units of a layer.
        layers: how many layers.
        embedding: E, the size of a symbol's vector; None: min(hidden, 128), or the size of the output if tied.
        dropout: after the embedding, between layers and before the head, while training.
        tied: head and embedding share one matrix (Press and Wolf, "Using the output embedding to improve
            language models", EACL 2017).
        options: options of the cell.
        settings: further ones of LanguageModelConfig, by name.

    Raises:
        OptionError: a setting is unknown or does not fit the others.
    """

    kind: ClassVar[str] = "language-model"
    streams: ClassVar[bool] = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        cell: type[Cell] | str = cells.GRU,
        hidden: int = 512,
        layers: int = 2,
        embedding: int | None = None,
        dropout: float = 0.0,
        tied: bool = False,
        options: Mapping[str, Option] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not isinstance(vocabulary, Vocabulary):
            raise OptionError(f"vocabulary is {type(vocabulary).__name__}; expected one such as text.vocabulary")
        for name, value in {"hidden": hidden, "layers": layers, "embedding": embedding}.items():
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}; expected at least 1")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout is {dropout}; expected a probability below 1")
        made: Any = cells.named(cell) if isinstance(cell, str) else cell
        options = dict(options or {})
        if tied and embedding is None:
            embedding = made(1, settings.get("last_hidden") or hidden, **options).output_size
        size = min(hidden, 128) if embedding is None else embedding
        settings |= {"hidden": hidden, "layers": layers, "embedding": size, "dropout": dropout, "tied": tied}
        self.config = config = configured(LanguageModelConfig, cell, {**settings, "options": options})
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(len(vocabulary), size)
        self.recurrent = layers_of(config, size, made, last=config.last_hidden, locked=config.locked)
        rates = (dropout if rate is None else rate for rate in (config.input_dropout, config.output_dropout))
        self.input_dropout, self.output_dropout = (Dropout(rate, config.locked) for rate in rates)
        self.head = Linear(self.recurrent.output_size, len(vocabulary))
        if tied:
            if size != self.recurrent.output_size:
                raise OptionError(
                    f"embedding is {size}; tied weights expect {self.recurrent.output_size}, the output of the layers"
                )
            # small enough that the untrained head is close to uniform
            nn.init.normal_(self.embedding.weight, std=size**-0.5)
            self.head.weight = self.embedding.weight

    @property
    def target(self) -> str:
        return self.vocabulary.units.removesuffix("s")

    @property
    def symbols(self) -> bool:
        return True

    def outline(self) -> Outline:
        many, layers = len(self.vocabulary), self.recurrent
        before, after = Block("embedding", many, layers.input_size), Block("head", layers.output_size, many)
        strand = Strand(layers, self.target, self.target, (before,), (after,), feeds_back=True)
        return Outline(self.kind, "N → N", (strand,))

    def symbols_read(self, batch: Window, row: int = 0) -> dict[str, list[str]]:
        return {"recurrent": [self.vocabulary.written(i) for i in batch.x[:, row].tolist()]}

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return (logits [T, B, V] of the symbol after each, state). x: symbol numbers [T, B]."""
        y, state = self._read(x, state)
        return self.head(y), state

    def _read(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return (rows [T, B, n] for the head, state)."""
        y, state = self._output(x, state)
        return self.output_dropout(y), state

    def _embedded(self, symbols: Tensor) -> Tensor | Embedded:
        """Return what the layers read [..., E] for symbols [...]."""
        rate = self.config.embedding_dropout
        if not (self.training and rate):
            return embedded(self.embedding, symbols, self.input_dropout)
        x = self.embedding(symbols)
        kept = dropped(x.new_ones(len(self.vocabulary), 1), rate)
        return self.input_dropout(x * kept[symbols])  # type: ignore[no-any-return]

    def _output(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return (what the layers say [T, B, n], state)."""
        y, state = self.recurrent(self._embedded(x), state=state, reset=self.begins(x))
        return y, state

    def begins(self, symbols: Tensor) -> Tensor | None:
        """Return which symbols are read from the initial state, bool in their shape: those that end a document.

        The end of one document is what the next one goes on from. None where a text is one document.
        """
        end = self.vocabulary.document_end
        return None if end is None else symbols == end

    def step(self, symbols: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return (logits [B, V] of the next symbol, state) after one symbol [B] more."""
        y, state = self.recurrent.step(self._embedded(symbols), state, reset=self.begins(symbols))
        return self.head(self.output_dropout(y)), state

    def begin(self, prompt: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return (logits [B, V] of the next symbol, state) after a prompt [T, B]."""
        y, state = self._output(prompt, state)
        return self.head(self.output_dropout(y[-1])), state

    def loss(self, batch: Window, state: Any = None) -> Loss:
        """Return the cross entropy of a window whose streams continue from `state`."""
        config, penalty = self.config, None
        y, state = self._output(batch.x, state)
        rows = self.output_dropout(y)
        costs = config.activation_regularization, config.temporal_regularization
        if self.training and any(costs):
            penalty = activation_penalty(rows, y, *costs, begins=self.begins(batch.x))
        total = symbols_loss(self.head, rows, batch.y, config.label_smoothing if self.training else 0.0)
        return Loss(total, batch.y.numel(), state, penalty=penalty)

    @torch.no_grad()
    def score(self, text: str, context: str | None = None) -> Score:
        """Return how likely a text is, given what stands before it: by default the end of a document, or of a line.

        The symbols of `context` are read, not scored. Of two sentences the one with fewer nats is more plausible.
        """
        context = (self.vocabulary.separator or "\n") if context is None else context
        before = self.vocabulary.encode(context, "the context")
        scored = self.vocabulary.encode(text, "the text to score")
        if not len(before):
            raise OptionError("context is empty; expected at least one symbol that stands before the text")
        if not len(scored):
            raise DataError("the text to score is empty")
        numbers = torch.cat([before, scored]).to(self.head.weight.device, torch.int64)
        with evaluating(self):
            rows, _ = self._read(numbers[:-1, None], None)
        count = len(scored)
        return Score(float(symbols_loss(self.head, rows[-count:, 0], numbers[-count:])), count)

    def neighbours(self, symbol: str, count: int = 5) -> list[tuple[str, float]]:
        """Return the symbols whose embeddings point most nearly the same way, with the cosine of the angle."""
        known = self.vocabulary
        number = known.one(symbol)
        every = torch.arange(len(known), device=self.head.weight.device)
        vectors = F.normalize(self.embedding(every).detach(), dim=1)
        cosines = vectors @ vectors[number]
        nearest = [i for i in cosines.argsort(descending=True).tolist() if i not in (number, known.unknown)]
        return [(known.symbols[i], float(cosines[i])) for i in nearest[:count]]

    def write(self, folder: Path) -> None:
        """Write the vocabulary into a run folder."""
        self.vocabulary.save(folder / "vocabulary.json")

    @classmethod
    def read(cls, folder: Path, config: LanguageModelConfig) -> LanguageModel:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        return cls.from_config(load_vocabulary(folder / "vocabulary.json"), config)

    @classmethod
    def from_config(cls, vocabulary: Vocabulary, config: LanguageModelConfig) -> LanguageModel:
        """Return the model that a configuration describes."""
        return cls(vocabulary, **vars(config))
