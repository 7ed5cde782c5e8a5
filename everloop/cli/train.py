"""`everloop train KIND`: a model on the user's files."""

from __future__ import annotations

from collections.abc import Sequence

from everloop.cli import fetch
from everloop.cli.kinds import MODULES
from everloop.errors import OptionError, unknown


def main(args: Sequence[str]) -> int:
    """Run `everloop train`; 130 if it was interrupted."""
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: everloop train KIND …\n\nkinds: {', '.join(MODULES)}\n")
        print("everloop train KIND --help tells the options of one.")
        return 0 if args else 2
    if args[0] not in MODULES:
        raise OptionError(unknown("kind of model", args[0], MODULES))
    return int(fetch(MODULES[args[0]]).main(args[1:]))
