"""Recurrent networks for PyTorch: any cell you can write in ten lines of mathematics, in any sequence model."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop import cells
    from everloop.cell import Cell, H, I, bias, context, inputs, mask, noise, output, param, size, state
    from everloop.errors import EverloopError
    from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
    from everloop.layers.linear_cross_entropy import linear_cross_entropy
    from everloop.layers.torch_nn import GRU, LSTM, RNN, accelerate
    from everloop.models.quantized import quantize
    from everloop.own_gradient import custom_gradient

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "Cell",
    "EverloopError",
    "H",
    "I",
    "Recurrent",
    "Stack",
    "VariationalDropout",
    "WeightDrop",
    "Zoneout",
    "accelerate",
    "bias",
    "cells",
    "context",
    "custom_gradient",
    "inputs",
    "linear_cross_entropy",
    "mask",
    "noise",
    "output",
    "param",
    "quantize",
    "size",
    "state",
]

# a name is fetched when it is asked for: PyTorch takes seconds to import, which `everloop --help` need not wait for
_HOMES = {
    "everloop.cell": (
        "Cell",
        "H",
        "I",
        "bias",
        "context",
        "inputs",
        "mask",
        "noise",
        "output",
        "param",
        "size",
        "state",
    ),
    "everloop.errors": ("EverloopError",),
    "everloop.own_gradient": ("custom_gradient",),
    "everloop.layers": ("Bidirectional", "Recurrent", "Stack", "VariationalDropout", "WeightDrop", "Zoneout"),
    "everloop.layers.linear_cross_entropy": ("linear_cross_entropy",),
    "everloop.layers.torch_nn": ("GRU", "LSTM", "RNN", "accelerate"),
    "everloop.models.quantized": ("quantize",),
}
_ROOMS = (
    "cell",
    "cells",
    "compiler",
    "data",
    "layers",
    "models",
    "train",
    "decode",
    "diagnose",
    "draw",
    "kinds",
    "errors",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"everloop.{name}")
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module 'everloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "torch" in sys.modules:  # whoever has waited for it may load a graph that holds this library's operator
    import_module("everloop.layers")
