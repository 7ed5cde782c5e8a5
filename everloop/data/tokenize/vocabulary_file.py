"""Vocabulary files: JSON with the name of its format, in ASCII, so that every editor can show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from everloop.data.files import parse_json, read_bytes, write_atomically
from everloop.errors import DataError


def write_json(path: Path, form: str, content: dict[str, Any]) -> None:
    """Write a vocabulary file."""
    write_atomically(path, (json.dumps({"format": form, **content}, indent=0) + "\n").encode("ascii"))


def read_json(path: Path, form: str | None = None, what: str = "vocabulary") -> dict[str, Any]:
    """Return the content of a vocabulary file, of this format if one is given.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    raw = read_bytes(path, "vocabulary")
    try:
        content: Any = parse_json(raw)
    except ValueError as error:
        raise DataError(f"{path} is not a vocabulary: it is not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != (form or content.get("format")):
        raise DataError(f"{path} is not a {what}; expected JSON with format {form!r}")
    return content


def strings(content: dict[str, Any], name: str, path: Path) -> list[str]:
    """Return a list of strings in a vocabulary file.

    Raises:
        DataError: it is missing or something else.
    """
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
        raise DataError(f"{path}: {name} must be a list of strings")
    return found
