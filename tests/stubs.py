"""Packages that are installed and cannot be imported, as one whose shared library is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def cannot_be_imported(name: str, error: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package of this name before the installed one, whose import raises `error`."""
    module = folder.joinpath("stubs", *name.split(".")).with_suffix(".py")
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(f"raise {error.__name__}('a library is missing')\n")
    for loaded in [one for one in sys.modules if f"{one}.".startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(folder / "stubs")
