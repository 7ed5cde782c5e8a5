"""Kernels that are a little wrong, for tests of what must find them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from everloop.compiler.program import Program, TrainingKernels
from everloop.compiler.time_axis import TimeAxis
from everloop.layers import guards, single_step


def forget_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every program be a new one."""
    monkeypatch.setattr(guards.programs, "_entries", {})


def spoil_gradient(monkeypatch: pytest.MonkeyPatch, name: str, without: str = "") -> None:
    """Let the gradient kernels be off by a thousandth in one total, such as d(p_i); only those `without` another."""
    real = Program.training

    def training(self: Program, wanted: frozenset[str]) -> TrainingKernels:
        found = real(self, wanted)
        if without in wanted:
            return found

        def gradient(time: TimeAxis, buffers: Mapping[str, Tensor], **rest: Any) -> None:
            found.gradient(time, buffers, **rest)
            buffers[name].mul_(1.001)

        return replace(found, gradient=gradient)  # type: ignore[arg-type]

    forget_programs(monkeypatch)
    monkeypatch.setattr(Program, "training", training)


def spoil_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the output of compiled single steps be off by a thousandth."""
    real = single_step.Stepper.step

    def step(self: single_step.Stepper, *args: Any) -> Any:
        found = real(self, *args)
        return found if found is None else (found[0] * 1.001, found[1])

    forget_programs(monkeypatch)
    monkeypatch.setattr(single_step.Stepper, "step", step)
