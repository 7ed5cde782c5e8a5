"""Weights as products want them are kept while they are unchanged, whoever changes them and however."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells, quantize, torch_private
from everloop.compiler.targets.llvm import kept as module
from everloop.compiler.targets.llvm import machine
from everloop.compiler.targets.llvm.kept import Kept, kept
from everloop.layers import Recurrent

H = 112  # matrices that are large enough
LOW = torch.bfloat16


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    kept.clear()
    yield
    kept.clear()


def run(layer: Recurrent, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", LOW):
        return layer(x)[0]


def run_of(dtype: torch.dtype) -> Callable[[Recurrent, Tensor], Tensor]:
    """Return what runs a layer of this dtype without autocast."""

    def of_its_own(layer: Recurrent, x: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x.to(dtype))[0]

    return of_its_own


def by_optimiser(layer: Recurrent) -> None:
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()


def by_load(layer: Recurrent) -> None:
    layer.load_state_dict({name: t * 2 for name, t in layer.state_dict().items()})


def by_data(layer: Recurrent) -> None:
    for p in layer.parameters():
        p.data = p.data * 2


def past_the_count(layer: Recurrent) -> None:
    for p in layer.parameters():
        p.data.mul_(2)


def by_numpy(layer: Recurrent) -> None:
    for p in layer.parameters():
        p.detach().numpy()[...] *= 2


def in_inference_mode(layer: Recurrent) -> None:
    with torch.inference_mode():
        for p in layer.parameters():
            p.mul_(2)


def one_number(layer: Recurrent) -> None:
    with torch.no_grad():
        layer.cell.R[3, 5] += 8


def one_number_past_the_count(layer: Recurrent) -> None:
    layer.cell.R.data[3, 6] = 8


def by_numpy_in_one_place(layer: Recurrent) -> None:
    layer.cell.R.detach().numpy()[-1, -1] += 8


def by_fused_optimiser_in_one_place(layer: Recurrent) -> None:
    """Fused optimisers do not count what they change."""
    optimiser = torch.optim.AdamW(layer.parameters(), lr=8.0, weight_decay=0.0, fused=True)
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    layer.cell.R.grad[5, 8] = 1
    optimiser.step()


def one_row(layer: Recurrent) -> None:
    layer.cell.R.data[7] = 3


def one_column(layer: Recurrent) -> None:
    layer.cell.R.detach().numpy()[:, 5] = 3


def exchanged_rows(layer: Recurrent) -> None:
    layer.cell.R.data[[2, 9]] = layer.cell.R.data[[9, 2]]


def two_signs(layer: Recurrent) -> None:
    layer.cell.R.data.view(-1)[[1003, 20001]] *= -1


def exchanged_numbers(layer: Recurrent) -> None:
    layer.cell.R.data.view(-1)[[1003, 20001]] = layer.cell.R.data.view(-1)[[20001, 1003]]


CHANGES = [
    two_signs,
    exchanged_numbers,
    by_optimiser,
    by_load,
    by_data,
    past_the_count,
    by_numpy,
    in_inference_mode,
    one_number,
    one_number_past_the_count,
    by_numpy_in_one_place,
    by_fused_optimiser_in_one_place,
    one_row,
    one_column,
    exchanged_rows,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_changed_weights_are_seen(name: str, change: Callable[[Recurrent], None]) -> None:
    torch.manual_seed(1)
    layer, x = Recurrent(cells.named(name)(H, H)), torch.randn(40, 2, H)
    first, second, third = (run(layer, x) for _ in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert kept.bytes > 0
    change(layer)
    found = run(layer, x)
    fresh = copy.deepcopy(layer)
    kept.clear()
    assert torch.equal(found, run(fresh, x))
    assert not torch.equal(found, first)


# Numpy has no bfloat16. Of the cell with its parts of a matrix in two places no parameter is R.
OF_ANY_DTYPE = [("lstm", c) for c in CHANGES if "numpy" not in c.__name__ and c is not one_column]
OF_ANY_DTYPE += [("minimal-gated-unit", c) for c in (by_optimiser, by_data, past_the_count)]


@pytest.mark.parametrize(("name", "change"), OF_ANY_DTYPE)
@pytest.mark.parametrize("dtype", [LOW, torch.float16])
def test_changed_weights_of_two_bytes_are_seen(
    name: str, dtype: torch.dtype, change: Callable[[Recurrent], None]
) -> None:
    torch.manual_seed(1)
    layer, x = Recurrent(cells.named(name)(200, 200)).to(dtype), torch.randn(20, 2, 200)
    found = run_of(dtype)
    first, second, third = (found(layer, x) for _ in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert kept.bytes > 0
    change(layer)
    after = found(layer, x)
    kept.clear()
    assert torch.equal(after, found(copy.deepcopy(layer), x))
    assert not torch.equal(after, first)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was made of weights to be kept."""
    made: list[object] = []
    get = Kept.get

    def counted(table: Kept, what: object, weights: list[Tensor], make: Callable[[], Tensor]) -> Tensor | None:
        def making() -> Tensor:
            made.append(what)
            return make()

        return get(table, what, weights, making)

    monkeypatch.setattr(Kept, "get", counted)
    return made


def test_matrices_are_made_once(made: list[object]) -> None:
    layer, x = Recurrent(cells.LSTM(H, H)), torch.randn(40, 2, H)
    for _ in range(5):
        run(layer, x)
    # of the state, and of the input where its products are the library's own
    count = 1 + (torch_private.multiplies_bfloat16() and (machine.doubles() or machine.has_tiles()))
    assert len(made) == count
    size = kept.bytes
    for _ in range(3):  # weights that change between calls are not kept
        by_optimiser(layer)
        run(layer, x)
    assert len(made) == count
    assert kept.bytes < size


@pytest.mark.parametrize("form", [LOW, torch.float16, "int8"])
def test_layers_of_less_convert_no_matrix_twice(form: Any, made: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Recurrent(cells.LSTM(H, H)), torch.randn(40, 2, H)
    layer, x = (quantize(layer), x) if form == "int8" else (layer.to(form), x.to(form))
    calls: list[Callable[[], object]] = [lambda: layer(x), lambda: layer.step(x[0])]
    with torch.no_grad():
        for call in calls:
            for _ in range(3):
                call()
        before, to, sizes = len(made), Tensor.to, list[int]()

        def noted(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
            found = to(tensor, *args, **options)
            sizes.append(tensor.numel() if found is not tensor and tensor.shape in ((4 * H, H), (H, 4 * H)) else 0)
            return found

        monkeypatch.setattr(Tensor, "to", noted)
        for call in calls:
            call()
    assert before > 0
    assert len(made) == before
    assert not any(sizes)


def test_training_keeps_nothing_between_updates() -> None:
    layer, x = Recurrent(cells.GRU(H, H)), torch.randn(40, 2, H)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        with torch.autocast("cpu", LOW):
            layer(x)[0].float().square().mean().backward()
        optimiser.step()
        assert kept.bytes == 0


def test_the_table_is_bounded() -> None:
    size = 8 * module.LEAST  # bytes of what is made
    table = Kept(size=3 * size, count=5)
    weights = [torch.randn(module.LEAST) for _ in range(8)]
    for _ in range(2):
        for weight in weights[:3]:
            table.get("double", [weight], weight.double)
    assert (len(table), table.bytes) == (3, 3 * size)
    assert table.get("double", [weights[0]], lambda: pytest.fail("it is kept")) is not None
    for weight in weights[3:]:
        table.get("double", [weight], weight.double)
    assert len(table) <= 5
    assert table.bytes <= 3 * size
    big = torch.randn(4 * module.LEAST)
    for _ in range(3):
        assert table.get("double", [big], big.double) is None
    assert table.bytes <= 3 * size


def test_weights_that_are_gone_are_forgotten_and_never_taken_for_others() -> None:
    table = Kept()
    for n in range(50):
        weight = torch.full((module.LEAST,), float(n))  # in memory that was another's
        for _ in range(3):
            found = table.get("copy", [weight], weight.clone)
        assert found is not None
        assert found[0] == n
        del weight, found
    gc.collect()
    other = torch.zeros(module.LEAST)
    table.get("copy", [other], other.clone)
    assert len(table) <= 4


def test_what_is_not_kept() -> None:
    table = Kept()
    small, shared = torch.zeros(module.LEAST - 1), torch.zeros(module.LEAST).share_memory_()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        uncounted = torch.zeros(module.LEAST)
    for weight in (small, shared, uncounted):
        for _ in range(3):
            assert table.get("copy", [weight], weight.clone) is None
    assert (len(table), table.bytes) == (0, 0)
    odd = torch.full((module.LEAST,), torch.nan)  # not equal to itself: made anew, and right
    for _ in range(3):
        found = table.get("copy", [odd], odd.clone)
    assert found is not None
    assert found.isnan().all()


def test_views_of_one_memory_are_told_apart() -> None:
    table, both = Kept(), torch.randn(2, 256, 128)
    a, b, across = both[0], both[1], both[0].T
    for _ in range(3):
        found = [table.get("copy", [w], w.clone) for w in (a, b, across)]
    for made, weight in zip(found, (a, b, across), strict=True):
        assert made is not None
        assert torch.equal(made, weight)
    both[1, 255, 127] += 1  # changes are counted for all of it
    assert all(table.get("copy", [w], w.clone) is None for w in (a, b))


@pytest.mark.parametrize("shape", [(512, 128), (128, 512), (1024, 65), (63, 1025), (300, 300)])
def test_each_row_and_each_column_is_looked_at(shape: tuple[int, int]) -> None:
    for matrix in (torch.zeros(shape), torch.zeros(shape).T):
        for axis in (0, 1):
            for place in range(matrix.shape[axis]):
                matrix.select(axis, place).fill_(1)
                assert module._marks(matrix)[1].any()
                matrix.zero_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (3, 5), (33, 31)])
def test_each_number_is_looked_at(shape: tuple[int, ...], first: int, dtype: torch.dtype) -> None:
    weight = torch.randn(2000).to(dtype)[first : first + math.prod(shape)].view(shape)
    before = module._marks(weight)
    for place in range(weight.numel()):
        number = weight.view(-1)[place].item()
        weight.view(-1)[place] = 3.5
        assert not all(map(torch.equal, before, module._marks(weight)))
        weight.view(-1)[place] = number
    assert all(map(torch.equal, before, module._marks(weight)))
