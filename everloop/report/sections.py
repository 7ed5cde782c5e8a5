"""The parts of a page about one run that tell of its results: training, examples, tree, attention, labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from everloop.decode import tree
from everloop.diagnose import Diagnosis
from everloop.draw.tree import shown
from everloop.errors import DataError, UnsupportedError
from everloop.kinds.examples import Example, spread
from everloop.models import Classifier, EncoderDecoder, Forecaster, Generator, Transcriber
from everloop.report import figures
from everloop.report.html import Html, element, figure, folded, joined, listed, paragraph, table
from everloop.report.opened import Opened
from everloop.train import Confusion, Labels, confusion

EXAMPLES, WINDOWS, SERIES, BATCHES = 6, 4, 3, 50  # that are shown; of the last, which labels are counted on


def findings(found: Diagnosis) -> Iterator[Html]:
    """Yield what stands out, the strongest first."""
    if not found.findings:
        yield paragraph("Nothing stands out.")
    items = (joined((element("strong", one.says), f" {one.because} {one.advice}")) for one in found.findings)
    if found.findings:
        yield element("div", listed(items, "ol"), class_="findings")
    told = list(found.facts.lines())
    if told:
        yield folded("Training in numbers", listed(told))


def curves(opened: Opened) -> Iterator[Html]:
    """Yield the curves of training."""
    facts = opened.noted()
    said = f"Training ends at {facts.losses[-1][1]:.4g}" if facts.losses else "Training noted no loss"
    if facts.valid:
        step, best = min(facts.valid, key=lambda point: point[1])
        said += f"; the best validation is {best:.4g}, after {step:,} steps"
    yield figure(figures.losses({"": facts}, opened.model.measure), f"{said}.")
    cut = f"; {facts.clipped:.0%} of those noted were clipped" if facts.norms else ""
    yield figure(figures.norms(facts), f"The norm of the gradient{cut}.")
    rows = [line for line in opened.metrics if line.get("split") == "valid"]
    names = [name for name in (rows[0] if rows else {}) if name not in ("split", "seconds")]
    if rows:
        body = [[number(row.get(name, "")) for name in names] for row in rows]
        yield folded("All validations", table(names, body, "Validations by step"))


def number(value: Any) -> str:
    """Return a number as people read it, and anything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def examples(opened: Opened, found: Sequence[Example], split: str) -> Iterator[Html]:
    """Yield examples of the data, with the answers of the model; of a forecaster and of a pen as figures."""
    if isinstance(opened.model, Forecaster):
        data = opened.data
        windows = {f"window {index:,}": data[split][index] for index in spread(WINDOWS, len(data[split]))}
        for series in range(min(SERIES, len(opened.model.names))):
            yield figure(figures.forecasts(opened.model, windows, series), f"Of the {split} split.")
        return
    names = {"given": "given", "wanted": "in the data", "answer": "the model", "note": ""}
    kept = [name for name in names if any(getattr(one, name) for one in found)]
    kept += ["picture"] if any(one.picture for one in found) else []
    kept[1:1] = ["shown"] if any(one.shown for one in found) else []
    rows = [[_cell(one, name) for name in kept] for one in found]
    caption = f"{len(found)} examples, of the {split} split"
    names["shown"] = "what it sees"
    yield table([names.get(name, "the model") for name in kept], rows, caption, name="examples")
    if isinstance(opened.model, Transcriber) and opened.model.pen:
        for index in spread(WINDOWS, len(opened.data[split])):
            batch = opened.data.collate([opened.data[split][index]])
            said = f"Text {index:,} of the {split} split: which symbol is read where on the way of the pen."
            yield figure(figures.path(opened.model, batch), said)


def _cell(one: Example, name: str) -> Html | str:
    if name == "picture":
        return element("span", Html(one.picture), role="img", aria_label=f"drawn for {one.given}")
    if name == "shown":
        return element("span", Html(one.shown), role="img", aria_label=one.given)
    return str(getattr(one, name))


def found_examples(opened: Opened, split: str) -> list[Example]:
    """Return examples of the data with answers of the model.

    Raises:
        UnsupportedError: its kind tells none.
    """
    if isinstance(opened.model, Forecaster):
        return []
    if opened.kind.examples is None:
        raise UnsupportedError(f"the kind {opened.kind.name} has no examples to show (`Kind(examples=…)`)")
    found = list(opened.kind.examples(opened.model, opened.data, split, EXAMPLES))
    if not found:
        raise DataError(f"the {split} split is too short for examples")
    return found


def prediction_tree(opened: Opened, found: Sequence[Example]) -> Iterator[Html]:
    """Yield what may come next after the first example, as a tree that opens by a click or a key."""
    source = next((one.source for one in found if one.source is not None), None)
    if source is None:
        raise UnsupportedError(f"a {opened.kind.name} writes no symbols one after another, so there is no tree of them")
    grown = tree(opened.model, source, width=4, depth=6, min_probability=0.01)
    given = next(one.given for one in found if one.source is not None)
    yield paragraph("After ", element("q", given), " these may come; a click or the Enter key opens a branch.")
    yield paragraph(
        element("button", "open all", type="button", data_open="yes"),
        element("button", "close all", type="button", data_open="no"),
    )
    yield element("div", branches(grown), class_="tree")


def branches(above: Any) -> Html:
    """Return what may follow in a Tree or below a branch of it, as lists that open by a click or a key."""
    items = []
    for branch in above.children:
        said = joined((
            element("b", shown(branch.text)),
            element("i", style=f"width:{max(2, round(80 * branch.probability))}px", aria_hidden="true"),
            f"{branch.probability:.1%} ",
            element("small", f"({branch.cumulative:.2%} from the beginning)"),
        ))  # fmt: skip
        inside = folded(said, branches(branch)) if branch.children else said
        items.append(element("li", inside, class_=None if branch.children else "leaf"))
    return element("ul", *items)


def attention(opened: Opened, found: Sequence[Example], split: str) -> Iterator[Html]:
    """Yield what attention looks at, where the model has it."""
    model = opened.model
    if isinstance(model, EncoderDecoder) and model.attention is not None:
        written = [(one, one.answer or one.wanted) for one in found if one.answer or one.wanted][:2]
        if not written:
            raise UnsupportedError("nothing is written in the examples")
        for one, text in written:
            whose = "" if one.answer else " (in the data; the model writes nothing)"
            yield figure(figures.attention_of(model, one.given, text), f"{one.given} → {text}{whose}")
    elif isinstance(model, Generator) and model.look is not None:
        for one in found[:WINDOWS]:
            text, whose = one.answer or one.wanted, "" if one.answer else " (in the data; the model writes nothing)"
            yield figure(figures.looks_of(model, one.source, text), f"{one.given} → {text}{whose}")
    elif isinstance(model, Classifier) and model.config.pooling == "attention":
        for index in spread(WINDOWS, len(opened.data[split])):
            batch = opened.data.collate([opened.data[split][index]]).to(model.head.weight.device)
            weights = model.weights(batch.x, batch.lengths)[:, 0]
            symbols = model.symbols_read(batch).get("recurrent", [])
            yield figure(figures.attended(weights, symbols), f"Example {index:,} of the {split} split.")
    else:
        raise UnsupportedError("this model has no attention")


def labels(opened: Opened, split: str) -> Iterator[Html]:
    """Yield which labels are taken for which, with precision and recall of each."""
    if not opened.kind.label_metrics:
        raise UnsupportedError(f"a {opened.kind.name} gives no labels")
    found = confusion(opened.model, opened.data, split, batches=BATCHES)
    yield figure(figures.confused(found, split), "Colours are shares of the true label; on the diagonal it is right.")
    figured = _figures(found)
    heads = ["label", "precision", "recall", "F1", "how often"]
    rows = [
        [row.name, _share(row.precision), _share(row.recall), _share(row.f1), f"{row.support:,}"]
        for row in (*figured.labels[:40], figured.macro)
    ]
    yield table(heads, rows, f"Precision and recall in the {split} split")


def _figures(found: Confusion) -> Labels:
    pairs = found.counts.nonzero()
    times = found.counts[pairs[:, 0], pairs[:, 1]]
    wanted, guessed = (pairs[:, k].repeat_interleave(times) for k in (0, 1))
    return Labels.of(found.names, wanted, guessed)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
