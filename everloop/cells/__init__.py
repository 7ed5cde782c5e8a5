"""The cells: each a few lines of mathematics with its source."""

from __future__ import annotations

from everloop.cells.attention import AttentionGRU
from everloop.cells.continuous import CTRNN, GRUD, LTC, CfC
from everloop.cells.convolutional import ConvLSTM
from everloop.cells.delta import DeltaNet, GatedDeltaNet
from everloop.cells.elman import Elman
from everloop.cells.fast_weights import FastWeights
from everloop.cells.fastgrnn import FastGRNN
from everloop.cells.gru import GRU, ResetBeforeGRU
from everloop.cells.highway import RecurrentHighway
from everloop.cells.hyper import HyperLSTM
from everloop.cells.independent import IndRNN
from everloop.cells.layer_norm import LayerNormLSTM
from everloop.cells.legendre import LMU
from everloop.cells.linear_attention import GLA, LinearAttention, RetNet
from everloop.cells.linear_recurrent import LRU, RGLRU
from everloop.cells.low_rank import LowRankRNN
from everloop.cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from everloop.cells.mamba import Mamba2
from everloop.cells.min_rnn import MinGRU, MinLSTM
from everloop.cells.minimal import MinimalGatedUnit
from everloop.cells.multiplicative import MultiplicativeLSTM
from everloop.cells.named import address_of, name_of, named, names, own_file
from everloop.cells.oscillator import CoRNN
from everloop.cells.projected import ProjectedLSTM
from everloop.cells.rwkv import RWKV7
from everloop.cells.spiking import LIF
from everloop.cells.sru import SRU
from everloop.cells.xlstm import MLSTM, SLSTM

__all__ = [
    "CTRNN",
    "GLA",
    "GRU",
    "GRUD",
    "LIF",
    "LMU",
    "LRU",
    "LSTM",
    "LTC",
    "MLSTM",
    "RGLRU",
    "RWKV7",
    "SLSTM",
    "SRU",
    "AttentionGRU",
    "CfC",
    "CoRNN",
    "ConvLSTM",
    "CoupledLSTM",
    "DeltaNet",
    "Elman",
    "FastGRNN",
    "FastWeights",
    "GatedDeltaNet",
    "HyperLSTM",
    "IndRNN",
    "LayerNormLSTM",
    "LinearAttention",
    "LowRankRNN",
    "Mamba2",
    "MinGRU",
    "MinLSTM",
    "MinimalGatedUnit",
    "MultiplicativeLSTM",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "RecurrentHighway",
    "ResetBeforeGRU",
    "RetNet",
    "address_of",
    "name_of",
    "named",
    "names",
    "own_file",
]
