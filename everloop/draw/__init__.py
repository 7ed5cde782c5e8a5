"""Pictures of cells, networks, prediction trees and pen strokes: as SVG, as PNG and on a terminal."""

from everloop.draw.cell import draw_cell
from everloop.draw.figure import Figure
from everloop.draw.forecasts import Panel, draw_forecasts
from everloop.draw.network import draw_network

__all__ = ["Figure", "Panel", "draw_cell", "draw_forecasts", "draw_network"]
