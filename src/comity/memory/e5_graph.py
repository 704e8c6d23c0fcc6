"""Writing the encoder of multilingual-e5-small as an ONNX graph for ONNX Runtime.

Input `x` is (1, tokens, hidden): the summed embeddings of one text. Output is (1, hidden): the
mean over its tokens, not yet of unit length. One text is run at a time, so there is no padding,
no mask, and no text's vector depends on its neighbours.

Weights: 7-bit whole numbers per output channel with activations quantised as they come, because
7 bits never overflow the 16-bit sums of processors without VNNI, so that all machines compute the
same. The feed-forward's second matrix, whose inputs have outliers, keeps its blocks of 32 instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from comity.memory.e5_weights import BLOCK, Weights, split_blocks

_RUNTIME = "com.microsoft"
_LARGEST = 63
_INT8_MIDDLE = 128
_INT8_ACTIVATIONS = 4


class _Graph:
    """Nodes and constants in the making; every method returns the name of its output."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, kind: str, inputs: list[str], name: str, domain: str = "", **options: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(kind, inputs, [name], name=name, domain=domain, **options)
        )
        return name

    def floats(self, name: str) -> str:
        return self.constant(name, self.weights.floats(name))

    def matrix(
        self, names: list[str], columns: int
    ) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
        """Values (rows, blocks, 32), scales (rows, blocks, 1) and biases of matrices in a pile."""
        blocks = np.concatenate([self.weights.blocks(f"{name}.w", columns) for name in names])
        bias = np.concatenate([self.weights.floats(f"{name}.b") for name in names])
        return *split_blocks(blocks), bias

    def per_channel(self, x: str, names: list[str], out: str, columns: int) -> str:
        values, scales, bias = self.matrix(names, columns)
        dense = (values * scales).reshape(len(bias), columns).T
        steps = (np.abs(dense).max(axis=0) / _LARGEST).astype(np.float32)
        inputs = [
            x,
            self.constant(f"{out}.w", np.round(dense / steps).astype(np.int8)),
            self.constant(f"{out}.scale", steps),
            self.constant(f"{out}.zero", np.zeros(len(bias), np.int8)),
            self.constant(f"{out}.b", bias),
        ]
        return self.node("DynamicQuantizeMatMul", inputs, out, _RUNTIME)

    def per_block(self, x: str, name: str, out: str, columns: int) -> str:
        values, scales, bias = self.matrix([name], columns)
        stored = (values.astype(np.int16) + _INT8_MIDDLE).astype(np.uint8)
        inputs = [
            x,
            self.constant(f"{out}.w", stored),
            self.constant(f"{out}.scale", scales[..., 0]),
            "",
            "",
            self.constant(f"{out}.b", bias),
        ]
        options = {"K": columns, "N": len(bias), "bits": 8, "block_size": BLOCK}
        return self.node(
            "MatMulNBits", inputs, out, _RUNTIME, accuracy_level=_INT8_ACTIVATIONS, **options
        )

    def add_and_normalise(self, x: str, y: str, norm: str, out: str) -> str:
        inputs = [x, y, self.floats(f"{norm}.w"), self.floats(f"{norm}.b")]
        epsilon = self.weights.sizes.epsilon
        return self.node("SkipLayerNormalization", inputs, out, _RUNTIME, epsilon=epsilon)

    def layer(self, x: str, number: int) -> str:
        """Attention and feed-forward, each with its residual and layer norm."""
        sizes, part = self.weights.sizes, f"l{number}"
        all_three = self.per_channel(
            x, [f"{part}.q", f"{part}.k", f"{part}.v"], f"{part}.qkv", sizes.hidden
        )
        parts = [f"{part}.query", f"{part}.key", f"{part}.value"]
        self.nodes.append(helper.make_node("Split", [all_three], parts, axis=-1, num_outputs=3))
        seen = self.node(
            "MultiHeadAttention", parts, f"{part}.seen", _RUNTIME, num_heads=sizes.heads
        )
        seen = self.per_channel(seen, [f"{part}.ao"], f"{part}.attention", sizes.hidden)
        x = self.add_and_normalise(seen, x, f"{part}.aln", f"{part}.middle")
        wide = self.per_channel(x, [f"{part}.fi"], f"{part}.wide", sizes.hidden)
        wide = self.node("Gelu", [wide], f"{part}.gelu", _RUNTIME)
        narrow = self.per_block(wide, f"{part}.fo", f"{part}.narrow", sizes.feed_forward)
        return self.add_and_normalise(narrow, x, f"{part}.oln", f"{part}.out")

    def whole(self) -> str:
        inputs = ["x", self.floats("emb.ln.w"), self.floats("emb.ln.b")]
        x = self.node("LayerNormalization", inputs, "start", epsilon=self.weights.sizes.epsilon)
        for number in range(self.weights.sizes.layers):
            x = self.layer(x, number)
        axes = self.constant("axes", np.array([1], np.int64))
        return self.node("ReduceMean", [x, axes], "mean", keepdims=0)


def build_graph(weights: Weights) -> bytes:
    """The whole model as a serialised ONNX file of about 22 MB (the word table is not in it)."""
    graph = _Graph(weights)
    result = graph.whole()
    hidden = weights.sizes.hidden
    made = helper.make_graph(
        graph.nodes,
        "multilingual-e5-small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", hidden])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, [1, hidden])],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_RUNTIME, 1)]
    model: onnx.ModelProto = helper.make_model(made, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())
