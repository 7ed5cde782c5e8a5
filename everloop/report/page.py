"""A page that stands alone: its style, a few lines of script, sections with a table of contents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from everloop.draw.scene import FONT, variables
from everloop.errors import EverloopError
from everloop.report.html import Content, Html, element, joined, listed, paragraph


@dataclass(frozen=True)
class Section:
    """A part of a page. name: for links to it."""

    name: str
    title: str
    content: Html


STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 FONT; overflow-wrap: anywhere; }
header, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
section { padding: 1.25rem 0; border-top: 1px solid var(--frame); }
nav ul { display: flex; flex-wrap: wrap; gap: .15rem .9rem; list-style: none; padding: 0; margin: 1rem 0; }
a { color: var(--accent); }
nav a { display: inline-block; padding: .2rem 0; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: .5rem; top: .5rem; background: var(--paper); padding: .5rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.lead, figcaption, caption { color: var(--muted); }
.missing { color: var(--muted); font-style: italic; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .5rem; margin: 1rem 0; }
.facts div { background: var(--inside); border: 1px solid var(--frame); border-radius: .5rem; padding: .5rem .75rem; }
dt { color: var(--muted); font-size: .82rem; }
dd { margin: 0; font-weight: bold; }
.scroll { overflow-x: auto; max-width: 100%; }
figure { margin: 1rem 0 1.5rem; }
figure svg { display: block; height: auto; }
figcaption { font-size: .9rem; }
table { border-collapse: collapse; font-size: .92rem; min-width: min(24rem, 100%); overflow-wrap: break-word; }
caption { text-align: left; padding: .25rem 0; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--grid); }
th { font-weight: normal; color: var(--muted); }
td { white-space: pre-wrap; min-width: 4rem; }
.examples th, .examples td { min-width: 11rem; max-width: 26rem; color: var(--ink); white-space: pre-wrap; }
.narrow { display: none; }
.bars { white-space: nowrap; }
@media screen and (max-width: 40rem) {
  .wide { display: none; }
  .narrow { display: block; }
  .narrow svg { max-width: 100%; }
  figure svg > rect:first-of-type { fill: transparent; }
  .scroll { background: linear-gradient(to right, var(--paper) 50%, transparent) 0 0 / 2rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 50%, transparent) 100% 0 / 2rem 100% no-repeat local,
    linear-gradient(to right, var(--frame), transparent) 0 0 / .7rem 100% no-repeat,
    linear-gradient(to left, var(--frame), transparent) 100% 0 / .7rem 100% no-repeat; }
  table { font-size: .85rem; }
  th, td { padding-right: .5rem; }
  td { min-width: 0; overflow-wrap: anywhere; }
  .examples thead { display: none; }
  .examples tr, .examples th, .examples td { display: block; min-width: 0; max-width: none; border: 0; }
  .examples tr { border-bottom: 1px solid var(--grid); }
  .examples [data-head]::before { content: attr(data-head); display: block; color: var(--muted); }
}
.findings li { margin-bottom: .6rem; }
pre { background: var(--inside); border: 1px solid var(--frame); border-radius: .5rem; padding: .75rem;
  overflow-x: auto; font: .8rem/1.35 "DejaVu Sans Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; padding: .2rem 0; }
figure summary { color: var(--muted); font-size: .85rem; }
.tree ul { list-style: none; margin: 0; padding-left: 1.1rem; border-left: 1px solid var(--frame); }
.tree > ul { border: 0; padding: 0; }
.tree .leaf { padding: .2rem 0 .2rem 1.05rem; }
.tree b { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; background: var(--inside); padding: 0 .3rem;
  border: 1px solid var(--frame); border-radius: .25rem; }
.tree i { display: inline-block; height: .6rem; background: var(--series-0); border-radius: .2rem; margin: 0 .4rem; }
.tree small { color: var(--muted); }
button { font: inherit; color: var(--ink); background: var(--inside); border: 1px solid var(--frame);
  border-radius: .4rem; padding: .35rem .8rem; margin-right: .4rem; cursor: pointer; }
footer { color: var(--muted); font-size: .85rem; padding-top: 1rem; padding-bottom: 2rem; }
@media print { :root { LIGHT } }
@media print { nav, button, .skip { display: none; } .scroll, pre { overflow: visible; } figure { break-inside: avoid; }
  figure svg { max-width: 100%; } body { font-size: 11pt; } section { border-color: #999; } }
"""

SCRIPT = """
const all = (root, open) => root.querySelectorAll("details").forEach(one => { one.open = open; });
document.querySelectorAll("button[data-open]").forEach(button => button.addEventListener("click", () =>
  all(button.closest("section"), button.dataset.open === "yes")));
addEventListener("beforeprint", () =>
  document.querySelectorAll(".tree, #configuration").forEach(one => all(one, true)));
"""


def page(title: str, lead: Content, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return a page as one HTML file that needs no other file and no network.

    Args:
        title: what it is about.
        lead: a sentence under it.
        facts: figures that stand at the top, each with its name.
        sections: in their order.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        Html(f"<style>{_style()}</style>"),
    )
    cards = [element("div", element("dt", name), element("dd", value)) for name, value in facts]
    links = listed(element("a", one.title, href=f"#{one.name}") for one in sections)
    top = element(
        "header",
        element("h1", title),
        paragraph(lead, class_="lead"),
        element("dl", *cards, class_="facts"),
        element("nav", links, aria_label="Sections"),
    )
    parts = [
        element(
            "section",
            element("h2", one.title, id=f"{one.name}-title"),
            one.content,
            id=one.name,
            aria_labelledby=f"{one.name}-title",
        )
        for one in sections
    ]
    body = element(
        "body",
        element("a", "To the content", href="#content", class_="skip"),
        top,
        element("main", *parts, id="content"),
        element("footer", "Made by Everloop from the run folder; this file needs no other file and no network."),
        Html(f"<script>{SCRIPT}</script>"),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def section(name: str, title: str, make: Callable[[], Iterable[Html]]) -> Section:
    """Return a section; where what it tells of is not there, it says so in a sentence."""
    try:
        return Section(name, title, joined(make()))
    except EverloopError as error:
        return Section(name, title, missing(str(error)))


def missing(why: str) -> Html:
    """Return a sentence that says what is not there."""
    return paragraph(f"{why[:1].upper()}{why[1:].rstrip('.')}.", class_="missing")


def _style() -> str:
    themes = {
        theme.upper(): " ".join(f"{name}: {value};" for name, value in variables(theme).items())
        for theme in ("light", "dark")
    }
    style = STYLE.replace("FONT", FONT)
    for word, colours in themes.items():
        style = style.replace(word, colours)
    return style
