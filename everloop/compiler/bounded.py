"""A dictionary for caches that forgets the oldest entries."""

from __future__ import annotations

import threading
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(dict[K, V]):
    """A dictionary of at most `size` entries, set as d[key] = value; reading costs what it costs of a dict."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self._lock = size, threading.Lock()

    def __setitem__(self, key: K, value: V) -> None:
        with self._lock:
            if len(self) >= self.size and key not in self:
                self.pop(next(iter(self)))  # a dictionary is in the order of insertion
            super().__setitem__(key, value)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            super().clear()
