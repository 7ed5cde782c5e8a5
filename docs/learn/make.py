"""Runs the lessons and writes what they print, derive and draw into them: `python docs/learn/make.py [NUMBER…]`.

A lesson is `NN-name.md`, its Chinese edition `NN-name.zh.md`. Its blocks run from the top down, in one namespace:

- a fence `python`, or `bash` with lines `everloop …`, is run; what it prints stands in a fence `text` behind it,
- `<!-- equations: CELL -->` is followed by the equations of that cell, read from its graph,
- `<!-- figure: FIGURE -->` is followed by the image whose file this figure, or SVG, is written into,
- `<!-- ways -->` is followed by the links to the other edition and the other lessons.

The English edition is run. The Chinese one has the same code, and gets the same results.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from everloop import Recurrent, cells
from everloop.cli import main
from everloop.cli.show import show_cell
from everloop.draw import draw_cell, draw_network
from everloop.draw.matrix import SHADES

HERE = Path(__file__).parent
BLOCK = re.compile(
    r"```(?P<language>python|bash)\n(?P<code>.*?)```\n(?:\n```text\n.*?```\n)?"
    r"|<!-- equations: (?P<cell>.+?) -->\n(?:\$\$\n.*?\$\$\n)?"
    r"|<!-- figure: (?P<figure>.+?) -->\n!\[[^]]*\]\((?P<file>.+?)\)\n",
    re.DOTALL,
)
WAYS = re.compile(r"<!-- ways -->\n(\S.*\n)?")
LIST = re.compile(r"(<!-- lessons -->\n).*?(<!-- end of lessons -->)", re.DOTALL)
KNOWN: dict[str, Any] = {  # to equations and figures, besides what the blocks have named
    "Recurrent": Recurrent,
    "cells": cells,
    "draw_cell": draw_cell,
    "draw_network": draw_network,
}
ENDINGS = {".md": ("All lessons", "简体中文"), ".zh.md": ("全部课程", "English")}


def lessons() -> list[Path]:
    """Return the English editions in order."""
    return [path for path in sorted(HERE.glob("[0-9][0-9]-*.md")) if not path.name.endswith(".zh.md")]


def edition(lesson: Path, ending: str) -> Path:
    """Return a lesson, or the index, in the language of an ending."""
    return lesson.with_name(lesson.name.partition(".")[0] + ending)


def made(lesson: Path) -> dict[Path, str]:
    """Return the files of a lesson as they are when it is run: both editions and its figures."""
    english = lesson.read_text(encoding="utf-8")
    results, figures = run(english, str(lesson))
    chinese = edition(lesson, ".zh.md")
    files = {lesson: filled(english, results, lesson)}
    if chinese.exists():
        files[chinese] = filled(chinese.read_text(encoding="utf-8"), results, chinese)
    return files | {lesson.parent / name: svg for name, svg in figures.items()}


def run(text: str, name: str) -> tuple[list[str], dict[str, str]]:
    """Run the blocks of a lesson; return what each becomes ("" where an image stays as it is), and SVG by file."""
    names: dict[str, Any] = {"__name__": "lesson"}
    results, figures = list[str](), dict[str, str]()
    with TemporaryDirectory() as folder, contextlib.chdir(folder), torch.random.fork_rng(devices=[]):
        for block in BLOCK.finditer(text):
            if block["code"] is not None:
                above = "\n" * (text.count("\n", 0, block.start()) + 1)  # errors name the line of the lesson
                printed = _printed(block["language"], above + block["code"], names, name)
                output = f"\n```text\n{printed}\n```\n" if printed else ""
                results.append(f"```{block['language']}\n{block['code']}```\n{output}")
            elif block["cell"]:
                equations = show_cell(eval(block["cell"], KNOWN | names), form="markdown")
                results.append(f"<!-- equations: {block['cell']} -->\n{equations}\n")
            else:
                figure = eval(block["figure"], KNOWN | names)
                figures[block["file"]] = figure if isinstance(figure, str) else figure.svg()
                results.append("")
    return results, figures


def _printed(language: str, code: str, names: dict[str, Any], name: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        if language == "python":
            exec(compile(code, name, "exec"), names)
        else:
            for line in code.strip().splitlines():
                main(shlex.split(line)[1:])
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def filled(text: str, results: list[str], page: Path) -> str:
    """Return a page with the results of its blocks and its ways."""
    blocks = iter(results)
    text = BLOCK.sub(lambda block: next(blocks) or block[0], text)
    assert next(blocks, None) is None, f"{page.name} has fewer blocks than the English edition"
    return WAYS.sub(lambda _: f"<!-- ways -->\n{ways(page)}\n", text)


def ways(page: Path) -> str:
    """Return the links of a lesson: the one before, all, the one behind, the other language."""
    ending = page.name[page.name.index(".") :]
    other = ".md" if ending == ".zh.md" else ".zh.md"
    everything, language = ENDINGS[ending]
    order = [edition(lesson, ending) for lesson in lessons() if edition(lesson, ending).exists()]
    at = order.index(page)
    links = [f"← [{title(order[at - 1])}]({order[at - 1].name})"] if at else []
    links.append(f"[{everything}](README{ending})")
    links += [f"[{title(order[at + 1])}]({order[at + 1].name}) →"] if at + 1 < len(order) else []
    return " · ".join([*links, f"[{language}]({edition(page, other).name})"])


def title(page: Path) -> str:
    """Return the title of a page, with its number."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def index(page: Path) -> str:
    """Return the index of a language: each lesson with its question, the quotation at its start."""
    ending = page.name[page.name.index(".") :]
    rows = []
    for lesson in filter(Path.exists, (edition(lesson, ending) for lesson in lessons())):
        question = re.search(r"^> (.*(?:\n> .*)*)", lesson.read_text(encoding="utf-8"), re.MULTILINE)
        assert question, f"{lesson.name} begins without a question: > …"
        rows.append(f"**[{title(lesson)}]({lesson.name})**  \n{question[1].replace(chr(10) + '> ', ' ')}\n")
    listed = "\n".join(rows)
    return LIST.sub(lambda found: f"{found[1]}\n{listed}\n{found[2]}", page.read_text(encoding="utf-8"))


def one_shade(a: str, b: str) -> bool:
    """Whether two characters are shades of a text's picture that follow each other."""
    return a in SHADES and b in SHADES and abs(SHADES.index(a) - SHADES.index(b)) == 1


def alike(a: str, b: str) -> bool:
    """Whether two files are the same, but for rounding: numbers of pictures by half a point, and shades by one."""
    if not a.startswith("<svg"):
        return len(a) == len(b) and all(x == y or one_shade(x, y) for x, y in zip(a, b, strict=True))
    number = re.compile(r"-?\d+\.\d+")
    near = (abs(float(x) - float(y)) < 0.5 for x, y in zip(number.findall(a), number.findall(b), strict=False))
    return number.sub("#", a) == number.sub("#", b) and all(near)


if __name__ == "__main__":
    for lesson in lessons():
        if not sys.argv[1:] or lesson.name[:2] in sys.argv[1:]:
            for path, text in made(lesson).items():
                if not path.exists() or not alike(text, path.read_text(encoding="utf-8")):
                    path.write_text(text, encoding="utf-8")
                    print(path.relative_to(HERE))
    for page in (edition(HERE / "README.md", ending) for ending in ENDINGS):
        page.write_text(index(page), encoding="utf-8")
