"""Drawing a continuation symbol by symbol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from everloop.data import Vocabulary
from everloop.decode.writer import evaluating
from everloop.errors import DataError, OptionError, RunError


class Speaker(Protocol):
    """A model that says what comes next: logits [B, V] after a prompt [T, B], and after one symbol [B] more."""

    vocabulary: Vocabulary

    def begin(self, prompt: Tensor, state: Any = None) -> tuple[Tensor, Any]: ...

    def step(self, symbols: Tensor, state: Any = None) -> tuple[Tensor, Any]: ...


def sample(
    model: Speaker,
    prompt: str = "\n",
    *,
    length: int = 300,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> str:
    """Return a continuation of `prompt` (without the prompt), `length` symbols long. Arguments as of `stream`."""
    pieces = stream(model, prompt, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return "".join(pieces)


def stream(
    model: Speaker,
    prompt: str = "\n",
    *,
    length: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Return an iterator over a continuation of `prompt`, symbol by symbol, as the model draws it.

    A model of words never draws the unknown one; a word comes with the space before it, if it needs one.

    Args:
        model: a language model.
        prompt: what the model reads first.
        length: how many symbols to draw; None never ends.
        temperature: divides the logits; below 1 bolder, above 1 more varied, 0 always the most likely symbol.
        top_k: draw from the k most likely symbols alone (Fan, Lewis and Dauphin, ACL 2018).
        top_p: draw from the fewest symbols that together have at least this probability (Holtzman et al., "The
            curious case of neural text degeneration", ICLR 2020).
        seed: the same seed gives the same text; None draws anew each time.

    Raises:
        DataError: the prompt is empty or has a character that the model does not know.
        OptionError: an argument is out of range.
    """
    check_choice(temperature, top_k, top_p)
    if length is not None and length < 0:
        raise OptionError(f"length is {length}; expected 0 or more")
    numbers = model.vocabulary.encode(prompt, "the prompt").to(torch.int64)
    if not len(numbers):
        raise DataError("the prompt is empty; give at least one symbol, for instance a newline")
    drawn = _draw(model, numbers, length, random_generator(seed), temperature=temperature, top_k=top_k, top_p=top_p)
    return model.vocabulary.stream(drawn, prompt)


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Return what symbols are drawn with: logits [..., V] at a temperature, cut to the top k, then to the top p.

    Raises:
        OptionError: the choice is none.
        RunError: logits are infinite or no numbers.
    """
    check_choice(temperature, top_k, top_p)
    top = logits.amax(-1, keepdim=True)
    if not bool((top < torch.inf).all()):
        raise RunError("what the model says of the next symbol is infinite or no number: its weights are too large")
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = (logits - top) / temperature  # below zero, so that none overflows
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ordered = logits.gather(-1, order)
    if top_k is not None:
        ordered[..., top_k:] = -torch.inf
    kept = ordered.softmax(-1)
    if top_p is not None:
        # a symbol stays if those before it do not reach top_p yet; so the most likely one always stays
        kept = kept.where(kept.cumsum(-1) - kept < top_p, 0)
        kept = kept / kept.sum(-1, keepdim=True)
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def random_generator(seed: int | None) -> torch.Generator:
    """Return random numbers from a seed; None: others each time.

    Raises:
        OptionError: it is out of range.
    """
    if seed is not None and not 0 <= seed < 2**63:
        raise OptionError(f"seed is {seed}; expected an integer from 0 to {2**63 - 1}")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def check_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Check the arguments of `probabilities`.

    Raises:
        OptionError: one is out of range.
    """
    if not 0 <= temperature < float("inf"):
        raise OptionError(f"temperature is {temperature}; expected 0 or more")
    if top_k is not None and top_k < 1:
        raise OptionError(f"top_k is {top_k}; expected at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise OptionError(f"top_p is {top_p}; expected a probability above 0, at most 1")


def _draw(
    model: Speaker, numbers: Tensor, length: int | None, generator: torch.Generator, **choice: Any
) -> Iterator[int]:
    """Yield symbol numbers. The model is in evaluation mode while it computes, and afterwards as it was."""
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    symbols, state, drawn = numbers[:, None].to(device), None, 0
    while length is None or drawn < length:
        with evaluating(model):
            logits, state = model.step(symbols, state) if drawn else model.begin(symbols, state)
        # drawn on the CPU in float64, so that a seed gives the same text on every device
        scores = logits[0].cpu().double()
        if model.vocabulary.unknown is not None:
            scores[model.vocabulary.unknown] = -torch.inf
        number = int(torch.multinomial(probabilities(scores, **choice), 1, generator=generator))
        symbols, drawn = torch.tensor([number], device=device), drawn + 1
        yield number
