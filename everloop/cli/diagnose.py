"""`everloop diagnose RUN [FILE]`: what stands out in a trained model, and the numbers behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from everloop.cli.options import CheckpointOptions, parse, write
from everloop.data.files import parse_json
from everloop.diagnose import Diagnosis, TrainingFacts, diagnose
from everloop.diagnose import training as of_training
from everloop.errors import DataError, OptionError
from everloop.models.model import Model
from everloop.models.run import LAST, RunConfig
from everloop.models.weights import read_tensors
from everloop.train import TrainConfig
from everloop.train.evaluate import pass_sizes
from everloop.train.folder import METRICS
from everloop.train.optimiser import adamw

SEEN = 20  # batches of the training split that are looked at for what their targets are


@dataclass(frozen=True)
class Options:
    """The options of `everloop diagnose`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A file to look at the model with, in a format that `everloop evaluate` takes; by default the training split of
    the data that the run was trained with."""
    sequences: int = 8
    """How many sequences are run step by step."""
    json: bool = False
    """Write everything as one JSON object."""
    checkpoint: CheckpointOptions = field(default_factory=lambda: CheckpointOptions(weights="last", threads=0))


def main(args: Sequence[str]) -> int:
    """Run `everloop diagnose`."""
    description = "Tell what stands out in a trained model: gradients through time, gates, states, training."
    options = parse(Options, args, command="diagnose", description=description)
    found = diagnosed(options)
    write((json.dumps(found.as_json(), ensure_ascii=False) if options.json else str(found)) + "\n")
    return 0


def diagnosed(options: Options) -> Diagnosis:
    """Return what is found of a run.

    Raises:
        DataError: the file is missing, or the data of the run.
        OptionError: fewer than one sequence is asked for.
        RunError: the run is missing or damaged.
    """
    if options.sequences < 1:
        raise OptionError(f"sequences is {options.sequences}; expected at least 1")
    if options.file and not options.file.exists():
        raise DataError(f"{options.file}: no such file or folder")
    run = RunConfig.read(options.run)
    kind, train = options.checkpoint.kind(run), run.settings("train", TrainConfig)
    model = options.checkpoint.model(run)
    config = run.settings("data", kind.data_config)
    data = kind.dataset(config, model.config, model)
    facts = facts_of(run, model, data, train)
    if options.file:
        data = kind.evaluation_dataset(model, config, options.file, None)
    sizes = pass_sizes(model, min(options.sequences, train.batch), train.length)
    batch = data.epoch("test" if options.file else "train", 0, seed=train.seed, **sizes)[0]
    device = next(model.parameters()).device
    return diagnose(model, batch.to(device), facts=facts)


def facts_of(run: RunConfig, model: Model, data: Any, train: TrainConfig) -> TrainingFacts:
    """Return what is known of the training of a run; `model` has its weights."""
    path = run.folder / METRICS
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    moments = _moments(run, model, train)
    sizes = pass_sizes(model, train.batch, train.length)
    batches = data.epoch("train", 0, seed=train.seed, **sizes)
    seen = [batches[i].to(next(model.parameters()).device) for i in range(min(SEEN, len(batches)))]
    window = sizes.get("length")
    return TrainingFacts(
        **of_training.read_metrics([parse_json(line) for line in lines]),
        clip_norm=train.clip_norm,
        ratios=of_training.update_ratios(model, moments, train.lr, train.betas) if moments else {},
        frozen=of_training.frozen_parameters(model, moments) if moments else (),
        chance=of_training.chance_loss(model),
        entropy=of_training.target_entropy(seen),
        carries=of_training.carries_state(model, seen[0]),
        returning=of_training.returning(seen, window) if window else None,
        window=window,
    )


def _moments(run: RunConfig, model: Model, train: TrainConfig) -> dict[str, dict[str, Tensor]]:
    """Return the moments of AdamW by parameter, from the last checkpoint; those that were not trained have none."""
    tensors, _ = read_tensors(run.folder / LAST)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, number, key = name.split("/")
            states.setdefault(int(number), {})[key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [p for group in adamw(model, train).param_groups for p in group["params"]]
    found: dict[str, dict[str, Tensor]] = {}
    place = 0
    for parameter in order:
        if place not in states and place < max(states, default=0):
            place += 1  # it had no gradient
        elif place in states and states[place]["exp_avg"].shape == parameter.shape:
            found[names[parameter]] = states[place]
            place += 1
        # else it was no parameter of the optimiser: those behind it have moved up
    return found
