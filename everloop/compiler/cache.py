"""Compiled code on disk: one file a key, written at once, checked when read.

Where there is no folder to write to, nothing is kept: each process compiles anew what it runs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

_HEAD = b"everloop object 2\n"


def folder() -> Path | None:
    """Return where compiled code is kept: $EVERLOOP_CACHE, or the user's cache folder of the platform.

    It is None for a user without a home folder, as in containers that run under a number nobody has.
    """
    system = {"darwin": "Library/Caches", "win32": "AppData/Local"}.get(sys.platform, ".cache")
    variable = {"darwin": "", "win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    if named := os.environ.get("EVERLOOP_CACHE"):
        return Path(named)
    if caches := os.environ.get(variable):
        return Path(caches) / "everloop"
    try:
        return Path.home() / system / "everloop"
    except RuntimeError:
        return None


def key(*parts: str) -> str:
    """Return the name of the file for these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(name: str) -> bytes | None:
    """Return what was written under `name`, or None if there is nothing or the file is damaged or foreign."""
    place = folder()
    try:
        data = (place / name).read_bytes() if place else b""
    except OSError:
        return None
    start = len(_HEAD) + hashlib.sha256().digest_size
    body = data[start:]
    return body if data[:start] == _head(name, body) else None


def write(name: str, body: bytes) -> bool:
    """Write `body` under `name` in one move; return False where the folder cannot be written."""
    place = folder()
    if place is None:
        return False
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place, prefix=".new-")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_head(name, body) + body)
        Path(temporary).replace(place / name)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        return False
    return True


def _head(name: str, body: bytes) -> bytes:
    """Return what stands before `body`; the name is part of it, so that no file passes for another."""
    return _HEAD + hashlib.sha256(name.encode() + b"\0" + body).digest()
