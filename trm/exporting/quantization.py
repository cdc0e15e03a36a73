"""INT8 weights of an ONNX model."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

MIN_ELEMENTS = 1024
"""Elements of the smallest matrix that is stored as INT8."""


def quantized(model: ModelProto) -> ModelProto:
    """A copy whose matrices are stored as INT8, with a float32 scale for each output channel.

    The runtime multiplies in float32: a DequantizeLinear operator restores each matrix when the model is loaded or run.
    Matrices are those of at least `MIN_ELEMENTS` elements that are multiplied or looked up.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph, scales = result.graph, list[NodeProto]()
    kept, added = list[TensorProto](), list[TensorProto]()
    rows, columns = _channel_axes(graph)
    for tensor in graph.initializer:
        axis = 0 if tensor.name in rows else 1
        is_matrix = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
        if not is_matrix or np.prod(tensor.dims) < MIN_ELEMENTS or tensor.name not in rows | columns:
            kept.append(tensor)
            continue
        integers, scale = quantize(numpy_helper.to_array(tensor), axis)
        names = [f"{tensor.name}/int8", f"{tensor.name}/scale"]
        added += [numpy_helper.from_array(integers, names[0]), numpy_helper.from_array(scale, names[1])]
        scales.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
    del graph.initializer[:]
    graph.initializer.extend([*kept, *added])
    nodes = [*scales, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def quantize(matrix: npt.NDArray[np.float32], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric INT8: integers -127..127 of the shape of `matrix`, and a scale for each index of `axis`."""
    scale = np.abs(matrix).max(axis=1 - axis) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    integers = np.rint(matrix / (scale[:, None] if axis == 0 else scale)).clip(-127, 127)
    return integers.astype(np.int8), scale


def _channel_axes(graph: GraphProto) -> tuple[set[str], set[str]]:
    """Names of matrices whose output channels are rows (transposed before a product, or looked up), and columns."""
    rows, columns = set[str](), set[str]()
    for node in _nodes(graph):
        if node.op_type in ("Transpose", "Gather"):
            rows.add(node.input[0])
        elif node.op_type == "MatMul":
            columns.add(node.input[1])
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            (rows if transposed else columns).add(node.input[1])
    return rows, columns - rows


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the bodies of its loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
