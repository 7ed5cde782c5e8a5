"""What an instruction set offers: vector width, register tile, feature list. One table row an instruction set."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.errors import OptionError, unknown


@dataclass(frozen=True)
class Isa:
    """An instruction set as the code generator sees it."""

    name: str
    arch: str  # "x86_64" or "aarch64"
    features: str  # LLVM's feature list
    bytes: int  # of a vector register
    rows: int  # of a register tile of the product
    vectors: int  # of a register tile, in vector registers: the width of a panel
    registers: int
    needs: tuple[str, ...]  # features the host must report

    def has(self, feature: str) -> bool:
        """Whether a feature is in the list."""
        return f"+{feature}" in self.features.split(",")

    def lanes(self, size: int) -> int:
        """Numbers of `size` bytes in a vector."""
        return self.bytes // size

    @property
    def fuses(self) -> bool:
        """Whether a * b + c is rounded once."""
        return self.arch == "aarch64" or "fma" in self.needs


_AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"
_AVX512 = _AVX2 + ",+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx512cd"

ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", "x86_64", _AVX512, 64, 6, 4, 32, ("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma")),
        Isa("avx2", "x86_64", _AVX2, 32, 4, 3, 16, ("avx2", "fma")),
        Isa("sse2", "x86_64", "+sse2", 16, 4, 2, 16, ("sse2",)),
        Isa("neon", "aarch64", "+neon", 16, 4, 4, 32, ("neon",)),
    )
}


def named(name: str) -> Isa:
    """Return the instruction set called `name`."""
    if name not in ISAS:
        raise OptionError(unknown("instruction set", name, ISAS))
    return ISAS[name]


def best(arch: str, features: dict[str, bool]) -> Isa | None:
    """Return the first (widest) instruction set that the host has, or None."""
    for isa in ISAS.values():
        if isa.arch == arch and all(features.get(need, False) for need in isa.needs):
            return isa
    return None
