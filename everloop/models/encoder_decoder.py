"""N → M: one sequence is read, another is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.compiler.embedded import rows_of
from everloop.data.batching.padding import padded_numbers
from everloop.data.datasets.parallel import ParallelBatch
from everloop.data.settings import setting
from everloop.data.tokenize.pieces import BEGIN, END, PAD, SPACE, UNKNOWN, Pieces
from everloop.errors import OptionError, unknown
from everloop.layers.linear import Linear
from everloop.models.attention import Attention, Memory, Scoring
from everloop.models.body import Dropout, LayersConfig, check, configured, embedded, layers_of
from everloop.models.bridge import Bridge
from everloop.models.loss import Loss, symbols_loss, symbols_loss_and_right
from everloop.models.model import Model
from everloop.models.modes import evaluating
from everloop.models.outline import Block, Outline, Strand
from everloop.models.teacher_forcing import mix, teacher_forcing_ratio

Context = Literal["initial", "every-step", "attention"]


@dataclass(frozen=True)
class EncoderDecoderConfig(LayersConfig):
    """The shape of an encoder-decoder."""

    cell: str = "gru"
    """A cell by name, or your own as file.py:Class."""
    hidden: int = 512
    """Units of each layer of the decoder; a direction of a bidirectional encoder has half as many."""
    layers: int = 1
    """Recurrent layers of the encoder, and of the decoder."""
    embedding: int = 256
    """Numbers that stand for a symbol, in both languages."""
    dropout: float = 0.3
    """Probability of dropping a number after the embeddings, between the layers and before the head."""
    context: Context = "attention"
    """What the decoder knows of the source: its initial state, a vector fed at every step, or attention."""
    scoring: Scoring = "multiplicative"
    """How attention scores a step of the source."""
    input_feeding: bool = setting(False, old="feeding")
    """Whether each step reads the attention of the step before it (as Bahdanau); one step at a time, and so slower."""
    bidirectional: bool = True
    """Whether the encoder reads in both directions."""
    tied: bool = True
    """Whether the head shares the weights of the target embedding."""
    label_smoothing: float = setting(0.1, old="smoothing")
    """Label smoothing while training."""
    teacher_forcing: float = setting(1.0, old="forcing")
    """Fraction of true symbols among the decoder's inputs at the end of its schedule (teacher forcing)."""
    teacher_forcing_steps: int = setting(0, old="forcing_steps")
    """Updates over which that fraction falls from 1 to `teacher_forcing`."""

    known_words: bool = True
    """Of subwords: whether only words of the training translations are written, not whatever pieces can spell."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, ("embedding",), at_least=1)
        check(self, ("label_smoothing",), below=1)
        for name, kinds in (("context", Context), ("scoring", Scoring)):
            if getattr(self, name) not in get_args(kinds):
                raise OptionError(unknown(name, str(getattr(self, name)), get_args(kinds)))
        if self.input_feeding and self.context != "attention":
            raise OptionError(f"input_feeding needs context 'attention'; it is {self.context!r}")
        if self.input_feeding and (self.recurrent_dropout or self.variational_dropout or self.weight_drop):
            raise OptionError("input_feeding goes step by step; recurrent, variational and weight dropout hold longer")
        if self.bidirectional and self.hidden % 2:
            raise OptionError(f"hidden is {self.hidden}; a bidirectional encoder expects an even number")
        if not 0 <= self.teacher_forcing <= 1 or self.teacher_forcing_steps < 0:
            raise OptionError(
                f"teacher_forcing is {self.teacher_forcing} over {self.teacher_forcing_steps} steps; "
                "expected a fraction from 0 to 1, and 0 steps or more"
            )


class EncoderDecoder(Model):
    """Reads a sequence and writes another: encoder, bridge, decoder, head, with a context as chosen.

    "initial": Sutskever, Vinyals and Le, "Sequence to sequence learning with neural networks", NeurIPS 2014.
    "every-step": Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
    "attention": see `Attention`; it reads what the recurrent layers put out, so that training runs them over the
    whole target at once, unless `input_feeding` asks for Bahdanau's order.

    Args:
        source, target: the pieces of the two languages.
        settings: those of EncoderDecoderConfig, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """

    kind: ClassVar[str] = "translator"
    stop = END
    never = (PAD, UNKNOWN, BEGIN)

    def __init__(self, source: Pieces, target: Pieces, cell: type[Cell] | str = "gru", **settings: Any) -> None:
        super().__init__()
        config = configured(EncoderDecoderConfig, cell, settings)
        self.config, self.source, self.written = config, source, target
        size = config.embedding
        units = config.hidden // 2 if config.bidirectional else config.hidden
        self.read_embedding = nn.Embedding(len(source), size, padding_idx=PAD)
        self.encoder = layers_of(config, size, cell, hidden=units, bidirectional=config.bidirectional)
        known = self.encoder.output_size
        self.embedding = nn.Embedding(len(target), size, padding_idx=PAD)
        fed = known if config.context == "every-step" or config.input_feeding else 0
        self.decoder = layers_of(config, size + fed, cell)
        self.bridge = Bridge(self.encoder, self.decoder)
        hidden = self.decoder.output_size
        self.attention = Attention(hidden, known, config.scoring) if config.context == "attention" else None
        self.readout = Linear(hidden + (0 if config.context == "initial" else known), size)
        self.dropout = Dropout(config.dropout)
        self.head = Linear(size, len(target))
        for embedding in (self.read_embedding, self.embedding):
            nn.init.normal_(embedding.weight, std=size**-0.5)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.lexicon = target.lexicon() if config.known_words else None
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.updates: Tensor

    def outline(self) -> Outline:
        size, many = self.config.embedding, len(self.written)
        reading = Block("embedding", len(self.source), size)
        encoder = Strand(self.encoder, f"source {self.target}", before=(reading,))
        after = (Block("readout", self.readout.in_features, size), Block("head", size, many))
        before = (Block("embedding", many, size),)
        decoder = Strand(self.decoder, self.target, self.target, before, after, feeds_back=True)
        attention = None
        if self.attention is not None:
            attention = Block("attention", self.decoder.output_size, self.encoder.output_size)
        return Outline(self.kind, "N → M", (encoder, decoder), self.config.context, attention)

    def symbols_read(self, batch: ParallelBatch, row: int = 0) -> dict[str, list[str]]:
        sizes = {"encoder": batch.source_lengths, "decoder": batch.lengths}
        sides = {"encoder": (self.source, batch.source), "decoder": (self.written, batch.inputs)}
        return {
            name: [pieces.symbols[i].lstrip(SPACE) or SPACE for i in numbers[: int(sizes[name][row]), row].tolist()]
            for name, (pieces, numbers) in sides.items()
        }

    @property
    def target(self) -> str:
        return "piece" if self.written.merges else "word"

    @property
    def symbols(self) -> bool:
        return True

    def encode(self, source: Tensor, lengths: Tensor) -> Any:
        """Return the state in which decoding begins: (state of the layers, context [B, D] or None, memory or None).

        source: numbers [S, B], each of `lengths` [B].
        """
        outputs, state = self.encoder(embedded(self.read_embedding, source, self.dropout), lengths=lengths)
        start, summary = self.bridge(state)
        if self.attention is not None:
            return start, None, self.attention.remember(outputs, lengths)
        return start, summary if self.config.context == "every-step" else None, None

    def forward(self, source: Tensor, lengths: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (logits [T, B, V] of what follows each input, attention weights [T, B, S] or None).

        source: numbers [S, B], each of `lengths` [B]; inputs: target numbers [T, B], from the begin symbol on.
        """
        features, weights, _ = self._decode(inputs, self.encode(source, lengths))
        return self.head(features), weights

    def _decode(self, inputs: Tensor, state: Any) -> tuple[Tensor, Tensor | None, Any]:
        """Return (features [T, B, E] for the head, attention weights or None, state) after inputs [T, B]."""
        before, context, memory = state
        x = embedded(self.embedding, inputs, self.dropout)
        weights = None
        if self.config.input_feeding:
            y, means, weights, after = self._fed(rows_of(x), before, memory)
            y = torch.cat([y, means], -1)
        elif context is not None:
            everywhere = context.expand(len(inputs), -1, -1)
            y, after = self.decoder(torch.cat([rows_of(x), everywhere], -1), before)
            y = torch.cat([y, everywhere], -1)
        else:
            y, after = self.decoder(x, before)
            if self.attention is not None:
                means, weights = self.attention(y, memory)
                y = torch.cat([y, means], -1)
        return self.dropout(torch.tanh(self.readout(self.dropout(y)))), weights, (after, context, memory)

    def _fed(self, x: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Return (outputs, contexts, weights, state); each step reads the attention of the state before it."""
        assert self.attention is not None, "checked when the model was made"
        outputs, contexts, weights = [], [], []
        for x_t in x:
            query = (state if self.config.layers == 1 else state[-1])[0]
            context, weight = self.attention(query[None], memory)
            y, state = self.decoder.cell(torch.cat([x_t, context[0]], -1), state)
            outputs.append(y)
            contexts.append(context[0])
            weights.append(weight[0])
        return torch.stack(outputs), torch.stack(contexts), torch.stack(weights), state

    def loss(self, batch: ParallelBatch, state: Any = None) -> Loss:
        """Return the cross entropy of the targets, and outside of training the accuracy."""
        start = self.encode(batch.source, batch.source_lengths)
        inputs = batch.inputs
        if self.training:
            inputs = self._inputs(batch, start)
            self.updates += 1
        features, _, _ = self._decode(inputs, start)
        rows, targets = features[batch.mask], batch.targets[batch.mask]
        count = len(targets)
        if self.training:
            return Loss(symbols_loss(self.head, rows, targets, self.config.label_smoothing), count)
        total, right = symbols_loss_and_right(self.head, rows, targets)
        return Loss(total, count, sums={"accuracy": (float(right), count)})

    def _inputs(self, batch: ParallelBatch, start: Any) -> Tensor:
        ratio = teacher_forcing_ratio(int(self.updates), self.config.teacher_forcing, self.config.teacher_forcing_steps)
        if ratio >= 1:
            return batch.inputs
        with torch.no_grad():
            features, _, _ = self._decode(batch.inputs, start)
            guesses = self.head(features).argmax(-1)
        return mix(batch.inputs, guesses, ratio)

    def read_in(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return (numbers [S, B], lengths [B]) of source sentences."""
        device = self.head.weight.device
        numbers, lengths = padded_numbers([[*self.source.encode(sentence), END] for sentence in sentences])
        return numbers.to(device), lengths.to(device)

    def begin(self, sentences: Sequence[str]) -> tuple[Tensor, Any]:
        """Return (logits [B, V] of the first symbol, state) for source sentences."""
        source, lengths = self.read_in(sentences)
        start = torch.full((len(sentences),), BEGIN, device=source.device)
        state = self.encode(source, lengths)
        if self.lexicon is None:
            return self.step(start, state)
        logits, state = self._next(start, state)
        at = torch.zeros(len(sentences), dtype=torch.int64, device=source.device)
        return self._of_known_words(logits, at), (state, at)

    def step(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return (logits [B, V] of the next symbol, state) after one symbol [B] more."""
        if self.lexicon is None:
            return self._next(symbols, state)
        state, before = state
        logits, state = self._next(symbols, state)
        after = map(self.lexicon.after, before.tolist(), symbols.tolist())
        at = torch.tensor([*after], dtype=torch.int64, device=symbols.device)
        return self._of_known_words(logits, at), (state, at)

    def _next(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        features, _, state = self._decode(symbols[None], state)
        return self.head(features[0]), state

    def _of_known_words(self, logits: Tensor, at: Tensor) -> Tensor:
        """Return logits [B, V] with minus infinity for pieces that make no known word at these places."""
        assert self.lexicon is not None, "only called with one"
        return logits.masked_fill(~self.lexicon.allowed(at.tolist()).to(logits.device), -torch.inf)

    def text(self, symbols: Sequence[int]) -> str:
        """Return what these numbers say."""
        return self.written.decode(symbols)

    @torch.no_grad()
    def weights(self, source: str, target: str) -> Tensor:
        """Return the attention weights [T, S] of one pair: row t is read to write piece t; the last of each is the end.

        Raises:
            OptionError: the model has no attention.
        """
        if self.attention is None:
            raise OptionError(f"context is {self.config.context!r}; only a model with attention has weights")
        numbers, lengths = self.read_in([source])
        inputs = torch.tensor([BEGIN, *self.written.encode(target)], device=numbers.device)[:, None]
        with evaluating(self):
            _, weights = self(numbers, lengths, inputs)
        return weights[:, 0]  # type: ignore[no-any-return]

    def write(self, folder: Path) -> None:
        """Write the pieces of both languages into a run folder."""
        self.source.save(folder / "source.json")
        self.written.save(folder / "target.json")

    @classmethod
    def read(cls, folder: Path, config: EncoderDecoderConfig) -> EncoderDecoder:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        return cls.from_config(Pieces.load(folder / "source.json"), Pieces.load(folder / "target.json"), config)

    @classmethod
    def from_config(cls, source: Pieces, target: Pieces, config: EncoderDecoderConfig) -> EncoderDecoder:
        """Return the model that a configuration describes."""
        return cls(source, target, **vars(config))
