"""One process at a time trains a run: a lock of the operating system, which ends with the process, however it ends."""

from __future__ import annotations

import errno
import os
import socket
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
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Lock:
    """The right to write a run folder, as long as one is inside of `with Lock(folder):`.

    The folder is made where there is none. The file stays, since removing it could give two processes a lock each.

    Raises:
        RunError: another process has it; the message names the process and its machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / ".lock"
        self.note = ""  # why there is no lock, where the file system has none

    def __enter__(self) -> Lock:
        with writing(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+", encoding="utf-8")
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
            raise RunError(f"{self.folder} is being trained by {owner}; wait until it ends, or stop it") from None
        self._say(f"process {os.getpid()} on {socket.gethostname()}\n")
        return self

    def __exit__(self, *error: object) -> None:
        if not self.note:
            self._say("")
        self.file.close()

    def _say(self, owner: str) -> None:
        try:
            with writing(self.path):
                self.file.truncate(0)
                self.file.write(owner)
                self.file.flush()
        except OSError:
            self.file.close()
            raise
