"""Looks inside: whether the targets agree."""

from everloop.diagnose.agree import Agreement, agree
from everloop.layers.compare import Comparison

__all__ = ["Agreement", "Comparison", "agree"]
