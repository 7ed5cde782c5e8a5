"""What a model must offer to be decoded, what decoding returns, and the states it carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from everloop.errors import DataError, OptionError
from everloop.models import modes
from everloop.models.attention import Memory
from everloop.models.kind import kind_of
from everloop.models.language_model import LanguageModel


@runtime_checkable
class Writer(Protocol):
    """A model that writes symbol by symbol.

    `begin` gives logits [B, V] of the first symbol for each source, and a state; `step` goes on after symbols [B].
    A state is a nested tuple of rows [B, ...], None, and Memory. `stop` is the symbol that ends a sequence (None: there
    is none), `never` those that are not to be written.
    """

    @property
    def stop(self) -> int | None: ...

    @property
    def never(self) -> Sequence[int]: ...

    def begin(self, sources: Sequence[Any]) -> tuple[Tensor, Any]: ...

    def step(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def text(self, symbols: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Hypothesis:
    """One thing that a model may write.

    Args:
        symbols: the numbers written, without the stop symbol.
        text: what they say.
        logp: the model's log-probability of them, stop symbol included.
        score: what hypotheses are ranked by.
        finished: whether it ends with the stop symbol; False: it was cut at the longest length allowed.
    """

    symbols: tuple[int, ...]
    text: str
    logp: float
    score: float
    finished: bool

    def __str__(self) -> str:
        return self.text


class Adapter:
    """A Writer made of a model that is none itself; the model is in evaluation mode while it writes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def text(self, symbols: Sequence[int]) -> str:
        """Return what these numbers say."""
        raise NotImplementedError

    def continued(self, source: Any, symbols: Sequence[int]) -> str:
        """Return what these numbers say after a source."""
        return self.text(symbols)

    def unknown(self, source: Any) -> list[str]:
        """Return the symbols of a source that the model does not know."""
        return []


class Prompts(Adapter):
    """A language model as a Writer: its sources are prompts, and nothing ends what it writes."""

    model: LanguageModel

    stop: int | None = None

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        unknown = model.vocabulary.unknown
        self.never = () if unknown is None else (unknown,)

    def begin(self, sources: Sequence[str]) -> tuple[Tensor, Any]:
        """Return logits and state after each prompt; those of the same length are read as one batch."""
        device = self.model.head.weight.device
        encoded = []
        for prompt in sources:
            encoded.append(self.model.vocabulary.encode(prompt, "the prompt").to(device, torch.int64))
            if not len(encoded[-1]):
                raise DataError("the prompt is empty; give at least one symbol, for instance a newline")
        by_length: dict[int, list[int]] = {}
        for i, numbers in enumerate(encoded):
            by_length.setdefault(len(numbers), []).append(i)
        order = [i for same in by_length.values() for i in same]
        parts = [self.model.begin(torch.stack([encoded[i] for i in same], 1)) for same in by_length.values()]
        back = torch.tensor(order, device=device).argsort()
        return torch.cat([part[0] for part in parts])[back], pick(join([part[1] for part in parts]), back, moved=True)

    def step(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return (logits, state) after one symbol more of each row."""
        return self.model.step(symbols, state)

    def text(self, symbols: Sequence[int]) -> str:
        """Return what these numbers say."""
        return self.model.vocabulary.decode(symbols)

    def continued(self, prompt: str, symbols: Sequence[int]) -> str:
        """Return what these numbers say after a prompt: a word may begin with a space."""
        return self.model.vocabulary.decode(symbols, prompt)

    def unknown(self, prompt: str) -> list[str]:
        """Return the symbols of a prompt that are read as the unknown one."""
        return self.model.vocabulary.unknown_symbols(prompt)


def text_of(model: Writer, source: Any, symbols: Sequence[int]) -> str:
    """Return what a model writes for a source."""
    return model.continued(source, symbols) if isinstance(model, Adapter) else model.text(symbols)


def writer(model: Any) -> Writer:
    """Return what decodes this model.

    Raises:
        OptionError: this kind of model writes no symbols.
    """
    kind = kind_of(model)
    if kind is not None and kind.writer is not None:
        return kind.writer(model)  # type: ignore[no-any-return]
    if isinstance(model, Writer):
        return model
    name = getattr(model, "kind", type(model).__name__)
    raise OptionError(f"a {name} writes no symbols one after another (everloop predict asks it)")


def unknown_symbols(model: Any, source: Any) -> list[str]:
    """Return the symbols of a source that a model does not know, as far as its kind tells."""
    kind = kind_of(model)
    by = kind.writer(model) if kind is not None and kind.writer is not None else None
    return by.unknown(source) if isinstance(by, Adapter) else []


def pick(state: Any, rows: Tensor, *, moved: bool) -> Any:
    """Return the state with these rows. `moved` says that a row may now belong to another source than before."""
    if isinstance(state, Memory):
        return state.rows(rows) if moved else state
    if isinstance(state, tuple):
        return tuple(pick(part, rows, moved=moved) for part in state)
    return None if state is None else state[rows]


def join(states: Sequence[Any]) -> Any:
    """Return the rows of several states as one state."""
    if isinstance(states[0], tuple):
        return tuple(join(parts) for parts in zip(*states, strict=True))
    return None if states[0] is None else torch.cat(list(states))


def log_probabilities(model: Writer, logits: Tensor) -> Tensor:
    """Return the log-probabilities [..., V] of the next symbol, minus infinity for what is never written."""
    if model.never:
        logits = logits.index_fill(-1, torch.tensor(model.never, device=logits.device), -torch.inf)
    return logits.log_softmax(-1)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A context without gradients in which a model is in evaluation mode; afterwards it is as it was."""
    inner = model.model if isinstance(model, Adapter) else model
    with torch.no_grad(), modes.evaluating(inner) if isinstance(inner, nn.Module) else nullcontext():
        yield
