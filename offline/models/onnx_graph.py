"""Builder of an ONNX graph, node by node, with only the computation of a served model."""

from __future__ import annotations

# ruff: noqa: PLC0415 - onnx takes a second to import, and most callers only ask
from collections.abc import Sequence
from typing import Any

import numpy as np

FLOAT, INT64 = 1, 7
"""Types of `onnx.TensorProto`."""

MOST = 1e9
"""Limit of all inputs, so that no product of two of them leaves float32."""


class Graph:
    """Nodes and constants of a graph with input `X`, float32 (any, k); each method returns the name of its result.

    Args:
        columns: names of the k columns of `X`.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._columns = tuple(columns)
        self._taken: dict[str, str] = {}

    def constant(self, value: float, kind: int = FLOAT, shape: tuple[int, ...] = ()) -> str:
        """Add a number, or a tensor of one number."""
        from onnx import helper

        self._constants.append(helper.make_tensor(f"c{len(self._constants)}", kind, shape, [value]))
        return f"c{len(self._constants) - 1}"

    def node(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add an operator.

        Args:
            name: of the operator's output; a name is made up if empty.
            domain: of the operator set; empty: ONNX's own.
        """
        from onnx import helper

        name = name or f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def column(self, name: str) -> str:
        """Take one column of `X`, shape (any,)."""
        if not self._taken:
            self._taken["X"] = self.node("Clip", "X", self.constant(-MOST), self.constant(MOST))
        if name not in self._taken:
            place = self.constant(self._columns.index(name), INT64)
            self._taken[name] = self.node("Gather", self._taken["X"], place, axis=1)
        return self._taken[name]

    def trees(self, inputs: Sequence[str], boosting: Any) -> str:
        """Add scikit-learn's boosted trees, shape (any,).

        Args:
            inputs: results of shape (any,), the inputs of the trees in order.
            boosting: a fitted `HistGradientBoostingRegressor`.

        A threshold is rounded down to float32, so that a float32 input takes the same branch as in scikit-learn.
        """
        one = self.constant(1, INT64, (1,))
        matrix = self.node("Concat", *(self.node("Unsqueeze", each, one) for each in inputs), axis=1)
        trees = [predictors[0].nodes for predictors in boosting._predictors]
        nodes = np.concatenate(trees)
        tree = np.repeat(np.arange(len(trees)), [len(each) for each in trees])
        number = np.concatenate([np.arange(len(each)) for each in trees])
        is_leaf = nodes["is_leaf"].astype(bool)
        threshold = nodes["num_threshold"].astype(np.float32)
        threshold = np.where(
            threshold > nodes["num_threshold"], np.nextafter(threshold, np.float32(-np.inf)), threshold
        )
        result = self.node(
            "TreeEnsembleRegressor",
            matrix,
            domain="ai.onnx.ml",
            n_targets=1,
            base_values=[float(np.ravel(boosting._baseline_prediction)[0])],
            nodes_treeids=tree.tolist(),
            nodes_nodeids=number.tolist(),
            nodes_modes=["LEAF" if leaf else "BRANCH_LEQ" for leaf in is_leaf],
            nodes_featureids=np.where(is_leaf, 0, nodes["feature_idx"]).tolist(),
            nodes_values=np.where(is_leaf, np.float32(0), threshold).tolist(),
            nodes_truenodeids=np.where(is_leaf, 0, nodes["left"]).tolist(),
            nodes_falsenodeids=np.where(is_leaf, 0, nodes["right"]).tolist(),
            target_treeids=tree[is_leaf].tolist(),
            target_nodeids=number[is_leaf].tolist(),
            target_ids=[0] * int(is_leaf.sum()),
            target_weights=nodes["value"][is_leaf].tolist(),
        )
        return self.node("Squeeze", result, one)

    def to_bytes(self, name: str, outputs: tuple[str, ...], metadata: dict[str, str]) -> bytes:
        """Return the checked ONNX file; the same calls give the same bytes.

        Args:
            outputs: names of nodes of shape (any,), float32.
            metadata: key-value metadata of the file, see `data.models.served.METADATA`.
        """
        from onnx import checker, helper

        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("X", FLOAT, [None, len(self._columns)])],
            [helper.make_tensor_value_info(output, FLOAT, [None]) for output in outputs],
            self._constants,
        )
        # ir_version: the oldest with this opset, so that any onnxruntime of the last years reads the file
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
            ir_version=8,
            producer_name="cryptovol",
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
