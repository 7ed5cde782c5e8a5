"""What is shipped and what is claimed: types, the oldest versions, the reference of all public names."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.test_public import ROOMS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

USER = """
import everloop

layer = everloop.Recurrent(everloop.cells.LSTM(3, 4))
reveal_type(layer.explain())
reveal_type(layer.output_size)
everloop.Bidirectional(layer, merge="product")
"""


def test_a_users_code_is_checked_against_the_types_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build.build_wheel(str(tmp_path))
    environment, user = tmp_path / "environment", tmp_path / "user.py"
    venv.create(environment)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    home = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True
    )
    recipes = {f"everloop/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.*")}
    assert recipes
    assert recipes <= {*zipfile.ZipFile(wheel).namelist()}
    zipfile.ZipFile(wheel).extractall(home.stdout.strip())
    user.write_text(USER)
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", user]
    mypy += ["--python-executable", python]
    found = subprocess.run(mypy, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False)
    told = re.findall(r": (?:note|error): (.*)", found.stdout)
    assert told[:2] == ['Revealed type is "str"', 'Revealed type is "int"'], found.stdout + found.stderr
    assert "expected \"Literal['concat', 'sum']\"" in told[2]


def test_the_oldest_versions_claimed_are_those_that_are_tested() -> None:
    claims = [*PROJECT["dependencies"], *(c for extra in PROJECT["optional-dependencies"].values() for c in extra)]
    claimed = dict(re.match(r"([\w-]+)>=([\d.]+)", c).groups() for c in claims if not c.startswith("everloop["))  # type: ignore[union-attr, misc]
    text = (ROOT / "constraints-oldest.txt").read_text("utf-8")
    tested = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    assert {name: tested.get(name) for name in claimed} == claimed


def test_all_public_names_are_in_the_reference(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    reference = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    reference["build"](tmp_path)
    modules = reference["MODULES"]
    assert {"everloop", "everloop.cells", *(f"everloop.{room}" for room in ROOMS)} <= {*modules, "everloop.cells"}
    for module in map(importlib.import_module, modules):
        page = tmp_path.joinpath(*module.__name__.split("."))
        text = page.with_suffix(".html").read_text("utf-8")
        missing = [name for name in getattr(module, "__all__", ()) if f'id="{name}"' not in text]
        assert [name for name in missing if not page.joinpath(f"{name}.html").exists()] == []
