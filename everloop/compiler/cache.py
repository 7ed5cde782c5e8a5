"""Compiled code on disk: one file a key, written at once, checked when read."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

_HEAD = b"everloop object 1\n"


def folder() -> Path:
    """Return where compiled code is kept: $EVERLOOP_CACHE, or the user's cache folder of the platform."""
    named = os.environ.get("EVERLOOP_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "everloop"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "everloop"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everloop"


def key(*parts: str) -> str:
    """Return the name of the file for these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(name: str) -> bytes | None:
    """Return what was written under `name`, or None if there is nothing or the file is damaged or foreign."""
    try:
        data = (folder() / name).read_bytes()
    except OSError:
        return None
    head, checksum, body = data[: len(_HEAD)], data[len(_HEAD) : len(_HEAD) + 32], data[len(_HEAD) + 32 :]
    if head != _HEAD or checksum != hashlib.sha256(body).digest():
        return None
    return body


def write(name: str, body: bytes) -> bool:
    """Write `body` under `name` in one move; return False where the folder cannot be written."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place, prefix=".new-")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEAD + hashlib.sha256(body).digest() + body)
        Path(temporary).replace(place / name)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        return False
    return True
