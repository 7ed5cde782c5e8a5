"""Where documents end in texts that are read in chunks: each separator becomes one character."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everloop.data.readers.chunks import Chunk


def marked(chunks: Iterable[Chunk], separator: str, mark: str) -> Iterator[Chunk]:
    """Yield chunks of one text with each separator in it replaced, also one that two of them have parts of."""
    kept: Chunk | None = None
    for chunk in chunks:
        if kept:
            chunk = Chunk(kept.text + chunk.text, kept.place, kept.position, kept.line)
        text = chunk.text.replace(separator, mark)
        held = _begun(text, separator)
        if len(text) > held:
            yield Chunk(text[: len(text) - held], chunk.place, chunk.position, chunk.line)
        end = len(chunk.text) - held
        line = chunk.line + chunk.text.count("\n", 0, end)
        kept = Chunk(chunk.text[end:], chunk.place, chunk.position + end, line) if held else None
    if kept:
        yield kept


def _begun(text: str, separator: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a separator."""
    sizes = range(min(len(separator) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(separator[:size])), 0)
