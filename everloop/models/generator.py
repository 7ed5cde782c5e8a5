"""1 → N: from one thing, a label, a vector or a picture, a sequence: symbols until the stop, or pen strokes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.cell import Cell
from everloop.data import Vocabulary
from everloop.data.datasets.conditions import ConditionsBatch
from everloop.data.datasets.strokes import END, StrokesBatch
from everloop.data.files import parse_json, read_bytes, write_atomically
from everloop.data.pictures import PictureSize
from everloop.errors import DataError, OptionError, unknown
from everloop.layers.linear import Linear
from everloop.models.attention import Attention, Memory
from everloop.models.body import Dropout, LayersConfig, check, configured, layers_of
from everloop.models.loss import Loss, symbols_loss
from everloop.models.mixture import SIZE, Mixture
from everloop.models.model import Model
from everloop.models.modes import evaluating
from everloop.models.outline import Block, Outline, Strand
from everloop.models.picture_encoder import PictureEncoder, PicturesConfig

PENS = 3
Way = Literal["first", "every-step", "attention"]


@dataclass(frozen=True)
class GeneratorConfig(PicturesConfig, LayersConfig):
    """The shape of a generator."""

    cell: str = "lstm"
    """A cell by name, or your own as file.py:Class."""
    hidden: int = 256
    """Units of each layer."""
    layers: int = 1
    """Recurrent layers, one above the other."""
    embedding: int = 64
    """Numbers that stand for a symbol, and for what is given."""
    dropout: float = 0.2
    """Probability of dropping a number before the layers, between them and before the head."""
    given: Way = "every-step"
    """Whether the layers see what is given at the first step only, or at every step. attention: pictures, at every
    step, and each symbol is written with a look at the places of the picture that matter for it."""
    mixtures: int = 20
    """Gaussians that say where the pen goes, for strokes."""

    def __post_init__(self) -> None:
        LayersConfig.__post_init__(self)
        PicturesConfig.__post_init__(self)
        check(self, ("embedding", "mixtures"), at_least=1)
        if self.given not in get_args(Way):
            raise OptionError(unknown("way to give x", self.given, get_args(Way)))


class Generator(Model):
    """Writes a sequence from what it is given; each step reads what the step before wrote.

    Symbols: Vinyals, Toshev, Bengio and Erhan, "Show and tell: a neural image caption generator", CVPR 2015, gives x
    at the first step. Attention to the places of a picture: Xu et al., "Show, attend and tell: neural image caption
    generation with visual attention", ICML 2015; here it reads what the recurrent layers put out, so that training runs
    them over the whole text at once. Strokes: Graves, "Generating sequences with recurrent neural networks", 2013.

    Args:
        labels: the labels that can be given, or the size of the vectors or pictures that are.
        vocabulary: the symbols it writes; None: it draws strokes.
        cell: a cell class, its name, or "file.py:Class".
        settings: those of GeneratorConfig, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """

    kind: ClassVar[str] = "generator"
    never: tuple[int, ...] = ()

    def __init__(
        self,
        labels: Sequence[str] | int | PictureSize,
        vocabulary: Vocabulary | None = None,
        cell: type[Cell] | str = "lstm",
        **settings: Any,
    ) -> None:
        super().__init__()
        self.config = config = configured(GeneratorConfig, cell, settings)
        self.labels = () if isinstance(labels, int | PictureSize) else tuple(labels)
        self.given_size = labels if isinstance(labels, int | PictureSize) else None
        self.vocabulary = vocabulary
        size = config.embedding
        self.condition: nn.Module
        match labels:
            case int():
                self.condition = Linear(labels, size)
            case PictureSize():
                self.condition = PictureEncoder(labels, config.channels, size, config.residual)
            case _:
                self.condition = nn.Embedding(len(self.labels), size)
        if vocabulary is None:
            self.embedding: nn.Embedding | None = None
            read, written = 2 + PENS, SIZE * config.mixtures + PENS
        else:
            self.embedding = nn.Embedding(len(vocabulary) + 1, size)
            read, written = size, len(vocabulary) + 1
        self.recurrent = layers_of(config, read + size, cell)
        self.dropout = Dropout(config.dropout)
        units = self.recurrent.output_size
        self.look: Look | None = None
        if config.given == "attention":
            if not isinstance(self.condition, PictureEncoder) or vocabulary is None:
                raise OptionError("given 'attention' is for texts of pictures; expected 'first' or 'every-step' here")
            self.look = Look(units, self.condition.places, self.condition.features)
        self.head = Linear(units, written)

    def outline(self) -> Outline:
        size, many = self.config.embedding, self.head.out_features
        if isinstance(self.condition, PictureEncoder):
            given, name = self.condition.block(), "picture"
        else:
            given, name = Block("condition", len(self.labels), size), "label"
        if isinstance(self.condition, nn.Linear):
            given, name = Block("condition", self.condition.in_features, size), "vector"
        before = () if self.embedding is None else (Block("embedding", many, size),)
        strand = Strand(
            self.recurrent,
            self.target,
            self.target,
            before,
            (*((self.look.readout_block(),) if self.look else ()), Block("head", self.recurrent.output_size, many)),
            given=given,
            given_name=name,
            given_at="first" if self.config.given == "first" else "every-step",
            feeds_back=True,
        )
        return Outline(self.kind, "1 → N", (strand,), attention=self.look.block() if self.look else None)

    @property
    def target(self) -> str:
        return "step" if self.vocabulary is None else "character"

    @property
    def symbols(self) -> bool:
        return self.vocabulary is not None

    @property
    def stop(self) -> int | None:
        """The number of the stop symbol; None for strokes."""
        return None if self.vocabulary is None else len(self.vocabulary)

    def forward(self, given: Tensor, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return (what the head says [T, B, …], state). given: labels [B], vectors [B, n] or pictures.

        Pictures are [B, height, width, channels] of 0 to 255. inputs: symbols [T, B], or steps of a pen [T, B, 3]; the
        first is the stop symbol, or a pen step of zeros that END marks. A state means that the sequence has begun
        before.
        """
        return self._written(self._known(given), inputs, state)

    def _known(self, given: Tensor) -> tuple[Tensor, Memory | None]:
        """Return what is given, as vectors [B, E], and the places of pictures that are looked at, if they are."""
        if self.look is None:
            return self.condition(given), None
        assert isinstance(self.condition, PictureEncoder), "checked when the model was made"
        maps = self.condition.maps(given)
        return self.condition.vectors(maps), self.look.remember(maps)

    def _written(self, known: tuple[Tensor, Memory | None], inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self._read(known[0], inputs, state)
        return self.head(self._features(y, known[1])), state

    def _features(self, y: Tensor, memory: Memory | None) -> Tensor:
        """Return what the head reads, [T, B, H], of outputs of the layers [T, B, H]."""
        y = self.dropout(y)
        return y if self.look is None else self.dropout(self.look(y, memory)[0])

    @torch.no_grad()
    def weights(self, picture: Tensor, text: str) -> Tensor:
        """Return where a picture is looked at to write a text: [T + 1, height, width], for each character and the stop.

        The sum of each is 1; a place is a cell of the grid of the last convolution.

        Raises:
            OptionError: the model has no attention.
            DataError: the picture has another size, or the text a character that the model does not write.
        """
        if self.look is None or self.vocabulary is None:
            raise OptionError(f"given is {self.config.given!r}; only a generator with given 'attention' has weights")
        assert isinstance(self.condition, PictureEncoder), "checked when the model was made"
        pictures, numbers = self.read_in([picture]), self.vocabulary.encode(text).tolist()
        with evaluating(self):
            known, memory = self._known(pictures)
            y, _ = self._read(known, torch.tensor([len(self.vocabulary), *numbers], device=known.device)[:, None], None)
            weights: Tensor = self.look(y, memory)[1][:, 0]
        return weights.view(len(weights), *self.condition.grid)

    def _read(self, known: Tensor, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return (outputs of the layers [T, B, H], state). known: what is given, as vectors [B, E]."""
        if self.embedding is None:
            pens = F.one_hot(inputs[..., 2].long(), PENS).to(inputs.dtype)
            x = torch.cat([inputs[..., :2], pens], -1)
        else:
            x = self.dropout(self.embedding(inputs))
        known = known.expand(len(x), -1, -1)
        if self.config.given == "first":
            shown = torch.zeros_like(known)
            if state is None:
                shown[0] = known[0]
            known = shown
        return self.recurrent(torch.cat([x, known], -1), state)  # type: ignore[no-any-return]

    def loss(self, batch: Any, state: Any = None) -> Loss:
        """Return the negative log-likelihood of a batch: ConditionsBatch for symbols, StrokesBatch for strokes."""
        return self._drawing_loss(batch) if isinstance(batch, StrokesBatch) else self._text_loss(batch)

    def _text_loss(self, batch: ConditionsBatch) -> Loss:
        known, memory = self._known(batch.given)
        y, _ = self._read(known, batch.inputs, None)
        mask = batch.mask
        rows, targets = self._features(y, memory)[mask], batch.targets[mask]
        return Loss(symbols_loss(self.head, rows, targets), len(targets))

    def _drawing_loss(self, batch: StrokesBatch) -> Loss:
        begin = batch.steps.new_tensor([0, 0, END]).expand(1, len(batch.given), 3)
        y, _ = self._read(self.condition(batch.given), torch.cat([begin, batch.steps[:-1]]), None)
        mask = batch.mask
        steps = batch.steps[mask]
        mixture, pens = self.drawn(self.head(self.dropout(y)[mask]))
        going = steps[:, 2] != END
        nats = F.cross_entropy(pens, steps[:, 2].long(), reduction="sum")
        # the last step goes nowhere, so only its pen counts
        density = mixture.log_density(steps[:, :2])[going].sum()
        return Loss(nats - density, len(steps), sums={"pen nats": (float(nats.detach()), len(steps))})

    def symbols_read(self, batch: Any, row: int = 0) -> dict[str, list[str]]:
        if self.vocabulary is None:
            return {}
        symbols = (*self.vocabulary.symbols, "")  # the last number begins a text, and ends it
        return {"recurrent": [symbols[i] for i in batch.inputs[: int(batch.lengths[row]), row].tolist()]}

    def drawn(self, numbers: Tensor) -> tuple[Mixture, Tensor]:
        """Return (where the pen goes, logits [..., 3] of what it does on the way) for what the head says."""
        return Mixture.of(numbers[..., :-PENS]), numbers[..., -PENS:]

    def read_in(self, sources: Sequence[Any]) -> Tensor:
        """Return labels [B], vectors [B, n] or pictures [B, height, width, channels] for what is given.

        Raises:
            DataError: a label is unknown, or a vector or picture has another size.
        """
        device = self.head.weight.device
        if self.given_size is None:
            for source in sources:
                if source not in self.labels:
                    raise DataError(unknown("label", str(source), self.labels))
            return torch.tensor([self.labels.index(source) for source in sources], device=device)
        if isinstance(self.given_size, PictureSize):
            for source in sources:
                if not isinstance(source, Tensor) or source.dim() != 3 or PictureSize.of(source) != self.given_size:
                    came = f"a tensor {list(source.shape)}" if isinstance(source, Tensor) else repr(source)
                    raise DataError(f"this generator reads pictures of {self.given_size}; got {came}")
            return torch.stack([*sources]).to(device)
        if any(isinstance(source, str) for source in sources):
            raise DataError(f"this generator reads vectors of {self.given_size} numbers; got a text")
        vectors = torch.stack([torch.as_tensor(source, dtype=self.head.weight.dtype) for source in sources])
        if vectors.dim() != 2 or vectors.shape[1] != self.given_size:
            raise DataError(f"got vectors of shape {list(vectors.shape[1:])}; expected [{self.given_size}]")
        return vectors.to(device)

    def begin(self, sources: Sequence[Any]) -> tuple[Tensor, Any]:
        """Return (logits [B, V + 1] of the first symbol, state) for what is given."""
        if self.stop is None:
            raise OptionError("this generator draws strokes; see everloop.decode.sketch")
        known = self._known(self.read_in(sources))
        numbers, state = self._written(known, torch.full((1, len(sources)), self.stop, device=known[0].device), None)
        return numbers[0], (known, state)

    def step(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return (logits [B, V + 1] of the next symbol, state) after one symbol [B] more."""
        numbers, after = self._written(state[0], symbols[None], state[1])
        return numbers[0], (state[0], after)

    def text(self, symbols: Sequence[int]) -> str:
        """Return what these numbers say."""
        assert self.vocabulary is not None, "strokes say nothing"
        return self.vocabulary.decode(n for n in symbols if n != self.stop)

    def write(self, folder: Path) -> None:
        """Write what can be given, and the vocabulary, into a run folder."""
        given: Any = list(self.labels) if self.given_size is None else self.given_size
        if isinstance(given, PictureSize):
            given = vars(given)
        write_atomically(folder / "given.json", (json.dumps(given, ensure_ascii=False) + "\n").encode())
        if self.vocabulary is not None:
            self.vocabulary.save(folder / "vocabulary.json")

    @classmethod
    def read(cls, folder: Path, config: GeneratorConfig) -> Generator:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        vocabulary = folder / "vocabulary.json"
        return cls.from_config(read_given(folder), Vocabulary.load(vocabulary) if vocabulary.exists() else None, config)

    @classmethod
    def from_config(
        cls, labels: Sequence[str] | int | PictureSize, vocabulary: Vocabulary | None, config: GeneratorConfig
    ) -> Generator:
        """Return the model that a configuration describes."""
        return cls(labels, vocabulary, **vars(config))


class Look(nn.Module):
    """Attention to the places of a picture, each with what the convolutions see there and a learned vector of its own.

    Args:
        units: H, of the recurrent layers.
        places: S, of a picture.
        features: C, what is seen at each.
    """

    def __init__(self, units: int, places: int, features: int) -> None:
        super().__init__()
        self.where = nn.Parameter(torch.randn(places, 1, features))
        self.attention = Attention(units, features)
        self.readout = Linear(units + features, units)

    def remember(self, maps: Tensor) -> Memory:
        """Return the places of pictures, from maps [B, C, S]."""
        seen = maps.permute(2, 0, 1) + self.where
        return self.attention.remember(seen, torch.full((len(maps),), len(seen), device=maps.device))

    def forward(self, y: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor]:
        """Return ([T, B, H] of outputs of the layers [T, B, H] and of the places they look at, weights [T, B, S])."""
        assert memory is not None, "who looks has something to look at"
        means, weights = self.attention(y, memory)
        return torch.tanh(self.readout(torch.cat([y, means], -1))), weights

    def block(self) -> Block:
        """Return what figures say of the attention."""
        return Block("attention", self.units, self.readout.in_features - self.units)

    def readout_block(self) -> Block:
        """Return what figures say of what follows it."""
        return Block("readout", self.readout.in_features, self.units)

    @property
    def units(self) -> int:
        """H, of the recurrent layers."""
        return self.readout.out_features


def read_given(folder: Path) -> list[str] | int | PictureSize:
    """Return the labels that the generator of a run folder is given, or the size of the vectors or pictures.

    Raises:
        DataError: missing or damaged.
    """
    path = folder / "given.json"
    try:
        given = parse_json(read_bytes(path, "list of labels"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if type(given) is int or (isinstance(given, list) and all(isinstance(label, str) for label in given)):
        return given
    if isinstance(given, dict):
        return PictureSize.read(given, path)
    raise DataError(f"{path} holds neither labels nor the size of vectors or pictures")
