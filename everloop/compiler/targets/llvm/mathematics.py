"""The element-wise operations as vector code: one table row an operation, polynomials for the functions.

Range reductions and the exponential's polynomials follow the Cephes library (S. Moshier, 1984 to 1992); tanh is
formed from exp(2x) - 1, which keeps its relative accuracy near zero without a branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FloatFormat
from everloop.compiler.targets.llvm.vector import Isa


class Register(NamedTuple):
    """A vector of floats, or of truth values (i1) when `is_mask`."""

    name: str
    is_mask: bool = False


class Lanes:
    """Arithmetic on vectors of one format, written into `code`."""

    def __init__(self, code: Code, form: FloatFormat, isa: Isa) -> None:
        self.code, self.form, self.isa = code, form, isa
        self.count = isa.lanes(form.size)
        self.vector = f"<{self.count} x {form.scalar}>"
        self.integers = f"<{self.count} x {form.integer}>"
        self.masks = f"<{self.count} x i1>"

    # The parts.

    def number(self, value: float) -> str:
        return f"splat ({self.form.scalar} {self.form.literal(value)})"

    def splat_int(self, value: int) -> str:
        return f"splat ({self.form.integer} {value})"

    def floats(self, value: Register) -> str:
        return self.pick(value.name, self.number(1), self.number(0)) if value.is_mask else value.name

    def mask(self, value: Register) -> str:
        return value.name if value.is_mask else self.compare("une", value.name, self.number(0))

    def plain(self, op: str, a: str, b: str) -> str:
        return self.code(f"{op} {self.vector} {a}, {b}")

    def add(self, a: str, b: str) -> str:
        return self.plain("fadd", a, b)

    def sub(self, a: str, b: str) -> str:
        return self.plain("fsub", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.plain("fmul", a, b)

    def div(self, a: str, b: str) -> str:
        return self.plain("fdiv", a, b)

    def neg(self, a: str) -> str:
        return self.code(f"fneg {self.vector} {a}")

    def compare(self, relation: str, a: str, b: str) -> str:
        return self.code(f"fcmp {relation} {self.vector} {a}, {b}")

    def pick(self, mask: str, a: str, b: str) -> str:
        return self.code(f"select {self.masks} {mask}, {self.vector} {a}, {self.vector} {b}")

    def intrinsic(self, name: str, *args: str) -> str:
        operands = ", ".join(f"{self.vector} {a}" for a in args)
        return self.code(f"call {self.vector} @llvm.{name}.v{self.count}{self.form.suffix}({operands})")

    def fma(self, a: str, b: str, c: str) -> str:
        return self.intrinsic("fmuladd", a, b, c)

    def integer(self, op: str, a: str, b: str) -> str:
        return self.code(f"{op} {self.integers} {a}, {b}")

    def bits(self, a: str) -> str:
        return self.code(f"bitcast {self.vector} {a} to {self.integers}")

    def unbits(self, a: str) -> str:
        return self.code(f"bitcast {self.integers} {a} to {self.vector}")

    def clamp(self, a: str, low: float, high: float) -> str:
        """NaN passes, since a comparison with it is false."""
        a = self.pick(self.compare("ogt", a, self.number(high)), self.number(high), a)
        return self.pick(self.compare("olt", a, self.number(low)), self.number(low), a)

    def horner(self, x: str, factors: tuple[float, ...]) -> str:
        value = self.number(factors[0])
        for factor in factors[1:]:
            value = self.fma(value, x, self.number(factor))
        return value

    def estrin(self, x: str, factors: tuple[float, ...]) -> str:
        """The same in pairs: more operations beside each other, none waits for all before it."""
        terms = [self.number(factor) for factor in reversed(factors)]  # lowest power first
        while len(terms) > 3:
            pairs = [self.fma(high, x, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
            terms = pairs + terms[len(pairs) * 2 :]
            x = self.mul(x, x)
        value = terms.pop()
        while terms:
            value = self.fma(value, x, terms.pop())
        return value

    # The functions.

    def reduce_exp(self, x: str) -> tuple[str, str, str]:
        """x = n ln 2 + r: returns (bits holding n in the low part, n, exp(r) - 1)."""
        form = self.form
        shifted = self.fma(x, self.number(1 / math.log(2)), self.number(form.magic))
        n = self.sub(shifted, self.number(form.magic))
        r = self.fma(n, self.number(-form.ln2[0]), x)
        r = self.fma(n, self.number(-form.ln2[1]), r)
        return self.bits(shifted), n, self.near_expm1(r)

    def near_expm1(self, r: str) -> str:
        """exp(r) - 1 for |r| of at most half of ln 2."""
        return self.fma(self.mul(r, r), self.estrin(r, self.form.exponential), r)

    def exp(self, x: str) -> str:
        return self.scaled(*self.reduce_exp(self.clamp(x, self.form.lowest, self.form.highest)))

    def exp2(self, x: str) -> str:
        """By the nearest whole power, which is exact, and the rest."""
        form, magic = self.form, self.number(self.form.magic)
        x = self.clamp(x, form.lowest / math.log(2), form.highest / math.log(2))
        shifted = self.add(x, magic)
        n = self.sub(shifted, magic)
        return self.scaled(self.bits(shifted), n, self.near_expm1(self.mul(self.sub(x, n), self.number(math.log(2)))))

    def scaled(self, low: str, n: str, p: str) -> str:
        """Return 2^n (1 + p); `low` holds n in its low bits."""
        form = self.form
        p = self.add(p, self.number(1))
        if self.isa.name == "avx512":
            kind, full = form.scalef
            args = f"{self.vector} {p}, {self.vector} {n}, {self.vector} {p}, {full}, i32 4"
            return self.code(f"call {self.vector} @llvm.x86.avx512.mask.scalef.{kind}.512({args})")
        # Two factors, so that neither is out of range where the product is not (or is zero or infinite).
        whole = self.integer("sub", low, self.splat_int(form.bits(form.magic)))
        half = self.integer("ashr", whole, self.splat_int(1))
        for part in (half, self.integer("sub", whole, half)):
            raised = self.integer("add", part, self.splat_int(form.bias))
            p = self.mul(p, self.unbits(self.integer("shl", raised, self.splat_int(form.mantissa))))
        return p

    def expm1_within(self, x: str, limit: float) -> str:
        """exp(x) - 1 for |x| <= limit, a number whose exponential is in range; relative accuracy near zero."""
        low, _, p = self.reduce_exp(self.clamp(x, -limit, limit))
        power = self.integer("shl", low, self.splat_int(self.form.mantissa))
        one = self.splat_int(self.form.bias << self.form.mantissa)
        scale = self.unbits(self.integer("add", power, one))
        return self.fma(p, scale, self.sub(scale, self.number(1)))

    def tanh(self, x: str) -> str:
        e = self.expm1_within(self.add(x, x), self.form.flat)
        return self.div(e, self.add(e, self.number(2)))

    def sigmoid(self, x: str) -> str:
        return self.div(self.number(1), self.add(self.number(1), self.exp(self.neg(x))))

    def split_log(self, x: str) -> tuple[str, str, str, str]:
        """x = 2^power (1 + f), and ln(1 + f) = f + s g: returns (power, f, s, g)."""
        form = self.form
        normal = 2.0 ** (1 - form.bias)
        small = self.compare("olt", x, self.number(normal))
        scaled = self.pick(small, self.mul(x, self.number(2.0**form.mantissa)), x)
        bits = self.bits(scaled)
        n = self.integer("sub", bits, self.splat_int(form.bits(math.sqrt(0.5))))
        n = self.integer("ashr", n, self.splat_int(form.mantissa))
        shift = self.integer("shl", n, self.splat_int(form.mantissa))
        f = self.sub(self.unbits(self.integer("sub", bits, shift)), self.number(1))
        power = self.code(f"sitofp {self.integers} {n} to {self.vector}")
        power = self.add(power, self.pick(small, self.number(-form.mantissa), self.number(0)))
        s = self.div(f, self.add(f, self.number(2)))
        z = self.mul(s, s)
        series = self.horner(z, tuple(2 / (2 * k + 1) for k in range(form.logarithm, 0, -1)))
        return power, f, s, self.sub(self.mul(z, series), f)  # 2 s = f - s f: keeps f exact where x is near one

    def at_ends_of_log(self, x: str, value: str) -> str:
        value = self.pick(self.compare("oeq", x, self.number(0)), self.number(-math.inf), value)
        value = self.pick(self.compare("ogt", x, self.number(self.form.largest)), x, value)
        return self.pick(self.compare("uge", x, self.number(0)), self.keep_nan(x, value), self.number(math.nan))

    def log(self, x: str) -> str:
        high, low = self.form.ln2
        power, f, s, g = self.split_log(x)
        tail = self.fma(s, g, self.mul(power, self.number(low)))
        return self.at_ends_of_log(x, self.fma(power, self.number(high), self.add(f, tail)))

    def log2(self, x: str) -> str:
        power, f, s, g = self.split_log(x)
        return self.at_ends_of_log(x, self.fma(self.fma(s, g, f), self.number(1 / math.log(2)), power))

    def log10(self, x: str) -> str:
        high, low = self.form.log10_2
        power, f, s, g = self.split_log(x)
        tail = self.fma(self.fma(s, g, f), self.number(1 / math.log(10)), self.mul(power, self.number(low)))
        return self.at_ends_of_log(x, self.fma(power, self.number(high), tail))

    def log1p(self, x: str) -> str:
        """log(u) x / (u - 1) with u = 1 + x rounded: the error of u cancels."""
        one = self.number(1)
        u = self.add(x, one)
        value = self.mul(self.log(u), self.div(x, self.sub(u, one)))
        value = self.pick(self.compare("oeq", u, self.number(math.inf)), u, value)
        return self.pick(self.compare("oeq", u, one), x, value)

    def expm1(self, x: str) -> str:
        limit = self.form.highest - 2
        near = self.pick(self.compare("oeq", x, self.number(0)), x, self.expm1_within(x, limit))
        return self.pick(self.compare("ogt", x, self.number(limit)), self.exp(x), near)

    def atan(self, x: str) -> str:
        """From the size of x, its reciprocal, or a quotient that brings it near zero."""
        form, one = self.form, self.number(1)
        size = self.intrinsic("fabs", x)
        is_large = self.compare("ogt", size, self.number(math.tan(3 * math.pi / 8)))
        is_middle = self.compare("ogt", size, self.number(math.tan(math.pi / 8)))
        above = self.pick(is_large, self.number(-1), self.sub(size, one))
        below = self.pick(is_large, size, self.add(size, one))
        t = self.pick(is_middle, self.div(above, below), size)
        start = self.pick(is_large, self.number(math.pi / 2), self.number(math.pi / 4))
        start = self.pick(is_middle, start, self.number(0))
        z = self.mul(t, t)
        slope = self.mul(z, self.quotient(z, form.arctangent))
        value = self.add(start, self.fma(t, slope, t))
        return self.intrinsic("copysign", value, x)

    def atan2(self, y: str, x: str) -> str:
        """The arctangent of the smaller size over the larger, put where the signs and sizes say."""
        up, across = self.intrinsic("fabs", y), self.intrinsic("fabs", x)
        is_steep = self.compare("ogt", up, across)
        share = self.div(self.pick(is_steep, across, up), self.pick(is_steep, up, across))
        both_ends = self.pick(self.compare("oeq", up, self.number(0)), self.number(0), self.number(1))
        share = self.pick(self.compare("oeq", up, across), both_ends, share)
        angle = self.atan(share)
        angle = self.pick(is_steep, self.sub(self.number(math.pi / 2), angle), angle)
        side = self.intrinsic("copysign", self.number(1), x)
        is_behind = self.compare("olt", side, self.number(0))
        angle = self.pick(is_behind, self.sub(self.number(math.pi), angle), angle)
        angle = self.pick(self.compare("uno", x, y), self.add(x, y), angle)
        return self.intrinsic("copysign", angle, y)

    def quotient(self, x: str, factors: tuple[tuple[float, ...], ...]) -> str:
        """A polynomial, or one divided by another."""
        above, *below = (self.horner(x, each) for each in factors)
        return self.div(above, below[0]) if below else above

    def erf(self, x: str) -> str:
        """A series below a half, 1 - erfc(x) above."""
        far = self.intrinsic("copysign", self.sub(self.number(1), self.erfc_far(x)), x)
        return self.pick(self.is_beyond_half(x), far, self.erf_near(x))

    def erfc(self, x: str) -> str:
        """1 - erf(x) below a half; above, with what the rounded square of x leaves out; of negative x 2 - erfc(-x)."""
        x = self.clamp(x, -30.0, 30.0)
        far = self.erfc_far(x)
        far = self.fma(self.neg(far), self.beyond_square(x), far)
        far = self.pick(self.compare("olt", x, self.number(0)), self.sub(self.number(2), far), far)
        return self.pick(self.is_beyond_half(x), far, self.sub(self.number(1), self.erf_near(x)))

    def beyond_square(self, x: str) -> str:
        """What the exact square of x has beyond the rounded one; by halves of x where there is no fused product."""
        minus = self.neg(self.mul(x, x))
        if self.isa.fuses:
            return self.fma(x, x, minus)
        bits = -1 << (self.form.mantissa // 2 + 1)
        high = self.unbits(self.integer("and", self.bits(x), self.splat_int(bits)))
        low = self.sub(x, high)
        crossed = self.mul(self.add(high, high), low)
        return self.add(self.add(self.add(self.mul(high, high), minus), crossed), self.mul(low, low))

    def is_beyond_half(self, x: str) -> str:
        return self.compare("ogt", self.intrinsic("fabs", x), self.number(0.5))

    def erf_near(self, x: str) -> str:
        return self.mul(x, self.horner(self.mul(x, x), self.form.error_near))

    def erfc_far(self, x: str) -> str:
        """erfc(|x|) where |x| is beyond a half, with the rounded square of x."""
        t = self.div(self.number(2), self.add(self.intrinsic("fabs", x), self.number(2)))
        series = self.estrin(self.sub(t, self.number(7 / 16)), self.form.error_far)
        return self.mul(self.exp(self.neg(self.mul(x, x))), self.mul(t, series))

    def keep_nan(self, x: str, value: str) -> str:
        return self.pick(self.compare("uno", x, x), x, value)

    def sign(self, x: str) -> str:
        up = self.pick(self.compare("ogt", x, self.number(0)), self.number(1), self.number(0))
        return self.pick(self.compare("olt", x, self.number(0)), self.number(-1), up)

    def each(self, name: str, x: str) -> str:
        """Call the C library's function for every lane."""
        scalar, value = self.form.scalar, "poison"
        name += self.form.c_suffix
        for lane in range(self.count):
            own = self.code(f"extractelement {self.vector} {x}, i64 {lane}")
            one = self.code(f"call {scalar} @{name}({scalar} {own})")
            value = self.code(f"insertelement {self.vector} {value}, {scalar} {one}, i64 {lane}")
        return value


@dataclass(frozen=True)
class VectorFunction:
    """write(lanes, *floats) returns a float; is_chain: by a long chain of instructions, each waiting for the last."""

    write: Callable[..., str]
    is_chain: bool = False


def vector_function(name: str, form: FloatFormat) -> str:
    """Return the name of a function of vectors that each module defines for itself (trigonometry.py)."""
    return f"@everloop_{name}_{form.suffix}"


def _call(name: str, lanes: Lanes, x: str) -> str:
    return lanes.code(f"call {lanes.vector} {vector_function(name, lanes.form)}({lanes.vector} {x})")


FUNCTIONS: dict[str, VectorFunction] = {
    "add": VectorFunction(Lanes.add),
    "sub": VectorFunction(Lanes.sub),
    "mul": VectorFunction(Lanes.mul),
    "div": VectorFunction(Lanes.div),
    "neg": VectorFunction(Lanes.neg),
    "abs": VectorFunction(lambda m, x: m.intrinsic("fabs", x)),
    "sign": VectorFunction(Lanes.sign),
    "floor": VectorFunction(lambda m, x: m.intrinsic("floor", x)),
    "trunc": VectorFunction(lambda m, x: m.intrinsic("trunc", x)),
    "round": VectorFunction(lambda m, x: m.intrinsic("rint", x)),
    "sqrt": VectorFunction(lambda m, x: m.intrinsic("sqrt", x)),
    "rsqrt": VectorFunction(lambda m, x: m.div(m.number(1), m.intrinsic("sqrt", x))),
    "exp": VectorFunction(lambda m, x: m.exp(x), is_chain=True),
    "expm1": VectorFunction(Lanes.expm1, is_chain=True),
    "exp2": VectorFunction(Lanes.exp2, is_chain=True),
    "log": VectorFunction(Lanes.log, is_chain=True),
    "log1p": VectorFunction(Lanes.log1p, is_chain=True),
    "log2": VectorFunction(Lanes.log2, is_chain=True),
    "log10": VectorFunction(Lanes.log10, is_chain=True),
    "tanh": VectorFunction(lambda m, x: m.tanh(x), is_chain=True),
    "sigmoid": VectorFunction(lambda m, x: m.sigmoid(x), is_chain=True),
    "fmod": VectorFunction(lambda m, x, y: m.plain("frem", x, y)),
    "minimum": VectorFunction(lambda m, x, y: m.intrinsic("minimum", x, y)),
    "maximum": VectorFunction(lambda m, x, y: m.intrinsic("maximum", x, y)),
    "atan": VectorFunction(Lanes.atan, is_chain=True),
    "atan2": VectorFunction(Lanes.atan2, is_chain=True),
    "erf": VectorFunction(Lanes.erf, is_chain=True),
    "erfc": VectorFunction(Lanes.erfc, is_chain=True),
    "sin": VectorFunction(partial(_call, "sin")),
    "cos": VectorFunction(partial(_call, "cos")),
}
RELATIONS = {"less": "olt", "less_equal": "ole", "equal": "oeq"}  # false where a side is NaN


def operations() -> frozenset[str]:
    """Return the names of every element-wise operation."""
    return frozenset(FUNCTIONS) | frozenset(RELATIONS) | {"where"}


def is_chain(op: str) -> bool:
    """Return whether an operation is a long chain of instructions, each waiting for the last."""
    return op in FUNCTIONS and FUNCTIONS[op].is_chain


def apply(lanes: Lanes, op: str, args: list[Register]) -> Register:
    """Write the operation `op` and return its value; comparisons give masks, stored as 0 and 1."""
    if op in FUNCTIONS:
        return Register(FUNCTIONS[op].write(lanes, *(lanes.floats(a) for a in args)))
    if op in RELATIONS:
        return Register(lanes.compare(RELATIONS[op], *(lanes.floats(a) for a in args)), True)
    assert op == "where", op
    condition, yes, no = args
    return Register(lanes.pick(lanes.mask(condition), lanes.floats(yes), lanes.floats(no)))
