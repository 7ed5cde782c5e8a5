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

from everloop.compiler.targets.llvm.c_library import C_LIBRARY
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
        p = self.estrin(r, form.exponential)
        return self.bits(shifted), n, self.fma(self.mul(r, r), p, r)

    def exp(self, x: str) -> str:
        form = self.form
        low, n, p = self.reduce_exp(self.clamp(x, form.lowest, form.highest))
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

    def log(self, x: str) -> str:
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
        # 2 s = f - s f: keeps f exact where x is near one.
        tail = self.fma(s, self.sub(self.mul(z, series), f), self.mul(power, self.number(form.ln2[1])))
        value = self.fma(power, self.number(form.ln2[0]), self.add(f, tail))
        value = self.pick(self.compare("oeq", x, self.number(0)), self.number(-math.inf), value)
        value = self.pick(self.compare("ogt", x, self.number(form.largest)), x, value)
        return self.pick(self.compare("uge", x, self.number(0)), self.keep_nan(x, value), self.number(math.nan))

    def log1p(self, x: str) -> str:
        """log(u) x / (u - 1) with u = 1 + x rounded: the error of u cancels."""
        one = self.number(1)
        u = self.add(x, one)
        value = self.mul(self.log(u), self.div(x, self.sub(u, one)))
        value = self.pick(self.compare("oeq", u, self.number(math.inf)), u, value)
        return self.pick(self.compare("oeq", u, one), x, value)

    def expm1(self, x: str) -> str:
        limit = self.form.highest - 2
        near = self.expm1_within(x, limit)
        return self.pick(self.compare("ogt", x, self.number(limit)), self.exp(x), near)

    def atan(self, x: str) -> str:
        """From the size of x, its reciprocal, or a quotient that brings it near zero."""
        form, one = self.form, self.number(1)
        if not form.arctangent:
            return self.each("atan", x)
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

    def quotient(self, x: str, factors: tuple[tuple[float, ...], ...]) -> str:
        """A polynomial, or one divided by another."""
        above, *below = (self.horner(x, each) for each in factors)
        return self.div(above, below[0]) if below else above

    def erf(self, x: str) -> str:
        """A series below one, 1 - erfc(x) above; of doubles the C library's."""
        form = self.form
        if not form.error_near:
            return self.each("erf", x)
        size, square = self.intrinsic("fabs", x), self.mul(x, x)
        near = self.mul(x, self.horner(square, form.error_near))
        t = self.div(self.number(2), self.add(size, self.number(2)))
        power = self.exp(self.sub(self.horner(t, form.error_far), square))
        far = self.intrinsic("copysign", self.fma(self.neg(t), power, self.number(1)), x)
        return self.pick(self.compare("ogt", size, self.number(1)), far, near)

    def keep_nan(self, x: str, value: str) -> str:
        return self.pick(self.compare("uno", x, x), x, value)

    def sign(self, x: str) -> str:
        up = self.pick(self.compare("ogt", x, self.number(0)), self.number(1), self.number(0))
        return self.pick(self.compare("olt", x, self.number(0)), self.number(-1), up)

    def each(self, name: str, *args: str) -> str:
        """Call the C library's function for every lane."""
        scalar, value = self.form.scalar, "poison"
        name += self.form.c_suffix
        for lane in range(self.count):
            own = [self.code(f"extractelement {self.vector} {x}, i64 {lane}") for x in args]
            one = self.code(f"call {scalar} @{name}({', '.join(f'{scalar} {x}' for x in own)})")
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


def _each(name: str, lanes: Lanes, *args: str) -> str:
    return lanes.each(name, *args)


FUNCTIONS: dict[str, VectorFunction] = {
    "add": VectorFunction(Lanes.add),
    "sub": VectorFunction(Lanes.sub),
    "mul": VectorFunction(Lanes.mul),
    "div": VectorFunction(Lanes.div),
    "neg": VectorFunction(Lanes.neg),
    "abs": VectorFunction(lambda m, x: m.intrinsic("fabs", x)),
    "sign": VectorFunction(Lanes.sign),
    "floor": VectorFunction(lambda m, x: m.intrinsic("floor", x)),
    "sqrt": VectorFunction(lambda m, x: m.intrinsic("sqrt", x)),
    "rsqrt": VectorFunction(lambda m, x: m.div(m.number(1), m.intrinsic("sqrt", x))),
    "exp": VectorFunction(lambda m, x: m.exp(x), is_chain=True),
    "expm1": VectorFunction(Lanes.expm1, is_chain=True),
    "log": VectorFunction(Lanes.log, is_chain=True),
    "log1p": VectorFunction(Lanes.log1p, is_chain=True),
    "tanh": VectorFunction(lambda m, x: m.tanh(x), is_chain=True),
    "sigmoid": VectorFunction(lambda m, x: m.sigmoid(x), is_chain=True),
    "fmod": VectorFunction(lambda m, x, y: m.plain("frem", x, y)),
    "minimum": VectorFunction(lambda m, x, y: m.intrinsic("minimum", x, y)),
    "maximum": VectorFunction(lambda m, x, y: m.intrinsic("maximum", x, y)),
    **{name: VectorFunction(partial(_each, name)) for name in C_LIBRARY},
    "atan": VectorFunction(Lanes.atan, is_chain=True),
    "erf": VectorFunction(lambda m, x: m.erf(x), is_chain=True),
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
