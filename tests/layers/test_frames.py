"""How far it is from a layer to its kernel: the frames of Python between them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop import cells
from everloop.layers import Recurrent
from tests.layers.wrong import forget_programs

kernel = pytest.importorskip("everloop.compiler.targets.llvm.kernel")


@pytest.mark.parametrize(("is_training", "most"), [(False, 5), (True, 6)])
@pytest.mark.parametrize("options", [{}, {"lengths": [5, 2, 1]}])
def test_frames_from_the_layer_to_the_kernel(
    is_training: bool, most: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[str] = []
    real = kernel.Kernel._fill

    def fill(*args: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_code.co_name != "_call_impl":
            if "everloop" in Path(frame.f_code.co_filename).parts:
                frames.append(f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_name}")
            assert frame.f_back is not None
            frame = frame.f_back
        real(*args)

    forget_programs(monkeypatch)
    monkeypatch.setattr(kernel.Kernel, "_fill", fill)
    with torch.set_grad_enabled(is_training):
        Recurrent(cells.LSTM(3, 4))(torch.randn(5, 3, 3), **options)
    frames.reverse()
    assert frames[0] == "recurrent.py: forward"
    assert frames[-1] == "kernel.py: __call__"
    assert len(frames) <= most, "\n".join(frames)
