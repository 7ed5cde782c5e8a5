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
    arctangent: tuple[tuple[float, ...], ...]  # atan(t) = t + t^3 p(t^2), or p / q, highest powers first
    error_near: tuple[float, ...]  # erf(x) = x p(x^2) below a half
    error_far: tuple[float, ...]  # erfc(x) = exp(-x^2) t p(t - 7/16) above, for t = 1 / (1 + x / 2)
    log10_2: tuple[float, float]  # the first bits of log10(2), so that multiples of it are exact, and the rest

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
_ATAN32 = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_ATAN64 = (
    (-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
     -1.228866684490136173410e2, -6.485021904942025371773e1),
    (1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
     4.853903996359136964868e2, 1.945506571482613964425e2),
)  # fmt: skip
# Interpolated at Chebyshev's nodes in arithmetic of 60 digits.
_ERF32 = (4.719082567e-3, -2.675773274e-2, 1.128283143e-1, -3.761260901e-1, 1.128379166)
_ERF64 = (
    1.47258654805567439e-6, -1.48458492597078698e-5, 1.20533351243537407e-4, -8.54829775367496688e-4,
    5.22397737302147002e-3, -2.68661706328879294e-2, 1.12837916709253531e-1, -3.76126389031834735e-1,
    1.12837916709551257,
)  # fmt: skip
_ERFC32 = (
    -0.02760603492, -0.05331356358, 0.0871255779, 0.06586352308, -0.1349141304, -0.1344224104, 0.1842837201,
    0.5278535975, 0.6191605369, 0.4699890765,
)  # fmt: skip
_ERFC64 = (
    0.0160571482183511545, 0.105478724067933248, -0.094291528374940463, -0.0932177033169424379, 0.138196097933375418,
    -0.00295526472023217663, -0.107035452906802466, 0.0738516524446478876, 0.0414780327965097756,
    -0.0930574038115427614, 0.0177837530307825576, 0.0820066295944340799, -0.0594382684504929116,
    -0.0659296667020962613, 0.092483468479185001, 0.0666022767150835969, -0.135233628622492398, -0.134441002671676141,
    0.184290923945722801, 0.527853779001086356, 0.619160492711387317, 0.469989076178519612,
)  # fmt: skip
_EXP64 = tuple(1 / math.factorial(n) for n in range(13, 1, -1))
FORMATS = {
    row.dtype: row
    for row in (
        FloatFormat(
            torch.float32, "float", "i32", 4, 23, 127, "f32", "f", "f", ("ps", "i16 -1"),
            (0.693359375, -2.12194440e-4), _EXP32, 5, -104.0, 89.0, 20.0,
            (_ATAN32,), _ERF32, _ERFC32, (0.301025390625, 4.605038981195214e-06),
        ),
        FloatFormat(
            torch.float64, "double", "i64", 8, 52, 1023, "f64", "", "d", ("pd", "i8 -1"),
            (6.93145751953125e-1, 1.42860682030941723212e-6), _EXP64, 12, -746.0, 710.0, 40.0,
            _ATAN64, _ERF64, _ERFC64, (0.30102999566361177, 3.694239077158931e-13),
        ),
    )
}  # fmt: skip
NAMES = " or ".join(str(dtype).removeprefix("torch.") for dtype in FORMATS)  # for messages
