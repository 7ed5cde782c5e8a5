"""Compiled code on disk: one file a key, written at once, checked when read.

What is read here runs as machine code, so it must be the user's own: a folder or file that belongs to someone else, or
that others may write, is refused, and said once. Where there is no folder, or it is refused, nothing is kept: each
process compiles anew what it runs. The folder keeps at most LIMIT bytes: what was used longest ago goes first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

from everloop.compiler.bounded import BoundedDict

LIMIT = 256 << 20  # bytes, some thousand kernels
EVERY = 64  # writes of a process after which it looks at the size of the folder
_DAY = 86400.0  # seconds

_HEAD = b"everloop object 2\n"
_NAMES = re.compile(r"[0-9a-f]{64}\.\w+|\.new-\w+")  # of files that are the cache's own
_writes = 0
_HAS_OWNERS = hasattr(os, "geteuid")  # elsewhere the user's folders are private by the system's own lists
_refused: BoundedDict[Path, bool] = BoundedDict(64)  # folders in which something was refused


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
    """Return what was written under `name`, or None if there is nothing or the file is damaged, foreign or refused."""
    place = folder()
    if place is None or not _is_ours(place):
        return None
    data = _content(place / name)
    start = len(_HEAD) + hashlib.sha256().digest_size
    body = data[start:]
    return body if data[:start] == _head(name, body) else None


def write(name: str, body: bytes) -> bool:
    """Write `body` under `name` in one move; return False where the folder cannot be written or is refused."""
    place = folder()
    if place is None:
        return False
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(place):
            return False
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
    global _writes
    if _writes % EVERY == 0:
        with suppress(OSError):
            prune(place)
    _writes += 1
    return True


def prune(place: Path) -> None:
    """Remove what was used longest ago where the folder holds more than LIMIT; three quarters of it are left."""
    found: list[tuple[float, int, Path]] = []
    for path in place.iterdir():
        with suppress(OSError):  # another process may have removed it
            if _NAMES.fullmatch(path.name):
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
    size = sum(each for _, each, _ in found)
    if size <= LIMIT:
        return
    for _, each, path in sorted(found):
        with suppress(OSError):
            path.unlink()
            size -= each
        if size <= 3 * LIMIT // 4:
            return


def _is_ours(place: Path) -> bool:
    """Return whether the folder exists and nobody else may put files there."""
    try:
        fault = _fault(place.stat())
    except OSError:
        return False
    return not fault or _refuse(place, place, fault, "give EVERLOOP_CACHE a folder of your own, or chmod it 700")


def _content(path: Path) -> bytes:
    """Return the bytes of a file of ours, none of any other; what is checked is the open file, not its name."""
    # a link could lead anywhere, and a pipe under this name would wait for ever
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            fault = _fault(status) or ("is no plain file" if not stat.S_ISREG(status.st_mode) else "")
            if not fault:
                if status.st_mtime < time.time() - _DAY:
                    with suppress(OSError):  # the folder may be on a disk that cannot be written
                        os.utime(file.fileno() if os.utime in os.supports_fd else path)
                return file.read()
    except OSError as error:
        if error.errno != errno.ELOOP:
            return b""
        fault = "is a symbolic link"
    _refuse(path.parent, path, fault, "a file of your own takes its place")
    return b""


def _fault(status: os.stat_result) -> str:
    """Return what is wrong with the owner or the mode of a file, or ""."""
    if not _HAS_OWNERS:
        return ""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    return "may be written by others" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _refuse(place: Path, path: Path, fault: str, advice: str) -> bool:
    """Say once a folder that compiled code in it is not run; return False."""
    if place not in _refused:
        _refused[place] = True
        warnings.warn(f"{path} {fault}; compiled code there is not run, but compiled anew; {advice}", stacklevel=2)
    return False


def _head(name: str, body: bytes) -> bytes:
    """Return what stands before `body`; the name is part of it, so that no file passes for another."""
    return _HEAD + hashlib.sha256(name.encode() + b"\0" + body).digest()
