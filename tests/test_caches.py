"""No cache of a module grows without a bound: the sources are searched for those that could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.compiler.bounded import BoundedDict

ROOT = Path(__file__).parent.parent / "everloop"
# Tables that are filled by what a program declares, not by calls, and what keeps the others small.
FINITE = {
    "compiler/symbol.py: _FUNCTIONS": "one entry a function of PyTorch that is known, at import",
    "compiler/target.py: _targets": "one entry a registered target",
    "compiler/targets/llvm/__init__.py: _shared": "one entry a dtype and instruction set of the machine",
    "compiler/targets/llvm/matrices.py: _products": "one entry a dtype and instruction set of the machine",
    "compiler/targets/llvm/memory.py: _free": "give_back keeps four blocks",
    "layers/custom_operator.py: _runs": "one function",
}
GROWING = {"append", "add", "setdefault", "update", "extend", "insert", "appendleft"}
CONTAINERS = {"dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque", "fromkeys"}


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_unbounded_memo(node: ast.AST) -> bool:
    """Whether this is functools.cache, or lru_cache with maxsize None."""
    if isinstance(node, ast.Call) and name_of(node.func) == "lru_cache":
        given = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "maxsize")]
        return any(isinstance(size, ast.Constant) and size.value is None for size in given)
    return isinstance(node, ast.ImportFrom) and node.module == "functools" and "cache" in {a.name for a in node.names}


def is_container(value: ast.expr | None) -> bool:
    """Whether a value is a dictionary, list or set without a bound."""
    if isinstance(value, ast.Call):
        function = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        has_bound = any(keyword.arg == "maxlen" for keyword in value.keywords)
        return name_of(function) in CONTAINERS and not has_bound
    return isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)


def containers(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names of the containers of a module or of a class."""
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and is_container(statement.value):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from filter(None, map(name_of, targets))


def grown(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what functions put something into."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in GROWING:
            yield node.func.value
        elif isinstance(node, ast.AugAssign):
            yield node.target


def is_own(node: ast.expr) -> bool:
    """Whether this is an attribute of `self` or `cls`."""
    return isinstance(node, ast.Attribute) and name_of(node.value) in ("self", "cls")


def unbounded(sources: dict[str, str]) -> set[str]:
    """Return "file: name" of all that could grow without a bound, of sources by file."""
    trees = {file: ast.parse(text) for file, text in sources.items()}
    everywhere = {name_of(node) for tree in trees.values() for node in grown(tree) if not is_own(node)}
    found = {f"{file}: {name}" for file, tree in trees.items() for name in containers(tree.body) if name in everywhere}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if is_unbounded_memo(node):
                found.add(f"{file}: line {getattr(node, 'lineno', 0)}")
            if isinstance(node, ast.ClassDef):
                own = {name_of(place) for place in grown(node) if is_own(place)}
                found |= {f"{file}: {node.name}.{name}" for name in containers(node.body) if name in own}
    return found


def package() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}


def test_no_cache_of_a_module_grows_without_a_bound() -> None:
    assert unbounded(package()) == set(FINITE)


@pytest.mark.parametrize(
    "source",
    [
        "from functools import cache\n",
        "@functools.lru_cache(maxsize=None)\ndef f(x): ...\n",
        "@lru_cache(None)\ndef f(x): ...\n",
        "_seen = {}\ndef f(x):\n    _seen[x] = 1\n",
        "_seen: dict[int, int] = dict()\ndef f(x):\n    _seen.setdefault(x, 1)\n",
        "_seen = set()\ndef f(x):\n    def g():\n        _seen.add(x)\n",
        "class A:\n    seen = defaultdict(list)\n    def f(self, x):\n        self.seen[x] = 1\n",
        "_seen = deque()\ndef f(x):\n    _seen.append(x)\n",
        "_seen = list[int]()\ndef f(x):\n    global _seen\n    _seen += [x]\n",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert unbounded({"a.py": source})


@pytest.mark.parametrize(
    "source",
    [
        "@lru_cache(64)\ndef f(x): ...\n",
        "@lru_cache\ndef f(x): ...\n",
        "_seen = BoundedDict(8)\ndef f(x):\n    _seen[x] = 1\n",
        "_seen = deque(maxlen=3)\ndef f(x):\n    _seen.append(x)\n",
        "TABLE = {1: 2}\ndef f(x):\n    return TABLE[x]\n",
    ],
)
def test_the_search_leaves_alone(source: str) -> None:
    assert not unbounded({"a.py": source})


def test_a_bounded_dictionary_forgets_the_oldest() -> None:
    found: BoundedDict[int, str] = BoundedDict(2)
    for key in (1, 2, 1, 3):
        found[key] = str(key)
    assert found == {2: "2", 3: "3"}
    found.clear()
    assert not found
