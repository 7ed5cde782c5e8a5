"""Cells by the name used on the command line and in configurations."""

from __future__ import annotations

import hashlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

from everloop.cell import Cell
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
from everloop.cells.oscillator import CoRNN
from everloop.cells.projected import ProjectedLSTM
from everloop.cells.rwkv import RWKV7
from everloop.cells.spiking import LIF
from everloop.cells.sru import SRU
from everloop.cells.xlstm import MLSTM, SLSTM
from everloop.errors import CellError, OptionError, unknown

_BY_NAME: dict[str, type[Cell]] = {
    "elman": Elman,
    "lstm": LSTM,
    "peephole-lstm": PeepholeLSTM,
    "coupled-lstm": CoupledLSTM,
    "projected-lstm": ProjectedLSTM,
    "conv-lstm": ConvLSTM,
    "layer-norm-lstm": LayerNormLSTM,
    "gru": GRU,
    "reset-before-gru": ResetBeforeGRU,
    "attention-gru": AttentionGRU,
    "minimal-gated-unit": MinimalGatedUnit,
    "indrnn": IndRNN,
    "multiplicative-lstm": MultiplicativeLSTM,
    "hyper-lstm": HyperLSTM,
    "fast-weights": FastWeights,
    "recurrent-highway": RecurrentHighway,
    "fastgrnn": FastGRNN,
    "sru": SRU,
    "lif": LIF,
    "low-rank-rnn": LowRankRNN,
    "ctrnn": CTRNN,
    "lmu": LMU,
    "cornn": CoRNN,
    "ltc": LTC,
    "cfc": CfC,
    "gru-d": GRUD,
    "lru": LRU,
    "rg-lru": RGLRU,
    "min-gru": MinGRU,
    "min-lstm": MinLSTM,
    "linear-attention": LinearAttention,
    "retnet": RetNet,
    "deltanet": DeltaNet,
    "mlstm": MLSTM,
    "slstm": SLSTM,
    "gla": GLA,
    "mamba-2": Mamba2,
    "gated-deltanet": GatedDeltaNet,
    "rwkv-7": RWKV7,
}


def names() -> tuple[str, ...]:
    """Return the names of the cells that come with the library."""
    return tuple(_BY_NAME)


def named(name: str) -> type[Cell]:
    """Return the cell class called `name`, or the one at `file.py:Class`.

    Raises:
        OptionError: no such name, file or class.
        CellError: the class is not a Cell, or its file cannot be loaded.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    own = own_file(name)
    if own is None and name.endswith(".py"):
        raise OptionError(f"cell {name}: the class is missing; expected {name}:Class")
    if own is None:
        raise OptionError(unknown("cell", name, names()) + " (your own: file.py:Class)")
    return _from_file(*own)


def own_file(name: str) -> tuple[Path, str] | None:
    """Return (file, class) of a name such as `file.py:Class`, None for any other."""
    file, colon, attribute = name.rpartition(":")
    return (Path(file), attribute) if colon and file.endswith(".py") else None


def name_of(cell: type[Cell]) -> str | None:
    """Return the command-line name of a cell of the library, None for any other."""
    return next((name for name, cls in _BY_NAME.items() if cls is cell), None)


def address_of(cell: type[Cell] | str) -> str:
    """Return what `named` finds this cell by, from any folder; a class that no file holds keeps its bare name."""
    if isinstance(cell, str):
        file, colon, attribute = cell.rpartition(":")
        return f"{Path(file).absolute()}:{attribute}" if colon else cell
    if known := name_of(cell):
        return known
    # the code of a step knows its file even where the module of the class is gone, as in a notebook or runpy
    own = vars(cell).get("step")
    source = Path(inspect.unwrap(own).__code__.co_filename if own else inspect.getsourcefile(cell) or "")
    return f"{source.absolute()}:{cell.__qualname__}" if source.is_file() else cell.__qualname__


def _from_file(path: Path, attribute: str) -> type[Cell]:
    if not path.is_file():
        raise OptionError(f"cell {path}:{attribute}: there is no file {path}")
    source = path.read_bytes()
    name = f"{path.stem}_{hashlib.sha256(str(path.absolute()).encode() + source).hexdigest()[:16]}"
    module = sys.modules[name] = ModuleType(name)  # where dataclasses look up the names in annotations
    module.__file__ = str(path)
    try:
        # not by the import system, which would run a compiled file lying beside the source in its place
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise CellError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if found is None:
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Cell) and v is not Cell]
        if not classes:
            raise OptionError(f"{path} holds no cell; expected a class derived from everloop.Cell")
        raise OptionError(f"{path}: " + unknown("cell", attribute, classes))
    if not (isinstance(found, type) and issubclass(found, Cell)):
        raise CellError(f"{path}:{attribute} is {type(found).__name__}; expected a class derived from everloop.Cell")
    return found
