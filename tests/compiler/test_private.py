"""Compiled code that somebody else could have put there never runs: it is refused, said once, and made anew."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everloop import cells
from everloop.compiler import disk_cache
from everloop.compiler.bindings import Bindings
from everloop.compiler.program import Program
from everloop.compiler.targets.llvm.target import TARGET

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
PICKLED = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path / "cache"))
    assert disk_cache.write("name", b"body")
    assert disk_cache.read("name") == b"body"
    return tmp_path / "cache"


def test_the_folder_is_private_whatever_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path / "new" / "cache"))
    before = os.umask(0)
    assert disk_cache.write("name", b"body")
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "cache" / "name").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write(place: Path, mode: int) -> None:
    (place / "name").chmod(mode)
    with pytest.warns(UserWarning, match=r"name may be written by others; compiled code there is not run"):
        assert disk_cache.read("name") is None
    assert disk_cache.read("name") is None  # said once
    assert disk_cache.write("name", b"body")
    assert disk_cache.read("name") == b"body"  # a file of our own has taken its place


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write(place: Path, mode: int) -> None:
    place.chmod(mode)
    with pytest.warns(UserWarning, match=r"cache may be written by others; .* chmod it 700"):
        assert disk_cache.read("name") is None
    assert not disk_cache.write("other", b"body")
    place.chmod(0o755)
    assert disk_cache.read("name") == b"body"


def test_what_belongs_to_another_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.warns(UserWarning, match=rf"cache belongs to user {me}, not to you \({me + 1}\)"):
        assert disk_cache.read("name") is None
    assert not disk_cache.write("other", b"body")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_in_a_folder_of_ours(place: Path) -> None:
    os.chown(place / "name", 12345, 12345)
    with pytest.warns(UserWarning, match=r"name belongs to user 12345"):
        assert disk_cache.read("name") is None


def test_the_folder_has_a_bound(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "LIMIT", 5000)
    monkeypatch.setattr(disk_cache, "EVERY", 1)
    (place / "notes.txt").write_bytes(b"not ours" * 1000)
    names = [disk_cache.key(str(k)) + ".o" for k in range(8)]
    for age, name in enumerate(names[:7]):
        assert disk_cache.write(name, b"x" * 500)
        os.utime(place / name, (10**9 + age, 10**9 + age))
    assert disk_cache.read(names[0]) is not None, "what is read counts as used"
    monkeypatch.setattr(disk_cache, "LIMIT", 3000)
    assert disk_cache.write(names[7], b"x" * 500)
    kept = [name for name in names if (place / name).exists()]
    assert kept == [names[0], *names[5:]]
    assert disk_cache.read(names[0]) == b"x" * 500
    assert (place / "notes.txt").exists()


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(("change", "what"), [(_linked, "is a symbolic link"), (_piped, "is no plain file")])
def test_links_and_pipes(place: Path, change: Callable[[Path], None], what: str) -> None:
    change(place / "name")
    with pytest.warns(UserWarning, match=f"name {what}"):
        assert disk_cache.read("name") is None


def test_plans_that_are_refused_are_made_anew(place: Path) -> None:
    cell = cells.GRU(3, 4)
    values = Bindings(dict(cell.named_parameters()))
    want = Program.of(cell, values, torch.float32, TARGET).split
    files = {file: file.read_bytes() for file in place.glob("*.plan")}
    assert files
    for file in files:
        file.write_bytes(b"of someone else")
        file.chmod(0o666)
    with pytest.warns(UserWarning, match="may be written by others") as told:
        got = Program.of(cell, values, torch.float32, TARGET).split
    assert len(told) == 1
    assert str(got.loop) == str(want.loop)
    assert {file: file.read_bytes() for file in place.glob("*.plan")} == files


def test_nothing_in_the_library_is_read_by_unpickling() -> None:
    for path in Path(disk_cache.__file__).parents[1].rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not PICKLED & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                assert (owner, node.func.attr) != ("torch", "load"), path
                if (owner, node.func.attr) == ("np", "load"):
                    given = {k.arg: k.value for k in node.keywords}
                    assert ast.unparse(given["allow_pickle"]) == "False", path
