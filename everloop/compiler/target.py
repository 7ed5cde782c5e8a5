"""The contract of targets: what a way to run cells must offer, and the registry of the ways there are.

A target is one of two things. A CellTarget runs a whole cell by operations of PyTorch, which bring their gradients. A
LoopTarget makes kernels of the loops that the compiler's passes write; what surrounds a loop (products over all steps,
gradients, layouts of rows) is the same for all of these. How a kernel is called is said in `kernel`. The suite in
tests/compiler/targets/test_contract.py is what a target must pass; it takes every one that is registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from importlib import import_module

import torch
from torch import Tensor

from everloop.cell import Cell
from everloop.compiler.call import Call, Results
from everloop.compiler.kernel import Kernel, StepKernel
from everloop.compiler.loop import Loop
from everloop.errors import OptionError, UnsupportedError, unknown


class Target(ABC):
    """A way to run cells over time."""

    name: str

    @abstractmethod
    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        """Return why this target runs nothing of this dtype on this device; "" where it does."""


class CellTarget(Target):
    """A target that runs a cell as it is written."""

    @abstractmethod
    def run(self, cell: Cell, call: Call) -> Results:
        """Return (output [T, B, n], final states), differentiable.

        Where a sequence has ended its state stays and its output is zero; before a step with a reset the state becomes
        its `restart`.
        """


class Products:
    """The large products outside of loops, by PyTorch; a target may have quicker ones."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x @ weight.T + bias for rows x [..., k] of all steps, with gradients of every order.

        Neither the result nor `bias` is kept for the gradient, so that their memory may be written again.
        """
        return torch.nn.functional.linear(x, weight, bias)

    def over_rows(self, left: Tensor, *right: Tensor) -> Tensor:
        """Return left.T @ right, summed over all leading axes, for left [..., m] and right [..., k].

        The rows of several `right` stand one behind the other.
        """
        rows = [part.reshape(-1, part.shape[-1]) for part in right]
        return left.reshape(-1, left.shape[-1]).T @ (rows[0] if len(rows) == 1 else torch.cat(rows))

    def multiply(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, *, add: bool = False) -> None:
        """Write a @ b + bias to `out` [m, n], whose columns are adjacent, or add a @ b to it; without a gradient."""
        if add:
            out.addmm_(a, b)
        elif bias is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(bias, a, b, out=out)

    def converted(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a parameter in another dtype, only to be read; a target may keep it as long as it is unchanged."""
        return weight.to(dtype)

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return memory of the dtype and device of `like`, with anything in it."""
        return like.new_zeros(shape)


class LoopTarget(Target, Products):
    """A target that compiles loops. All of it may be called by several threads at once.

    On a device with streams, kernels, products and memory belong to PyTorch's current stream: a call may return before
    its work is done, and nothing here waits for it.
    """

    # The dtype that factors of large products may have besides that of the loop.
    narrow: torch.dtype | None = None

    # The dtypes that a matrix of a loop may have besides that of the loop; its kernels convert it then.
    matrices: Collection[torch.dtype] = ()

    @abstractmethod
    def compile(self, loop: Loop) -> Kernel:
        """Return the kernel of a loop; the same one while somebody holds it.

        Raises:
            UnsupportedError: the target cannot run this loop; the message says why.
        """

    def compile_narrow(self, loop: Loop, halves: frozenset[str] = frozenset()) -> Kernel:
        """Return a kernel of a loop of float32 whose products may round their factors to bfloat16.

        halves: the sequences that it is given in bfloat16, of those that `may_halve` has returned.
        """
        return self.compile(loop)

    def may_halve(self, loop: Loop, names: Collection[str]) -> frozenset[str]:
        """Return which of these sequences of a loop of float32 a narrow kernel can hold in bfloat16."""
        return frozenset()

    def halves(self, loop: Loop, names: Collection[str]) -> frozenset[str]:
        """Return which of these sequences of a loop are to be held in bfloat16, for a narrow kernel."""
        return frozenset()

    def linear_narrow(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x @ weight.T + bias of float32, as `linear` does, with factors rounded to bfloat16."""
        low = (None if t is None else t.bfloat16() for t in (x, weight, bias))
        return torch.nn.functional.linear(*low).float()  # type: ignore[arg-type]

    def linear_low(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x @ weight.T + bias as `linear_narrow`, rounded to bfloat16."""
        low = (None if t is None else t.bfloat16() for t in (x, weight, bias))
        return torch.nn.functional.linear(*low)  # type: ignore[arg-type]

    def over_rows_narrow(self, left: Tensor, *right: Tensor) -> Tensor:
        """Return left.T @ right of float32, as `over_rows` does, with factors rounded to bfloat16."""
        return super().over_rows(left.bfloat16(), *(part.bfloat16() for part in right)).float()

    @abstractmethod
    def compile_step(self, loop: Loop) -> StepKernel:
        """Return the kernel of one step of a loop whose rows have no gradient; raises as `compile` does."""

    def compile_step_narrow(self, loop: Loop, storage: torch.dtype) -> StepKernel:
        """Return the kernel of one step of a loop of float32 whose tensors are all of `storage`, as of `compile_step`.

        storage: bfloat16, to which products may round their factors, or float16.
        """
        raise UnsupportedError(f"the target {self.name} has no single steps of {storage}")

    # Memory laid out as a small tensor; PyTorch's own, because in single steps every call counts.
    empty_like = staticmethod(torch.empty_like)


# Best first: a layer that names no target takes the first that does not refuse. A module is imported when its target
# is first asked for, and holds it as TARGET.
_MODULES = {"llvm": "everloop.compiler.targets.llvm.target", "eager": "everloop.compiler.targets.eager"}
_targets: dict[str, CellTarget | LoopTarget | None] = dict.fromkeys(_MODULES)


def names() -> tuple[str, ...]:
    """Return the names of all targets, the best first."""
    return tuple(_targets)


def find(name: str) -> CellTarget | LoopTarget:
    """Return the target of this name.

    Raises:
        OptionError: there is none; the message names the nearest.
    """
    if name not in _targets:
        raise OptionError(unknown("target", name, _targets))
    found = _targets[name]
    if found is None:
        found = _targets[name] = import_module(_MODULES[name]).TARGET
    return found


def reference() -> CellTarget:
    """Return the target that is the meaning of all others: plain PyTorch, which runs every cell."""
    found = find("eager")
    assert isinstance(found, CellTarget)
    return found


def compiling(dtype: torch.dtype, device: torch.device, named: LoopTarget | None = None) -> LoopTarget | str:
    """Return the best target that compiles loops for this dtype on this device, or why there is none.

    named: the only one that is asked.
    """
    asked = [named] if named else [found for found in map(find, names()) if isinstance(found, LoopTarget)]
    reasons = [target.refusal(dtype, device) for target in asked]
    return next((target for target, reason in zip(asked, reasons, strict=True) if not reason), "; ".join(reasons))


def products(dtype: torch.dtype, device: torch.device) -> Products:
    """Return who multiplies large matrices of this dtype on this device."""
    found = compiling(dtype, device)
    return found if isinstance(found, LoopTarget) else Products()


def register(target: CellTarget | LoopTarget) -> None:
    """Add a target, behind all that are better known. A layer takes it where it is named; a LoopTarget also where no
    target is named and the LoopTargets before it refuse.
    """
    if target.name in _targets:
        raise OptionError(f"there is a target {target.name!r} already; expected another name")
    _targets[target.name] = target


def unregister(name: str) -> None:
    """Take out a target that was registered."""
    if name in _MODULES:
        raise OptionError(f"the target {name!r} is built in and stays; expected one that was registered")
    del _targets[name]
