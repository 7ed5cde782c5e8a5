"""`everloop check CELL`: whether a cell is compiled, and whether what was compiled is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Annotated, Any, Literal

import torch
import tyro

import everloop
from everloop.cells import named
from everloop.cli.options import parse, write
from everloop.cli.show import example
from everloop.compiler.target import LoopTarget, find, names
from everloop.diagnose import Agreement, agree
from everloop.errors import CellError, EverloopError, MismatchError, OptionError
from everloop.layers import Recurrent
from everloop.layers.extras import declared
from everloop.layers.extras import example as example_inputs

FAILURES = (
    TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, AssertionError, NameError,
    SystemExit, StopIteration,
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The options of `everloop check`."""

    cell: Annotated[str, tyro.conf.Positional]
    """A cell of the library (lstm, gru, peephole-lstm, …) or your own: file.py:Class."""
    inputs: int = 5
    """Input size; every size but this and the next is 2."""
    hidden: int = 19
    """Hidden size."""
    length: int = 9
    """Steps of the longest of random sequences of different lengths, one of them empty, with resets inside."""
    batch: int = 6
    """Number of sequences."""
    dtype: Literal["float32", "float64"] = "float32"
    """What is computed in."""
    seed: int = 0
    """Of the weights and the sequences."""


def main(args: Sequence[str]) -> int:
    """Run `everloop check` and return 1 if a target differs from the step."""
    options = parse(Options, args, command="check", description="Compare a cell on every target with the step itself.")
    try:
        found = check(options)
    except MismatchError as error:
        write(f"{error}\n")
        return 1
    compiled, reason = _compiled(found), "; ".join(found.absent.values())
    write(f"{options.cell} is compiled\n" if compiled else f"{options.cell} runs on eager, because {reason}\n")
    write(f"{found}\n")
    return 0 if found else 1


def check(options: Options) -> Agreement:
    """Return what `agree` finds for a cell with random weights.

    Raises:
        CellError: the cell's own code raises; the message names its line.
        MismatchError: a compiled single step is wrong.
        OptionError: a size is out of range, or there is no such cell.
    """
    for name in ("length", "batch"):
        if getattr(options, name) < 1:
            raise OptionError(f"{name} is {getattr(options, name)}; expected at least 1")
    try:
        return _compared(options)
    except EverloopError:
        raise
    except FAILURES as error:
        text = str(error).partition("\n")[0]
        raise CellError(f"{options.cell} cannot be run: {type(error).__name__}: {text}{_line_of(error)}") from error


def _compared(options: Options) -> Agreement:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        dtype = getattr(torch, options.dtype)
        layer = Recurrent(example(named(options.cell), options.inputs, options.hidden).to(dtype), learned_state=True)
        x = torch.randn(options.length, options.batch, options.inputs, dtype=dtype)
        lengths = torch.randint(options.length + 1, (options.batch,))
        lengths[-1], lengths[0] = 0, options.length
        given: dict[str, Any] = example_inputs(layer.cell, x)
        reset = torch.rand(x.shape[:2]) < 0.2
        found = agree(layer, x, reference="loop", lengths=lengths, reset=reset, **given)
        if _compiled(found):
            kinds = {name: expected.kind for name, expected in declared(layer.cell).items()}
            step = {name: t[0, :1] if kinds[name] == "input" else t[:1] for name, t in given.items()}
            with torch.no_grad():
                Recurrent(layer.cell, check=True).eval().step(x[0, :1], **step)
    return found


def _compiled(found: Agreement) -> bool:
    """Return whether a target that compiles has run."""
    return any(name not in found.absent and isinstance(find(name), LoopTarget) for name in names())


def _line_of(error: BaseException) -> str:
    """Return where outside this library and PyTorch an error arose, in brackets."""
    lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(error.__traceback__)]
    own = [line for line in lines if not line.startswith((str(Path(everloop.__file__).parent), torch.__path__[0]))]
    return f" ({own[-1]})" if own else ""
