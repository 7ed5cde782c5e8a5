"""The thresholds of `diagnose`: the first finding names the planted fault, and healthy runs get notes at most."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everloop.data import Text
from everloop.diagnose import Finding, Gate, GradientThroughTime, States, TrainingFacts
from everloop.diagnose.findings import MOST, Evidence, findings
from everloop.diagnose.training import Returning, returning, target_entropy, update_ratios
from tests.diagnose.runs import FAULTS, HEALTHY, diagnosed, echo

QUIET = Evidence((), (), (), TrainingFacts())
LOSSES = [(k, 3.0 - 0.02 * k) for k in range(1, 101)]


@pytest.mark.slow
def test_planted_faults_are_named_first(tmp_path: Path) -> None:
    named = {name: diagnosed(make(), tmp_path / str(n)).findings for n, (name, (make, _)) in enumerate(FAULTS.items())}
    show(named)
    first = {name: found[0].name if found else "" for name, found in named.items()}
    wrong = {name: got for name, got in first.items() if got != FAULTS[name][1]}
    assert len(FAULTS) >= 12
    assert len(wrong) <= 1, wrong


@pytest.mark.slow
def test_healthy_runs_get_no_finding_above_a_note(tmp_path: Path) -> None:
    assert len(HEALTHY) == 6
    named = {name: diagnosed(make(), tmp_path / str(n)).findings for n, (name, make) in enumerate(HEALTHY.items())}
    show(named)
    grave = {name: [f.name for f in found if not f.is_note] for name, found in named.items()}
    assert {name: found for name, found in grave.items() if found} == {}


def show(named: dict[str, tuple[Finding, ...]]) -> None:
    """Print the findings of some runs as rows of a table, notes in brackets."""
    for run, found in named.items():
        print(f"| {run} | {' | '.join(f'({f.name})' if f.is_note else f.name for f in found)} |")


def facts(**settings: object) -> Evidence:
    return replace(QUIET, facts=replace(TrainingFacts(), **settings))  # type: ignore[arg-type]


def curve(rate: float, steps: int = 40) -> GradientThroughTime:
    norms = rate ** torch.arange(steps + 1, dtype=torch.float32)
    return GradientThroughTime("layers", "h", norms, rate, None)


def gate(shares: list[float], name: str = "f") -> Gate:
    return Gate("layers", name, torch.zeros(4), tuple(shares))


def states(still: float = 0.0, rank: float = 4.0, lives: list[float] | None = None) -> States:
    return States("layers", "c", 8, still, rank, None if lives is None else torch.tensor(lives))


CASES: dict[str, tuple[Evidence, str, str]] = {
    "frozen": (facts(frozen=("a.W",)), "frozen", "1 parameters were never updated: a.W."),
    "carried": (facts(carries=False, window=64), "state not carried", "64 steps"),
    "high": (facts(ratios={"W": 0.2}), "rate too high", "20.0%"),
    "low": (facts(ratios={"W": 1e-6}), "rate too low", "1.0e-06"),
    "first": (facts(losses=[(1, 9.0)], chance=3.0), "first loss", "9.00 nats"),
    "both sides": (replace(QUIET, gates=(gate([0.5, *[0.0] * 8, 0.5]),)), "saturated gates", "100%"),
    "memory": (replace(QUIET, states=(states(), states(lives=[0.1] * 10))), "forgets at once", "0.10 steps"),
    "grows": (replace(QUIET, gradients=(curve(1.2),)), "exploding gradients", "1.47e+03-fold in 40"),
    "spikes": (facts(norms=[1.0] * 97 + [50.0] * 3), "exploding gradients", "50 times"),
    "lag": (facts(returning=Returning(40, 0.9, 0.1), window=16), "window too short", "40 steps before"),
    "clipped": (facts(norms=[1.0] * 20, clip_norm=0.01), "always clipped", "100% of the gradients"),
    "dead": (replace(QUIET, states=(states(still=0.5),)), "dead units", "50% of the units"),
    "nothing": (facts(losses=LOSSES, entropy=1.0), "nothing learned", "1.000"),
    "heart": (facts(losses=[(1, 0.1)], valid=[(1, 1.0), (2, 2.0)]), "overfitting", "from 1.000 to 2.000"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_rule_says_its_number_and_what_to_do(name: str) -> None:
    evidence, expected, number = CASES[name]
    (found,) = findings(evidence)
    assert (found.name, found.is_note) == (expected, False)
    assert number in str(found)
    for sentence in (found.says, found.because, found.advice):
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith(".")
    assert found.advice[0].isupper(), "it says what to do, not an option alone"


HEALTHY_CASES = {
    "usual rate": facts(ratios={"W": 3e-3}),
    "first loss of an even guess": facts(losses=[(1, 3.0)], chance=3.0),
    "a gate open everywhere": replace(QUIET, gates=(gate([*[0.0] * 9, 1.0]),)),
    "a memory of steps": replace(QUIET, states=(states(), states(lives=[3.0] * 10))),
    "an output that is its own memory": replace(QUIET, states=(states(lives=[0.1] * 10),)),
    "a gradient that fades": replace(QUIET, gradients=(curve(0.8),)),
    "spikes that are clipped": facts(norms=[1.0] * 97 + [50.0] * 3, clip_norm=1.0),
    "clipped now and then": facts(norms=[0.5] * 15 + [2.0] * 5, clip_norm=1.0),
    "a lag inside the window": facts(returning=Returning(40, 0.9, 0.1), window=64),
    "a loss below that of guessing": facts(losses=LOSSES, entropy=2.0),
    "nothing known": QUIET,
}


@pytest.mark.parametrize("name", HEALTHY_CASES)
def test_what_is_usual_is_no_finding(name: str) -> None:
    assert findings(HEALTHY_CASES[name]) == []


def test_the_strongest_come_first_and_at_most_five() -> None:
    everything = Evidence(
        (curve(1.2),),
        (gate([0.5, *[0.0] * 8, 0.5]),),
        (states(still=0.5, rank=0.1, lives=[0.1] * 10),),
        TrainingFacts(frozen=("W",), carries=False, ratios={"W": 0.2}, losses=[(1, 9.0)], chance=1.0),
    )
    found = findings(everything)
    assert len(found) == MOST
    assert [f.strength for f in found] == sorted((f.strength for f in found), reverse=True)
    assert found[0].name == "frozen"
    assert not any(f.is_note for f in found), "notes are told where there is nothing else"
    assert isinstance(found[0], Finding)


@pytest.mark.parametrize("lag", [3, 17, 40])
def test_a_stream_that_repeats_itself_is_noticed_at_its_lag(lag: int) -> None:
    data = Text.from_string(echo(lag, 6000))
    windows = [data.epoch("train", 0, batch=4, length=16)[k] for k in range(20)]
    found = returning(windows, 16)
    assert found is not None
    assert found.lag in (lag, 2 * lag, 3 * lag)
    assert found.share > 0.6 > found.chance


def test_prose_is_no_stream_that_repeats_itself() -> None:
    data = Text.from_string(echo(10_000, 9000))  # random letters
    assert returning([data.epoch("train", 0, batch=4, length=16)[k] for k in range(20)], 16) is None


def test_entropy_of_targets_and_the_size_of_updates() -> None:
    class Batch:
        y = torch.tensor([0, 0, 1, 3])

    assert target_entropy([Batch()]) == pytest.approx(1.5 * math.log(2))
    layer = torch.nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.1)
    first, second = torch.full((3, 4), 0.2), torch.full((3, 4), 0.04)
    moments = {"weight": {"exp_avg": first, "exp_avg_sq": second, "step": torch.tensor(1e9)}}
    # an update of lr beside weights of 0.1
    assert update_ratios(layer, moments, 1e-3, (0.9, 0.99))["weight"] == pytest.approx(1e-2, rel=1e-3)
