"""The only file that imports llvmlite: LLVM text to object code, object code to addresses, with the cache between."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from everloop.compiler import disk_cache
from everloop.compiler.targets.llvm.c_library import C_LIBRARY
from everloop.compiler.targets.llvm.capabilities import capabilities
from everloop.compiler.targets.llvm.formats import FORMATS
from everloop.compiler.targets.llvm.trigonometry import definitions
from everloop.compiler.targets.llvm.vector import Isa, best, named
from everloop.errors import UnsupportedError

try:
    import llvmlite
    import llvmlite.binding as binding
except ImportError:  # pragma: no cover - a platform without wheels
    binding = None

OPTIMISATION = 2  # of code generation; optimisation passes cost much and gain nothing here
_TILES = ",+amx-tile,+amx-bf16"
_lock = threading.RLock()


def is_available() -> bool:
    """Whether llvmlite is installed."""
    return binding is not None


def need() -> Any:
    """Return llvmlite's binding, or say what to install."""
    if binding is None:
        raise UnsupportedError("the target 'llvm' needs llvmlite, which is not installed: pip install llvmlite")
    return binding


@lru_cache(maxsize=1)
def host() -> Isa:
    """Return the widest instruction set of this processor."""
    llvm = need()
    with _lock:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        arch = llvm.get_process_triple().split("-")[0]
        arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch)
        isa = best(arch, _features(arch))
    if isa is None:
        raise UnsupportedError(f"the target 'llvm' knows no vector instructions of this processor ({arch})")
    return isa


@lru_cache
def _features(arch: str) -> dict[str, bool]:
    """Return what this processor has, which is of this architecture."""
    return dict(binding.get_host_cpu_features()) if arch == "x86_64" else capabilities()


@lru_cache
def runs(name: str) -> bool:
    """Whether this processor has the instruction set `name`; False without llvmlite."""
    if binding is None or named(name).arch != host().arch:
        return False
    features = _features(host().arch)
    return all(features.get(need, False) for need in named(name).needs)


@lru_cache
def narrow(isa: Isa) -> Isa:
    """Return an instruction set with what this processor has beside it for bfloat16."""
    dot = {"avx512": "avx512bf16", "neon": "bf16"}.get(isa.name)
    if dot is None or isa.name != host().name:
        return isa
    features = _features(isa.arch)
    wanted = f",+{dot}" if features.get(dot) else ""
    if wanted and features.get("amx-tile") and features.get("amx-bf16") and _may_use_tiles():
        wanted += _TILES
    return replace(isa, features=isa.features + wanted)


@lru_cache
def halving(isa: Isa) -> Isa | None:
    """Return an instruction set with this processor's conversions of float16; None where it has none in it."""
    if isa.name == "avx512" or isa.arch != "x86_64":
        return isa
    has_them = isa.name == "avx2" and _features(isa.arch).get("f16c")
    return replace(isa, features=f"{isa.features},+f16c") if has_them else None


def without_tiles(isa: Isa) -> Isa:
    """Return an instruction set without AMX."""
    return replace(isa, features=isa.features.removesuffix(_TILES))


@lru_cache
def has_tiles() -> bool:
    """Whether this process may use AMX for products of bfloat16."""
    return narrow(host()).has("amx-bf16")


@lru_cache
def doubles() -> bool:
    """Whether a dot product of two in bfloat16 has a multiplication's throughput: so on AMD's Zen 5, not on Intel's."""
    isa = narrow(host())
    return isa.has("avx512bf16") and not has_tiles() and "AuthenticAMD" in processor()


@lru_cache
def dotted(isa: Isa) -> Isa:
    """Return an instruction set with what this processor has beside it for whole numbers of 8 bits."""
    needs = {"avx512": "avx512vnni", "avx2": "avxvnni", "neon": "dotprod"}.get(isa.name)
    if needs is None or not runs(isa.name) or not _features(isa.arch).get(needs):
        return isa
    return replace(isa, features=f"{isa.features},+{needs}")


def _may_use_tiles() -> bool:
    """Ask Linux once for the registers of AMX: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0)
    except (AttributeError, OSError):
        return False


def processor() -> str:
    """Return what the operating system says of the processor; its maker is somewhere in it."""
    known = Path("/proc/cpuinfo")
    return known.read_text(encoding="utf-8") if known.exists() else platform.processor()


def triple(isa: Isa) -> str:
    """Return the host's triple, or a Linux one of the other architecture."""
    native: str = need().get_process_triple()
    return native if isa.arch == host().arch else f"{isa.arch}-unknown-linux-gnu"


def module(isa: Isa, functions: str) -> str:
    """Return the functions as a whole module: declarations, attributes, triple."""
    functions = "\n".join([functions, *definitions(isa, functions)])
    declared = [
        f"declare {form.scalar} @{name}{form.c_suffix}({form.scalar})"
        for name in C_LIBRARY
        for form in FORMATS.values()
        if f"@{name}{form.c_suffix}(" in functions
    ]
    bits = isa.bytes * 8
    attributes = f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}'
    return "\n".join([f'target triple = "{triple(isa)}"', *declared, functions, attributes, ""])


@lru_cache(maxsize=1)
def _generator() -> str:
    """The versions of all that makes code: llvmlite, LLVM, and this folder's own sources."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    version = ".".join(map(str, need().llvm_version_info))
    return f"{llvmlite.__version__} {version} {hashlib.sha256(sources).hexdigest()}"


def object_code(what: str, dtype: str, isa: Isa, text: Callable[[], str]) -> bytes:
    """Return the object code of `text()`, the module for `what`; from the cache where it is there."""
    name = disk_cache.key(what, dtype, isa.name, isa.features, triple(isa), _generator()) + ".o"
    code = disk_cache.read(name)
    if code is None:
        code = generate(text(), isa)
        disk_cache.write(name, code)
    return code


def generate(text: str, isa: Isa) -> bytes:
    """Compile a module to an object."""
    llvm = need()
    with _lock:
        if isa.arch != host().arch:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
        parsed = llvm.parse_assembly(text)
        target = llvm.Target.from_triple(triple(isa))
        machine = target.create_target_machine(
            cpu="", features=isa.features, opt=OPTIMISATION, reloc="pic", codemodel="small"
        )
        return bytes(machine.emit_object(parsed))


@lru_cache(maxsize=1)
def _linker() -> Any:
    """Return what links objects into this process.

    The code reaches its constants by offsets of 32 bits. JITLink puts both in one piece of memory; LLVM's older linker,
    left to Windows, may find places for them more than 2 GB apart, and then ends the process.
    """
    llvm = need()
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=OPTIMISATION, codemodel="jitdefault", jit=True
    )
    return llvm.create_lljit_compiler(machine, use_jit_link=sys.platform != "win32")


class Library:
    """Object code in memory; its addresses are good while it lives."""

    _count = 0

    def __init__(self, code: bytes, names: tuple[str, ...]) -> None:
        llvm = need()
        host()
        with _lock:
            builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
            for name in names:
                builder.export_symbol(name)
            Library._count += 1
            try:
                self._tracker = builder.link(_linker(), f"everloop {Library._count}")
            except RuntimeError as error:
                raise UnsupportedError(
                    f"the operating system gave no memory for code of the processor ({error}); allow more"
                    ' mappings or executable memory, or set target="eager", which needs none'
                ) from error
        self.address: dict[str, int] = {name: self._tracker[name] for name in names}
