"""From numbers to findings: a sentence with a number, the reason, and one thing to do; the strongest first.

Thresholds are calibrated on runs with planted faults and on healthy ones (`tests/diagnose/test_calibration.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from everloop.diagnose.gates import Gate, States
from everloop.diagnose.gradients import GradientThroughTime
from everloop.diagnose.training import TrainingFacts

MOST = 5


@dataclass(frozen=True)
class Finding:
    """Something to know of a run.

    name: a short word for it; strength: 0 to 1, what is a note being below 0.3; says, because, advice: the
    sentence with its number, the reason, what to do.
    """

    name: str
    strength: float
    says: str
    because: str
    advice: str

    @property
    def is_note(self) -> bool:
        return self.strength < 0.3

    def __str__(self) -> str:
        return f"{self.says} {self.because} {self.advice}"


@dataclass(frozen=True)
class Evidence:
    """All that findings are made from."""

    gradients: Sequence[GradientThroughTime]
    gates: Sequence[Gate]
    states: Sequence[States]
    facts: TrainingFacts


def findings(evidence: Evidence) -> list[Finding]:
    """Return what there is to say, the strongest first, at most five; findings above a note hide the notes."""
    found = sorted((f for rule in RULES for f in rule(evidence)), key=lambda f: -f.strength)
    grave = [f for f in found if not f.is_note]
    return (grave or found)[:MOST]


def _frozen(e: Evidence) -> Iterator[Finding]:
    if e.facts.frozen:
        names = ", ".join(e.facts.frozen[:4]) + (" …" if len(e.facts.frozen) > 4 else "")
        yield Finding(
            "frozen",
            1.0,
            f"{len(e.facts.frozen)} parameters were never updated: {names}.",
            "They have no gradient, or it was always 0.",
            "Set requires_grad on them, or take out what is not used.",
        )


def _not_carried(e: Evidence) -> Iterator[Finding]:
    if e.facts.carries is False:
        yield Finding(
            "state not carried",
            0.95,
            f"Each window of {e.facts.window} steps begins with an empty state.",
            "The loss of the model comes without a state, so nothing older than its window is ever known.",
            "Return the state in Loss(total, count, state).",
        )


def _rate(e: Evidence) -> Iterator[Finding]:
    if not e.facts.ratios:
        return
    ratios = sorted(e.facts.ratios.values())
    middle = ratios[len(ratios) // 2]
    name = max(e.facts.ratios, key=lambda n: e.facts.ratios[n])
    if middle > 0.05:
        yield Finding(
            "rate too high",
            0.9,
            f"An update changes the weights by {middle:.1%} (median; {name}: {ratios[-1]:.1%}).",
            "0.1 % to 1 % is usual; larger steps destroy what was learned.",
            f"Lower lr by {middle / 0.005:.0f} or more.",
        )
    elif middle < 1e-4:
        yield Finding(
            "rate too low",
            0.65,
            f"An update changes the weights by {middle:.1e} of their size (median).",
            "0.1 % to 1 % is usual; at this pace training learns next to nothing.",
            f"Raise lr by {1e-3 / max(middle, 1e-9):.0f}.",
        )


def _first_loss(e: Evidence) -> Iterator[Finding]:
    if e.facts.chance is None or not e.facts.losses:
        return
    step, loss = e.facts.losses[0]
    if loss > 1.3 * e.facts.chance and step <= 20:
        yield Finding(
            "first loss",
            0.85,
            f"The loss begins at {loss:.2f} nats (step {step}); guessing evenly is {e.facts.chance:.2f}.",
            "The untrained head is sure of wrong answers, and training first has to unlearn that.",
            "Initialise the head smaller, and check that the targets are numbered as the head is.",
        )


def _saturated(e: Evidence) -> Iterator[Finding]:
    both = [g for g in e.gates if g.low + g.high > 0.8 and g.low > 0.1 and g.high > 0.1]
    if both:
        worst = max(both, key=lambda g: g.low + g.high)
        yield Finding(
            "saturated gates",
            0.89,
            f"{worst.low + worst.high:.0%} of gate {worst.name} ({worst.layer}) is below 0.1 or above 0.9.",
            "A saturated gate has hardly any gradient, so it stays where it is.",
            "Initialise the recurrent matrices smaller (--orthogonal), or scale the inputs.",
        )


def _forgets(e: Evidence) -> Iterator[Finding]:
    layers = [s.layer for s in e.states]
    # a memory cell beside the output; an output that is its own memory, as a GRU's, may well be written anew
    memories = [s for k, s in enumerate(e.states) if s.half_lives is not None and s.layer in layers[:k]]
    short = [s for s in memories if s.half_lives is not None and float((s.half_lives < 0.5).double().mean()) > 0.9]
    if short and len(short) == len(memories):  # a lower layer may read its input and no more
        worst = short[0]
        assert worst.half_lives is not None, "chosen for it"
        middle = float(worst.half_lives.median())
        yield Finding(
            "forgets at once",
            0.78,
            f"Half of what state {worst.name} ({worst.layer}) holds is gone after {middle:.2f} steps.",
            "The gate that keeps it is shut in more than 90 % of its units.",
            "Start with an open gate: --forget-bias 1, and for long lags a larger one.",
        )


def _explodes(e: Evidence) -> Iterator[Finding]:
    growing = [g for g in e.gradients if g.rate > 1 and float(g.norms[-1]) > 3]
    if growing:
        worst = max(growing, key=lambda g: float(g.norms[-1]))
        times = f"{float(worst.norms[-1]):.3g}-fold in {worst.steps} steps back"
        yield Finding(
            "exploding gradients",
            0.88,
            f"The gradient of state {worst.state} ({worst.layer}) grows {times}.",
            "The recurrent matrix stretches more than the activation shrinks.",
            f"Clip it (--clip-norm {_mean_norm(e.facts):.2g}) and make the recurrent matrix smaller (--orthogonal).",
        )
        return
    norms = sorted(e.facts.norms)
    if len(norms) >= 20 and math.isinf(e.facts.clip_norm):
        middle, high = norms[len(norms) // 2], norms[int(0.99 * (len(norms) - 1))]
        if high > 10 * middle:
            yield Finding(
                "exploding gradients",
                0.75,
                f"One gradient in a hundred is {high / middle:.0f} times the median, and none is clipped.",
                "A single one of them undoes many steps.",
                f"Train with --clip-norm {2 * middle:.2g}.",
            )


def _mean_norm(facts: TrainingFacts) -> float:
    return sum(facts.norms) / len(facts.norms) if facts.norms else 1.0


def _window(e: Evidence) -> Iterator[Finding]:
    found, window = e.facts.returning, e.facts.window
    if found is not None and window is not None and found.lag > window:
        yield Finding(
            "window too short",
            0.87,
            f"{found.share:.0%} of the symbols are those of {found.lag} steps before ({found.chance:.0%} by chance).",
            f"Gradients reach back {window} steps, the window, so this cannot be learned.",
            f"Train with --length {2 * found.lag}.",
        )


def _clipping(e: Evidence) -> Iterator[Finding]:
    cut = e.facts.clip_norm / max(_mean_norm(e.facts), 1e-30)
    if len(e.facts.norms) >= 10 and e.facts.clipped > 0.9 and _mean_norm(e.facts) > 5 * e.facts.clip_norm:
        yield Finding(
            "always clipped",
            0.7,
            f"{e.facts.clipped:.0%} of the gradients are clipped, to {cut:.2%} of their mean norm.",
            "Then all gradients are equally long, and large ones no longer count more.",
            f"Train with --clip-norm {_mean_norm(e.facts):.2g}, the mean norm (half to ten times of it works).",
        )


def _still(e: Evidence) -> Iterator[Finding]:
    still = [s for s in e.states if s.still > 0.3]
    if still:
        worst = max(still, key=lambda s: s.still)
        yield Finding(
            "dead units",
            0.82,
            f"{worst.still:.0%} of the units of state {worst.name} ({worst.layer}) never change.",
            "Their inputs never reach the part of the activation where it has a slope.",
            "Initialise biases at 0, lower the rate, or take fewer units.",
        )


def _nothing_learned(e: Evidence) -> Iterator[Finding]:
    loss, entropy = e.facts.final_loss, e.facts.entropy
    if loss is not None and entropy is not None and len(e.facts.losses) >= 5 and loss > 0.96 * entropy:
        yield Finding(
            "nothing learned",
            0.6,
            f"At the end the loss is {loss:.3f} nats; guessing by frequency alone gives {entropy:.3f}.",
            "The inputs have not helped to tell the targets.",
            "The loss still falls: train longer first."
            if e.facts.is_falling
            else "Check that each target belongs to its input: print a few pairs.",
        )


def _overfits(e: Evidence) -> Iterator[Finding]:
    loss = e.facts.final_loss
    if loss is None or len(e.facts.valid) < 2:
        return
    last, best = e.facts.valid[-1][1], min(v for _, v in e.facts.valid)
    if last > 1.3 * best and last > 2 * max(loss, 1e-9):
        yield Finding(
            "overfitting",
            0.5,
            f"Validation has risen from {best:.3f} to {last:.3f}, while training is at {loss:.3f}.",
            "The model knows its examples by heart.",
            "Take more data, --dropout 0.3, or fewer units; --early-stop 5 ends in time.",
        )


def _notes(e: Evidence) -> Iterator[Finding]:
    for g in e.gradients:
        if g.reach is not None and g.reach < g.steps / 20:
            yield Finding(
                "short reach", 0.2, f"{g}.", "What a sequence says earlier has no part in learning.",
                "If it should: a gated cell, --orthogonal --forget-bias 1.",
            )  # fmt: skip
            break
    carried = e.facts.carried
    if carried is not None and not carried.is_used:
        yield Finding(
            "state unused", 0.25, f"The carried state is {carried}.",
            f"What is older than a window of {e.facts.window} steps does not change what is predicted.",
            "If it should: longer windows (--length), or a cell that keeps longer (--cell lstm --forget-bias 1).",
        )  # fmt: skip
    for s in e.states:
        if s.rank < s.size / 10:
            yield Finding(
                "low rank", 0.1, f"State {s.name} ({s.layer}) uses {s.rank:.1f} of its {s.size} directions.",
                "The model may be larger than its task.", "Try half the units.",
            )  # fmt: skip
            break
    for gate in e.gates:
        if gate.high > 0.99 and gate.name == "r":
            yield Finding(
                "reset unused", 0.15, f"The reset gate ({gate.layer}) is above 0.9 in {gate.high:.1%} of all cases.",
                "A cell without it would do the same.", "Try --cell minimal-gated-unit.",
            )  # fmt: skip


Rule = Callable[[Evidence], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    _frozen, _not_carried, _rate, _first_loss, _saturated, _forgets, _explodes, _window, _clipping, _still,
    _nothing_learned, _overfits, _notes,
)  # fmt: skip
