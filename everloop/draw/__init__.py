"""Pictures: prediction trees and pen strokes, as SVG, as PNG and on a terminal."""
