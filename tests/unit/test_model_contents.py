"""An ONNX file that reads other files or runs foreign code is refused before onnxruntime sees a byte of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from data.models.contents import check_contents
from data.models.served import ServedModel
from data.names import ModelRefused
from tests.models import SPEC, model_bytes

ELSEWHERE = "keeps its values in another file: a model must be one file"


def external(location: str) -> TensorProto:
    """Return a tensor whose values lie in another file."""
    tensor = TensorProto(name="planted", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def only_named(location: str) -> TensorProto:
    """Return a tensor with a location, which says that its values are in the file."""
    tensor = external(location)
    tensor.data_location = TensorProto.DEFAULT
    return tensor


def only_flagged(_: str) -> TensorProto:
    """Return a tensor that lies elsewhere, and does not say where."""
    return TensorProto(name="planted", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["planted"], value=tensor)


def in_branch(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node with a graph that has another node."""
    output = helper.make_tensor_value_info("planted", TensorProto.FLOAT, [1])
    branch = helper.make_graph([node], "branch", [], [output])
    return helper.make_node("If", ["some"], ["other"], then_branch=branch, else_branch=branch)


def of_function(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("ai.onnx", "Planted", [], ["planted"], [node], opset))


def with_values(model: onnx.ModelProto, tensor: TensorProto) -> None:
    sparse = onnx.SparseTensorProto(values=tensor, dims=[1])
    model.graph.sparse_initializer.append(sparse)


def with_tensors(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["planted"], some=[tensor]))


PLACES: dict[str, Callable[..., None]] = {
    "initializer": lambda model, tensor: model.graph.initializer.append(tensor),
    "sparse initializer": with_values,
    "attribute": lambda model, tensor: model.graph.node.append(constant(tensor)),
    "attribute of several tensors": with_tensors,
    "subgraph": lambda model, tensor: model.graph.node.append(in_branch(constant(tensor))),
    "subgraph of a subgraph": lambda model, tensor: model.graph.node.append(in_branch(in_branch(constant(tensor)))),
    "function": lambda model, tensor: of_function(model, constant(tensor)),
    "subgraph of a function": lambda model, tensor: of_function(model, in_branch(constant(tensor))),
    "training": lambda model, tensor: model.training_info.add().algorithm.initializer.append(tensor),
}
LOCATIONS = (
    "weights.bin",
    "../weights.bin",
    "/etc/hostname",
    "https://example.org/weights.bin",
    "file:///etc/hostname",
)


def planted(plant: Callable[[onnx.ModelProto], object]) -> bytes:
    """Return a good model with something planted into it."""
    model = onnx.load_from_string(model_bytes())
    plant(model)
    return bytes(model.SerializeToString())


def refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> ModelRefused:
    """Return why a file is refused; fail if onnxruntime gets to see the file."""
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: pytest.fail("onnxruntime has seen the file"))
    with pytest.raises(ModelRefused) as told:
        ServedModel.load(content, spec_id=SPEC.spec_id)
    return told.value


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_values_in_another_file_are_refused(place: str, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for tensor in (external(location), only_named(location), only_flagged(location)):
        told = refused(planted(partial(PLACES[place], tensor=tensor)), monkeypatch)
        assert (told.kind, ELSEWHERE in str(told)) == ("external", True)


def test_onnxruntime_itself_reads_a_file_beside_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for the check: a model from the registry could read the files of the process that loads it."""
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(b"\0\0\x80\x3f")  # 1.0

    def plant(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(external("weights.bin"))
        model.graph.output.append(helper.make_tensor_value_info("planted", TensorProto.FLOAT, [1]))

    session = ort.InferenceSession(planted(plant), providers=["CPUExecutionProvider"])
    width = session.get_inputs()[0].shape[1]
    assert session.run(["planted"], {"X": [[1.0] * width]})[0].tolist() == [1.0]


@pytest.mark.parametrize("domain", ["com.microsoft", "evil", "ai.onnx.ml.evil", "ai.onnx.preview.training", " "])
@pytest.mark.parametrize("place", ["graph", "subgraph", "function"])
def test_operators_of_foreign_domains_are_refused(place: str, domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node = helper.make_node("Planted", [], ["planted"], domain=domain)
    plants: dict[str, Callable[[onnx.ModelProto], object]] = {
        "graph": lambda model: model.graph.node.append(node),
        "subgraph": lambda model: model.graph.node.append(in_branch(node)),
        "function": lambda model: of_function(model, node),
    }
    told = refused(planted(plants[place]), monkeypatch)
    assert (told.kind, f"the domain {domain!r}" in str(told)) == ("operators", True)


def test_functions_of_foreign_domains_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    function = helper.make_function("own", "Planted", [], [], [], [])
    assert refused(planted(lambda model: model.functions.append(function)), monkeypatch).kind == "operators"


@pytest.mark.parametrize("operator", ["Loop", "Scan", "SequenceMap"])
def test_operators_without_end_are_refused(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(planted(lambda model: model.graph.node.append(helper.make_node(operator, [], ["a"]))), monkeypatch)
    assert str(told) == f"the operator {operator} may run without end, and no model needs it"


def test_options_for_onnxruntime_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(planted(lambda model: model.metadata_props.add(key="ort_config", value="{}")), monkeypatch)
    assert told.kind == "operators"


@pytest.mark.parametrize(
    "content",
    [
        b"\x20\0\0\0ORTM" + b"\0" * 60,  # onnxruntime's own format
        b"\x3a",  # a field without its length
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GB
        b"\x3b\x3c",  # a group, which ONNX does not use
        b"\x3a" + b"\xff" * 11,  # a number without end
        b"\x08\x08",  # no graph
        b"\x02\x00",  # a field without a number
    ],
)
def test_bytes_that_are_no_onnx_are_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(content, monkeypatch)
    assert (told.kind, "are no ONNX model" in str(told)) == ("format", True)


def test_messages_within_each_other_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with a node with an attribute with a graph, and so on: each is one message within the other."""
    content = b""
    for _ in range(2_000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # the graph of an attribute, the attribute of a node, a node
            content = tag + _varint(len(content)) + content
    told = refused(b"\x3a" + _varint(len(content)) + content, monkeypatch)
    assert "more than 100 deep" in str(told)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def test_a_second_spelling_of_a_field_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag may take more bytes than it needs: 0xba 0x00 is 0x3a, the graph."""
    graph = onnx.GraphProto(initializer=[external("weights.bin")]).SerializeToString()
    content = model_bytes() + b"\xba\x00" + _varint(len(graph)) + graph
    assert len(onnx.load_from_string(content).graph.initializer) > 1
    assert refused(content, monkeypatch).kind == "external"


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_is_taken_or_refused(place: int, byte: int) -> None:
    content = bytearray(model_bytes())
    content[place % len(content)] = byte
    try:
        check_contents(bytes(content))
    except ModelRefused:
        return
