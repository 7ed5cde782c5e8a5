"""A text in many files, larger than memory: each stream has its part of it, and a window is read when it is its turn.

    torchrun --nproc-per-node 2 -m examples.many_files

Only the sizes of the files are kept. The number of the window is the place, so a run is resumed there, by any number of
processes; each of them reads its own streams.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from everloop import cells
from everloop.data import Vocabulary, Window
from everloop.data.batching.batch import Batch
from everloop.data.lazy import LazySequence
from everloop.models import LanguageModel
from everloop.train import train


class Files:
    """Bytes of files, one after another."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.ends = [*accumulate(path.stat().st_size for path in paths)]

    def read(self, begin: int, count: int) -> Tensor:
        """Return so many bytes from a place on: int64 [count]."""
        found = bytearray()
        number = bisect_right(self.ends, begin)
        while len(found) < count:
            with self.paths[number].open("rb") as file:
                file.seek(max(0, begin - (self.ends[number - 1] if number else 0)))
                found += file.read(count - len(found))
            number, begin = number + 1, 0
        return torch.frombuffer(found, dtype=torch.uint8).long()


@dataclass(frozen=True)
class Unread(Batch):
    """A window of some streams, [begin, begin + T) of each; it is read once it is known whose streams are wanted."""

    files: Files
    begins: list[int]
    steps: int
    first: bool = field(default=True, kw_only=True)

    @property
    def size(self) -> int:
        return len(self.begins)

    def rows(self, start: int, stop: int) -> Window:  # type: ignore[override]
        read = torch.stack([self.files.read(begin, self.steps + 1) for begin in self.begins[start:stop]], 1)
        return Window(read[:-1], read[1:], first=self.first)

    def to(self, device: torch.device | str) -> Window:  # type: ignore[override]
        return self.rows(0, self.size).to(device)


class Windows(LazySequence[Unread]):
    """The windows of one pass over B streams, each a B-th of all files."""

    def __init__(self, files: Files, batch: int, length: int) -> None:
        self.files, self.length = files, length
        self.begins = [stream * ((files.ends[-1] - 1) // batch) for stream in range(batch)]
        self.windows = (files.ends[-1] - 1) // batch // length

    def __len__(self) -> int:
        return self.windows

    def item(self, index: int) -> Unread:
        begins = [begin + index * self.length for begin in self.begins]
        return Unread(self.files, begins, self.length, first=index == 0)


class TextOfFiles:
    """What `train` reads: splits, a name of exactly this data, and the batches of a pass."""

    def __init__(self, splits: dict[str, list[Path]]) -> None:
        self.files = {name: Files(paths) for name, paths in splits.items()}
        self.splits = tuple(self.files)
        ends = str({name: files.ends for name, files in self.files.items()})
        self.fingerprint = sha256(ends.encode()).hexdigest()

    def epoch(self, split: str, number: int, *, batch: int, length: int = 256, seed: int = 0) -> Windows:
        """Return the windows of a pass, of which each is the same."""
        return Windows(self.files[split], batch, length)


def main(steps: int = 100, hidden: int = 64) -> None:
    """Train a model of bytes on ten files."""
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{i:05}.txt" for i in range(11)]
        for i, path in enumerate(paths):
            path.write_text(f"file {i} of eleven, read in its order.\n" * (40 + i))
        data = TextOfFiles({"train": paths[:-1], "valid": paths[-1:]})
        model = LanguageModel(Vocabulary.of("", "bytes"), cells.GRU, hidden=hidden, layers=1)
        run = train(model, data, steps=steps, batch=8, length=16, validate=50)
        print(run)


if __name__ == "__main__":
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group()
    main()
