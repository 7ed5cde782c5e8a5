"""What every model offers to training, run folders and decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from everloop.errors import OptionError
from everloop.layers import Recurrent
from everloop.models.loss import Loss
from everloop.models.outline import Outline, Strand


class Model(nn.Module):
    """What every model of Everloop gives the training loop.

    A subclass sets `kind` (its name on the command line), `target` (what its loss is counted per) and `config`
    (a dataclass), and writes `loss`. `streams` says whether it reads streams, a window of some steps at a time; else
    a batch holds whole sequences. `labels_each` says whether it gives an example or a step one label of several.
    """

    kind: ClassVar[str]
    streams: ClassVar[bool] = False
    labels_each: ClassVar[bool] = False
    config: Any

    @property
    def target(self) -> str:
        """What the loss is counted per, in the singular: "character", "word", "example"."""
        return "example"

    @property
    def measure(self) -> str:
        """What the loss is counted in."""
        return "nats"

    @property
    def symbols(self) -> bool:
        """Whether the loss is the negative log-likelihood of symbols of a vocabulary."""
        return False

    def loss(self, batch: Any, state: Any = None) -> Loss:
        """Return the loss of a batch whose streams continue from `state`."""
        raise NotImplementedError

    def symbols_read(self, batch: Any, row: int = 0) -> dict[str, list[str]]:
        """Return what is read at each step of one sequence of a batch, in words, by the name of the recurrent layers.

        Layers that read numbers are left out.
        """
        return {}

    def outline(self) -> Outline:
        """Return what the model is made of; a kind of your own that says nothing shows its first recurrent layers.

        Raises:
            OptionError: it has none.
        """
        layers = next((m for m in self.modules() if isinstance(m, Recurrent)), None)
        if layers is None:
            raise OptionError(f"{type(self).__name__} has no Recurrent layers; write its outline()")
        return Outline(self.kind, "N → N", (Strand(layers, "x", "y"),))

    def write(self, folder: Path) -> None:
        """Write into a run folder what `config` and the weights leave out, for instance vocabularies."""

    @classmethod
    def read(cls, folder: Path, config: Any) -> Model:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        raise NotImplementedError


def detach(state: Any) -> Any:
    """Return a nested tuple of tensors without its graph: truncated backpropagation ends here."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple | list):
        return tuple(detach(part) for part in state)
    return state


def is_finite(state: Any) -> bool:
    """Return whether all numbers of a nested tuple of tensors are finite."""
    if isinstance(state, Tensor):
        return bool(torch.isfinite(state).all())
    return all(map(is_finite, state)) if isinstance(state, tuple | list) else True


def several(given: Any, function: str, each: str = "") -> None:
    """Check that something is a list of texts, or of words, not one text, whose characters would be taken for them.

    Raises:
        OptionError: it is a text.
    """
    if isinstance(given, str):
        expected = f"a {each}" if each else f"a list, as in {function}([{given[:20]!r}])"
        raise OptionError(f"{function} was given the text {given[:20]!r}; expected {expected}")
