"""Recurrent networks for PyTorch: any cell you can write in ten lines of mathematics, in any sequence model."""

from everloop import cells
from everloop.cell import Cell, H, I, bias, param, size, state
from everloop.errors import EverloopError
from everloop.layers import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from everloop.layers.dropin import GRU, LSTM, RNN, accelerate

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
    "param",
    "size",
    "state",
]
