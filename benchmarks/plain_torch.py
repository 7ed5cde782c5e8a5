"""A recipe once more in plain `torch.nn`: the same data and settings, model and loop as one writes them without us.

    python -m benchmarks.plain_torch classifier --config recipes/sst2.toml --train train.tsv --valid dev.tsv --threads 1

The options are those of `everloop train`; batches and the learning rate of each step too are Everloop's. `nn.LSTM` and
`nn.GRU` read packed sequences, and have no dropout of their recurrence: where a recipe has it, theirs does without.
Printed are the figures of test, or where there is none of validation, and the processor's seconds in training, which
other programs on the machine lengthen little. `--out` keeps our run, as `everloop train` does.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.timing import machine
from everloop.cli.options import find_kind, select_device
from everloop.cli.train import read_options
from everloop.data.batching.batch import sequence_mask
from everloop.data.datasets.strokes import END
from everloop.data.tokenize.symbols import PAD, UNKNOWN
from everloop.errors import OptionError
from everloop.models import Classifier, EncoderDecoder, Forecaster, Generator, LanguageModel, Tagger, Transcriber
from everloop.models.mixture import Mixture
from everloop.models.transcriber import distance
from everloop.train import TrainConfig, evaluate, train
from everloop.train.evaluate import pass_sizes
from everloop.train.optimiser import LearningRateSchedule

Answer = tuple[Tensor, int, dict[str, float]]  # the mean loss, over how many targets, and figures as sums over them
LAYERS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Layers(nn.Module):
    """`torch.nn`'s layers over padded sequences [T, B, n] of some lengths."""

    def __init__(self, size: int, config: Any, *, hidden: int | None = None, layers: int | None = None, **how: Any):
        super().__init__()
        if config.cell not in LAYERS:
            raise OptionError(f"cell is {config.cell!r}; torch.nn has of those compared here: {', '.join(LAYERS)}")
        hidden, layers = hidden or config.hidden, layers or config.layers
        dropout = config.dropout if layers > 1 else 0.0
        self.layers = LAYERS[config.cell](size, hidden, layers, dropout=dropout, **how)
        self.size = hidden * (2 if self.layers.bidirectional else 1)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (outputs [T, B, n], the last state of the last layer [B, n])."""
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        y, state = self.layers(packed)
        h = state[0] if isinstance(state, tuple) else state
        last = torch.cat([h[-2], h[-1]], -1) if self.layers.bidirectional else h[-1]
        return pad_packed_sequence(y, total_length=len(x))[0], last


class PlainClassifier(nn.Module):
    """Embedding or scaled numbers, layers, pooling, a head."""

    def __init__(self, ours: Classifier):
        super().__init__()
        self.config = config = ours.config
        self.register_buffer("mean", ours.mean)
        self.register_buffer("scale", ours.scale)
        size, words = ours.features, ours.tokenizer
        if words is not None:
            size = config.embedding
            self.embedding = nn.Embedding(len(words.symbols), size, padding_idx=PAD)
            nn.init.normal_(self.embedding.weight, std=0.3)
        self.is_text = words is not None
        self.recurrent = Layers(size, config, bidirectional=config.bidirectional)
        self.inputs = nn.Dropout(config.dropped_inputs(embedded=self.is_text))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.recurrent.size, len(ours.labels))

    def loss(self, batch: Any) -> Answer:
        """Return the mean loss, how many targets there are, and how many are right."""
        config, x = self.config, batch.x
        x = self.embedding(words_dropped(self, x)) if self.is_text else (x - self.mean) * self.scale
        y, last = self.recurrent(self.inputs(x), batch.lengths)
        mask = sequence_mask(batch.lengths, len(y))[..., None]
        match config.pooling:
            case "max":
                pooled = y.masked_fill(~mask, -torch.inf).amax(0)
            case "mean":
                pooled = y.sum(0) / batch.lengths[:, None]
            case "last":
                pooled = last
            case _:
                raise OptionError(f"pooling is {config.pooling!r}; compared are max, mean and last")
        scores = self.head(self.dropout(pooled))
        smoothing = config.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(scores, batch.y, label_smoothing=smoothing)
        return loss, len(batch.y), {"accuracy": float((scores.argmax(-1) == batch.y).sum())}


class PlainTagger(nn.Module):
    """Words and what their characters say, or vectors; layers; a head."""

    def __init__(self, ours: Tagger):
        super().__init__()
        self.config = config = ours.config
        if not isinstance(ours.features, int) or config.output == "crf":
            raise OptionError("compared are taggers of words and vectors, without a CRF")
        size, words = ours.features, ours.tokenizer
        if words is not None:
            size = config.embedding + 2 * config.char_hidden
            self.embedding = nn.Embedding(len(words.words), config.embedding, padding_idx=PAD)
            self.character = nn.Embedding(len(words.characters), config.char_embedding, padding_idx=PAD)
            self.speller = Layers(
                config.char_embedding, config, hidden=config.char_hidden, layers=1, bidirectional=True
            )
        self.recurrent = Layers(size, config, bidirectional=config.bidirectional)
        self.inputs = nn.Dropout(config.dropped_inputs(embedded=words is not None))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.recurrent.size, len(ours.labels))

    def loss(self, batch: Any) -> Answer:
        """Return the mean loss, how many targets there are, and how many are right."""
        config, x, mask = self.config, batch.x, batch.mask
        if not isinstance(x, Tensor):
            _, spelled = self.speller(self.dropout(self.character(x.spelled)), x.spelled_lengths)
            x = torch.cat([self.embedding(words_dropped(self, x.numbers)), spelled[x.which]], -1)
        y, _ = self.recurrent(self.inputs(x.float()), batch.lengths)
        scores, right = self.head(self.dropout(y))[mask], batch.y[mask]
        if config.output == "several":
            return F.binary_cross_entropy_with_logits(scores, right, reduction="sum") / len(right), len(right), {}
        loss = F.cross_entropy(scores, right, label_smoothing=config.label_smoothing if self.training else 0.0)
        return loss, len(right), {"accuracy": float((scores.argmax(-1) == right).sum())}


class PlainLanguageModel(nn.Module):
    """Embedding, layers whose state goes on from window to window, a head."""

    def __init__(self, ours: LanguageModel):
        super().__init__()
        config, size = ours.config, ours.embedding.embedding_dim
        if config.cell not in LAYERS or config.tied or config.locked or ours.vocabulary.document_end is not None:
            raise OptionError("compared are language models of one text, without tied weights or locked dropout")
        self.embedding = nn.Embedding(len(ours.vocabulary), size)
        between = config.dropout if config.layers > 1 else 0.0
        self.layers = LAYERS[config.cell](size, config.hidden, config.layers, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, len(ours.vocabulary))
        self.state: Any = None

    def loss(self, batch: Any) -> Answer:
        """Return the mean loss, and how many targets there are."""
        y, state = self.layers(self.dropout(self.embedding(batch.x)), None if batch.first else self.state)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        scores = self.head(self.dropout(y)).flatten(0, 1)
        return F.cross_entropy(scores, batch.y.flatten()), len(scores), {}


class PlainForecaster(nn.Module):
    """Each series less the mean of its window, in patches; layers; all steps to come from the last state."""

    def __init__(self, ours: Forecaster):
        super().__init__()
        self.config = config = ours.config
        if any(ours.extras) or ours.static or ours.decay or config.together or config.bidirectional:
            raise OptionError("compared are forecasters of whole series, each by itself, without anything beside them")
        if (config.output, config.around, config.scaling) != ("point", "mean", "train"):
            raise OptionError("compared are forecasts of points around the mean of the window")
        self.register_buffer("mean", ours.mean)
        self.register_buffer("scale", ours.scale)
        self.patches = nn.Linear(config.patch, config.hidden)
        self.recurrent = LAYERS[config.cell](config.hidden, config.hidden, config.layers)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, config.horizon)

    def loss(self, batch: Any) -> Answer:
        """Return the mean squared error of scaled numbers, and how many there are."""
        past, future = ((x - self.mean) / self.scale for x in (batch.past, batch.future))
        level = past.mean(0, keepdim=True)
        rows = (past - level).flatten(1).unflatten(0, (-1, self.config.patch)).transpose(1, 2)
        y, _ = self.recurrent(self.dropout(F.relu(self.patches(rows))))
        error = self.head(self.dropout(y[-1])).T.view_as(future) + level - future
        return error.square().mean(), error.numel(), {}


class PlainTranslator(nn.Module):
    """Encoder, a first state of the decoder from its last one, decoder, multiplicative attention, a tied head."""

    def __init__(self, ours: EncoderDecoder):
        super().__init__()
        self.config = config = ours.config
        read, written, size, hidden = len(ours.source), len(ours.written), config.embedding, config.hidden
        if (config.context, config.scoring, config.cell, config.layers) != ("attention", "multiplicative", "gru", 1):
            raise OptionError("compared are translators of one GRU layer with multiplicative attention")
        if not (config.tied and config.bidirectional) or config.input_feeding or config.teacher_forcing < 1:
            raise OptionError("compared are bidirectional, tied translators that read the truth")
        self.read_embedding = nn.Embedding(read, size, padding_idx=PAD)
        self.embedding = nn.Embedding(written, size, padding_idx=PAD)
        self.encoder = Layers(size, config, hidden=hidden // 2, bidirectional=True)
        self.decoder = nn.GRU(size, hidden)
        self.bridge, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.readout, self.head = nn.Linear(2 * hidden, size), nn.Linear(size, written)
        for embedding in (self.read_embedding, self.embedding):
            nn.init.normal_(embedding.weight, std=size**-0.5)
        self.head.weight = self.embedding.weight
        self.dropout = nn.Dropout(config.dropout)

    def loss(self, batch: Any) -> Answer:
        """Return the mean loss, how many targets there are, and in evaluation how many are right."""
        memory, last = self.encoder(self.dropout(self.read_embedding(batch.source)), batch.source_lengths)
        x = self.dropout(self.embedding(batch.inputs))
        y = self.decoder(x, torch.tanh(self.bridge(last))[None])[0].transpose(0, 1)
        memory = memory.transpose(0, 1)
        scores = (y @ self.key(memory).transpose(1, 2)).masked_fill((batch.source == PAD).T[:, None], -torch.inf)
        rows = self.dropout(torch.cat([y, scores.softmax(-1) @ memory], -1).transpose(0, 1))
        logits = self.head(self.dropout(torch.tanh(self.readout(rows))))[batch.mask]
        targets, smoothing = batch.targets[batch.mask], self.config.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        right = {} if self.training else {"accuracy": float((logits.argmax(-1) == targets).sum())}
        return loss, len(targets), right


class PlainGenerator(nn.Module):
    """A label at each step, or at the first, beside a symbol or a step of a pen; layers; a head."""

    def __init__(self, ours: Generator):
        super().__init__()
        self.config = config = ours.config
        if not ours.labels or config.given == "attention" or config.cell not in LAYERS:
            raise OptionError("compared are generators of what labels say, of LSTM or GRU layers")
        size, written = config.embedding, ours.head.out_features
        self.condition = nn.Embedding(len(ours.labels), size)
        self.embedding = nn.Embedding(written, size) if ours.symbols else None
        read = (size if ours.symbols else 5) + size  # a step of a pen: where to, and which of three things it does
        between = config.dropout if config.layers > 1 else 0.0
        self.recurrent = LAYERS[config.cell](read, config.hidden, config.layers, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, written)

    def loss(self, batch: Any) -> Answer:
        """Return the mean loss, and how many targets there are."""
        if self.embedding is None:
            begin = batch.steps.new_tensor([0, 0, END]).expand(1, len(batch.given), 3)
            read = torch.cat([begin, batch.steps[:-1]])
            x = torch.cat([read[..., :2], F.one_hot(read[..., 2].long(), 3)], -1)
        else:
            x = self.dropout(self.embedding(batch.inputs))
        known = self.condition(batch.given).expand(len(x), -1, -1)
        if self.config.given == "first":
            known = torch.cat([known[:1], torch.zeros_like(known[1:])])
        y, _ = self.recurrent(torch.cat([x, known], -1))
        answers = self.head(self.dropout(y)[batch.mask])
        if self.embedding is not None:
            return F.cross_entropy(answers, batch.targets[batch.mask]), len(answers), {}
        steps = batch.steps[batch.mask]
        density = Mixture.of(answers[:, :-3]).log_density(steps[:, :2])
        pens = F.cross_entropy(answers[:, -3:], steps[:, 2].long(), reduction="sum")
        return (pens - density[steps[:, 2] != END].sum()) / len(steps), len(steps), {}


class PlainTranscriber(nn.Module):
    """Some frames at a time, layers, a head, connectionist temporal classification."""

    def __init__(self, ours: Transcriber):
        super().__init__()
        self.config = config = ours.config
        self.recurrent = Layers(config.features * config.stacked, config, bidirectional=config.bidirectional)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.recurrent.size, ours.blank + 1)

    def loss(self, batch: Any) -> Answer:
        """Return the mean loss, how many characters there are, and in evaluation how many are right."""
        n, frames = self.config.stacked, batch.frames
        steps = (batch.lengths + n - 1) // n
        whole = F.pad(frames, (0, 0, 0, 0, 0, -len(frames) % n))
        x = whole.view(-1, n, *whole.shape[1:]).transpose(1, 2).flatten(2)
        y, _ = self.recurrent(self.dropout(x), steps)
        log_probs = self.head(self.dropout(y)).log_softmax(-1)
        blank, lengths = log_probs.shape[-1] - 1, batch.label_lengths
        total = F.ctc_loss(log_probs, batch.labels, steps, lengths, blank=blank, reduction="sum")
        count, wrong = int(lengths.sum()), 0
        for b in () if self.training else range(len(steps)):
            path = log_probs[: steps[b], b].argmax(-1).unique_consecutive()
            wrong += distance(batch.labels[b, : lengths[b]].tolist(), path[path != blank].tolist())
        return total / count, count, {} if self.training else {"accuracy": float(count - wrong)}


def words_dropped(model: Any, numbers: Tensor) -> Tensor:
    """Return words of which training takes a fraction for unknown ones."""
    if not (model.training and model.config.word_dropout):
        return numbers
    return numbers.masked_fill((torch.rand(numbers.shape) < model.config.word_dropout) & (numbers != PAD), UNKNOWN)


MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "classifier": PlainClassifier,
    "tagger": PlainTagger,
    "language-model": PlainLanguageModel,
    "forecaster": PlainForecaster,
    "translator": PlainTranslator,
    "generator": PlainGenerator,
    "transcriber": PlainTranscriber,
}


def batches_of(data: Any, sizes: dict[str, int], seed: int) -> Iterator[Any]:
    """Yield the batches of one pass over the training split after another."""
    number = 0
    while True:
        yield from data.epoch("train", number, seed=seed, **sizes)
        number += 1


@torch.no_grad()
def figures_of(model: Any, data: Any, split: str, sizes: dict[str, int]) -> dict[str, float]:
    """Return the loss on a split, and its figures."""
    model.eval()
    sums: dict[str, float] = {}
    targets = 0
    for batch in data.epoch(split, 0, seed=0, **sizes):
        loss, count, figures = model.loss(batch)
        targets += count
        for name, value in {"loss": float(loss) * count, **figures}.items():
            sums[name] = sums.get(name, 0.0) + value
    model.train()
    return {name: value / targets for name, value in sums.items()}


def plain_train(model: Any, data: Any, config: TrainConfig, sizes: dict[str, int]) -> None:
    """Train with AdamW, a warm-up, a cosine, clipped gradients and an average; keep the weights that validate best."""
    vectors = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in vectors]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in vectors]
    groups = [{"params": matrices, "weight_decay": config.decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    schedule = LearningRateSchedule(config)
    average, best, best_weights = copy.deepcopy(model), -float("inf"), None
    model.train()
    for step, batch in zip(range(config.steps), batches_of(data, sizes, config.seed), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = schedule(step)
        optimiser.zero_grad()
        model.loss(batch)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        ratio = min(config.ema_decay, (step + 1) / (step + 10)) if config.ema_decay else 0.0
        with torch.no_grad():
            for kept, now in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(now, 1 - ratio)
        if "valid" in data.splits and ((step + 1) % config.validate == 0 or step + 1 == config.steps):
            found = figures_of(average, data, "valid", sizes)
            merit = -found["loss"] if config.best_metric == "loss" else found[config.best_metric]
            if merit > best:
                best, best_weights = merit, copy.deepcopy(average.state_dict())
    model.load_state_dict(best_weights or average.state_dict())


def main(args: Sequence[str]) -> None:
    """Train a recipe in both ways, with the same seed, and print figures and processor seconds."""
    kind = find_kind(args[0])
    options, _ = read_options(kind, args[1:])
    select_device(options.threads, "cpu")
    config: TrainConfig = options.train
    print(machine())
    data = kind.dataset(options.data, options.model, None)
    torch.manual_seed(config.seed)
    ours = kind.create_model(data, options.model)
    torch.manual_seed(config.seed)
    plain = MODELS[kind.name](ours)
    sizes = pass_sizes(ours, config.batch, config.length)
    split = next(name for name in ("test", "valid") if name in data.splits)
    start = time.process_time()
    plain_train(plain, data, config, sizes)
    tell("torch.nn", plain, time.process_time() - start, split, figures_of(plain, data, split, sizes))
    start = time.process_time()
    train(ours, data, config, out=options.out)
    seconds = time.process_time() - start
    score = evaluate(ours, data, split, batch=config.batch, length=config.length)
    tell("Everloop", ours, seconds, split, {"loss": score.loss, **score.means})


def tell(name: str, model: nn.Module, seconds: float, split: str, figures: dict[str, float]) -> None:
    """Print one line."""
    said = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: {split} {said}; {parameters:,} parameters, {seconds:.1f} s of the processor", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
