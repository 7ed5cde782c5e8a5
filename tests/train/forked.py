"""Commands in processes of their own, which die at a chosen moment: each forked from one that has imported everything.

    with Forks() as forks:
        forks.run(["train", …], folder, after=0.2)  # SIGKILL after so many seconds: None if it came, else the status

A process that dies `at` the n-th change of its run folder is killed between two system calls that a crash may separate.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.truncate", "os.chmod")


class Forks:
    """The process that forks; commands run one after another."""

    def __enter__(self) -> Forks:
        command = [sys.executable, "-m", "tests.train.forked"]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.server.communicate()

    def run(
        self,
        args: Sequence[str],
        folder: Path,
        *,
        after: float | None = None,
        at: int | None = None,
        largest: int | None = None,
        user: int | None = None,
    ) -> int | None:
        """Run `everloop ARGS` in a folder; return its exit status, or None if it was killed.

        `largest`: the size from which no file can grow; `user`: whose rights it has. What it writes on standard error
        is in `said.txt`.
        """
        assert self.server.stdin
        assert self.server.stdout
        asked = {"args": list(args), "folder": str(folder), "after": after, "at": at, "largest": largest, "user": user}
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        assert status >= 0 or status == -signal.SIGKILL, status
        return None if status < 0 else status


def _command(asked: dict[str, Any]) -> int:
    from everloop.cli import main

    os.chdir(asked["folder"])
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(said if stream else os.open(os.devnull, os.O_RDONLY), stream)
    if asked["largest"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"],) * 2)
    if asked["user"] is not None:
        os.setuid(asked["user"])
    if asked["at"] is not None:
        sys.addaudithook(_dies(asked["at"]))
    return main(asked["args"])


def _dies(at: int) -> Any:
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and "run" in str(args[0]):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _serve() -> None:
    import torch

    import everloop.cli.train
    import everloop.kinds.classifier
    import everloop.kinds.language_model
    import everloop.kinds.tagger
    import everloop.kinds.translator  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # imports what takes seconds
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            status = 70
            try:
                status = _command(asked)
            finally:
                if sys.exception():
                    traceback.print_exc()
                os._exit(status)
        if asked["after"] is not None:
            deadline = time.monotonic() + asked["after"]
            ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
            while time.monotonic() < deadline and os.waitid(os.P_PID, child, ended) is None:
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)  # a child that has ended keeps its number until it is waited for
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
