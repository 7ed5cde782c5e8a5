"""The cells: each a few lines of mathematics with its source."""

from __future__ import annotations

from everloop.cells.elman import Elman
from everloop.cells.gru import GRU, ResetBeforeGRU
from everloop.cells.independent import IndRNN
from everloop.cells.layer_norm import LayerNormLSTM
from everloop.cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from everloop.cells.minimal import MinimalGatedUnit
from everloop.cells.named import address_of, name_of, named, names, own_file
from everloop.cells.projected import ProjectedLSTM

__all__ = [
    "GRU",
    "LSTM",
    "CoupledLSTM",
    "Elman",
    "IndRNN",
    "LayerNormLSTM",
    "MinimalGatedUnit",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "ResetBeforeGRU",
    "address_of",
    "name_of",
    "named",
    "names",
    "own_file",
]
