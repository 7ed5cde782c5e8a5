"""Sine and cosine of a vector as functions of their own, which a module defines once: `call @everloop_sin_f32(x)`.

The angle less a multiple of pi/2, whose bits stand in three numbers (Cody and Waite, Software Manual for the Elementary
Functions, 1980), goes into the series of Taylor. Vectors with an angle too large for that, and all where a product and
a sum are rounded twice, go to the C library.
"""

from __future__ import annotations

import math

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.formats import FORMATS, FloatFormat
from everloop.compiler.targets.llvm.mathematics import Lanes, vector_function
from everloop.compiler.targets.llvm.vector import Isa

LARGEST = 30_000.0  # angle; a multiple of pi/2 below it is exact in three parts
QUARTERS = {"sin": 0, "cos": 1}  # quarters of a turn by which an angle is ahead of the sine's
# The first bits of pi/2 and two times the next, by the bytes of a number.
PARTS = {
    4: (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    8: (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
}


def definitions(isa: Isa, functions: str) -> list[str]:
    """Return the texts of the functions that are called in `functions`."""
    each = ((name, form) for name in QUARTERS for form in FORMATS.values())
    return [_definition(name, form, isa) for name, form in each if f"{vector_function(name, form)}(" in functions]


def _definition(name: str, form: FloatFormat, isa: Isa) -> str:
    vector = Lanes(Code(""), form, isa).vector
    code = Code(f"internal {vector} {vector_function(name, form)}({vector} %x)")
    lanes = Lanes(code, form, isa)
    if not isa.fuses:
        return code.end(f"{vector} {lanes.each(name, '%x')}")
    beyond = lanes.compare("ogt", lanes.intrinsic("fabs", "%x"), lanes.number(LARGEST))
    count = f"i{lanes.count}"
    is_any = code(f"icmp ne {count} {code(f'bitcast {lanes.masks} {beyond} to {count}')}, 0")
    result = code.either(is_any, vector, lambda: lanes.each(name, "%x"), lambda: _series(lanes, QUARTERS[name]))
    return code.end(f"{vector} {result}")


def _series(lanes: Lanes, ahead: int) -> str:
    """The sine of x and so many quarters of a turn."""
    form, x = lanes.form, "%x"
    shifted = lanes.fma(x, lanes.number(2 / math.pi), lanes.number(form.magic))
    n, r = lanes.sub(shifted, lanes.number(form.magic)), x
    for part in PARTS[form.size]:
        r = lanes.fma(n, lanes.number(-part), r)
    quarter = lanes.integer("add", lanes.bits(shifted), lanes.splat_int(ahead))
    square = lanes.mul(r, r)
    terms = 5 if form.size == 4 else 9
    sine = [(-1) ** k / math.factorial(2 * k + 1) for k in range(terms - 1, 0, -1)]
    cosine = [(-1) ** k / math.factorial(2 * k) for k in range(terms, -1, -1)]
    odd = lanes.fma(lanes.mul(r, square), lanes.horner(square, tuple(sine)), r)
    odd = lanes.pick(lanes.compare("oeq", x, lanes.number(0)), x, odd)  # which keeps the sign of zero
    even = lanes.horner(square, tuple(cosine))
    is_odd = lanes.code(f"trunc {lanes.integers} {quarter} to {lanes.masks}")
    value = lanes.pick(is_odd, even, odd)
    bits = 8 * form.size
    half = lanes.integer("and", quarter, lanes.splat_int(2))
    sign = lanes.integer("shl", half, lanes.splat_int(bits - 2))
    return lanes.unbits(lanes.integer("xor", lanes.bits(value), sign))
