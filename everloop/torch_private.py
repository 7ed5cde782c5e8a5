"""All that this library uses of PyTorch beyond its public names: what each is for, and what to do when it is gone.

No other file names anything private of PyTorch; a test holds that, and that the installed PyTorch has them all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._compile import _disable_dynamo
from torch._decomp import register_decomposition as register_decomposition
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._higher_order_ops.scan import scan_op as scan_op
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef as StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import _register_namedtuple

# Imported above:
# `register_decomposition` tells exporters what our operator is made of. Gone: pass a table to `run_decompositions`.
# `scan_op` is a loop that exporters can hold. Gone: `torch.scan`, once it is public; ONNX needs it, nothing else.
# `TorchDispatchMode` sees what a thread draws at random. Gone: compare states of generators, as of Python's.
# `StorageWeakRef` tells whether the memory of a tensor is gone. Gone: keep nothing that is made of weights.
# `FakeTensor` has a shape and no numbers to check. Gone: ask `torch.compiler.is_compiling`, and test exports again.

# What looks at each call while Dynamo is at work, None while it is not: about a tenth of the cost of asking Dynamo.
# Gone: take `torch.compiler.disable` always, and measure the shortest calls again.
dynamo_callback = torch._C._dynamo.eval_frame.get_eval_frame_callback

# `torch.compiler.disable` that imports Dynamo, which takes seconds, at the first call. Gone: take that, and wait.
without_dynamo: Any = _disable_dynamo

# Whether torch.func is at work: its transforms see only PyTorch's own operations. Gone: ask as torch.func does.
has_transforms = torch._C._are_functorch_transforms_active

# The same, each by its kind; None or empty without any. Gone: use our own kernels under `vmap` never, and say so.
transforms = torch._C._functorch.get_interpreter_stack
VMAP = torch._C._functorch.TransformType.Vmap

# Whether a tensor stands for many in `is_grads_batched=True`. Gone: once that runs on vmap, drop the question.
is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor

# Not None while torch.jit.trace records. Gone: with torch.jit, drop the question.
tracing_state = torch._C._get_tracing_state

# How many TorchDispatchModes watch single operations. Gone: count `torch.utils._python_dispatch`'s own list.
count_dispatch_modes = torch._C._len_torch_dispatch_stack

# The hooks on saved tensors that are set now, None without any. Gone: take hooks to be there, at the cost of memory.
saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks

# Whether hooks are set that every module's call runs. Gone: never take the short way past a module's call.
has_global_hooks: Any = torch.nn.modules.module._has_any_global_hook

# Whether the backward pass at work may be followed by another (`retain_graph`). Gone: take it to be so; more memory.
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph

# Calls of PyTorch inside are not seen by `__torch_function__`. Gone: `torch._C.DisableTorchFunctionSubclass`.
without_torch_function = torch._C.DisableTorchFunction

# The named outputs of a cell in programs that `torch.export` saves. Gone: such cells cannot be saved; say so.
register_namedtuple = _register_namedtuple

# Arithmetic on lists of tensors, as PyTorch's optimisers use. Gone: a loop over the list.
foreach_lerp_ = torch._foreach_lerp_
foreach_copy_ = torch._foreach_copy_

# Outside of whatever watches single operations or transforms them. Gone: make what outlives a call before any call.
without_modes = _disable_current_modes
without_transforms = temporarily_clear_interpreter_stack


def constant_in_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function whose result Dynamo may take as a constant, without importing Dynamo.

    Gone: take `torch.compiler.assume_constant_result`, which imports it.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def allow_inductor_fallback(operator: str) -> None:
    """Have Inductor, where it has been imported, call an operator that has a decomposition for other exporters.

    Gone: nothing, outside of CI jobs; where `CI` is set, Inductor refuses operators that it could decompose.
    """
    lowering = sys.modules.get("torch._inductor.lowering")
    if lowering is not None:
        lowering.FALLBACK_ALLOW_LIST.add(operator)


def multiplies_bfloat16() -> bool:
    """Whether PyTorch's products of bfloat16 are quick on this processor. Gone: round the factors, multiply float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def with_autograd() -> Any:
    """Return a context in which autograd sees what runs inside a custom operator, from which PyTorch hides it.

    Gone: make the backward of the operator an operator whose gradient is written out.
    """
    return torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)


def is_forward_mode() -> bool:
    """Return whether forward-mode differentiation is at work. Gone: ask each tensor for its tangent (slower)."""
    return forward_ad._current_level >= 0


# Private attributes of PyTorch's objects, which other files name where they stand.
ATTRIBUTES = {
    "_parameters": "a module's own parameters, without the walk of `parameters()`; gone: that walk, with recurse=False",
    "_buffers": "the same of buffers; gone: `named_buffers(recurse=False)`",
    "_modules": "the same of modules; gone: `named_children()`, which leaves out None",
    "_forward_hooks": "hooks that only a call of the module runs; gone: never take the short way past `forward`",
    "_forward_pre_hooks": "as `_forward_hooks`",
    "_backward_hooks": "as `_forward_hooks`",
    "_backward_pre_hooks": "as `_forward_hooks`",
    "_flat_weights": "the weights of torch.nn.LSTM and its like; gone: `parameters()`",
    "_cdata": "which memory a tensor lies in, for as long as that lives; gone: keep nothing that is made of weights",
    "_version": "counts the writes to a tensor; gone: compare the numbers, at the cost of reading them",
    "_apply": "runs for `.to` and its like, overridden to forget what was packed; gone: compare storages at each call",
}
