"""Reading and writing files with errors that name file and place; writing is all or nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from everloop.errors import DataError


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in an object")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_once)
PART = ".part"  # how the name of a file ends that is being written


def open_file(path: str | Path, what: str = "file") -> BinaryIO:
    """Return an open file.

    Raises:
        DataError: there is no such file or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such {what}{_nearest(path)}")
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a {what}")
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def read_bytes(path: str | Path, what: str = "file") -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: there is no such file or it cannot be read.
    """
    with open_file(path, what) as file:
        try:
            return file.read()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None


def parse_json(text: str | bytes) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: it is no JSON, an object has a name twice, or it is nested more deeply than anyone would.
    """
    try:
        return _JSON.decode(text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def find_files(sources: Iterable[str | Path], pattern: str = "*.txt", hint: str = "") -> list[Path]:
    """Return the files that `sources` name: a file itself, of a folder every file below that fits `pattern`, by name.

    One of a folder may be packed: its name then ends in .gz besides. `hint` says what to do where none fits.

    Raises:
        DataError: a source does not exist, a folder has no such file, or the pattern is none.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if not source.is_dir():
            if not source.exists():
                raise no_such(source)
            found.append(source)
            continue
        try:
            fitting = {*source.rglob(pattern), *source.rglob(f"{pattern}.gz")}
            inside = sorted(path for path in fitting if path.is_file())
        except (NotImplementedError, ValueError) as error:
            raise DataError(f"pattern is {pattern!r}; expected one such as '*.txt' ({error})") from None
        if not inside:
            raise DataError(f"folder {source} has no file that fits {pattern!r}{_endings(source)}{hint}")
        found += inside
    return found


def passed_over(sources: Iterable[str | Path], found: Iterable[Path]) -> str:
    """Return what to tell of the files in the folders of `sources` that are not among those found; nothing: ""."""
    known = {*found}
    inside = [path for source in map(Path, sources) if source.is_dir() for path in source.rglob("*")]
    others = [path for path in inside if path.is_file() and path not in known and not path.name.startswith(".")]
    if not others:
        return ""
    ends = _most(path.suffix for path in others)
    some = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
    return f"{some} passed over{f', whose names end in {ends}' if ends else ''}"


def _endings(folder: Path) -> str:
    """Return how most of the names in a folder end."""
    ends = _most(path.suffix for path in folder.rglob("*") if path.is_file())
    return f"; its files end in {ends}" if ends else ""


def _most(endings: Iterable[str]) -> str:
    """Return those endings that are most frequent."""
    return ", ".join(ending for ending, _ in Counter(filter(None, endings)).most_common(3))


def write_atomically(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file so that a crash leaves either the old content or the new one, never a part.

    With `keep`, the old content is there afterwards; nothing is lost of either while the new one is written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o666 & ~_umask())
            if keep and path.exists():
                _copy(path, keep)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check that a file can be written, and make its folder where there is none, before work is done for it.

    Raises:
        OSError: it cannot.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=path.parent).close()


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in a folder; nobody else may write there now."""
    for part in folder.glob(f".*{PART}"):
        if re.fullmatch(rf"\..+\.\w{{8}}{PART}", part.name):
            part.unlink()


def _copy(path: Path, copy: Path) -> None:
    """Give a file that is only ever replaced a second name, or make a copy where a file has one name only."""
    copy.unlink(missing_ok=True)
    try:
        copy.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, copy)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Have errors of the system name what was being written; a full disk alone tells no file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def no_such(path: Path) -> DataError:
    """Return the error for a file or folder that is not there; it names the nearest one."""
    return DataError(f"{path}: no such file or folder{_nearest(path)}")


def _nearest(path: Path) -> str:
    from difflib import get_close_matches

    if path.is_symlink():
        return "; it is a link that leads nowhere, or round in a circle"
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
