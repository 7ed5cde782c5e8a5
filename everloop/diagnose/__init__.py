"""Looks inside: whether the targets agree."""

from everloop.diagnose.agree import Agreement, Comparison, agree

__all__ = ["Agreement", "Comparison", "agree"]
