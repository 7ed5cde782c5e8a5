"""A cell of the user's own in a run folder: its source is kept with its hash, and runs only where that is allowed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everloop.cells import own_file
from everloop.data.files import read_bytes, write_atomically
from everloop.errors import RunError

SOURCE = "cell.py"


def keep(folder: Path, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Copy the source of a model's own cell into its run folder.

    Returns (the model's table, which names the copy; the SHA-256 of the copy by its name). A cell of the library, or
    one that no file holds, has nothing to copy.
    """
    own = own_file(str(table.get("cell", "")))
    if own is None or not own[0].is_file():
        return dict(table), {}
    path, name = own
    source = read_bytes(path, "source of a cell")
    write_atomically(folder / SOURCE, source)
    return {**table, "cell": f"{SOURCE}:{name}"}, {SOURCE: hashlib.sha256(source).hexdigest()}


def located(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a model's table that names the file of its own cell as seen from here: what is kept lies in `folder`."""
    own = own_file(str(table.get("cell", "")))
    return dict(table) if own is None else {**table, "cell": f"{(folder / own[0]).absolute()}:{own[1]}"}


def allow(cell: str, code: Mapping[str, str], where: str, trust: bool) -> None:
    """Check that the file of a cell may run: the user trusts it, and it is what was kept.

    Args:
        cell: the name of the cell, `file.py:Class` for one with a file.
        code: the SHA-256 of what was kept, by its name.
        where: the configuration that names the cell.
        trust: whether the user said so.

    Raises:
        RunError: it may not, or it has changed.
    """
    own = own_file(cell)
    if own is None:
        return
    path, name = own[0].absolute(), own[1]
    if not trust:
        raise RunError(
            f"{where} names a cell of its own, {name}: to load it is to run the Python file {path}; read it first, and "
            "if you trust it say trust_code=True, on the command line --trust-code"
        )
    if not path.is_file():
        raise RunError(f"{where} names a cell of its own, {name}, but there is no file {path}")
    wanted, found = code.get(path.name), hashlib.sha256(read_bytes(path)).hexdigest()
    if wanted is not None and wanted != found:
        raise RunError(
            f"{path} is not the source the model was trained with: its SHA-256 is {found}; "
            f"expected {wanted}, as in {where}"
        )
