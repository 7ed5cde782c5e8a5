"""Notebooks: after `%load_ext everloop.notebook` cells, layers, models, runs, trees and forecasts are figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from everloop.cell import Cell
from everloop.decode.tree import Tree
from everloop.diagnose import Diagnosis, TrainingFacts
from everloop.diagnose.training import read_metrics
from everloop.draw import Figure, draw_cell, draw_network
from everloop.draw.curves import Curve, draw_curves
from everloop.errors import EverloopError
from everloop.layers import Recurrent
from everloop.layers.explanation import equations
from everloop.models import Forecast, Model
from everloop.report.figures import SURE, losses
from everloop.report.html import Html, element, folded, joined
from everloop.report.sections import branches
from everloop.train import Run
from everloop.train.folder import METRICS, metrics_of

TREE = """
.everloop-tree ul { list-style: none; }
.everloop-tree .leaf { padding-left: 1em; }
.everloop-tree b { font-family: monospace; }
.everloop-tree i { display: inline-block; height: .6em; margin: 0 .4em; background: #0072b2; }
"""
STYLE = {"white-space": "pre-wrap", "max-width": "60rem", "overflow-x": "auto"}


def load_ipython_extension(ipython: Any) -> None:
    """Have a notebook show what Everloop makes."""
    formatter = ipython.display_formatter.formatters["text/html"]
    for kind, show in SHOWN.items():
        formatter.for_type(kind, _page(show))


def unload_ipython_extension(ipython: Any) -> None:
    """Have a notebook show it as text again."""
    formatter = ipython.display_formatter.formatters["text/html"]
    for kind in SHOWN:
        formatter.pop(kind, None)


def _page(show: Callable[[Any], Iterator[Html]]) -> Callable[[Any], str]:
    """Return what shows an object as HTML; a part that cannot be shown is a sentence that says why."""

    def page(shown: Any) -> str:
        parts, made = show(shown), list[Html]()
        try:
            made.extend(parts)
        except EverloopError as error:
            made.append(element("p", element("em", str(error))))
        return str(joined(made))

    return page


def _text(text: str) -> Html:
    return element("pre", text, style="; ".join(f"{name}: {value}" for name, value in STYLE.items()))


def _figure(drawn: Figure) -> Iterator[Html]:
    yield element("div", Html(drawn.svg()), style="overflow-x: auto")


def _cell(cell: Cell) -> Iterator[Html]:
    yield _text(repr(cell))
    yield _text(equations(cell))
    yield from _figure(draw_cell(cell))


def _layer(layer: Recurrent) -> Iterator[Html]:
    yield _text(repr(layer))
    yield folded("how it runs", _text(layer.explain()))


def _model(model: Model) -> Iterator[Html]:
    yield _text(f"{model.kind}  {model.config}")
    yield from _figure(draw_network(model))


def _run(run: Run) -> Iterator[Html]:
    yield _text(str(run))
    lines = metrics_of(run.path / METRICS) if run.path else []
    noted = read_metrics(lines)
    facts = TrainingFacts(noted["losses"], noted["valid"])
    if facts.losses or facts.valid:
        yield from _figure(losses({"": facts}, run.best.measure if run.best else "loss"))


def _tree(tree: Tree) -> Iterator[Html]:
    yield element("style", Html(TREE))
    yield element("p", "After ", element("q", tree.prompt), " these may come; a click opens a branch.")
    yield element("div", branches(tree), class_="everloop-tree")


def _forecast(forecast: Forecast) -> Iterator[Html]:
    """Yield the forecast of each series of the first window; times and names are not in it."""
    ahead = range(1, len(forecast.point) + 1)
    for series in range(forecast.point.shape[2]):
        curves = {"forecast": Curve(ahead, forecast.point[:, 0, series].tolist())}
        if not forecast.is_point:
            for level in (forecast.levels[0], forecast.levels[-1]) if forecast.levels else SURE:
                curves[f"quantile {level:g}"] = Curve(ahead, forecast.quantile(level)[:, 0, series].tolist())
        title = f"Forecast of series {series + 1}"
        yield from _figure(draw_curves(curves, title=title, x_label="step", y_label="value", from_zero=False))


SHOWN: Mapping[type, Callable[[Any], Iterator[Html]]] = {
    Figure: _figure,
    Cell: _cell,
    Recurrent: _layer,
    Model: _model,
    Run: _run,
    Tree: _tree,
    Forecast: _forecast,
    Diagnosis: lambda found: iter([_text(str(found))]),
}
