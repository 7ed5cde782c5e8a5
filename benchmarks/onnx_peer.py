"""The same layer in ONNX Runtime, built operator by operator, with bound buffers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.cell import Cell
from everloop.compiler.targets.llvm import machine
from everloop.layers import Recurrent

# ONNX orders gates i, o, f, c (LSTM) and z, r, h (GRU); ours are i, f, g, o and r, z, n
_ORDER = {"lstm": (0, 3, 1, 2), "peephole-lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


def onnx_session(name: str, cell: Cell, x: Tensor, *, is_quantized: bool = False) -> Callable[[], object] | None:
    """Return a call that runs the cell over x in ONNX Runtime, or None where it is not installed.

    is_quantized: an LSTM in 8 bits, by its own `quantize_dynamic` with a scale for each row.
    """
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    own = {key: value.detach() for key, value in cell.named_parameters()}
    order = _ORDER[name]

    def rows(value: Tensor) -> np.ndarray:
        blocks = value.chunk(len(order))
        return np.ascontiguousarray(torch.cat([blocks[k] for k in order])[None].numpy())

    zeros = torch.zeros_like(own["b"])
    weights = {"W": rows(own["W"]), "R": rows(own["R"])}
    weights["B"] = np.concatenate([rows(own["b"]), rows(own.get("d", zeros))], 1)
    inputs = ["x", "W", "R", "B"]
    if name == "peephole-lstm":
        weights["P"] = torch.cat([own["p_i"], own["p_o"], own["p_f"]])[None].numpy()
        inputs += ["", "", "", "P"]
    kind = "GRU" if name == "gru" else "LSTM"
    extra: dict[str, Any] = {"linear_before_reset": 1} if name == "gru" else {}
    node = helper.make_node(kind, inputs, ["y"], hidden_size=cell.hidden_size, **extra)
    y_shape = [x.shape[0], 1, x.shape[1], cell.output_size]
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    text = _quantized(model) if is_quantized else model.SerializeToString()
    session = onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    output = np.empty(y_shape, np.float32)
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x.numpy()))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(output))

    def call() -> object:
        session.run_with_iobinding(binding)
        return binding

    call()
    expected = _outputs(cell, x)
    got = binding.copy_outputs_to_cpu()[0][:, 0]
    atol = 0.02 if is_quantized else 1e-4
    assert np.allclose(got, expected, rtol=0, atol=atol), "the ONNX model must compute the same"
    return call


def _quantized(model: Any) -> bytes:
    """Return the model with DynamicQuantizeLSTM."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        source, to = Path(folder, "float.onnx"), Path(folder, "small.onnx")
        onnx.save(model, source)
        quantize_dynamic(
            source,
            to,
            per_channel=True,
            reduce_range=not has_vnni(),  # 7 bits: without VNNI its sums of two products would saturate
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["LSTM"],
        )
        small = onnx.load(to)
    assert any(node.op_type == "DynamicQuantizeLSTM" for node in small.graph.node)
    return bytes(small.SerializeToString())


def has_vnni() -> bool:
    """Whether the processor adds up products of 8 bits in 32."""
    isa = machine.host()
    return machine.dotted(isa) != isa


def _outputs(cell: Cell, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        output: Tensor = Recurrent(cell)(x)[0]
    return output.numpy()
