"""`python -m everloop.cli.child` is `everloop` with a pipe for its input: when that closes, it ends as by Ctrl-C.

The other end of the pipe is that of the process which started it, and closes with it, however it ends.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading

from everloop.cli import main


def follow() -> None:
    """Wait until standard input ends, then interrupt this process."""
    while os.read(0, 1024):  # not by sys.stdin, whose lock would be held while Python ends
        pass
    _thread.interrupt_main()  # os.kill would end it at once on Windows


if __name__ == "__main__":
    threading.Thread(target=follow, daemon=True).start()
    sys.exit(main())
