"""What counts as agreement: rounding, numbers that are none, and steps on which rounding matters."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, inf, nan

from everloop.layers.compare import SLACK, Comparison, compare, unit_of

EPS = torch.finfo(torch.float32).eps


def one(found: list[float], expected: list[float], *others: list[float], name: str = "output") -> Comparison:
    def again() -> Iterable[dict[str, Tensor]]:
        return [{name: torch.tensor(other)} for other in others]

    return compare("llvm", {name: torch.tensor(found)}, {name: torch.tensor(expected)}, 4, again)[0]


def test_rounding_is_relative_to_the_largest_number_and_grows_with_the_steps() -> None:
    allowed = SLACK * EPS * 100 * 4**0.5

    for off, agrees in ((0.9, True), (1.1, False)):
        found = one([100.0, off * allowed], [100.0, 0.0])
        assert found.agrees is agrees
        assert found.allowed == pytest.approx(allowed)
        assert found.relative == pytest.approx(off * allowed / 100)


@pytest.mark.parametrize(
    ("dtype", "whole", "unit"),
    [(torch.bfloat16, False, 2**-7), (torch.float16, False, 2**-10), (torch.float32, True, 1 / 127)],
)
def test_what_is_stored_or_multiplied_in_less_may_lose_one_unit_of_that(
    dtype: torch.dtype, whole: bool, unit: float
) -> None:
    """Arithmetic is float32, of which 64 units are next to nothing."""
    matrix = torch.ones(2, 2, dtype=torch.int8 if whole else dtype)
    expected = {"output": torch.tensor([2.0, 0.0], dtype=dtype)}
    for off, agrees in ((0.95, True), (1.05, False)):
        found = {"output": torch.tensor([2.0, 2.0 * 5 * off * unit], dtype=dtype)}
        (result,) = compare("llvm", found, expected, 25, lambda: [expected], unit_of([matrix]))
        assert result.agrees is agrees
        assert result.allowed == pytest.approx(2.0 * 5 * unit, rel=0.01)


@pytest.mark.parametrize(
    ("found", "expected", "agrees"),
    [
        ([nan, 1.0], [nan, 1.0], True),
        ([inf, -inf], [inf, -inf], True),
        ([nan, 1.0], [2.0, 1.0], False),
        ([2.0, 1.0], [nan, 1.0], False),
        ([inf, 1.0], [-inf, 1.0], False),
        ([inf, 1.0], [3e38, 1.0], False),
        ([], [], True),
    ],
)
def test_numbers_that_are_none(found: list[float], expected: list[float], agrees: bool) -> None:
    result = one(found, expected)
    assert result.agrees is agrees
    assert result.count == sum(abs(number) < inf for number in expected)


def test_where_the_reference_itself_moves_as_much_is_allowed() -> None:
    assert not one([1.5, 1.0], [1.0, 1.0]).agrees
    assert one([1.5, 1.0], [1.0, 1.0], [1.0, 1.0], [0.8, 1.0]).agrees
    assert not one([1.5, 1.0], [1.0, 1.0], [0.9, 1.0]).agrees
    assert one([inf, 1.0], [3e38, 1.0], [inf, 1.0]).agrees  # too large for float32
    assert not one([inf, nan], [3e38, 1.0], [inf, 1.0]).agrees


def test_the_smallest_gradients_are_measured_by_the_largest() -> None:
    expected = {
        "gradient of W": torch.tensor([1e6]),
        "gradient of b": torch.tensor([0.0]),
        "state": torch.tensor([0.0]),
    }
    found = {name: t + 0.9e6 * EPS for name, t in expected.items()}
    assert [c.agrees for c in compare("llvm", found, expected, 1, lambda: [expected])] == [True, True, False]


LOW = torch.bfloat16


def low(found: Tensor, expected: Tensor, *others: Tensor) -> Comparison:
    """Compare numbers of bfloat16 after 10,000 steps, of which each may be off by less than the largest of all."""
    again = [{"output": other.to(LOW)} for other in others]
    return compare("llvm", {"output": found.to(LOW)}, {"output": expected.to(LOW)}, 10_000, lambda: again)[0]


@pytest.mark.parametrize("factor", [0.9, 0.97, 1.03, 1.1])
def test_errors_at_random_agree_and_a_factor_in_common_does_not(factor: float) -> None:
    torch.manual_seed(0)
    expected = torch.randn(5000)
    noisy = expected + 0.2 * torch.randn(5000)
    assert low(noisy, expected).agrees
    assert low(noisy, expected).bias == pytest.approx(0, abs=0.01)
    result = low(factor * noisy, expected)
    assert result.difference <= result.allowed
    assert result.bias == pytest.approx(factor - 1, abs=0.01)
    assert not result.agrees
    assert f"a factor of {1 + result.bias:.4g}" in str(result)


def test_a_factor_is_known_of_many_numbers_only() -> None:
    torch.manual_seed(0)
    few = torch.randn(63)
    assert low(1.05 * few, few).agrees
    one_large = torch.ones(5000)
    one_large[7] = 1000
    wrong = one_large.clone()
    wrong[7] *= 1.05
    assert low(wrong, one_large).agrees
    assert not low(1.05 * one_large, one_large).agrees
    assert not low(1.05 * torch.ones(64), torch.ones(64)).agrees
    assert low(torch.full((100,), nan), torch.full((100,), nan)).agrees


def test_a_factor_by_which_the_reference_moves_itself_is_allowed() -> None:
    torch.manual_seed(0)
    expected = torch.randn(500)
    assert low(1.05 * expected, expected, expected, 1.02 * expected).agrees
    assert not low(1.05 * expected, expected, expected, 1.008 * expected).agrees
