"""The LSTM whose states are images."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import conv2d

from everloop.cell import Cell, H, I, bias, output, param, size, state

P, Q, reach = size("height"), size("width"), size("reach")


class ConvLSTM(Cell):
    """LSTM of images with H channels, whose products are convolutions; its gates see the memory, pixel by pixel.

    Shi, Chen, Wang, Yeung, Wong and Woo, "Convolutional LSTM network: A machine learning approach for precipitation
    nowcasting", NeurIPS 2015, equation 3. Rows of W, R and b are i, f, g, o; a kernel reaches `reach` pixels in each
    direction, 1 for 3 x 3, and outside of an image is 0. x and the output y are images laid flat: channels, then rows,
    then columns. Compiled for states of up to 256 numbers; larger ones, whose convolutions take the time, run on eager.

    Shapes: h, c [B, H, height, width]; x [B, I], I = channels * height * width; y [B, H * height * width].
    """

    gates = ("i", "f", "g", "o")

    h, c = state(H, P, Q), state(H, P, Q)
    y = output(H * P * Q)
    W = param(4 * H, I // (P * Q), 2 * reach + 1, 2 * reach + 1)
    R, b = param(4 * H, H, 2 * reach + 1, 2 * reach + 1), bias(4 * H)
    p_i, p_f, p_o = param(H, P, Q), param(H, P, Q), param(H, P, Q)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        around = self.sizes["reach"]
        of_x = conv2d(x.view(x.shape[0], -1, *h.shape[2:]), self.W, self.b if self.bias else None, padding=around)
        i, f, g, o = (of_x + conv2d(h, self.R, padding=around)).chunk(4, 1)
        i = sigmoid(i + self.p_i * c)
        f = sigmoid(f + self.p_f * c)
        c = f * c + i * tanh(g)
        o = sigmoid(o + self.p_o * c)
        h = o * tanh(c)
        return h, c, h.flatten(1)
