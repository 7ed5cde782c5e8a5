"""What a page tells of gradients and of the products of step Jacobians."""

from __future__ import annotations

import torch

from everloop import Recurrent
from everloop.diagnose import diagnose
from everloop.draw.scene import DASHED, Line
from everloop.report import figures, inside
from tests.diagnose.test_gradients import Reader
from tests.diagnose.test_jacobians import TwoRates


def test_products_of_jacobians_stand_beside_the_gradient() -> None:
    found = diagnose(Reader(Recurrent(TwoRates(3, 4))), (torch.randn(80, 2, 3), None))
    page = "".join(map(str, inside.gradients(found)))
    assert "halves every 6.6 steps" in page
    assert "The product of step Jacobians and the gradient differ (layers: halves every 6.6 steps" in page
    assert "-0.105 (40 steps)" in page
    figure = figures.gradients(found.gradients, found.jacobians)
    assert "layers, product" in figure.text
    drawn = [shape for shape in figure.scene.shapes if isinstance(shape, Line) and shape.stroke.startswith("series")]
    dashed = {line.stroke for line in drawn if line.dashes == DASHED}
    assert dashed == {"series 0"}, "in the colour of the first state of its layer"
