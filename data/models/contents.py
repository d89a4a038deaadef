"""Look through the bytes of an ONNX file before any library loads the file: what does its graph read, and run?

onnxruntime reads external data while it loads a model, and looks up the code of each operator. So the file is walked
first, message by message, as protobuf writes them (https://protobuf.dev/programming-guides/encoding/). Fields that
appear twice are all looked at, whichever of them a library would take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from data.names import ModelRefused

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Domains of the operators of the ONNX standard. Any other domain is code that somebody brings."""
ENDLESS: Final = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that run a graph as often as an input says."""
OWN_OPTIONS: Final = "ort_config"
"""Key of metadata with options for onnxruntime's session, among them files to write."""
MOST_NESTED: Final = 100
"""Most messages within each other; protobuf itself reads no deeper."""

_MODEL, _GRAPH, _NODE, _FUNCTION, _ATTRIBUTE = "model", "graph", "node", "function", "attribute"
_TENSOR, _SPARSE, _TRAINING, _PROPERTY = "tensor", "sparse tensor", "training", "property"

# By message, the fields that hold messages, from onnx.proto.
_WITHIN: Final[dict[str, dict[int, str]]] = {
    _MODEL: {7: _GRAPH, 14: _PROPERTY, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
    _PROPERTY: {},
}
_TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_OPERATOR, _DOMAIN = 4, 7
_FUNCTION_DOMAIN = 10
_KEY = 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_NUMBERS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f]|\x3d[\x00-\xff]{4})+")
"""Fields 8 and 7 of an attribute, whole numbers and floats: trees have very many of them, one by one."""


class _Message(NamedTuple):
    kind: str
    start: int
    end: int
    depth: int


def check_contents(model_bytes: bytes) -> None:
    """Refuse an ONNX file that reads other files, or runs other code than operators of the ONNX standard.

    Raises:
        ModelRefused: the bytes are no ONNX file; a tensor, in the graph or anywhere below, keeps its values elsewhere;
            an operator or a function is of a foreign domain, or could go on without end; or the file has options for
            onnxruntime.
    """
    try:
        _check(memoryview(model_bytes), model_bytes)
    except (ValueError, IndexError) as error:
        if isinstance(error, ModelRefused):
            raise
        start = model_bytes[:8].hex(" ")
        reason = f"{len(model_bytes)} bytes that begin with {start!r} are no ONNX model: {error}"
        raise ModelRefused(reason, "format") from error


def _check(view: memoryview, data: bytes) -> None:
    if not data:
        raise ValueError("the file is empty")
    waiting = [_Message(_MODEL, 0, len(data), 1)]
    has_graph = False
    while waiting:
        message = waiting.pop()
        within, name = _WITHIN[message.kind], ""
        for field, value, start, end in _fields(data, message):
            if field in within and start >= 0:
                if message.depth >= MOST_NESTED:
                    raise ValueError(f"its messages lie more than {MOST_NESTED} deep in each other")
                has_graph |= message.kind == _MODEL and within[field] == _GRAPH
                waiting.append(_Message(within[field], start, end, message.depth + 1))
            elif message.kind == _TENSOR:
                if field == _TENSOR_NAME and start >= 0:
                    name = _text(view[start:end])
                if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
                    raise ModelRefused(
                        f"a tensor{f' {name!r}' if name else ''} keeps its values in another file: a model must be one "
                        "file, without external data",
                        "external",
                    )
            elif start >= 0:
                _check_text(message.kind, field, _text(view[start:end]))
    if not has_graph:
        raise ValueError("there is no graph in it")


def _check_text(kind: str, field: int, text: str) -> None:
    """Refuse names of operators, domains and properties."""
    if (kind, field) in ((_NODE, _DOMAIN), (_FUNCTION, _FUNCTION_DOMAIN)) and text not in DOMAINS:
        raise ModelRefused(
            f"operators of the domain {text[:80]!r} are not of the ONNX standard (ai.onnx, ai.onnx.ml)", "operators"
        )
    if (kind, field) == (_NODE, _OPERATOR) and text in ENDLESS:
        raise ModelRefused(f"the operator {text} may run without end, and no model needs it", "operators")
    if (kind, field) == (_PROPERTY, _KEY) and text == OWN_OPTIONS:
        raise ModelRefused(f"its metadata {OWN_OPTIONS!r} gives options to onnxruntime", "operators")


def _text(raw: memoryview) -> str:
    return bytes(raw[:200]).decode(errors="replace")


def _fields(data: bytes, message: _Message) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message: number; the value of a whole number, else 0; begin and end of bytes, else -1."""
    at, end = message.start, message.end
    while at < end:
        if message.kind == _ATTRIBUTE and (numbers := _NUMBERS.match(data, at, end)) is not None:
            at = numbers.end()
            continue
        tag, at = _varint(data, at, end)
        field, kind = tag >> 3, tag & 7
        value, start = 0, -1
        if kind == _VARINT:
            value, at = _varint(data, at, end)
        elif kind == _BYTES:
            size, start = _varint(data, at, end)
            at = start + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has the type {kind}, which ONNX does not use")
        if at > end or not field or tag >> 32:
            raise ValueError("a field is longer than its message, or has no number")
        yield field, value, start, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a whole number and the place behind it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number is cut off")
