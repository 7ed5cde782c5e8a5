"""`everloop sweep`: the same training with different settings, in processes of its own, and what came of each."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from everloop.cli.options import find_kind, given, note, our_name, parse, setting_names
from everloop.cli.runs import Row, ordered, print_table, rows_of, table
from everloop.cli.train import options_of, paths_exist, read_options
from everloop.cli.trials import Axis, Trial, alone, trials_of
from everloop.data.files import write_atomically, writing
from everloop.data.settings import flag
from everloop.errors import OptionError, RunError
from everloop.models.run import CONFIG
from everloop.train.folder import SWEEP, append_line, read_lines
from everloop.train.interrupt import Interrupt
from everloop.train.lock import Lock, LockedError

FINISHED = "finished.jsonl"
USAGE = "everloop sweep lr=1e-3,3e-3 hidden=64..512 --trials 8 --out sweeps/a -- language-model --text FILE"
PAUSE = 0.1  # seconds between two looks at the processes
PATIENCE = 60.0  # seconds in which a training whose sweep was killed should have saved and ended


@dataclass(frozen=True)
class Options:
    """The options of `everloop sweep`; after -- stands what `everloop train` takes."""

    settings: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Settings that vary: NAME=VALUE,VALUE… or NAME=LOW..HIGH, such as lr=1e-4..1e-2, drawn by orders of magnitude."""
    out: Path
    """Folder of the sweep, with a run folder for each trial; the same command goes on where it ended."""
    trials: int | None = None
    """How many trials are drawn at random; by default all combinations."""
    jobs: int = 1
    """Processes at the same time; they share the processor's threads."""
    seed: int = 0
    """The same seed draws the same trials; more of them go on from there."""


@dataclass(frozen=True)
class Job:
    """A trial that is being trained."""

    trial: Trial
    process: subprocess.Popen[bytes]
    begun: float


def main(args: Sequence[str]) -> int:
    """Run `everloop sweep`; return 1 if a trial failed or was left out, 130 if it was interrupted."""
    own, trained = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, None)
    options = parse(Options, own, command="sweep", description=f"Train with different settings. {USAGE}")
    if not trained:
        raise OptionError(f"what is trained is missing; it stands after --, as in: {USAGE}")
    if options.jobs < 1:
        raise OptionError(f"jobs is {options.jobs}; expected at least 1")
    settings = options_of(find_kind(trained[0]))
    axes = [replace(axis, name=our_name(settings, axis.name)) for axis in map(Axis.of, options.settings)]
    trials = trials_of(axes, options.trials, options.seed)
    if options.trials and len(trials) < options.trials:
        note(f"{options.trials} trials are asked for; these settings have {len(trials)} different ones")
    known = _checked(trained, axes)
    if (options.out / CONFIG).exists():
        raise RunError(f"{options.out} holds a run; choose another --out")
    with Lock(options.out, "choose another --out, or a copy of the sweep"), Interrupt() as interrupt:
        done = {line.get("run") for line in read_lines(options.out / FINISHED) if line.get("status") == 0}
        left = [trial for trial in trials if trial.name not in done]
        if left:
            _check_data(trained, left[0].options(known))
        _begin(options.out, trained)
        note(f"{len(trials)} trial{'s' * (len(trials) != 1)}, {len(trials) - len(left)} of them finished before")
        sweep = Sweep(options.out, trained, known, options.jobs)
        sweep.run(left, interrupt)
    if interrupt.requested:
        note("interrupted; the same command goes on")
        return 130
    _print(options.out, trials, [axis.name for axis in axes])
    for name in sweep.failed:
        note(f"failed: {name}: {_last_line(options.out / f'{name}.log')}")
    for name, owner in sweep.locked.items():
        note(f"left out: {name} is still being trained by {owner}; once that has ended, the same command goes on")
    return 1 if sweep.failed or sweep.locked else 0


class Sweep:
    """A sweep in its folder: the trials that run, and what happened to those that ran.

    failed, locked: the trials that failed, and those that other processes are training, with these.

    Args:
        out: its folder.
        trained: what `everloop train` is given for all.
        known: the names of its settings.
        jobs: processes at the same time.
    """

    def __init__(self, out: Path, trained: Sequence[str], known: Sequence[str], jobs: int) -> None:
        self.out, self.kind, self.args, self.known, self.jobs = out, trained[0], list(trained[1:]), known, jobs
        self.failed: list[str] = []
        self.locked: dict[str, str] = {}
        self._running: list[Job] = []

    def run(self, left: Sequence[Trial], interrupt: Interrupt) -> None:
        """Run trials, some at the same time, until all are done or someone interrupts."""
        reader, writer = os.pipe()  # trials see its other end close when this process ends, however it does
        try:
            self._run(left, reader, interrupt)
        finally:
            os.close(writer)
            os.close(reader)
            for job in self._running:
                job.process.wait()

    def _run(self, left: Sequence[Trial], pipe: int, interrupt: Interrupt) -> None:
        waiting, running, count = list(left), self._running, len(left)
        patient = math.inf  # until when it waits for others, once they alone train
        while (waiting or running) and not interrupt.requested:
            for trial in list(waiting):
                if len(running) == self.jobs or interrupt.requested:
                    break
                if not self._is_locked(trial):
                    waiting.remove(trial)
                    running.append(self._start(trial, pipe))
            patient = math.inf if running else min(patient, time.monotonic() + PATIENCE)
            if time.monotonic() > patient:
                return
            time.sleep(PAUSE)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                self._ended(job, count - len(waiting) - len(running), count)

    def _is_locked(self, trial: Trial) -> bool:
        """Return whether another process trains here, such as one that a killed sweep had begun; a note tells once."""
        folder = self.out / trial.name
        before = self.locked.pop(trial.name, "")
        if not (folder / CONFIG).exists():
            return False
        try:
            with Lock(folder):
                return False
        except LockedError as error:
            self.locked[trial.name] = error.owner
            if not before:
                note(f"{trial.name} is being trained by {error.owner}; it goes on here once that has ended")
            return True

    def _start(self, trial: Trial, pipe: int) -> Job:
        folder = self.out / trial.name
        args = [*self.args, *trial.options(self.known)]
        shared = max(1, torch.get_num_threads() // self.jobs)
        threads = None if "threads" in given(options_of(find_kind(self.kind)), args) else shared
        if (folder / CONFIG).exists():
            args = _to_resume(folder, read_options(find_kind(self.kind), args)[0], threads)
        else:
            args += ["--out", str(folder), *([] if threads is None else ["--threads", str(threads)])]
        log = self.out / f"{trial.name}.log"
        with writing(log), log.open("ab") as file:
            command = [sys.executable, "-m", "everloop.cli.child", "train", self.kind, *args]
            # in a session of its own, Ctrl-C reaches it once: from here
            process = subprocess.Popen(
                command, stdin=pipe, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        return Job(trial, process, time.monotonic())

    def _ended(self, job: Job, number: int, count: int) -> None:
        status, name, seconds = job.process.returncode, job.trial.name, round(time.monotonic() - job.begun, 1)
        append_line(self.out / FINISHED, {"run": name, "status": status, "seconds": seconds})
        if status:
            self.failed.append(name)
        note(f"[{number}/{count}] {name}: {'failed' if status else 'done'} after {seconds:.0f} s")


def _to_resume(folder: Path, options: Any, threads: int | None) -> list[str]:
    """Return what `everloop train` is given to go on with a trial: what the run folder does not keep.

    threads: how many, unless the options of the trial say so.
    """
    args = ["--resume", str(folder), "--threads", str(options.threads if threads is None else threads)]
    args += ["--device", options.device, *(["--trust-code"] if options.trust_code else [])]
    return [*args, "--track", *options.track] if options.track else args


def _checked(trained: Sequence[str], axes: Sequence[Axis]) -> list[str]:
    """Return the names of the settings of what is trained.

    Raises:
        OptionError: a setting is unknown or has a wrong value, or is given for all and swept.
    """
    kind = find_kind(trained[0])
    known, said = list(setting_names(options_of(kind))), given(options_of(kind), trained[1:])
    for name in ("out", "resume", *(axis.name for axis in axes)):
        if {name, f"no-{name}"} & said:
            what = "is of the sweep, before --" if name in ("out", "resume") else "is swept, and given after -- too"
            raise OptionError(f"{flag(name)} {what}; leave it out there")
    for trial in alone(axes):
        paths_exist(read_options(kind, [*trained[1:], *trial.options(known)])[0].data)
    return known


def _check_data(trained: Sequence[str], varied: Sequence[str]) -> None:
    """Read the data of a trial, so that what is wrong with it is said once, before any is trained.

    Raises:
        DataError, OptionError: as `everloop train` raises them.
    """
    kind = find_kind(trained[0])
    options, _ = read_options(kind, [*trained[1:], *varied])
    kind.dataset(options.data, options.model, None)


def _begin(out: Path, trained: Sequence[str]) -> None:
    """Write what is trained into the folder of a sweep, or check that it is the same.

    Raises:
        RunError: it was something else.
    """
    file = out / SWEEP
    if file.exists():
        before = read_lines(file)
        if not before or before[0].get("train") != list(trained):
            was = before[0].get("train") if before else None
            said = f"of: everloop train {shlex.join(map(str, was))}" if isinstance(was, list) else "of something else"
            raise RunError(f"{out} is a sweep {said}; give the same after --, or another --out")
        return
    write_atomically(file, (json.dumps({"train": list(trained)}) + "\n").encode())


def _print(out: Path, trials: Sequence[Trial], names: Sequence[str]) -> None:
    """Print a table of the trials that have a run folder, the best first."""
    rows = [row for trial in trials if (out / trial.name / CONFIG).exists() for row in rows_of(out / trial.name)]
    if rows:
        print_table(table(ordered(rows, _figure(rows)), [*names]))


def _figure(rows: Sequence[Row]) -> str:
    metric = str(rows[0].settings.get("best_metric", "loss"))
    return metric if any(metric in row.best for row in rows) else "name"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
