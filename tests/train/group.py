"""Commands that several processes run together, as torchrun starts them, each forked from one that has imported all.

    with Group() as group:
        statuses = group.run(["train", …], folder, world=4)

What they write on standard error is in `said.txt`, one after another.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed.rendezvous import rendezvous

LIMIT = 60.0  # seconds that a group may take


class Group:
    """The process that forks; commands run one after another, the processes of each at once."""

    def __enter__(self) -> Group:
        command = [sys.executable, "-m", "tests.train.group"]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.server.communicate()

    def run(
        self, args: Sequence[str], folder: Path, *, world: int, end: tuple[int, int] | None = None, lines: int = 0
    ) -> list[int]:
        """Run `everloop ARGS` in `world` processes; return their exit statuses, less than 0 of those that were killed.

        `end`: a process and the signal that it is sent once the metrics of `run` have so many lines.
        """
        assert self.server.stdin
        assert self.server.stdout
        asked = {"args": list(args), "folder": str(folder), "world": world, "end": end, "lines": lines}
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        found: list[int] = json.loads(self.server.stdout.readline())
        return found


def _command(asked: dict[str, Any], rank: int, port: int) -> int:
    from everloop.cli import main

    os.chdir(asked["folder"])
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (0, 1, 2):
        os.dup2(said if stream else os.open(os.devnull, os.O_RDONLY), stream)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": asked["world"], "MASTER_PORT": port}
    numbers["LOCAL_WORLD_SIZE"] = asked["world"]
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"})
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    return main(asked["args"])


def _fork(asked: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        status = _command(asked, rank, port)
    finally:
        if sys.exception():
            traceback.print_exc()
        os._exit(status)


def _run(asked: dict[str, Any]) -> list[int]:
    folder = Path(asked["folder"])
    (folder / "said.txt").write_text("")
    # as that of torchrun, the place where they meet outlives all of them
    store: Any = next(rendezvous("tcp://127.0.0.1:0", rank=0, world_size=1))[0]
    children = [_fork(asked, rank, store.port) for rank in range(asked["world"])]
    statuses: dict[int, int] = {}
    deadline, metrics, end = time.monotonic() + LIMIT, folder / "run" / "metrics.jsonl", asked["end"]
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses and (found := os.waitpid(child, os.WNOHANG))[0]:
                statuses[child] = os.waitstatus_to_exitcode(found[1])
        if end and metrics.exists() and metrics.read_text().count("\n") >= asked["lines"]:
            os.kill(children[end[0]], end[1])
            end, deadline = None, time.monotonic() + LIMIT
        if time.monotonic() > deadline:
            for child in set(children) - set(statuses):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[child] for child in children]


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
        print(json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
