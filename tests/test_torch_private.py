"""What is private of PyTorch is named in one file, and the installed PyTorch has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from everloop import torch_private

ROOT = Path(torch_private.__file__).parent
FILES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "torch_private.py"
}
PYTHON = {"_exit", "_getframe", "_replace"}  # of os, sys and named tuples


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def of_torch(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names of PyTorch's in a file, those it imports and those it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("torch"))
        elif isinstance(node, ast.Attribute) and re.fullmatch(
            r"(torch|nn|library|forward_ad)(\.\w+)+", ast.unparse(node)
        ):
            yield ast.unparse(node)


def test_no_other_file_names_what_is_private_of_pytorch() -> None:
    names = [(file, name) for file, tree in FILES.items() for name in of_torch(tree)]
    assert [(file, name) for file, name in names if any(map(private, name.split(".")))] == []


def test_each_private_attribute_of_pytorchs_objects_is_listed() -> None:
    own = {name for tree in FILES.values() for name in own_names(tree)}
    named = {n.attr for tree in FILES.values() for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    listed = set(torch_private.ATTRIBUTES)
    assert {name for name in named if private(name)} - (own - listed) - PYTHON == listed
    objects = (nn.LSTM(1, 1), torch.zeros(1))
    assert [name for name in listed if not any(hasattr(thing, name) for thing in objects)] == []


def test_each_name_says_what_to_do_when_it_is_gone() -> None:
    text = Path(torch_private.__file__).read_text("utf-8")
    names = [name for name in vars(torch_private) if re.search(rf"^(def )?{name}\b[ (]|as {name}$", text, re.MULTILINE)]
    assert len(names) > 15
    blocks = re.split(r"\n\n+", text)
    unsaid = [
        name
        for name in names
        if not any(re.search(rf"\b{name}\b", block) and "Gone:" in block for block in blocks)
        and "Gone:" not in (getattr(torch_private, name).__doc__ or "")
    ]
    assert unsaid == ["ATTRIBUTES"]
    assert all("gone: " in use or use.startswith("as `_") for use in torch_private.ATTRIBUTES.values())
