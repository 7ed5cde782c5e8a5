"""Training a model: the settings, the one process that writes the run, and the loop between them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import torch

from everloop.errors import OptionError
from everloop.models.model import Model
from everloop.train.config import TrainConfig
from everloop.train.deterministic import deterministic
from everloop.train.evaluate import Data, window_length
from everloop.train.events import Note, Report
from everloop.train.folder import Folder
from everloop.train.interrupt import Interrupt
from everloop.train.lock import Lock
from everloop.train.ranks import Ranks
from everloop.train.result import Run
from everloop.train.trainer import Trainer


def train(
    model: Model,
    data: Data,
    config: TrainConfig | None = None,
    *,
    out: str | os.PathLike[str] | Folder | None = None,
    resume: bool = False,
    report: Report | None = None,
    **settings: Any,
) -> Run:
    """Train a model; afterwards it has the weights of its best validation.

    If there was no validation it has its last weights, or with `ema_decay` the average of them.

    The model is left in evaluation mode, and torch's random numbers are left as they were. Where torch.distributed has
    a group of processes, all of them call this, with the same arguments, and share each batch.

    Args:
        model: any of `everloop.models`, on the device where it is to be trained.
        data: what the model reads, for a language model a Text.
        config: the settings; by default those of TrainConfig, or of the resumed run.
        out: the run folder to write; None keeps nothing on disk.
        resume: go on with the run in `out`, to the bit as if it had not been interrupted.
        report: called with each event, for instance `print`; of several processes, in the first.
        settings: single settings of TrainConfig, such as steps=5_000.

    Raises:
        OptionError: a setting is unknown or makes no sense.
        DataError: the data is too short for one batch.
        RunError: the folder holds another run already, or nothing that can be resumed, or another process trains there.
        TrainingError: the loss or the gradient is not finite any more, or an operation is not `deterministic`.
    """
    if resume and out is None:
        raise OptionError("resume=True needs out=…, the folder of the run to go on with")
    folder = out if out is None or isinstance(out, Folder) else Folder(out, resume=resume)
    before = folder.resumed.settings("train", TrainConfig) if folder and folder.resumed else None
    chosen = _with_length((config or before or TrainConfig()).replace(settings), model, before)
    fixed = ("batch", "length", "length_jitter", "seed") if model.streams else ("batch", "seed")
    if folder and before and (changed := chosen.differences(before, fixed)):
        raise OptionError(f"{folder.path} cannot be resumed with {', '.join(changed)}: it would be another run")
    ranks = Ranks.joined()
    ranks.check(chosen.batch)
    say = report if report and ranks.is_first else lambda event: None
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(deterministic(chosen.deterministic))
        interrupt = stack.enter_context(Interrupt())
        torch.manual_seed(chosen.seed)
        trainer = Trainer(model, data, chosen, folder, say, ranks)
        if folder and ranks.is_first:
            lock = stack.enter_context(Lock(folder.path))
            folder.check()  # again: before the lock another process may have begun or moved a run
            if lock.note:
                say(Note(lock.note))
        return trainer.run(lambda: ranks.any(interrupt.requested), resume)


def _with_length(config: TrainConfig, model: Model, before: TrainConfig | None) -> TrainConfig:
    """Return the settings with the length of a stream's windows, and with none where sequences are whole."""
    if before and config.length == before.length and not model.streams:
        return config.replace({"length": None})  # older runs have one, which never did anything
    length = window_length(model, config.length)
    return config.replace({"length": length if model.streams else None})
