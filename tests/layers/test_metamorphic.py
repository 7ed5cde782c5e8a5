"""What a call must have in common with another one, whatever the cell computes: no reference is needed for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from torch import Tensor

from everloop import cells
from everloop.cell import Size
from everloop.compiler.bindings import Bindings
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent
from everloop.layers.nested import leaves
from tests.compiler.random_cells import OWN_GRADIENT, Case, cases
from tests.layers.single_steps import stepped
from tests.layers.subjects import D, Subject, of_case, of_zoo, own
from tests.zoo import NAMES, ODD, given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
STEPS, BATCH, WIDE, UNITS = 6, 4, 3, 5
CELLS = 20
Check = Callable[[Subject], None]


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    largest = max([1.0, *(float(t.detach().abs().max()) for t in expected if t.numel())])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * largest)


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def ragged(s: Subject, seed: int = 0) -> Subject:
    steps, batch = s.x.shape[:2]
    return replace(s, lengths=torch.randint(0, steps + 1, (batch,), generator=torch.Generator().manual_seed(seed)))


def padding_changed(s: Subject) -> None:
    """What padding holds is of no matter."""
    for seed in (0, 1):
        first = ragged(s, seed)
        ended, found = first.ended(), []
        for content in (0.5, math.inf, math.nan):
            this = first.changed(of_steps=partial(_padded, ended, content))
            results = this.run()
            slopes = this.slopes(results)
            assert not slopes[0][ended.expand_as(this.x)].any()
            assert not results[0][ended.expand_as(results[0])].any()
            found.append([*results, *slopes])
        assert all(torch.isfinite(t).all() for t in found[0])
        assert_same(found[1], found[0])
        assert_same(found[2], found[0])


def _padded(ended: Tensor, content: float, whole: Tensor) -> Tensor:
    return torch.where(ended, content, whole)


def batch_permuted(s: Subject) -> None:
    """Sequences know nothing of each other."""
    order = torch.randperm(s.x.shape[1], generator=torch.Generator().manual_seed(2))
    for this in (s, ragged(s)):
        other = this.changed(of_steps=lambda t: t[:, order], of_rows=lambda t: t[order])
        other = replace(other, lengths=None if this.lengths is None else this.lengths[order])
        results, again = this.run(), other.run()
        assert_close(again, [results[0][:, order], *(f[order] for f in results[1:])])
        there = Subject(this.cell, *_grouped(this, this.slopes(results)))
        expected = there.changed(of_steps=lambda t: t[:, order], of_rows=lambda t: t[order]).leaves
        assert_close(other.slopes(again), expected)


def _grouped(s: Subject, tensors: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...], Bindings]:
    """Return what belongs to each of the leaves as x, states and values; the subject's own where it is no leaf."""
    rest = iter(tensors)
    x, state = next(rest), tuple(next(rest) for _ in s.state)
    groups = (s.values.fixed, s.values.rows, s.values.steps)
    found = ({n: next(rest) if t.is_floating_point() else t for n, t in group.items()} for group in groups)
    return x, state, Bindings(*found)


def cut_and_carried(s: Subject) -> None:
    """Pieces one after the other, down to single steps, are the whole; their gradients too."""
    steps = len(s.x)
    whole = s.run()
    slopes = s.slopes(whole)
    for edges in ([0, steps // 2, steps], list(range(steps + 1))):
        outputs, state = [], s.state
        for a, b in pairwise(edges):
            values = replace(s.values, steps={name: t[a:b] for name, t in s.values.steps.items()})
            y, *final = replace(s, x=s.x[a:b], state=state, values=values).run()
            outputs.append(y)
            state = tuple(final)
        found = (torch.cat(outputs), *state)
        assert_close(found, whole)
        assert_close(s.slopes(found), slopes)


def reversed_twice(s: Subject) -> None:
    """From the end over a sequence that runs backwards is from the start."""
    for this in (s, ragged(s)):
        steps, batch = this.x.shape[:2]
        ends = torch.full((batch,), steps) if this.lengths is None else this.lengths
        time = (ends - 1 - torch.arange(steps)[:, None]) % steps  # what is behind the end stays there
        rows = torch.arange(batch)
        back = this.changed(of_steps=partial(_at, time, rows))
        results, again = this.run(), back.run(reverse=True)
        assert_close(again, [results[0][time, rows], *results[1:]])
        x, state, values = _grouped(this, this.slopes(results))
        turned = replace(values, steps={name: t[time, rows] for name, t in values.steps.items()})
        assert_close(back.slopes(again), Subject(this.cell, x[time, rows], state, turned).leaves)


def _at(time: Tensor, rows: Tensor, whole: Tensor) -> Tensor:
    return whole[time, rows]


def twice_as_long(s: Subject) -> None:
    """What follows does not change what was."""
    more = s.changed(of_steps=lambda t: torch.cat([t, t.flip(0)]))
    half = replace(more, lengths=torch.full((s.x.shape[1],), len(s.x)))
    whole, results = s.run(), more.run()
    assert_close([results[0][: len(s.x)]], [whole[0]])
    with_ends = half.run()
    assert_close([with_ends[0][: len(s.x)], *with_ends[1:]], whole)
    assert_close(half.slopes(with_ends)[1 : 1 + len(s.state)], s.slopes(whole)[1 : 1 + len(s.state)])


def small_steps(s: Subject) -> None:
    """Gradients are differences, in random directions of all leaves at once; that of a spike is a surrogate's."""
    if isinstance(s.cell, cells.LIF):
        return
    for this in (s, ragged(s)):
        slopes = this.slopes(this.run())
        for seed in range(2):
            torch.manual_seed(seed)
            ways = [torch.randn_like(leaf) for leaf in this.leaves]
            values = []
            for step in (1e-6, -1e-6):
                moved = [leaf.detach() + step * way for leaf, way in zip(this.leaves, ways, strict=True)]
                with torch.no_grad():
                    results = replace(Subject(this.cell, *_grouped(this, moved)), lengths=this.lengths).run()
                values.append(results[0].sin().sum() + sum(f.cos().sum() for f in results[1:]))
            expected = float(values[0] - values[1]) / 2e-6
            found = sum(float((g * way).sum()) for g, way in zip(slopes, ways, strict=True))
            size = math.sqrt(sum(float(g.square().sum()) for g in slopes))
            assert abs(found - expected) <= 1e-6 * size + 1e-7, (found, expected)


def scaled_loss(s: Subject) -> None:
    """Gradients are linear: a power of two comes out to the bit."""
    for this in (s, ragged(s)):
        one, four = (this.slopes(this.run(), scale) for scale in (1.0, 4.0))
        assert_same(four, [4 * g for g in one])


def called_again(s: Subject) -> None:
    """Nothing is left of a call that the next one could see."""
    for this in (s, ragged(s)):
        first, second = (this.run() for _ in range(2))
        assert_same(second, first)
        assert_same(this.slopes(second), this.slopes(first))


CHECKS: list[Check] = [
    padding_changed, batch_permuted, cut_and_carried, reversed_twice, twice_as_long, small_steps, scaled_loss,
    called_again,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_cells_of_the_zoo(name: str, check: Check) -> None:
    check(of_zoo(name, STEPS, BATCH, WIDE, UNITS))


@settings(max_examples=CELLS, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@drawn(cases())
def test_random_cells(case: Case) -> None:
    is_difference = all(node.op not in OWN_GRADIENT for node in case.nodes)
    for check in CHECKS:
        if check is not small_steps or is_difference:
            check(of_case(case))


IN_HEADS = [name for name in cells.names() if "heads" in cells.named(name).letters()]  # units of a head belong together
ALIKE = [name for name in (*cells.names(), "elman-relu", *ODD) if name not in ("highway", *IN_HEADS)]


@pytest.mark.parametrize("name", ALIKE)
def test_units_permuted(name: str) -> None:
    """No unit is like no other: permuted in every parameter and state, they give permuted results."""
    s = of_zoo(name, STEPS, BATCH, WIDE, UNITS)
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(2))

    def inside(product: str) -> Tensor:
        found = torch.zeros(1, dtype=torch.int64)
        for factor in sorted(product.split("*"), key=lambda name: name != "hidden_size"):  # units come first
            width = Size(((factor, 1),))(s.cell.sizes)
            one = order if factor == "hidden_size" else torch.arange(width)
            found = (found[:, None] * width + one).flatten()
        return found

    def places(size: Size) -> Tensor:
        found, at = [], 0
        for letter, count in size.terms:
            one = inside(letter) if letter else torch.zeros(1, dtype=torch.int64)
            for _ in range(count):
                found.append(at + one)
                at += len(one)
        return torch.cat(found)

    def places_of_shape(shape: tuple[Size, ...]) -> Tensor:
        found = places(shape[0])
        for size in shape[1:]:
            found = (found[:, None] * len(places(size)) + places(size)).flatten()
        return found

    fixed = {}
    for key, value in s.values.fixed.items():
        for axis, size in enumerate(type(s.cell).params[key].shape):
            value = value.index_select(axis, places(size))
        fixed[key] = own(value)
    kinds = [places_of_shape(spec.shape) for spec in type(s.cell).states.values()]
    declared = [spec.size for spec in type(s.cell).outputs.values()]
    of_output = places(Size(tuple(term for size in declared for term in size.terms))) if declared else kinds[0]
    drawn_at = {key: places(spec.size) for key, spec in type(s.cell).noises.items()}
    rows, steps = (
        {key: own(t[..., drawn_at[key]] if key in drawn_at else t) for key, t in group.items()}
        for group in (s.values.rows, s.values.steps)
    )
    state = tuple(own(t[:, p]) for t, p in zip(s.state, kinds, strict=True))
    other = replace(s, x=own(s.x), state=state, values=Bindings(fixed, rows, steps))
    results, again = s.run(), other.run()
    outputs = [results[0][..., of_output], *(f[:, p] for f, p in zip(results[1:], kinds, strict=True))]
    assert_close(again, outputs)
    assert_close(other.slopes(again)[:1], s.slopes(results)[:1])


@pytest.mark.parametrize("name", NAMES)
def test_steps_against_the_sequence(name: str) -> None:
    torch.manual_seed(3)
    layer = Recurrent(make(name, WIDE, UNITS, dtype=D)).eval()
    x = torch.randn(STEPS, BATCH, WIDE, dtype=D)
    with torch.no_grad():
        told = given(layer, x)
        whole, final = layer(x, **told.at())
        assert_close(leaves(stepped(layer, x, told=told)), leaves((whole, final)))
