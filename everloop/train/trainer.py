"""The training loop: batches in, updated weights out, and nothing lost on the way."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from everloop.data.files import remove_parts
from everloop.errors import DataError, OptionError, RunError, TrainingError
from everloop.models.loss import Score
from everloop.models.model import Model, detach, is_finite
from everloop.models.weights import fill, own_tensors, read_tensors
from everloop.train.allocator import keep_freed_memory
from everloop.train.average import average_of
from everloop.train.checkpoint import write_checkpoint
from everloop.train.clipping import clip
from everloop.train.config import TrainConfig
from everloop.train.deterministic import same_numbers
from everloop.train.evaluate import Data, evaluate, merit, pass_sizes
from everloop.train.events import Note, Report, Started, Stepped, Validated
from everloop.train.folder import Folder
from everloop.train.optimiser import LearningRateSchedule, optimiser
from everloop.train.place import Place
from everloop.train.ranks import Ranks
from everloop.train.result import Run


def with_steps(config: TrainConfig, model: Model, data: Data, report: Report) -> TrainConfig:
    """Return the settings with the steps that so many passes are."""
    if config.epochs is None:
        return config
    sizes = pass_sizes(model, config.batch, config.length, config.length_jitter)
    batches = len(data.epoch("train", 0, seed=config.seed, **sizes))
    steps = max(1, round(config.epochs * batches / config.accumulate))
    passes = "1 pass" if config.epochs == 1 else f"{config.epochs:g} passes"
    report(Note(f"{passes} of {batches:,} batches {'is' if config.epochs == 1 else 'are'} {steps:,} steps"))
    return config.replace({"steps": steps, "epochs": None})


class Trainer:
    """A model in training: the loop and all that it carries from one step to the next."""

    def __init__(
        self, model: Model, data: Data, config: TrainConfig, folder: Folder | None, report: Report, ranks: Ranks
    ) -> None:
        self.model, self.data, self.folder, self.report, self.ranks = model, data, folder, report, ranks
        self.written = folder if ranks.is_first else None  # the folder, in the one process that writes it
        self.config = config = with_steps(config, model, data, report)
        self.device = next(model.parameters()).device
        self.optimiser = optimiser(model, config)
        self.schedule = LearningRateSchedule(config)
        self.average = average_of(model, config)
        self.place = Place()
        self.carried: Any = None  # the state after the last batch
        self.merit = -math.inf  # of the last validation
        self.saved = -1  # the step of the newest checkpoint of this process
        self.best_weights: dict[str, Tensor] | None = None
        self.pass_: Sequence[Any] = self._pass(0)

    def run(self, interrupted: Callable[[], bool], resume: bool) -> Run:
        """Train until the steps are done, validation stops improving, or someone interrupts.

        Raises:
            OSError: a file cannot be written, for instance because the disk is full; it is told how to go on.
        """
        try:
            return self._run(interrupted, resume)
        except OSError:
            if self.written and self.written.is_begun:
                self.report(Note(f"what was saved is whole; once this is mended: {self._resume_command()}"))
            raise
        except KeyboardInterrupt:  # a second one, which does not wait for the step and the checkpoint
            if self.written and self.written.is_begun:
                self.report(Note(f"interrupted at once; from the last checkpoint on: {self._resume_command()}"))
            raise

    def _run(self, interrupted: Callable[[], bool], resume: bool) -> Run:
        self._begin(resume)
        self.model.train()
        clock, made = time.perf_counter(), self.place.step
        while True:
            if self._validation_due():
                self._validate(interrupted) if "valid" in self.data.splits else self._keep()
            if (stopped := interrupted()) or self.place.step >= self.config.steps or self._stale():
                break
            self._update()
            if self.place.step % self.config.log_every == 0 or self.place.step == self.config.steps:
                now = time.perf_counter()
                self._log(now - clock, self.place.step - made)
                clock, made = now, self.place.step
        if self.saved != self.place.step:
            self._keep_average()
            self.save()
        if stopped:
            self._say_how_to_resume()
        elif self.place.step < self.config.steps:
            self.report(Note(f"stopped early: no better validation since step {self.place.best_step:,}"))
        self._take_best()
        path = self.folder.path if self.folder else None
        place = self.place
        return Run(path, place.step, place.best, place.best_step, stopped, place.skipped)

    def _update(self) -> None:
        """Learn from a batch, or several; where a loss or the gradient is not finite, leave the weights alone."""
        place, many, ranks = self.place, self.config.accumulate, self.ranks
        nats, count, scale, is_mean = 0.0, 0, 0.0, many == 1 and ranks.is_alone
        self.optimiser.zero_grad(set_to_none=True)
        for _ in range(many):
            batch = self._next()
            scale += batch.scale if self.config.length_jitter else 1.0
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                loss = ranks.loss(self.model, batch, None if batch.first else self.carried, self.device)
            self.carried = detach(loss.state)
            total, targets = ranks.sum(float(loss.total.detach()), loss.count)
            nats, count = nats + total, count + int(targets)
            if not math.isfinite(nats):
                self._skip("loss", nats)
                return
            if is_mean or loss.count:
                torch.autograd.backward(loss.mean if is_mean else loss.mean * loss.count)
        ranks.add_gradients([p for p in self.model.parameters() if p.requires_grad])
        norm, after = clip(self.model, self.config, 1 if is_mean else count)
        if not math.isfinite(norm):
            self._skip("norm of the gradient", norm)
            return
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule(place.step) * (scale / many)
        self.optimiser.step()
        if self.average:
            self.average.update(place.step)
        place.norm, place.clipped_norm = norm, after
        place.nats, place.count = place.nats + nats, place.count + count
        place.updates, place.clipped, place.skipped_in_a_row = place.updates + 1, place.clipped + (after < norm), 0
        place.step += 1

    def _next(self) -> Any:
        """Return the next batch, of the next pass after the last one."""
        place = self.place
        if place.index >= len(self.pass_):
            place.epoch, place.index = place.epoch + 1, 0
            self.pass_ = self._pass(place.epoch)
        place.index += 1
        return self.pass_[place.index - 1]

    def _skip(self, what: str, value: float) -> None:
        """Count a step that has no effect; its streams go on from its state, or anew if that is not finite.

        Raises:
            TrainingError: there were too many in a row.
        """
        place, most = self.place, self.config.max_skips
        if place.skipped_in_a_row >= most:
            row = f" for step {most + 1} in a row" if most else ""
            self._check(what, value, place.step + 1, row)
        place.skipped, place.skipped_in_a_row = place.skipped + 1, place.skipped_in_a_row + 1
        if self.ranks.any(not is_finite(self.carried)):
            self.carried = None
        place.step += 1
        self.report(Note(f"step {place.step:,}: the {what} is {value}; the step is skipped, the weights stay"))

    def _validation_due(self) -> bool:
        at_end = self.place.step == self.config.steps
        return self.place.step > self.place.validated and (self.place.step % self.config.validate == 0 or at_end)

    def _keep(self) -> None:
        """Write a checkpoint where a validation would have, had the data a split for it."""
        self.place.validated = self.place.step
        self._keep_average()
        self.save()

    def _keep_average(self) -> None:
        """Write the average as what the run is for, where no validation chooses the weights."""
        if self.average and self.average.begun and self.written and self.place.best is None:
            with self.average:
                self.written.write_best(self.model, {"step": self.place.step})

    def _validate(self, interrupted: Callable[[], bool]) -> None:
        """Validate, unless interrupted: then the resumed run validates anew before its first step."""
        if self.average:
            with self.average:
                self._judge(interrupted)
        else:
            self._judge(interrupted)
        if self.place.validated == self.place.step:
            if self.average and self.average.validated(self.merit):
                self.report(
                    Note(f"step {self.place.step:,}: nothing better for long; from now on weights are averaged")
                )
            self.save()

    def _judge(self, interrupted: Callable[[], bool]) -> None:
        score = self._score(interrupted)
        if interrupted():
            return
        self._check("validation loss", score.loss, self.place.step)
        metric = self.config.best_metric
        self.merit = merit(score, metric)
        better = self.place.best is None or self.merit > merit(self.place.best, metric)
        self.place.validated, self.place.stale = self.place.step, 0 if better else self.place.stale + 1
        self.schedule.validated(better)
        if better:
            self.place.best, self.place.best_step = score, self.place.step
            if self.written:
                self.written.write_best(self.model, {"step": self.place.step, "loss": score.loss, **score.means})
            if not self.folder:
                self.best_weights = {name: tensor.clone() for name, tensor in own_tensors(self.model).items()}
        event = Validated(self.place.step, self.model.target, score, better)
        if self.written:
            seconds = round(self.place.seconds, 1)
            self.written.metric(step=event.step, split="valid", **event.figures, seconds=seconds)
        self.report(event)

    def _score(self, stop: Callable[[], bool]) -> Score:
        """Return the score of the validation split, or of its batches until `stop` says so."""
        config = self.config
        sizes: dict[str, Any] = {"batch": config.batch, "length": config.length}
        return evaluate(self.model, self.data, "valid", **sizes, stop=stop, ranks=self.ranks)

    def _stale(self) -> bool:
        return bool(self.config.early_stop) and self.place.stale >= self.config.early_stop

    def _log(self, seconds: float, steps: int) -> None:
        place, symbols = self.place, self.model.symbols
        place.seconds += seconds
        loss, rate = place.nats / place.count if place.count else math.nan, place.count / seconds
        left = (self.config.steps - place.step) * seconds / steps
        lr, clipped = self.optimiser.param_groups[0]["lr"], place.clipped / max(place.updates, 1)
        norms = (place.norm, place.clipped_norm, clipped, place.skipped)
        event = Stepped(place.step, self.config.steps, self.model.target, loss, lr, *norms, rate, left, symbols)
        if self.written:
            self.written.metric(step=place.step, split="train", **event.figures, seconds=round(place.seconds, 1))
        place.nats, place.count, place.updates, place.clipped = 0.0, 0, 0, 0
        self.report(event)

    def _pass(self, epoch: int) -> Sequence[Any]:
        config = self.config
        sizes = pass_sizes(self.model, config.batch, config.length, config.length_jitter)
        batches = self.data.epoch("train", epoch, seed=config.seed, **sizes)
        if not len(batches):
            raise DataError("the training split has no batch; give more data or a smaller batch")
        return batches

    def _check(self, what: str, value: float, step: int, row: str = "") -> None:
        if math.isfinite(value):
            return
        lr, kept = self.schedule(self.place.step), ""
        if self.folder:
            command = f"{self._resume_command()} --lr {self.config.lr / 2:.2g}"
            kept = (
                f" The last good checkpoint is kept in {self.folder.last}; go on from there, for instance: {command}."
            )
        raise TrainingError(
            f"step {step}: the {what} is {value}{row}, so training stops.{kept} "
            f"Try a lower lr (now {lr:.2g}) or clip_norm (now {self.config.clip_norm:g}), or clip_adaptive 0.01"
        )

    def save(self) -> None:
        """Write the last checkpoint, if there is a folder and all weights are finite."""
        if not self.folder:
            return
        for name, weight in self.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                self._check(f"weight {name}", math.nan, self.place.step)
        carried = self.ranks.whole(self.carried)
        self.saved = self.place.step
        if not self.written:
            return
        facts = {**self.place.facts(), "data": self.data.fingerprint, "schedule": self.schedule.state()}
        facts["average"] = self.average.state() if self.average else {}
        average = self.average.values if self.average else []
        write_checkpoint(
            self.written.last, self.model, self.optimiser, carried=carried, average=average, facts=facts,
            keep=self.written.kept(),
        )  # fmt: skip

    def _begin(self, resume: bool) -> None:
        self.ranks.copy(self.model)
        self._check_best_metric()
        if self.folder:
            if self.written:
                remove_parts(self.folder.path)
            if resume:
                self._resume(self.folder)
            else:
                self.save()
            self.ranks.any(False)  # all have looked at the folder before it changes
            if self.written and (other := self.written.begin(self.model, self.data, self.config, self.ranks.world)):
                self.report(Note(other))
        parameters = sum(p.numel() for p in self.model.parameters())
        self.report(Started(self.place.step, self.config.steps, self.model.target, parameters))
        if self.config.deterministic:
            self.report(Note(same_numbers(self.device)))
        if self.config.precision == "bf16":
            self.report(Note("bf16: products round their factors to bfloat16; weights and validation are float32"))
        if self.config.keep_memory and keep_freed_memory():
            self.report(
                Note(
                    "memory that a step frees stays with the process for the next step; --no-keep-memory gives it back"
                )
            )

    def _check_best_metric(self) -> None:
        """Check that validation will have the figure that chooses the weights, on its first batch.

        Raises:
            OptionError: it has none of this name, or there is no validation.
        """
        metric = self.config.best_metric
        if metric == "loss":
            return
        if "valid" not in self.data.splits:
            raise OptionError(
                f"best_metric is {metric!r}, and the data has no validation split; give one, or leave it out"
            )
        batches = 0

        def one() -> bool:
            nonlocal batches
            batches += 1
            return batches > 1

        with torch.random.fork_rng(devices=[]):
            score = self._score(one)
        if metric not in score.means:
            raise OptionError(f"best_metric is {metric!r}; validation has: {', '.join(['loss', *score.means])}")

    def _resume(self, folder: Folder) -> None:
        average = self.average.values if self.average else []
        if folder.best.exists():
            read_tensors(folder.best)  # damaged, it would be missed only at the end of training
        checkpoint = folder.checkpoint(lambda text: self.report(Note(text)))
        facts = checkpoint.facts
        self.carried = self.ranks.own(checkpoint.put(self.model, self.optimiser, average=average))
        if facts["data"] != self.data.fingerprint:
            raise RunError(
                f"{folder.path} was trained on other data (fingerprint {facts['data']}, now {self.data.fingerprint}); "
                "give the same files and split, or start a new run"
            )
        self.place = Place.of(facts, self.model)
        self.saved = self.place.step if folder.last_is_whole else -1
        self.schedule.resume(facts["schedule"])
        if self.average:
            self.average.resume(facts.get("average", {}))
        if self.place.best is not None and not folder.best.exists():
            raise RunError(f"{folder.best} is missing: the best weights, those of step {self.place.best_step:,}")
        self.pass_ = self._pass(self.place.epoch)
        if self.written:
            self.written.forget_after(self.place.step, self.place.validated)

    def _say_how_to_resume(self) -> None:
        how = f"; saved. Resume with: {self._resume_command()}" if self.folder else ""
        self.report(Note(f"interrupted after step {self.place.step:,}{how}"))

    def _resume_command(self) -> str:
        assert self.folder, "asked for runs that have one"
        return f"{self.ranks.command} train {self.model.kind} --resume {shlex.quote(str(self.folder.path))}"

    def _take_best(self) -> None:
        self.model.eval()
        if self.place.best is None:
            if self.average:
                self.average.take()
            return
        if self.best_weights is not None:
            fill(self.model, self.best_weights, "the best weights")
        elif self.folder:
            fill(self.model, read_tensors(self.folder.best)[0], self.folder.best)
