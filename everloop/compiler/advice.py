"""What to write instead of operations that a step cannot have compiled, and why."""

from __future__ import annotations

_ADVICE = {
    "sort argsort msort topk kthvalue median nanmedian quantile nanquantile mode unique": (
        "which orders places by their values at every step; compare with a threshold, as torch.where(a > b, a, 0),"
        " or choose softly, by softmax"
    ),
    "argmax argmin": (
        "whose place is an index that a step computes; a == a.amax(-1, keepdim=True) is true there, and softmax a soft "
        "choice"
    ),
    "cummax cummin logcumsumexp": "write torch.maximum or torch.logaddexp of part after part, in a Python loop",
    "one_hot embedding bucketize searchsorted histc bincount nonzero masked_select masked_scatter scatter_add": (
        "an index that a step computes; compare with all places, as a.unsqueeze(-1) == torch.arange(n)"
    ),
    "requires_grad_ retain_grad backward grad register_hook": (
        "a step is differentiated as a whole; write the derivative inside it as a formula, and a gradient of your own "
        "as custom_gradient"
    ),
    "item tolist numpy": "a value of the step has no number while it is compiled; write torch.where",
    "complex polar view_as_complex view_as_real real imag conj": "write the real and the imaginary part as two values",
    "inverse det logdet cholesky": "of parameters alone it runs before the loop; of values of a step write products",
    "instance_norm": "write layer_norm over the same axes",
    "cdist": "write (a.unsqueeze(-2) - b.unsqueeze(-3)).norm(dim=-1)",
    "bilinear": 'write torch.einsum("bi,kij,bj->bk", a, W, b)',
    "hypot": "write torch.sqrt(a * a + b * b)",
    "heaviside": "write (a > 0).to(a.dtype), and custom_gradient for a gradient of it",
    "gumbel_softmax": "declare noise(H), which the layer draws, and write softmax",
    "avg_pool1d avg_pool2d max_pool1d max_pool2d": "write unflatten, then mean or amax, or conv1d with fixed weights",
}
_BY_NAME = {name: text for names, text in _ADVICE.items() for name in names.split()}
_BY_FAMILY = {"linalg_": "inverse", "fft_": "complex"}


def advice(name: str) -> str:
    """Return what to write instead of an operation of this name, as the rest of a sentence; "" of what is not here."""
    family = next((like for prefix, like in _BY_FAMILY.items() if name.startswith(prefix)), name)
    found = _BY_NAME.get(family) or _BY_NAME.get(name.removesuffix("_"))
    if found is None:
        return "; write the new value out, such as a = a + b" if name.endswith("_") else ""
    return f"; {found}"
