"""Freed memory stays with the process, unless it is to be left alone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from everloop.train import Event, Note, train, trainer
from tests.train.small import BASE, TEXT, small_model

FAULTS = """
import resource, sys, torch
from everloop.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    return [torch.ones(5_000_000) for _ in range(3)]
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    assert 10 * faults("keep") < faults("leave")


@pytest.mark.parametrize("keep", [True, False])
def test_a_run_says_so_and_can_be_told_not_to(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def kept() -> bool:
        calls.append(True)
        return True

    monkeypatch.setattr(trainer, "keep_freed_memory", kept)
    events: list[Event] = []
    train(small_model(), TEXT, BASE, steps=1, keep_memory=keep, report=events.append)
    notes = [event for event in events if isinstance(event, Note) and "--no-keep-memory" in str(event)]
    assert len(calls) == len(notes) == int(keep)
