"""What users of torch.nn's recurrent layers rely on, each fact checked on torch.nn and on the drop-ins alike.

Every test runs for both libraries, and for the drop-ins under torch.compile as well; all three must pass.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, parametrizations, parametrize, prune, stateless
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import everloop

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile, weight_norm and others use what is deprecated
D = torch.float64
I_, H_ = 3, 4
NAMES = ("RNN", "LSTM", "GRU")
LIBRARIES: dict[str, Any] = {"torch": nn, "everloop": everloop, "compiled": everloop}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=LIBRARIES)
def make(request: pytest.FixtureRequest, name: str) -> Iterator[Callable[..., Any]]:
    """Return what makes a layer of float64."""
    torch._dynamo.reset()

    def made(*sizes: int, **options: Any) -> Any:
        layer = getattr(LIBRARIES[request.param], name)(*(sizes or (I_, H_)), **options).to(D)
        if request.param == "compiled":
            layer.compile(backend="eager")
        return layer

    with torch._dynamo.config.patch(allow_rnn=True):
        yield made
    torch._dynamo.reset()


def gates(name: str) -> int:
    return {"RNN": 1, "LSTM": 4, "GRU": 3}[name]


def flat(state: Any) -> list[Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


def start(name: str, *shape: int) -> Any:
    states = tuple(torch.randn(*shape, dtype=D) for _ in range(2))
    return states if name == "LSTM" else states[0]


def by_hand(name: str, layer: Any, x: Tensor, suffix: str = "_l0") -> Tensor:
    """Return the outputs [T, B, H] of one sweep from a state of zeros, by the formulas of the documentation."""
    W, R = getattr(layer, f"weight_ih{suffix}"), getattr(layer, f"weight_hh{suffix}")
    b, d = (getattr(layer, f"bias_{k}{suffix}") for k in ("ih", "hh"))
    h = c = x.new_zeros(x.shape[1], R.shape[1])
    outputs = []
    for x_t in x:
        a, r = x_t @ W.T + b, h @ R.T + d
        if name == "RNN":
            h = torch.tanh(a + r)
        elif name == "LSTM":
            i, f, g, o = (a + r).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            (r_a, z_a, n_a), (r_r, z_r, n_r) = a.chunk(3, -1), r.chunk(3, -1)
            z = torch.sigmoid(z_a + z_r)
            h = (1 - z) * torch.tanh(n_a + torch.sigmoid(r_a + r_r) * n_r) + z * h
        outputs.append(h)
    return torch.stack(outputs)


def test_names_shapes_and_order_of_weights(make: Any, name: str) -> None:
    layer, n = make(I_, H_, num_layers=2, bidirectional=True), gates(name)
    expected: dict[str, tuple[int, ...]] = {}
    for level, width in enumerate((I_, 2 * H_)):
        for suffix in (f"_l{level}", f"_l{level}_reverse"):
            expected[f"weight_ih{suffix}"] = (n * H_, width)
            expected[f"weight_hh{suffix}"] = (n * H_, H_)
            expected |= {f"bias_{k}{suffix}": (n * H_,) for k in ("ih", "hh")}
    assert {k: tuple(p.shape) for k, p in layer.named_parameters()} == expected
    assert [k for level in layer._all_weights for k in level] == list(expected)
    assert all(a is b for level, names in zip(layer.all_weights, layer._all_weights, strict=True)
               for a, b in zip(level, (getattr(layer, k) for k in names), strict=True))  # fmt: skip
    assert all(float(p.detach().abs().max()) <= H_**-0.5 for p in layer.parameters())


def test_formulas_of_every_layer_and_direction(make: Any, name: str) -> None:
    layer, x = make(I_, H_, num_layers=2, bidirectional=True), torch.randn(5, 2, I_, dtype=D)
    below = x
    for level in range(2):
        ahead = by_hand(name, layer, below, f"_l{level}")
        back = by_hand(name, layer, below.flip(0), f"_l{level}_reverse").flip(0)
        below = torch.cat([ahead, back], -1)
    y, state = layer(x)
    torch.testing.assert_close(y, below)
    last = torch.stack([ahead[-1], back[0]])
    torch.testing.assert_close(flat(state)[0][2:], last)


def test_one_sequence_is_a_batch_of_one(make: Any, name: str) -> None:
    for options in ({}, {"batch_first": True}, {"bidirectional": True, "num_layers": 2}):
        layer, x = make(I_, H_, **options), torch.randn(5, I_, dtype=D)
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        axis, state = (0 if layer.batch_first else 1), start(name, count, H_)
        batched = tuple(s[:, None] for s in state) if isinstance(state, tuple) else state[:, None]
        y, after = layer(x, state)
        want, want_after = layer(x.unsqueeze(axis), batched)
        torch.testing.assert_close(y, want.squeeze(axis))
        torch.testing.assert_close(flat(after), [s[:, 0] for s in flat(want_after)])


def test_batch_first_is_a_transposition(make: Any, name: str) -> None:
    layer, other = make(I_, H_), make(I_, H_, batch_first=True)
    other.load_state_dict(layer.state_dict())
    x, state = torch.randn(5, 2, I_, dtype=D), start(name, 1, 2, H_)
    (y, after), (z, other_after) = layer(x, state), other(x.transpose(0, 1), state)
    torch.testing.assert_close(z.transpose(0, 1), y)
    torch.testing.assert_close(other_after, after)


@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_batches_are_their_sequences(make: Any, name: str, is_sorted: bool) -> None:
    layer = make(I_, H_, bidirectional=True)
    sequences = [torch.randn(n, I_, dtype=D) for n in ((5, 3, 1) if is_sorted else (3, 5, 1))]
    packed = pack_sequence(sequences, enforce_sorted=is_sorted)
    y, state = layer(packed)
    assert isinstance(y, PackedSequence)
    assert y.batch_sizes.tolist() == [3, 2, 2, 1, 1]
    padded, lengths = pad_packed_sequence(y)
    for k, sequence in enumerate(sequences):
        one, after = layer(sequence)
        torch.testing.assert_close(padded[: lengths[k], k], one)
        torch.testing.assert_close([s[:, k] for s in flat(state)], flat(after))
        assert not padded[lengths[k] :, k].any()


def test_gradients_through_a_packed_batch(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(4, 2, I_, dtype=D, requires_grad=True)
    y, _ = layer(pack_padded_sequence(x, torch.tensor([4, 2])))
    found = torch.autograd.grad(y.data.square().sum(), [x, *layer.parameters()])
    parts = (layer(x[:, :1])[0], layer(x[:2, 1:])[0])
    expected = torch.autograd.grad(sum(p.square().sum() for p in parts), [x, *layer.parameters()])
    torch.testing.assert_close(found, expected)
    assert not found[0][2:, 1].any()


def test_gradients_of_first_and_second_order(make: Any, name: str) -> None:
    layer, x = make(2, 2), torch.randn(3, 1, 2, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], x)
    if layer._compiled_call_impl is None:
        assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x)


def test_wrong_arguments_are_refused(name: str) -> None:
    cases: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((I_, 0), {}), ((I_, -1), {}), ((I_, 2.0), {}), ((I_, H_), {"num_layers": 0}), ((I_, H_), {"dropout": True}),
        ((I_, H_), {"dropout": -0.1}), ((I_, H_), {"nope": 1}), ((I_,), {}),
        ((I_, H_), {"nonlinearity": "cosine"}), ((I_, H_), {"proj_size": H_}), ((I_, H_), {"proj_size": -1}),
    ]  # fmt: skip
    for args, options in cases:
        with pytest.raises((TypeError, ValueError)) as expected:
            getattr(nn, name)(*args, **options)
        with pytest.raises(expected.type) as found:
            getattr(everloop, name)(*args, **options)
        assert str(found.value) == str(expected.value)


def test_wrong_inputs_are_refused(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(5, 2, I_, dtype=D)
    wrong: list[tuple[Any, Any]] = [
        (torch.randn(5, 2, I_ + 1, dtype=D), None), (torch.randn(I_, dtype=D), None), (x[None], None),
        (x, start(name, 2, 2, H_)), (x, start(name, 1, 3, H_)), (x, start(name, 1, 2, H_ + 1)),
        (x, start(name, 1, H_)), (x[:, 0], start(name, 1, 1, H_)), (x.float(), None), (x.long(), None),
        (pack_sequence([x[:, 0], x[:2, 1]]), start(name, 1, 3, H_)),
    ]  # fmt: skip
    for given, state in wrong:
        with pytest.raises((RuntimeError, ValueError)):
            layer(given, state)
    with pytest.raises(TypeError):
        layer()


def test_dropout_warns_for_one_layer_and_drops_between_layers_in_training(make: Any, name: str) -> None:
    with pytest.warns(UserWarning, match="dropout"):
        make(I_, H_, dropout=0.5)
    layer, x = make(I_, H_, num_layers=2, dropout=0.5), torch.randn(4, 2, I_, dtype=D)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    torch.manual_seed(3)
    once = layer(x)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x)[0], once)
    torch.testing.assert_close(flat(layer(x)[1])[0][:1, :], flat(layer(x)[1])[0][:1, :])  # the first drops nothing
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)
    nothing = make(I_, H_, num_layers=2, dropout=1.0)
    other = make(I_, H_, num_layers=2, dropout=1.0)
    other.load_state_dict(nothing.state_dict())
    torch.testing.assert_close(other(x)[0], nothing(torch.zeros_like(x))[0])


def test_copies_pickles_and_state_dicts(make: Any, name: str) -> None:
    layer, x = make(I_, H_, num_layers=2), torch.randn(4, 2, I_, dtype=D)
    expected = layer(x)[0]
    twins = [copy.deepcopy(layer), copy.copy(layer)]
    if layer._compiled_call_impl is None:  # PyTorch pickles no module after .compile()
        twins.append(pickle.loads(pickle.dumps(layer)))
    for twin in twins:
        torch.testing.assert_close(twin(x)[0], expected)
        assert twin._flat_weights_names == layer._flat_weights_names
        assert all(a is b for a, b in zip(twin._flat_weights, twin.parameters(), strict=True))
    other = make(I_, H_, num_layers=2)
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    assert not other.load_state_dict(kept).missing_keys
    torch.testing.assert_close(other(x)[0], expected)
    del kept["bias_hh_l1"]
    with pytest.raises(RuntimeError, match="bias_hh_l1"):
        other.load_state_dict(kept)


def test_weights_put_in_the_place_of_others_are_used(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(4, 2, I_, dtype=D)
    before = layer(x)[0]
    layer.weight_hh_l0 = nn.Parameter(torch.randn_like(layer.weight_hh_l0))
    after = layer(x)[0]
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, by_hand(name, layer, x))
    assert any(w is layer.weight_hh_l0 for w in layer._flat_weights)
    with torch.no_grad():
        layer.weight_ih_l0.mul_(2)
    torch.testing.assert_close(layer(x)[0], by_hand(name, layer, x))
    layer.weight_ih_l0.data = torch.randn_like(layer.weight_ih_l0)
    layer.flatten_parameters()
    torch.testing.assert_close(layer(x)[0], by_hand(name, layer, x))
    layer.reset_parameters()
    torch.testing.assert_close(layer(x)[0], by_hand(name, layer, x))
    layer.float()
    assert layer(x.float())[0].dtype == torch.float32


def test_functional_calls_and_shared_weights(make: Any, name: str) -> None:
    layer, other, x = make(I_, H_), make(I_, H_), torch.randn(4, 2, I_, dtype=D)
    found = stateless.functional_call(layer, dict(other.named_parameters()), (x,))[0]
    torch.testing.assert_close(found, by_hand(name, other, x))
    torch.testing.assert_close(layer(x)[0], by_hand(name, layer, x))
    other.weight_hh_l0 = layer.weight_hh_l0
    torch.testing.assert_close(other(x)[0], by_hand(name, other, x))


def changed(kind: str, layer: Any) -> None:
    if kind == "weight_norm":
        parametrizations.weight_norm(layer, "weight_hh_l0")
    elif kind == "old weight_norm":
        nn.utils.weight_norm(layer, "weight_hh_l0")
    elif kind == "spectral_norm":
        parametrizations.spectral_norm(layer, "weight_hh_l0")
    elif kind == "orthogonal":
        parametrizations.orthogonal(layer, "weight_hh_l0")
    else:
        prune.random_unstructured(layer, "weight_hh_l0", amount=0.5)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "spectral_norm", "orthogonal", "prune"])
def test_reparametrised_weights(make: Any, name: str, kind: str) -> None:
    layer, x = make(I_, H_), torch.randn(4, 2, I_, dtype=D)
    changed(kind, layer)
    layer.eval()  # spectral_norm iterates in training
    for _ in range(2):
        y = layer(x)[0]
        torch.testing.assert_close(y, by_hand(name, layer, x))
        layer.zero_grad()
        torch.autograd.backward(y.square().sum(), retain_graph=True)  # of hooks that make weights, too
        own = [p for p in layer.parameters() if p.grad is not None]
        found = [p.grad.clone() for p in own]
        expected = torch.autograd.grad(by_hand(name, layer, x).square().sum(), own)
        torch.testing.assert_close(found, list(expected))
        with torch.no_grad():
            for p in own:
                p.sub_(0.1 * p.grad)


def test_a_parametrisation_is_removed(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(4, 2, I_, dtype=D)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    with parametrize.cached():
        expected = layer(x)[0]
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(x)[0], expected)


def test_frozen_weights_and_no_grad(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(4, 2, I_, dtype=D, requires_grad=True)
    layer.weight_ih_l0.requires_grad_(False)
    torch.autograd.backward(layer(x)[0].sum())
    assert layer.weight_ih_l0.grad is None
    assert layer.weight_hh_l0.grad is not None
    assert x.grad is not None
    with torch.no_grad():
        assert not layer(x)[0].requires_grad
    with torch.inference_mode():
        assert layer(x)[0].is_inference()
    assert not layer.requires_grad_(False)(x.detach())[0].requires_grad


def test_training_steps_with_clipping(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(6, 3, I_, dtype=D)
    target = torch.zeros(6, 3, H_, dtype=D)
    optimiser = torch.optim.Adam(layer.parameters(), 0.05)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = (layer(x)[0] - target).square().mean()
        torch.autograd.backward(loss)
        assert torch.isfinite(clip_grad_norm_(layer.parameters(), 1.0))
        optimiser.step()
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    assert parameters_to_vector(layer.parameters()).isfinite().all()


def test_hooks_and_inspection(make: Any, name: str) -> None:
    layer, x, seen = make(I_, H_, batch_first=True), torch.randn(2, 4, I_, dtype=D), []
    layer.register_forward_hook(lambda module, args, out: seen.append((args[0].shape, out[0].shape)))
    layer(x)
    assert seen == [((2, 4, I_), (2, 4, H_))]
    assert repr(layer) == f"{name}({I_}, {H_}, batch_first=True)"
    assert isinstance(layer, getattr(nn, name))
    assert (layer.mode, layer.proj_size) == ({"RNN": "RNN_TANH"}.get(name, name), 0)


def test_empty_batches_and_no_steps(make: Any, name: str) -> None:
    layer = make(I_, H_)
    y, state = layer(torch.zeros(4, 0, I_, dtype=D))
    assert y.shape == (4, 0, H_)
    assert [s.shape for s in flat(state)] == [(1, 0, H_)] * len(flat(state))
    with pytest.raises(RuntimeError):
        layer(torch.zeros(0, 2, I_, dtype=D))


def test_strides_do_not_matter(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(I_, 2, 4, dtype=D).permute(2, 1, 0)
    torch.testing.assert_close(layer(x)[0], layer(x.contiguous())[0])
    wide = torch.randn(2, 4, 2, H_, dtype=D)
    state = tuple(w[1:2, 1:3] for w in wide.unsqueeze(1).expand(2, 2, 4, 2, H_)[:, :, :, 0])
    given = state if name == "LSTM" else state[0]
    want = tuple(s.contiguous() for s in state) if name == "LSTM" else state[0].contiguous()
    torch.testing.assert_close(layer(x, given)[0], layer(x, want)[0])


def test_warnings_are_those_of_torch(make: Any, name: str) -> None:
    layer, x = make(I_, H_), torch.randn(4, 2, I_, dtype=D)
    layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
