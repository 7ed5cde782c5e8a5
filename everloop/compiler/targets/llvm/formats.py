"""The floating formats that kernels store and compute in: one row a format, with all that depends on it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FloatFormat:
    """One row of the table: a dtype, its bits, its names elsewhere, and the constants of its polynomials."""

    dtype: torch.dtype
    scalar: str  # LLVM's type
    integer: str  # LLVM's type of an integer of as many bits
    size: int  # bytes
    mantissa: int  # bits
    bias: int  # of the exponent
    suffix: str  # of LLVM's intrinsics
    c_suffix: str  # of the C library's functions
    code: str  # in the module struct
    scalef: tuple[str, str]  # of AVX-512: the instruction's suffix, and the mask of all lanes
    ln2: tuple[float, float]  # the first bits of ln 2, so that multiples of it are exact, and the rest
    exponential: tuple[float, ...]  # p: exp(r) = 1 + r + r^2 p(r), highest power first
    logarithm: int  # terms of the series of atanh
    lowest: float  # exp(x) is zero below
    highest: float  # exp(x) is infinite above
    flat: float  # tanh(x) is one above half of it

    @property
    def magic(self) -> float:
        """Adding it to x leaves the nearest integer of x in the low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return torch.finfo(self.dtype).max

    def bits(self, number: float) -> int:
        """Return the bits of a number, as an integer."""
        return int.from_bytes(struct.pack(f"<{self.code}", number), "little")

    def literal(self, number: float) -> str:
        """Return a constant of LLVM: the bits of the double that equals the rounded number."""
        (rounded,) = struct.unpack(self.code, struct.pack(self.code, number))
        return f"0x{struct.unpack('>Q', struct.pack('>d', rounded))[0]:016X}"


_EXP32 = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_EXP64 = tuple(1 / math.factorial(n) for n in range(13, 1, -1))
FORMATS = {
    row.dtype: row
    for row in (
        FloatFormat(
            torch.float32, "float", "i32", 4, 23, 127, "f32", "f", "f", ("ps", "i16 -1"),
            (0.693359375, -2.12194440e-4), _EXP32, 5, -104.0, 89.0, 20.0,
        ),
        FloatFormat(
            torch.float64, "double", "i64", 8, 52, 1023, "f64", "", "d", ("pd", "i8 -1"),
            (6.93145751953125e-1, 1.42860682030941723212e-6), _EXP64, 12, -746.0, 710.0, 40.0,
        ),
    )
}  # fmt: skip
NAMES = " or ".join(str(dtype).removeprefix("torch.") for dtype in FORMATS)  # for messages
