"""Timing of peers: alternating in one process, medians, and the machine named."""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path

import torch

SHAPES = [
    (1, 1000, 64),
    (1, 200, 512),
    (8, 200, 128),
    (32, 100, 128),
    (32, 100, 256),
    (64, 50, 512),
    (16, 400, 512),
    (128, 35, 650),
    (256, 20, 64),
]
"""(B, T, H): the shapes of the comparison; the input size is H."""

STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "minimum": min}

TRIES = 5
PAUSE = 0.045  # other runtimes' thread pools spin for up to 28 ms after a call


def alternate(
    peers: Mapping[str, Callable[[], object]], *, rounds: int = 7, least: float = 0.02, statistic: str = "median"
) -> dict[str, float]:
    """Return the seconds of a call of each peer: the median, or the "minimum" where others use the machine too.

    In each round every peer has its turn: a pause, one warm call, then calls for at least `least` seconds, each
    timed by itself. A turn in which a hypervisor took the processor away is repeated, a few times at most.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for call in peers.values():
        call()
    for _ in range(rounds):
        for name, call in peers.items():
            for _ in range(TRIES):
                before = stolen()
                values = turn(call, least)
                if stolen() == before:
                    break
            seconds[name] += values
    return {name: STATISTICS[statistic](values) for name, values in seconds.items()}


def turn(call: Callable[[], object], least: float) -> list[float]:
    """Return the seconds of each call of one turn."""
    time.sleep(PAUSE)
    call()
    found: list[float] = []
    begin = end = time.perf_counter()
    while end - begin < least:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        found.append(end - start)
    return found


def stolen() -> int:
    """Return the ticks a hypervisor has kept this machine's processors for others, 0 where that is not known."""
    stat = Path("/proc/stat")
    return int(stat.read_text().split(maxsplit=9)[8]) if stat.exists() else 0


def statistic_option(parser: argparse.ArgumentParser) -> None:
    """Let a script choose rounds and statistic."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--statistic", choices=[*STATISTICS], default="median")


def started(description: str | None) -> argparse.Namespace:
    """Return the options of a script that has rounds and statistic alone, and print them with the machine."""
    parser = argparse.ArgumentParser(description=description)
    statistic_option(parser)
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds\n")
    return options


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.fmean(math.log(r) for r in ratios))


def machine() -> str:
    """Return one line that names the machine, the versions and the day."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{name}, {capability}, {threads} threads, torch {torch.__version__}, {date.today()}"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; numbers get two decimals below ten, one or none above."""

    def cell(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"

    lines = [[*header], *([cell(v) for v in row] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    padded = ["| " + " | ".join(v.rjust(w) for v, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|", *padded[1:]])
