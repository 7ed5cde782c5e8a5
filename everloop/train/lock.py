"""One process at a time trains a run: a lock of the operating system, which ends with the process, however it ends."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from pathlib import Path
from typing import IO

from everloop.data.files import writing
from everloop.errors import RunError

if sys.platform == "win32":
    import msvcrt

    FAR = 1 << 30  # what is locked cannot be read there, so it must not be the text

    def _take(file: IO[str]) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_OWNER = "process "
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def _opened(path: Path) -> IO[str]:
    """Return the lock file, made where there is none. Through a link, a run folder could have any file overwritten."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink() or path.is_dir():
        raise _foreign(path, "a link" if path.is_symlink() else "a folder")
    number = os.open(path, flags, 0o666)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(number)
        raise _foreign(path, "a file of several names" if stat.S_ISREG(status.st_mode) else "no plain file")
    return os.fdopen(number, "r+", encoding="utf-8", errors="replace")


def _foreign(path: Path, what: str) -> RunError:
    return RunError(f"{path} is {what}, where the lock file of a run is expected; remove it if nobody trains there")


class LockedError(RunError):
    """Another process has the lock; `owner` says which one, and on which machine."""

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(f"{folder} is being trained by {owner}; wait until it ends, or stop it")
        self.owner = owner


class Lock:
    """The right to write a run folder, as long as one is inside of `with Lock(folder):`.

    The folder is made where there is none. The file stays, since removing it could give two processes a lock each.

    Args:
        folder: what is written.
        advice: what to do where nothing can be written there.

    Raises:
        LockedError: another process has it.
        RunError: what stands there is no lock file, or nothing can be written there.
    """

    def __init__(self, folder: Path, advice: str = "choose another folder, or resume a copy of the run") -> None:
        self.folder, self.path, self.advice = folder, folder / ".lock", advice
        self.note = ""  # why there is no lock, where the file system has none

    def __enter__(self) -> Lock:
        try:
            with writing(self.path):
                self.folder.mkdir(parents=True, exist_ok=True)
                self.file = _opened(self.path)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise RunError(f"{self.folder} cannot be written: {error.strerror}; {self.advice}") from None
        try:
            _take(self.file)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                self.note = f"{self.folder} is on a file system without locks: see that no other process trains there"
                return self
            self.file.seek(0)
            owner = self.file.read(200).strip() or "another process"
            self.file.close()
            if error.errno not in _TAKEN:
                raise
            raise LockedError(self.folder, owner) from None
        if self.file.read(len(_OWNER)) not in ("", _OWNER):
            self.file.close()
            raise _foreign(self.path, "a file of another kind")
        self._say(f"{_OWNER}{os.getpid()} on {socket.gethostname()}\n")
        return self

    def __exit__(self, *error: object) -> None:
        if not self.note:
            self._say("")
        self.file.close()

    def _say(self, owner: str) -> None:
        try:
            with writing(self.path):
                self.file.seek(0)
                self.file.truncate()
                self.file.write(owner)
                self.file.flush()
        except OSError:
            self.file.close()
            raise
