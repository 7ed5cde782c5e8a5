"""What an AArch64 processor has beside NEON, as its operating system says; LLVM does not tell all of it."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    """Where a feature of the processor is found.

    word, bit: Linux's, of `getauxval`, from its "ARM64 ELF hwcaps"; name: macOS's, of `sysctlbyname`.
    """

    word: int
    bit: int
    name: str


_HWCAP, _HWCAP2 = 16, 26
CAPABILITIES = {
    "dotprod": Capability(_HWCAP, 20, "hw.optional.arm.FEAT_DotProd"),
    "bf16": Capability(_HWCAP2, 14, "hw.optional.arm.FEAT_BF16"),
}


def capabilities() -> dict[str, bool]:
    """Return whether this AArch64 processor has each feature, by LLVM's name; on Windows only NEON is known."""
    has = {"linux": _on_linux, "darwin": _on_macos}.get(sys.platform)
    return {"neon": True} | {name: has is not None and has(found) for name, found in CAPABILITIES.items()}


def _on_linux(found: Capability) -> bool:
    ask = ctypes.CDLL(None).getauxval
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return bool(ask(found.word) >> found.bit & 1)


def _on_macos(found: Capability) -> bool:
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    ask = ctypes.CDLL(None).sysctlbyname
    return ask(found.name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) == 0 and value.value == 1
