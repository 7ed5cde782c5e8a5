"""A linear layer with cross entropy in one operation, beside PyTorch's two and PyTorch's own chunked form.

Milliseconds of a training step (loss and the gradients of rows, weight and bias) and of the loss alone. The arithmetic
is that of the products, three in training, at the speed of the machine's best large product: nobody can be quicker.
Memory is the peak of a training step in a process of its own, in MiB above the tensors it starts with.
In bfloat16, a layer of it or under autocast, the arithmetic is not told.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.memory import peak
from benchmarks.peak import gigaflops_of_products
from benchmarks.timing import alternate, machine, statistic_option, table
from everloop import linear_cross_entropy

SIZES = [(8192, 512, 7637), (16384, 512, 65), (16384, 512, 1000), (1920, 512, 6000), (2048, 256, 32000)]
"""(N, I, V): rows, inputs, symbols."""

FORMS = ("float32", "autocast", "bfloat16")

Head = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def two(x: Tensor, head: nn.Linear, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, head.weight, head.bias), target)


def chunked(x: Tensor, head: nn.Linear, target: Tensor) -> Tensor:
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(x, head.weight, target, linear_bias=head.bias, options=options)


def one(x: Tensor, head: nn.Linear, target: Tensor) -> Tensor:
    return linear_cross_entropy(x, head.weight, target, linear_bias=head.bias)


PEERS: dict[str, Head] = {"everloop": one, "PyTorch": two, "PyTorch, chunked": chunked}


def given(rows: int, inputs: int, symbols: int, form: str = "float32") -> tuple[Tensor, nn.Linear, Tensor]:
    """Return random rows, a head and targets."""
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    x = torch.randn(rows, inputs, dtype=dtype, requires_grad=True)
    return x, nn.Linear(inputs, symbols, dtype=dtype), torch.randint(symbols, (rows,))


def in_form(loss: Head, form: str) -> Head:
    """Return the loss as it is computed in this form."""
    return torch.autocast("cpu", torch.bfloat16)(loss) if form == "autocast" else loss


def training(loss: Head, x: Tensor, head: nn.Linear, target: Tensor) -> Callable[[], object]:
    """Return a call that makes the gradients."""

    def call() -> None:
        x.grad = None
        head.zero_grad()
        torch.autograd.backward(loss(x, head, target))

    return call


def inference(loss: Head, x: Tensor, head: nn.Linear, target: Tensor) -> Callable[[], object]:
    """Return a call that makes the loss alone."""
    return torch.no_grad()(lambda: loss(x, head, target))


MODES = {"training": training, "inference": inference}


def _step(name: str, size: tuple[int, int, int], form: str, answer: Connection) -> None:
    loss = in_form(PEERS[name], form)
    training(loss, *given(2, size[1], 2, form))()
    tensors = given(*size, form)
    before = peak()
    training(loss, *tensors)()
    answer.send(peak() - before)


def memory(name: str, size: tuple[int, int, int], form: str) -> float:
    """Return the peak of a training step in a fresh process, in MiB."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_step, args=(name, size, form, send))
    process.start()
    result: float = receive.recv()
    process.join()
    return result


def measure(
    size: tuple[int, int, int], mode: str, speed: float, rounds: int, statistic: str, form: str = "float32"
) -> dict[str, float]:
    """Return the milliseconds of the arithmetic, where its speed is known, and of each peer."""
    tensors = given(*size, form)
    peers = {name: MODES[mode](in_form(loss, form), *tensors) for name, loss in PEERS.items()}
    seconds = alternate(peers, rounds=rounds, statistic=statistic)
    products = 3 if mode == "training" else 1
    arithmetic = {"arithmetic": 2e-6 * products * size[0] * size[1] * size[2] / speed} if speed else {}
    return {**arithmetic, **{name: 1e3 * value for name, value in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    statistic_option(parser)
    parser.add_argument("--form", choices=FORMS, default="float32", help="of the numbers that are multiplied")
    options = parser.parse_args()
    # first of all, because a new process begins with the peak of the one that started it
    used = {size: [memory(name, size, options.form) for name in ("everloop", "PyTorch")] for size in SIZES}
    speed = max(gigaflops_of_products().values()) if options.form == "float32" else 0.0
    best = f"; the best large product: {speed:.0f} GF/s" if speed else ""
    print(f"{machine()}; {options.form}; {options.statistic} of {options.rounds} rounds{best}")
    for mode in MODES:
        lines: list[list[object]] = []
        for size in SIZES:
            found = measure(size, mode, speed, options.rounds, options.statistic, options.form)
            more = used[size] if mode == "training" else []
            lines.append([", ".join(map(str, size)), *found.values(), found["PyTorch"] / found["everloop"], *more])
        heads = ["N, I, V", *found, "PyTorch / everloop", *(["everloop MiB", "PyTorch MiB"] if more else [])]
        print(f"\n### {mode}\n\n{table(heads, lines)}", flush=True)


if __name__ == "__main__":
    main()
