"""Looks inside: whether the targets agree, how far back gradients reach, what gates and states do."""

from everloop.diagnose.activity import Activity, Connectivity, activities, connectivity
from everloop.diagnose.agree import Agreement, agree
from everloop.diagnose.diagnosis import Diagnosis, diagnose
from everloop.diagnose.findings import Finding
from everloop.diagnose.gates import Gate, States
from everloop.diagnose.gradients import GradientThroughTime, gradient_through_time
from everloop.diagnose.training import TrainingFacts
from everloop.layers.compare import Comparison

__all__ = [
    "Activity",
    "Agreement",
    "Comparison",
    "Connectivity",
    "Diagnosis",
    "Finding",
    "Gate",
    "GradientThroughTime",
    "States",
    "TrainingFacts",
    "activities",
    "agree",
    "connectivity",
    "diagnose",
    "gradient_through_time",
]
