"""Figures of a run: from what training noted and diagnosis found to pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from everloop.data.datasets.series import SeriesBatch
from everloop.data.datasets.transcribed import TranscribedBatch
from everloop.data.pen import path_of
from everloop.data.tokenize.pieces import SPACE
from everloop.decode.ctc import align, prefix_beam
from everloop.diagnose import Activity, Connectivity, GradientThroughTime, TrainingFacts
from everloop.diagnose.jacobians import StepJacobians
from everloop.draw.coloured import draw_coloured
from everloop.draw.curves import Curve, draw_curves
from everloop.draw.figure import Figure
from everloop.draw.forecasts import Panel, draw_forecasts
from everloop.draw.looks import draw_looks
from everloop.draw.matrix import draw_matrix
from everloop.draw.path import draw_path
from everloop.errors import OptionError
from everloop.models import EncoderDecoder, Forecaster, Generator, Transcriber
from everloop.models.picture_encoder import PictureEncoder
from everloop.train import Confusion

BEAM = 8  # texts that are kept while a path is read
UNITS, LABELS, STEPS = 24, 20, 60  # the most rows of a heat map, labels of a confusion matrix, steps of a sequence
LOOKS = 23  # words or letters of a text whose places in a picture are shown
END_MARK = "■"
SURE = (0.1, 0.9)  # between these quantiles the band of a distribution lies


def losses(runs: Mapping[str, TrainingFacts], measure: str) -> Figure:
    """Return the losses of training and validation by step, of one run or of several by name."""
    curves: dict[str, Curve] = {}
    for name, facts in runs.items():
        ahead = f"{name}, " if len(runs) > 1 else ""
        for what, points in (("training", facts.losses), ("validation", facts.valid)):
            if points:
                curves[f"{ahead}{what}"] = Curve([s for s, _ in points], [v for _, v in points])
    if not curves:
        raise OptionError("no loss was noted: the run has no metrics")
    return draw_curves(curves, title=f"Loss ({measure})", x_label="step", y_label=measure, from_zero=False)


def norms(facts: TrainingFacts) -> Figure:
    """Return the norm of the gradient by step, before clipping, with where it was cut."""
    steps = [step for step, _ in facts.losses][-len(facts.norms) :]
    if not steps or not facts.norms:
        raise OptionError("no gradient was noted: the run has no metrics")
    curves = {"norm": Curve(steps, facts.norms)}
    if math.isfinite(facts.clip_norm):
        curves["clipped at"] = Curve([steps[0], steps[-1]], [facts.clip_norm] * 2)
    title = "Norm of the gradient, before it is clipped"
    return draw_curves(curves, title=title, x_label="step", y_label="norm", log=True)


def gradients(found: Sequence[GradientThroughTime], jacobians: Sequence[StepJacobians] = ()) -> Figure:
    """Return how the gradient of the loss shrinks or grows on its way back in time, by layer and state.

    jacobians: their products are drawn too, dashed, in the colour of the first state of their layer.
    """
    curves = {f"{g.layer}, {g.state}": Curve(range(len(g.norms)), g.norms.tolist()) for g in found}
    layers = [g.layer for g in found]
    for one in jacobians:
        colour = layers.index(one.layer) if one.layer in layers else None
        norms = one.products.tolist()
        curves[f"{one.layer}, product"] = Curve(range(len(norms)), norms, colour, stroke=1)
    title = "Gradient through time"
    return draw_curves(curves, title=title, x_label="steps back", y_label="norm, beside that at lag 0", log=True)


def heat(activity: Activity, symbols: Sequence[str], units: Sequence[int] = ()) -> Figure:
    """Return what units of a gate or state do while a sequence is read; by default those that change most."""
    chosen = list(units) or activity.liveliest(UNITS)
    values = activity.values[:STEPS]
    check_units(activity, chosen)
    names, label = steps_of(symbols, len(values))
    title = f"{'Gate' if activity.is_gate else 'State'} {activity.name} of {activity.layer}"
    if len(chosen) < activity.values.shape[1] and not units:
        title += f": the {len(chosen)} units that change most"
    return draw_matrix(
        values[:, chosen].T.tolist(),
        [str(unit) for unit in chosen],
        names,
        title=title,
        row_label="unit",
        column_label=label,
        scale=(0.0, scale_of(activity)),
    )


def unit(activity: Activity, symbols: Sequence[str], number: int) -> Figure:
    """Return a sequence coloured by what one unit does at each step."""
    check_units(activity, [number])
    names, _ = steps_of(symbols, len(activity.values))
    title = f"Unit {number} of {'gate' if activity.is_gate else 'state'} {activity.name}, {activity.layer}"
    return draw_coloured(names, activity.values[:, number].tolist(), title=title, scale=(0.0, scale_of(activity)))


def dependence(found: Connectivity, symbols: Sequence[str]) -> Figure:
    """Return on which inputs each output depends, or the answer to the whole sequence."""
    shares = found.shares[:STEPS, :STEPS]
    if not found.by_step:
        names, _ = steps_of(symbols, found.values.shape[1])
        title = f"What the answer depends on ({found.lane}): gradient by input"
        top = max(float(found.shares.max()), 1e-12)
        return draw_coloured(names, found.shares[0].tolist(), title=title, scale=(0.0, top))
    names, label = steps_of(symbols, shares.shape[1])
    title = f"Which inputs each output depends on ({found.lane})"
    return draw_matrix(
        shares.tolist(), names, names, title=title, row_label="after", column_label=f"depends on {label}"
    )


def attention(weights: Tensor, read: Sequence[str], written: Sequence[str]) -> Figure:
    """Return which word is looked at to write which; weights: [T, S]."""
    title = "Attention: what is looked at to write each word"
    return draw_matrix(weights.tolist(), written, read, title=title, row_label="written", column_label="read")


def attention_of(model: EncoderDecoder, source: str, written: str) -> Figure:
    """Return what a translator looks at while it writes a translation; the last of each side is the end.

    Raises:
        OptionError: it has no attention.
    """
    read = [model.source.symbols[i] for i in model.source.encode(source)]
    words = [model.written.symbols[i] for i in model.written.encode(written)]
    weights = model.weights(source, written)
    return attention(weights, [_word(w) for w in (*read, END_MARK)], [_word(w) for w in (*words, END_MARK)])


def looks_of(model: Generator, picture: Tensor, text: str) -> Figure:
    """Return where a generator looks at a picture to write each word of a text, and its end.

    Of the letters of a word it is the mean, with the space behind it left out; a text of one word is told by letter.

    Raises:
        OptionError: it has no attention.
    """
    weights, words = model.weights(picture, text), list(re.finditer(r"\S+", text))
    spans = [word.span() for word in words] if len(words) > 1 else [(k, k + 1) for k in range(len(text))]
    looks = [weights[a:b].mean(0) for a, b in spans[:LOOKS]] + [weights[-1]]
    names = [*(text[a:b] for a, b in spans[:LOOKS]), END_MARK]
    assert isinstance(model.condition, PictureEncoder), "who looks has a picture to look at"
    title = f"Attention: where it looks for each {'word' if len(words) > 1 else 'letter'}"
    return draw_looks(picture, names, torch.stack(looks), stride=model.condition.stride, title=title)


def _word(piece: str) -> str:
    """Return a piece without the mark of a word that begins; the end of a sequence is a square."""
    return piece.removeprefix(SPACE) or piece


def attended(weights: Tensor, symbols: Sequence[str]) -> Figure:
    """Return how much attention each symbol of a sequence gets; weights: [T]."""
    names, _ = steps_of(symbols, len(weights))
    title = "Attention: how much each step counts in the answer"
    return draw_coloured(names, weights.tolist(), title=title, scale=(0.0, max(float(weights.max()), 1e-12)))


def confused(found: Confusion, split: str) -> Figure:
    """Return how often each label is taken for each; colours are shares of the true label."""
    some = found.most(LABELS)
    shares = (some.counts / some.counts.sum(1, keepdim=True).clamp_min(1)).tolist()
    words = [[f"{n:,}" for n in row] for row in some.counts.tolist()]
    title = f"Which label is taken for which ({int(found.counts.sum()):,} of the {split} split)"
    return draw_matrix(shares, some.names, some.names, title=title, row_label="true", column_label="given", words=words)


def forecasts(model: Forecaster, windows: Mapping[str, SeriesBatch], series: int = 0) -> Figure:
    """Return forecasts of one series, a panel for the first of each of some windows: known, forecast, what came."""
    panels, said = [], "interval"
    for title, window in windows.items():
        found = model.forecast(window)
        edges: list[list[float]] = [[], []]
        if not found.is_point:
            low, high = (found.levels[0], found.levels[-1]) if found.levels else SURE
            edges = [found.quantile(level)[:, 0, series].tolist() for level in (low, high)]
            said = f"quantiles {low:g} to {high:g}"
        past, came = window.past[:, 0, series].tolist(), window.future[:, 0, series].tolist()
        panels.append(Panel(title, past, came, found.point[:, 0, series].tolist(), *edges))
    return draw_forecasts(panels, title=f"Forecasts of {model.names[series]}", interval=said)


def path(model: Transcriber, batch: TranscribedBatch) -> Figure:
    """Return the path of the pen of the first text of a batch, coloured by what the model reads where.

    Raises:
        OptionError: the model reads sound.
    """
    if not model.pen:
        raise OptionError("this transcriber reads sound; the path is that of a pen, of one that reads strokes")
    device = model.head.weight.device
    with torch.no_grad():
        log_probs, steps = model(batch.frames[:, :1].to(device), batch.lengths[:1].to(device))
    rows = log_probs[: int(steps[0]), 0]
    symbols = prefix_beam(rows, BEAM, model.blank)[0][0]
    frames = batch.frames[: int(batch.lengths[0]), 0]
    aligned = [place for place in align(rows, symbols, model.blank) for _ in range(model.config.stacked)][: len(frames)]
    wanted = model.text(batch.labels[0, : int(batch.label_lengths[0])].tolist())
    title = f"Read as {model.text(symbols)}" + (f", in the data {wanted}" if wanted else "")
    labels = [model.text([symbol]) for symbol in symbols]
    return draw_path(path_of(frames), (frames[:, 3] > 0.5).tolist(), aligned, labels, title=title)


def steps_of(symbols: Sequence[str], count: int) -> tuple[list[str], str]:
    """Return (a name for each of `count` steps, what they are): what is read, or numbers."""
    if len(symbols) >= count:
        return list(symbols[:count]), "what is read"
    return [str(n) for n in range(1, count + 1)], "step"


def scale_of(activity: Activity) -> float:
    """Return the number that gets the full colour: 1, or the largest of a state that exceeds it."""
    return 1.0 if activity.is_gate else max(1.0, float(activity.values.abs().max()))


def check_units(activity: Activity, units: Sequence[int]) -> None:
    """Check that there are such units. Raises OptionError if not."""
    size = activity.values.shape[1]
    for number in units:
        if not 0 <= number < size:
            raise OptionError(f"unit is {number}; {activity.layer} has the units 0 to {size - 1}")
