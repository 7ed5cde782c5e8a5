"""A data flow for other programs: Graphviz DOT and Mermaid."""

from __future__ import annotations

import json

from everloop.draw.flow import Flow, Node

SHAPES = {
    "gate": 'shape=box, style="rounded,filled", fillcolor="#ffe3ad"',
    "linear": 'shape=box, style="rounded,filled", fillcolor="#d9d5f2"',
    "map": 'shape=ellipse, style=filled, fillcolor="#cfe6f7"',
    "join": "shape=box, style=rounded",
    "input": "shape=plaintext",
    "state": 'shape=box, style="rounded,filled", fillcolor="#d3eddf"',
    "new": 'shape=box, style="rounded,filled", fillcolor="#d3eddf"',
    "output": "shape=plaintext",
}
BRACKETS = {
    "map": ('(["', '"])'),
    "join": ('["', '"]'),
    "input": ('["', '"]'),
    "state": ('("', '")'),
    "new": ('("', '")'),
}


def label(node: Node) -> str:
    """Return what is written on a node, in one line."""
    if node.role == "join":
        return node.equation
    if node.time:
        return f"{node.name}[{node.time}]"
    return " ".join(
        part for part in (f"{node.name} =" if node.name and node.sign else node.name, node.sign, node.note) if part
    )


def dot(flow: Flow) -> str:
    """Return the flow as a Graphviz digraph, with dashed lines to the next step."""
    lines = [f"digraph {json.dumps(flow.name)} {{", "  rankdir=LR;", '  node [fontname="Helvetica"];']
    for number, node in flow.nodes.items():
        lines.append(f"  n{number} [label={json.dumps(label(node), ensure_ascii=False)}, {SHAPES[node.role]}];")
    lines += [f"  n{source} -> n{target};" for source, targets in flow.edges.items() for target in targets]
    lines += [
        f"  n{new} -> n{old} [style=dashed, constraint=false];"
        for old, new in zip(flow.of("state"), flow.of("new"), strict=True)
    ]
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(flow: Flow) -> str:
    """Return the flow as a Mermaid flowchart, with dotted lines to the next step."""
    lines = ["flowchart LR"]
    for number, node in flow.nodes.items():
        start, end = BRACKETS.get(node.role, ('["', '"]'))
        shown = label(node).replace('"', "#quot;")
        lines.append(f"    n{number}{start}{shown}{end}")
    lines += [f"    n{source} --> n{target}" for source, targets in flow.edges.items() for target in targets]
    lines += [f"    n{new} -.-> n{old}" for old, new in zip(flow.of("state"), flow.of("new"), strict=True)]
    return "\n".join(lines) + "\n"
