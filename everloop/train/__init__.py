"""Training: the loop, its settings, what it reports, and the checkpoints it continues from."""

from everloop.train.backtest import backtest
from everloop.train.config import TrainConfig
from everloop.train.evaluate import evaluate
from everloop.train.events import Event, Note, Started, Stepped, Validated
from everloop.train.find_lr import RangeTest, find_lr
from everloop.train.forecast_scores import Backtest, Scores
from everloop.train.labels import Confusion, Label, Labels, confusion, label_metrics
from everloop.train.loop import train
from everloop.train.result import Run
from everloop.train.trackers import TensorBoard, Tracker, log_to

__all__ = [
    "Backtest",
    "Confusion",
    "Event",
    "Label",
    "Labels",
    "Note",
    "RangeTest",
    "Run",
    "Scores",
    "Started",
    "Stepped",
    "TensorBoard",
    "Tracker",
    "TrainConfig",
    "Validated",
    "backtest",
    "confusion",
    "evaluate",
    "find_lr",
    "label_metrics",
    "log_to",
    "train",
]
