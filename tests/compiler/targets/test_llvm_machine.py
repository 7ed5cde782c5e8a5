"""Object code: the cache on disk, other processors, what cannot run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everloop import Recurrent, cells
from everloop.compiler import disk_cache
from everloop.compiler.loop import Loop
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import machine
from everloop.compiler.targets.llvm.vector import named
from everloop.compiler.time_axis import TimeAxis
from everloop.errors import OptionError, UnsupportedError
from tests.compiler.targets import loops

LOOPS = (loops.lstm, loops.lstm_gradient, loops.rnn, loops.gru, loops.normalised)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run()  # what all kernels share is compiled before
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(llvm, "_kernels", {})
    return tmp_path / "cache"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", LOOPS)
def test_aarch64_is_assembled(make: Callable[[int], Loop], dtype: torch.dtype) -> None:
    code = machine.generate(llvm.ir(make(17).of(dtype), "neon"), named("neon"))
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 183  # EM_AARCH64
    assert b"everloop_run" in code


def test_shared_functions_are_assembled_for_aarch64() -> None:
    code = machine.generate(llvm.shared_ir(torch.float32, "neon"), named("neon"))
    assert b"everloop_product" in code
    assert b"everloop_pack" in code


def run() -> torch.Tensor:
    H = 9
    kernel = llvm.compile(loops.gru(H).of(torch.float32))
    y = torch.empty(2, 3, H)
    generator = torch.Generator().manual_seed(4)
    x, R, U = (torch.randn(*s, generator=generator) for s in ((2, 3, 3 * H), (2 * H, H), (H, H)))
    kernel(TimeAxis(2, 3), {"x": x, "R": R, "U": U, "y": y})
    return y


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-7], lambda d: b"", lambda d: b"foreign" + d, lambda d: d[:-1] + b"\x01\x02"]
)
def test_a_damaged_file_is_rebuilt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    want = run()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    monkeypatch.setattr(llvm, "_kernels", {})
    torch.testing.assert_close(run(), want, rtol=0, atol=0)
    assert file.read_bytes() == whole


def test_a_warm_start_generates_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = run()
    monkeypatch.setattr(llvm, "_kernels", {})
    monkeypatch.setattr(machine, "generate", lambda *_: pytest.fail("compiled again"))
    torch.testing.assert_close(run(), want, rtol=0, atol=0)
    assert [f.suffix for f in folder.iterdir()] == [".o"]


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path / "file" / "below"))
    assert run().isfinite().all()
    assert not disk_cache.write("name", b"body")


def test_code_under_the_name_of_another_is_rebuilt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = run()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    llvm.compile(loops.lstm(9).of(torch.float32))
    (other,) = (f for f in folder.iterdir() if f != file)
    file.write_bytes(other.read_bytes())
    assert disk_cache.read(file.name) is None, "it would run, and crash"
    monkeypatch.setattr(llvm, "_kernels", {})
    torch.testing.assert_close(run(), want, rtol=0, atol=0)
    assert file.read_bytes() == whole


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_user_without_a_home_keeps_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERLOOP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert disk_cache.folder() is None
    assert not disk_cache.write("name", b"body")
    assert disk_cache.read("name") is None
    assert run().isfinite().all()


@pytest.mark.parametrize(
    ("platform", "variable", "below"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("darwin", "", "Library/Caches"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
    ],
)
def test_the_folder_of_the_platform(
    platform: str, variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERLOOP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert disk_cache.folder() == tmp_path / below / "everloop"
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "named"))
        monkeypatch.setattr(Path, "home", no_home)
        assert disk_cache.folder() == tmp_path / "named" / "everloop"


def test_one_kernel_a_loop_dtype_and_instruction_set() -> None:
    first = llvm.compile(loops.gru(9).of(torch.float32))
    assert llvm.compile(loops.gru(9).of(torch.float32)) is first
    assert llvm.compile(loops.gru(9).of(torch.float32), "sse2") is not first
    assert "define void @everloop_run" in first.source
    assert first.source == llvm.ir(loops.gru(9).of(torch.float32), first.isa)


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="bfloat16"):
        llvm.compile(loops.gru(9).of(torch.bfloat16))
    with pytest.raises(OptionError, match="did you mean 'avx512'"):
        llvm.compile(loops.gru(9).of(torch.float32), "avx51")
    other = "neon" if machine.host().arch == "x86_64" else "avx2"
    with pytest.raises(UnsupportedError, match=other):
        llvm.compile(loops.gru(9).of(torch.float32), other)
    monkeypatch.setattr(machine, "binding", None)
    with pytest.raises(UnsupportedError, match="llvmlite"):
        llvm.compile(loops.gru(11).of(torch.float32), "avx2")
    assert not llvm.is_available()


class Alone(cells.Elman):
    """A cell whose kernel no other test has compiled."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.1234567 * super().step(x, h)


def test_code_that_gets_no_memory_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise RuntimeError("Failed to materialize symbols")

    monkeypatch.setattr(machine.need().JITLibraryBuilder, "link", link)
    layer, x = Recurrent(Alone(3, 4)), torch.randn(5, 2, 3)
    with pytest.raises(UnsupportedError, match=r'gave no memory for code .*; allow more .*target="eager"'):
        layer(x)
