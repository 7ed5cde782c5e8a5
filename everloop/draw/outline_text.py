"""A model in words and as a graph for other programs: Graphviz DOT and Mermaid."""

from __future__ import annotations

import json

from everloop.draw.levels import levels_of
from everloop.models.outline import Outline, Strand


def _parts(outline: Outline, strand: Strand) -> list[str]:
    inside = [f"{level}   ↻ {', '.join(level.states)}" for level in levels_of(strand.recurrent)]
    pooling = [f"pooling: {strand.pooling}"] if strand.pooling else []
    attention = [str(outline.attention)] if outline.attention and strand is outline.strands[-1] else []
    return [*map(str, strand.before), *inside, *attention, *pooling, *map(str, strand.after)]


def text(outline: Outline) -> str:
    """Return a model from what it reads down to what it writes, a line a part, for a terminal."""
    context = f", context: {outline.context.replace('-', ' ')}" if outline.context else ""
    lines = [f"{outline.name}: {outline.topology}{context}"]
    for strand in outline.strands:
        lines += ["", f"{strand.reads}[{'t−1' if strand.feeds_back else 't'}]"]
        lines += [f"  + {strand.given_name}: {strand.given}, {outline.when_given}"] if strand.given else []
        lines += [f"  │ {part}" for part in _parts(outline, strand)]
        written = f"{strand.writes}{'' if strand.pooling else '[t]'}"
        lines.append(written if strand.writes else "last states → bridge → first states of the decoder")
    return "\n".join(lines) + "\n"


def _nodes(outline: Outline) -> tuple[list[str], list[tuple[int, int, bool]]]:
    """Return labels and edges (from, to, over time) of the rolled model."""
    labels, edges, ends = list[str](), list[tuple[int, int, bool]](), list[int]()
    for strand in outline.strands:
        parts = [strand.reads, *_parts(outline, strand)]
        parts += [strand.writes] if strand.writes else []
        base = len(labels)
        labels += parts
        edges += [(base + n, base + n + 1, False) for n in range(len(parts) - 1)]
        loops = [base + n for n, part in enumerate(parts) if "↻" in part]
        edges += [(n, n, True) for n in loops]
        if strand.given:
            labels.append(f"{strand.given_name}: {strand.given}")
            edges.append((len(labels) - 1, loops[0], False))
            if outline.attends_to_given:
                edges.append((len(labels) - 1, base + parts.index(str(outline.attention)), False))
        if ends:
            edges.append((ends[-1], loops[0], False))
            edges += [(ends[-1], base + parts.index(str(outline.attention)), False)] if outline.attention else []
        ends += loops[-1:]
    return labels, edges


def dot(outline: Outline) -> str:
    """Return a model as a Graphviz digraph, with dashed loops."""
    labels, edges = _nodes(outline)
    lines = ["digraph model {", "  rankdir=BT;", '  node [shape=box, style=rounded, fontname="Helvetica"];']
    lines += [f"  n{k} [label={json.dumps(label, ensure_ascii=False)}];" for k, label in enumerate(labels)]
    lines += [f"  n{a} -> n{b}{' [style=dashed]' if over else ''};" for a, b, over in edges]
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(outline: Outline) -> str:
    """Return a model as a Mermaid flowchart, with dotted loops."""
    labels, edges = _nodes(outline)
    lines = ["flowchart BT", *(f'    n{k}["{label.replace(chr(34), "#quot;")}"]' for k, label in enumerate(labels))]
    return "\n".join([*lines, *(f"    n{a} {'-.->' if over else '-->'} n{b}" for a, b, over in edges)]) + "\n"
