"""Builder of an ONNX graph, node by node, with only the computation of a served model."""

from __future__ import annotations

# ruff: noqa: PLC0415 - onnx takes a second to import, and most callers only ask
from typing import Any

FLOAT, INT64 = 1, 7
"""Types of `onnx.TensorProto`."""


class Graph:
    """Nodes and constants of a graph with input `X`, float32 (any, k); each method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: float, kind: int = FLOAT, shape: tuple[int, ...] = ()) -> str:
        """Add a number, or a tensor of one number."""
        from onnx import helper

        self._constants.append(helper.make_tensor(f"c{len(self._constants)}", kind, shape, [value]))
        return f"c{len(self._constants) - 1}"

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operator.

        Args:
            name: of the operator's output; a name is made up if empty.
        """
        from onnx import helper

        name = name or f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def column(self, index: int) -> str:
        """Take one column of `X`, shape (any,)."""
        return self.node("Gather", "X", self.constant(index, INT64), axis=1)

    def to_bytes(self, name: str, columns: int, outputs: tuple[str, ...], metadata: dict[str, str]) -> bytes:
        """Return the checked ONNX file; the same calls give the same bytes.

        Args:
            columns: number of columns of `X`.
            outputs: names of nodes of shape (any,), float32.
            metadata: key-value metadata of the file, see `data.models.served.METADATA`.
        """
        from onnx import checker, helper

        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("X", FLOAT, [None, columns])],
            [helper.make_tensor_value_info(output, FLOAT, [None]) for output in outputs],
            self._constants,
        )
        # ir_version: the oldest with this opset, so that any onnxruntime of the last years reads the file
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="cryptovol"
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
