"""Writes into docs/architecture.md what the code tells: who imports whom, and the way of a call."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType

import torch

import everloop
from everloop import Recurrent, cells

HERE = Path(__file__).parent
HOUSE = Path(everloop.__file__).parent
PAGE = HERE / "architecture.md"


def rooms() -> dict[str, str]:
    """Return a few words about each folder that has something in it, and each file beside them, by name."""
    homes = {_room(path): path for path in sorted([*HOUSE.glob("*/[!_]*.py"), *HOUSE.glob("[!_]*.py")])}
    homes |= {room: HOUSE / room / "__init__.py" for room in homes if (HOUSE / room).is_dir()}
    return {room: _words(path) for room, path in homes.items()}


def _room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def _words(path: Path) -> str:
    """Return how the text at the top of a file begins: up to a colon, if a few words are before it."""
    first = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0].rstrip(".")
    before = re.split("[.:;] ", first)[0]
    return (before if before.count(" ") > 1 else first).replace("`", "")


def imports(known: dict[str, str]) -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    found: dict[str, set[str]] = {room: set() for room in known}
    for path in HOUSE.rglob("*.py"):
        if _room(path) not in known:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("everloop"):
                names = [f"{node.module}.{alias.name}".split(".")[1] for alias in node.names]
                found[_room(path)].update(name for name in names if name in known and name != _room(path))
    return found


def picture() -> str:
    """Return the rooms as a Mermaid graph: an arrow to a room from each that it imports, unless a longer way does."""
    known = rooms()
    direct = imports(known)
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {room}["<b>{room}</b><br>{words}"]' for room, words in known.items()]
    for room in known:
        others = set().union(*(_below(other, direct) for other in direct[room]))
        lines += [f"    {other} --> {room}" for other in sorted(direct[room] - others)]
    return "\n".join([*lines, "```"])


def _below(room: str, direct: dict[str, set[str]]) -> set[str]:
    return direct[room].union(*(_below(other, direct) for other in direct[room]))


def way() -> str:
    """Return the functions between the call of a layer and the kernel of its loop, as they are called."""
    layer, x = Recurrent(cells.LSTM(3, 4), target="llvm"), torch.randn(5, 2, 3)
    layer(x)
    stacks: list[list[str]] = []

    def watch(frame: FrameType | None, event: str, _: object) -> None:
        code = frame.f_code if frame else None
        if event == "call" and code and "/targets/llvm/" in code.co_filename and code.co_name == "__call__":
            stack = []
            while frame:
                path = Path(frame.f_code.co_filename)
                if path.is_relative_to(HOUSE):
                    stack.append(f"`{path.relative_to(HOUSE).as_posix()}` {frame.f_code.co_qualname}")
                frame = frame.f_back
            stacks.append(stack[::-1])

    sys.setprofile(watch)
    layer(x)
    sys.setprofile(None)
    return "\n".join(f"{number}. {line}" for number, line in enumerate(stacks[0], 1))


def page(text: str) -> str:
    """Return the page with what is made here in its places."""
    for name, made in (("rooms", picture()), ("way", way())):
        start, end = f"<!-- {name}: made by docs/architecture.py -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{made}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
