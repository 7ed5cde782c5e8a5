"""What every test starts from: one seed, one thread where nothing else is asked, and no memory that happens to be 0."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests import poison


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _poisoned_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        poison.spread(patch)
        yield
