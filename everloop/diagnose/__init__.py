"""Looks inside: whether the targets agree, how far back gradients reach, what gates and states do."""

from everloop.diagnose.agree import Agreement, agree
from everloop.diagnose.diagnosis import Diagnosis, diagnose
from everloop.diagnose.findings import Finding
from everloop.diagnose.gates import Gate, States
from everloop.diagnose.gradients import GradientThroughTime, gradient_through_time
from everloop.diagnose.training import TrainingFacts
from everloop.layers.compare import Comparison

__all__ = [
    "Agreement",
    "Comparison",
    "Diagnosis",
    "Finding",
    "Gate",
    "GradientThroughTime",
    "States",
    "TrainingFacts",
    "agree",
    "diagnose",
    "gradient_through_time",
]
