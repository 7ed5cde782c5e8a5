"""A cell over time."""

from __future__ import annotations

from everloop.compiler.embedded import Embedded
from everloop.layers import decomposition as _registered  # noqa: F401 - it tells exporters what the operator means
from everloop.layers.bidirectional import Bidirectional
from everloop.layers.dropout import VariationalDropout, WeightDrop, Zoneout
from everloop.layers.recurrent import Recurrent
from everloop.layers.stack import Stack

__all__ = ["Bidirectional", "Embedded", "Recurrent", "Stack", "VariationalDropout", "WeightDrop", "Zoneout"]
