"""Examples of what a model does with data that was held out: what is given, what is wanted, what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everloop.draw import pictures


@dataclass(frozen=True)
class Example:
    """One example in words.

    given: what the model reads; shown: the same as SVG, where it is a picture; wanted: what stands in the data; answer:
    what the model says; note: how sure it is, for instance; picture: the answer as SVG, where it is a drawing; source:
    what `everloop.decode.tree` continues, if the model writes symbols.
    """

    given: str
    wanted: str = ""
    answer: str = ""
    note: str = ""
    picture: str = ""
    source: Any = None
    shown: str = ""


def spread(count: int, total: int) -> list[int]:
    """Return at most `count` numbers below `total`, evenly spread from 0 on."""
    return list(dict.fromkeys(k * total // count for k in range(count))) if total else []


def in_words(x: Any, symbols: Sequence[str], units: str = "words") -> str:
    """Return a sequence in words: the symbols of numbers [T], or how large a series [T, F] is."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return f"{len(x)} steps of {x[0].numel() if len(x) else 0} numbers"
    return ("" if units == "characters" else " ").join(symbols[int(i)] for i in x)


def label_examples(model: Any, data: Any, split: str, count: int) -> Iterator[Example]:
    """Yield examples of a classifier or tagger."""
    names, device = model.labels.symbols, next(model.parameters()).device
    for index in spread(count, len(data[split])):
        item = data[split][index]
        batch = data.collate([item]).to(device)
        wanted, guessed = ([*t.cpu()] for t in model.predictions(batch))
        read = model.symbols_read(batch).get("recurrent")
        units = getattr(model.tokenizer, "units", "words")
        film = isinstance(item[0], Tensor) and item[0].dim() == 4
        if film:
            given = f"{len(item[0])} frames"
        else:
            given = in_words(item[0], ()) if read is None else ("" if units == "characters" else " ").join(read)
        right = sum(bool((a == b).all()) for a, b in zip(wanted, guessed, strict=True))
        said, true = (" ".join(_label(one, names) for one in part) for part in (guessed, wanted))
        shown = pictures.svg([*item[0]]) if film else ""
        note = "right" if right == len(wanted) else f"{right} of {len(wanted)} right"
        yield Example(given, true, said, note, shown=shown)


def _label(found: Tensor, names: Sequence[str]) -> str:
    if found.dim() == 0:
        return names[int(found)]
    return "+".join(name for name, holds in zip(names, found.tolist(), strict=True) if holds) or "–"
