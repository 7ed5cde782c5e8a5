"""A scene as PNG, drawn by matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from everloop.draw.scene import BELOW, Area, Circle, Line, Picture, Rect, Scene, Shape, arrow_head, colour, text_width
from everloop.errors import OptionError

# with Chinese, Japanese and Korean letters, on Linux, Windows and macOS
FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")


def matplotlib() -> tuple[Any, Any, Any]:
    """Return what is used of matplotlib: rc_context, FigureCanvasAgg, Figure.

    Raises:
        OptionError: it is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = f"a PNG picture needs {error.name or 'matplotlib'}: pip install 'everloop[plot]', or write SVG"
        raise OptionError(message) from None
    return rc_context, FigureCanvasAgg, Figure


def png(scene: Scene, theme: str = "light", scale: float = 2.0) -> bytes:
    """Return a scene as a PNG file, `scale` pixels for each unit of length.

    Raises:
        OptionError: matplotlib is not installed.
    """
    rc_context, FigureCanvasAgg, Figure = matplotlib()
    figure = Figure(figsize=(scene.width / 72, scene.height / 72), dpi=72 * scale, facecolor=colour("paper", theme))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, scene.width), ylim=(scene.height, 0))
    axes.axis("off")
    for order, shape in enumerate(scene.shapes):
        _draw(axes, shape, theme, order)
    file = io.BytesIO()
    with rc_context({"text.hinting": "none"}):  # letters as wide as they are designed
        figure.savefig(file, format="png", facecolor=figure.get_facecolor(), metadata={"Title": scene.title})
    return file.getvalue()


def _draw(axes: Any, shape: Shape, theme: str, order: int) -> None:
    from matplotlib import image, patches

    if isinstance(shape, Rect):
        # the rounding is added outside of the box that is given
        r = min(shape.radius, shape.width / 2, shape.height / 2)
        corner, size = (shape.x + r, shape.y + r), (shape.width - 2 * r, shape.height - 2 * r)
        style = f"round,pad={r},rounding_size={r}" if r else "square,pad=0"
        box = patches.FancyBboxPatch(corner, *size, boxstyle=style, lw=1.2, zorder=order, **_paint(shape, theme))
        axes.add_patch(box)
    elif isinstance(shape, Circle):
        place = (shape.x, shape.y)
        axes.add_patch(patches.Circle(place, shape.radius, lw=1.2, zorder=order, **_paint(shape, theme)))
    elif isinstance(shape, Line):
        stroke = colour(shape.stroke, theme)
        xs, ys = zip(*shape.points, strict=True)
        dashes = {"dashes": tuple(length / shape.width for length in shape.dashes)} if shape.dashes else {}
        axes.plot(xs, ys, color=stroke, lw=shape.width, zorder=order, solid_joinstyle="round", **dashes)
        if shape.arrow:
            axes.add_patch(patches.Polygon(arrow_head(shape.points), color=stroke, lw=0, zorder=order))
    elif isinstance(shape, Area):
        fill = colour(shape.fill, theme)
        axes.add_patch(patches.Polygon(shape.points, facecolor=fill, alpha=shape.opacity, lw=0, zorder=order))
    elif isinstance(shape, Picture):
        extent = (shape.x, shape.x + shape.width, shape.y + shape.height, shape.y)
        pixels, grey = image.imread(io.BytesIO(shape.png)), {"cmap": "gray", "vmin": 0, "vmax": 1}
        axes.imshow(pixels, **grey, extent=extent, interpolation="nearest", aspect="auto", zorder=order)
    else:
        look: dict[str, Any] = {
            "color": colour(shape.fill, theme),
            "family": _families(),
            "parse_math": False,
            "zorder": order,
        }
        weight, line = "bold" if shape.bold else "normal", shape.y + 0.35 * shape.size
        if shape.upward:
            end_at_y = {"start": "bottom", "middle": "center", "end": "top"}[shape.anchor]
            look |= {"rotation": 90, "ha": "center", "va": end_at_y}
            axes.text(shape.x, shape.y, shape.text, fontsize=shape.size, weight=weight, **look)
            return
        axes.text(shape.left, line, shape.text, fontsize=shape.size, weight=weight, **look)
        end = shape.left + text_width(shape.text, shape.size, shape.bold)
        if shape.below:
            axes.text(end, line + 0.25 * shape.size, shape.below, fontsize=BELOW * shape.size, **look)


def _paint(shape: Rect | Circle, theme: str) -> dict[str, Any]:
    edge = colour(shape.stroke, theme) if shape.stroke else "none"
    return {"facecolor": colour(shape.fill, theme), "edgecolor": edge}


@lru_cache(1)
def _families() -> list[str]:
    """Return the fonts of texts: letters that the first one lacks are taken from the next that is installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]
