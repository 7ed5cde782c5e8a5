"""The cells: each a few lines of mathematics with its source."""

from __future__ import annotations

from everloop.cells.delta import DeltaNet, GatedDeltaNet
from everloop.cells.elman import Elman
from everloop.cells.fast_weights import FastWeights
from everloop.cells.gru import GRU, ResetBeforeGRU
from everloop.cells.independent import IndRNN
from everloop.cells.layer_norm import LayerNormLSTM
from everloop.cells.linear_attention import GLA, LinearAttention, RetNet
from everloop.cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from everloop.cells.mamba import Mamba2
from everloop.cells.minimal import MinimalGatedUnit
from everloop.cells.named import address_of, name_of, named, names, own_file
from everloop.cells.projected import ProjectedLSTM
from everloop.cells.rwkv import RWKV7
from everloop.cells.xlstm import MLSTM, SLSTM

__all__ = [
    "GLA",
    "GRU",
    "LSTM",
    "MLSTM",
    "RWKV7",
    "SLSTM",
    "CoupledLSTM",
    "DeltaNet",
    "Elman",
    "FastWeights",
    "GatedDeltaNet",
    "IndRNN",
    "LayerNormLSTM",
    "LinearAttention",
    "Mamba2",
    "MinimalGatedUnit",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "ResetBeforeGRU",
    "RetNet",
    "address_of",
    "name_of",
    "named",
    "names",
    "own_file",
]
