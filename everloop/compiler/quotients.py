"""The range of a quotient whose parts are related: x over its length, a part over the sum of all parts.

So a normalised row lies within the square root of its width, a softmax within 0 and 1, and a mixture by a softmax
within what it mixes: shares of one sum are a group, of which one is 1 and the others are 0 at a corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everloop.compiler import intervals
from everloop.compiler.intervals import ANY, Interval
from everloop.compiler.ir import Value
from everloop.compiler.view import View

DEPTH = 8  # of factors that are looked into
Range = Callable[[Value], Interval]
Index = NDArray[np.int64]
Features = tuple[Value, Index]  # a value, and which of its features are meant


@dataclass(frozen=True, eq=False)
class Share:
    """A part of a sum, over that sum.

    whole, at: the sum, and which of its features each feature is a share of; index: which feature of what is summed is
    the part; parts: how many are summed.
    """

    whole: Value
    at: Index
    index: Index
    parts: int

    def is_beside(self, other: Share) -> bool:
        """Whether another is a share of the same sum, and of another part."""
        same = self.whole is other.whole and len(self.at) == len(other.at) and bool((self.at == other.at).all())
        return same and not bool((self.index == other.index).any())


def quotient(value: Value, of: Range) -> Interval:
    """Return the range of a product or a quotient, given those of what it is made of."""
    if value.op not in ("div", "mul"):
        return ANY
    first, second = (_argument(value, k, np.arange(value.width)) for k in (0, 1))
    if value.op == "div":
        return _over(first, second, of, DEPTH)
    return _times(first, second, of, DEPTH).within(_times(second, first, of, DEPTH))


def mixed(value: Value, of: Range) -> Interval:
    """Return the range of a sum of products with shares of one sum: that of what they weigh."""
    taken, groups = value.args[0], _groups(value)
    if taken.op != "mul":
        return ANY
    found = ANY
    for weight, each in (taken.args, taken.args[::-1]):
        part = share(weight, of) if weight.width == taken.width else None
        if part is not None:
            together = [part.index[groups == group] for group in np.unique(groups)]
            of_whole = _groups(part.whole)
            if all(len(np.unique(t)) == len(t) and len(np.unique(of_whole[t])) == 1 for t in together):
                is_all = all(len(t) == part.parts for t in together)
                found = found.within(of(each) if is_all else of(each).joined(Interval(0.0, 0.0)))
    return found


def share(value: Value, of: Range) -> Share | None:
    """Return which share of a sum a value is, if it is one."""
    quotient_, index = _bare((value, np.arange(value.width)))
    if quotient_.op != "div":
        return None
    part, at_part = _bare(_argument(quotient_, 0, index))
    whole, at_whole = _bare(_argument(quotient_, 1, index))
    if whole.op != "sum" or whole.args[0] is not part or of(part).low < 0:
        return None
    groups = _groups(whole)
    sizes = {int(n) for n in np.bincount(groups)}
    if len(sizes) > 1 or not (groups[at_part] == at_whole).all():
        return None
    return Share(whole, at_whole, at_part, sizes.pop())


def _over(part: Features, whole: Features, of: Range, depth: int) -> Interval:
    """Return the range of part / whole."""
    found = _reciprocal(_least(whole, part, 1, of), of(part[0]))
    if depth and part[0].op == "mul":
        for k in (0, 1):
            rest = of(part[0].args[1 - k])
            found = found.within(intervals.mul(_over(_argument(part[0], k, part[1]), whole, of, depth - 1), rest))
    return found


def _times(part: Features, factor: Features, of: Range, depth: int) -> Interval:
    """Return the range of part * factor, where the factor is a reciprocal."""
    (value, _), (by, at) = part, _bare(factor)
    found = ANY
    if not depth:
        return found
    if by.op == "rsqrt":
        found = _reciprocal(math.sqrt(_least(_argument(by, 0, at), part, 2, of)), of(value))
    elif by.op == "div":
        found = intervals.mul(_over(part, _argument(by, 1, at), of, depth - 1), of(by.args[0]))
    elif by.op == "mul":
        for k in (0, 1):
            inner = _times(part, _argument(by, k, at), of, depth - 1)
            found = found.within(intervals.mul(inner, of(by.args[1 - k])))
    if value.op == "mul" and by.op in ("rsqrt", "div"):
        for k in (0, 1):
            inner = _times(_argument(value, k, part[1]), factor, of, depth - 1)
            found = found.within(intervals.mul(inner, of(value.args[1 - k])))
    return found


def _reciprocal(least: float, size: Interval) -> Interval:
    """Return the range of x / y where y >= least * |x|, given that of x."""
    if least <= 0:
        return ANY
    return Interval(0.0 if size.low >= 0 else -1 / least, 0.0 if size.high <= 0 else 1 / least)


def _least(whole: Features, part: Features, power: int, of: Range) -> float:
    """Return a k for which whole >= k * |part| ** power in every feature; 0 where none is known."""
    value, at = _bare(whole)

    def of_argument(k: int) -> float:
        return _least(_argument(value, k, at), part, power, of)

    if power == 1 and of(value).low >= 0 and _are_same((value, at), _bare(part)):
        return 1.0
    if value.op == "abs" and power == 1:
        return float(_are_same(_bare(_argument(value, 0, at)), _bare(part)))
    if value.op in ("sqrt", "root") and power == 1:
        return math.sqrt(_least(_argument(value, 0, at), part, 2, of))
    if value.op in ("sum", "max"):
        base, index = _bare(part)
        for inner, where in ((base, index), part):
            fits = value.args[0].width == inner.width and bool((_groups(value)[where] == at).all())
            if fits and (value.op == "max" or of(value.args[0]).low >= 0):
                return _least((value.args[0], where), part, power, of)
        return 0.0
    if value.op in ("add", "at_least", "maximum"):
        first, second = of_argument(0), of_argument(1)
        if value.op != "add":
            return max(first, second)
        return (
            first + second
            if all(k > 0 or of(a).low >= 0 for k, a in zip((first, second), value.args, strict=True))
            else 0.0
        )
    if value.op == "mul":
        if power == 2 and value.args[0] is value.args[1] and _are_same(_size(_argument(value, 0, at)), _size(part)):
            return 1.0
        return max(_scaled(of_argument(0), of(value.args[1])), _scaled(of_argument(1), of(value.args[0])))
    if value.op == "div" and of(value.args[1]).low > 0:
        return _scaled(of_argument(0), intervals.div(Interval(1.0, 1.0), of(value.args[1])))
    return 0.0


def _scaled(least: float, factor: Interval) -> float:
    return least * factor.low if least > 0 and factor.low > 0 else 0.0


def _bare(features: Features) -> Features:
    """Return features as those of what was sliced, viewed, or stopped."""
    value, at = features
    while value.op in ("slice", "view", "stop"):
        if value.op == "slice":
            at = at + value.data[0]
        elif value.op == "view":
            at = View.of(value.data).index[at]
        value = value.args[0]
    return value, at


def _size(features: Features) -> Features:
    """Return features without their sign."""
    value, at = _bare(features)
    return _bare(_argument(value, 0, at)) if value.op in ("abs", "neg") else (value, at)


def _argument(value: Value, number: int, at: Index) -> Features:
    """Return the features of an argument of an element-wise operation for some of its result."""
    found = value.args[number]
    return found, at if found.width == value.width else np.zeros_like(at)


def _are_same(a: Features, b: Features) -> bool:
    return a[0] is b[0] and bool((a[1] == b[1]).all())


def _groups(total: Value) -> Index:
    """Return which feature of a sum each feature of its argument goes into."""
    width = total.args[0].width
    return View.of(total.data[1:]).index if total.data else np.zeros(width, dtype=np.int64)
