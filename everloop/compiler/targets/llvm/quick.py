"""exp, sigmoid and tanh for loops that store bfloat16: relative errors below 2^-15, with half the instructions.

By what AVX-512 has for it: the distance to a whole number, a power of two, and an estimate of 1/x where dividing takes
longer. A sigmoid near one and long products of such are as exact as in float32, since there the error of the
exponential is scaled by it.
"""

from __future__ import annotations

import math

from everloop.compiler.targets.llvm.mathematics import Lanes

# q: 2^f = 1 + f q(f) for 0 <= f < 1, highest power first; the greatest relative error of f q(f) is 2^-15.87, of the
# sum 2^-16.87 (least, by linear programming).
_POWER = (1.27082204e-2, 5.35218085e-2, 2.40617754e-1, 6.93135482e-1)
_FLAT = 8.0  # tanh is one from here on, in bfloat16
_DOWN = "i32 9"  # round towards minus infinity, in silence
_CURRENT = "i32 4"  # the rounding that is set


class QuickLanes(Lanes):
    """Vectors of float32 on AVX-512."""

    def exp(self, x: str) -> str:
        t, f = self._split(x, 1 / math.log(2))
        return self._raised(self.fma(f, self.horner(f, _POWER), self.number(1)), t)

    def sigmoid(self, x: str) -> str:
        t, f = self._split(x, -1 / math.log(2))
        power = self._raised(self.fma(f, self.horner(f, _POWER), self.number(1)), t)
        return self._quotient(self.number(1), self.add(power, self.number(1)))

    def tanh(self, x: str) -> str:
        size = self.intrinsic("fabs", x)
        size = self.pick(self.compare("ogt", size, self.number(_FLAT)), self.number(_FLAT), size)
        t, f = self._split(size, 2 / math.log(2))
        power = self._raised(self.number(1), t)
        less_one = self.fma(self.mul(f, self.horner(f, _POWER)), power, self.sub(power, self.number(1)))
        value = self._quotient(less_one, self.add(less_one, self.number(2)), is_finite=True)
        return self.intrinsic("copysign", value, x)

    def _split(self, x: str, scale: float) -> tuple[str, str]:
        """Return t = x * scale and t - floor(t), which is 0 where t is infinite."""
        t = self.mul(x, self.number(scale))
        args = f"{self.vector} {t}, {_DOWN}, {self.vector} {t}, i16 -1, {_CURRENT}"
        return t, self.code(f"call {self.vector} @llvm.x86.avx512.mask.reduce.ps.512({args})")

    def _raised(self, value: str, t: str) -> str:
        """value * 2^floor(t)"""
        args = f"{self.vector} {value}, {self.vector} {t}, {self.vector} {value}, i16 -1, {_CURRENT}"
        return self.code(f"call {self.vector} @llvm.x86.avx512.mask.scalef.ps.512({args})")

    def _quotient(self, a: str, x: str, is_finite: bool = False) -> str:
        """a / x for x of at least one: 14 bits of 1 / x, and a step of Newton's where x is finite."""
        args = f"{self.vector} {x}, {self.vector} {x}, i16 -1"
        near = self.code(f"call {self.vector} @llvm.x86.avx512.rcp14.ps.512({args})")
        better = self.fma(near, self.fma(self.neg(x), near, self.number(1)), near)
        if not is_finite:
            better = self.pick(self.compare("une", x, self.number(math.inf)), better, near)
        return self.mul(a, better)


class DividingLanes(QuickLanes):
    """The same where a division takes no longer than an estimate and its correction."""

    def _quotient(self, a: str, x: str, is_finite: bool = False) -> str:
        return self.div(a, x)
