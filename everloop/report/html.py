"""HTML from elements: what is a string is escaped, so that no data ever becomes markup."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from everloop.draw.figure import Figure
from everloop.draw.svg import safe

VOID = ("meta", "br")


@dataclass(frozen=True)
class Html:
    """Markup."""

    markup: str

    def __str__(self) -> str:
        return self.markup


Content = Html | str
Value = str | float | bool | None


def element(tag: str, *content: Content, **attributes: Value) -> Html:
    """Return an element.

    Args:
        tag: its name.
        content: what is in it; strings are escaped.
        attributes: by name, - as _ and words of Python with a _ behind; True: without a value, None and False: not.
    """
    given = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
    shown = "".join(
        f" {name}" if value is True else f' {name}="{safe(str(value))}"'
        for name, value in given.items()
        if value is not None and value is not False
    )
    return Html(f"<{tag}{shown}>" if tag in VOID else f"<{tag}{shown}>{joined(content)}</{tag}>")


def joined(parts: Iterable[Content]) -> Html:
    """Return parts one after another."""
    return Html("".join(part.markup if isinstance(part, Html) else safe(part) for part in parts))


def table(heads: Iterable[Content], rows: Iterable[Iterable[Content]], caption: str, *, name: str = "") -> Html:
    """Return a table with a caption, whose first column names the rows; it scrolls by itself where it is too wide."""
    heads = list(heads)
    top = element("tr", *(element("th", head, scope="col") for head in heads))
    body = [
        element("tr", *(_cell(cell, head if name else None, not k) for k, (head, cell) in enumerate(pairs)))
        for pairs in (zip(heads, row, strict=True) for row in rows)
    ]
    parts = element("caption", caption), element("thead", top), element("tbody", *body)
    return scrolling(element("table", *parts, class_=name or None), caption)


def _cell(content: Content, head: Content | None, is_first: bool) -> Html:
    """Return a cell, with the head of its column where cells stand below each other on a narrow screen."""
    shown = None if head is None else str(head)
    return element("th" if is_first else "td", content, scope="row" if is_first else None, data_head=shown)


def listed(items: Iterable[Content], tag: str = "ul") -> Html:
    """Return a list."""
    return element(tag, *(element("li", item) for item in items))


def paragraph(*content: Content, class_: str | None = None) -> Html:
    """Return a paragraph."""
    return element("p", *content, class_=class_)


def figure(drawn: Figure, caption: str = "") -> Html:
    """Return a figure in the colours of the page, with its caption, and in characters for those who read those."""
    words = [element("figcaption", caption)] if caption else []
    text = folded("the same in characters", element("pre", str(drawn))) if str(drawn) else Html("")
    shown = [_drawn(drawn, "scroll wide"), _drawn(drawn.narrow, "scroll narrow")] if drawn.narrow else [_drawn(drawn)]
    return element("figure", *shown, *words, text)


def _drawn(one: Figure, class_: str = "scroll") -> Html:
    return scrolling(Html(one.inline()), one.scene.title, class_)


def folded(summary: Content, *content: Content, is_open: bool = False, class_: str | None = None) -> Html:
    """Return what opens by a click or a key."""
    return element("details", element("summary", summary), *content, open=is_open, class_=class_)


def scrolling(content: Html, name: str, class_: str = "scroll") -> Html:
    """Return a box that scrolls sideways by itself, with the keyboard too, so that the page never does."""
    return element("div", content, class_=class_, tabindex="0", role="group", aria_label=name)
