"""A scene as SVG."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from unicodedata import category

from everloop.draw.scene import BELOW, FONT, Area, Circle, Line, Picture, Point, Rect, Scene, Shape, arrow_head, colour


def svg(scene: Scene, theme: str = "light") -> str:
    """Return a scene as a complete SVG picture, which names no file or font from elsewhere."""
    width, height = f"{scene.width:g}", f"{scene.height:g}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{safe(scene.title)}" font-family="{FONT}">'
    )
    title = f"<title>{safe(scene.title)}</title>"
    paper = f'<rect width="{width}" height="{height}" fill="{colour("paper", theme)}"/>'
    return "\n".join([head, title, paper, *(line for s in scene.shapes for line in _shape(s, theme)), "</svg>"]) + "\n"


def safe(text: str) -> str:
    """Return a text as markup has it, without the control characters that XML cannot hold."""
    return escape("".join(c if c in "\n\t" or category(c) not in ("Cc", "Cs") else "�" for c in text))


def _shape(shape: Shape, theme: str) -> Iterator[str]:
    if isinstance(shape, Rect):
        yield (
            f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}" '
            f'rx="{shape.radius:g}" {_paint(shape.fill, shape.stroke, theme)}{_titled("rect", shape.title)}'
        )
    elif isinstance(shape, Circle):
        yield (
            f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:g}" '
            f"{_paint(shape.fill, shape.stroke, theme)}{_titled('circle', shape.title)}"
        )
    elif isinstance(shape, Line):
        dashes = f' stroke-dasharray="{" ".join(f"{length:g}" for length in shape.dashes)}"' if shape.dashes else ""
        yield (
            f'<polyline points="{_points(shape.points)}" fill="none" stroke="{colour(shape.stroke, theme)}" '
            f'stroke-width="{shape.width:g}" stroke-linejoin="round"{dashes}/>'
        )
        if shape.arrow:
            yield f'<polygon points="{_points(arrow_head(shape.points))}" fill="{colour(shape.stroke, theme)}"/>'
    elif isinstance(shape, Area):
        fill = colour(shape.fill, theme)
        yield f'<polygon points="{_points(shape.points)}" fill="{fill}" fill-opacity="{shape.opacity:g}"/>'
    elif isinstance(shape, Picture):
        yield (
            f'<image x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}" '
            f'preserveAspectRatio="none" style="image-rendering: pixelated" '
            f'href="data:image/png;base64,{b64encode(shape.png).decode("ascii")}"/>'
        )
    else:
        bold = ' font-weight="bold"' if shape.bold else ""
        turned = f' transform="rotate(-90 {shape.x:.1f} {shape.y:.1f})"' if shape.upward else ""
        small = f"{BELOW * shape.size:.1f}"
        below = (
            f'<tspan font-size="{small}" dy="{0.25 * shape.size:.1f}">{safe(shape.below)}</tspan>'
            if shape.below
            else ""
        )
        yield (
            f'<text x="{shape.x:.1f}" y="{shape.y + 0.35 * shape.size:.1f}" font-size="{shape.size:g}" '
            f'text-anchor="{shape.anchor}" fill="{colour(shape.fill, theme)}"{bold}{turned}>'
            f"{safe(shape.text)}{below}</text>"
        )


def _paint(fill: str, stroke: str, theme: str) -> str:
    edge = f' stroke="{colour(stroke, theme)}" stroke-width="1.2"' if stroke else ""
    return f'fill="{colour(fill, theme)}"{edge}'


def _titled(tag: str, title: str) -> str:
    return f"><title>{safe(title)}</title></{tag}>" if title else "/>"


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
