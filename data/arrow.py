"""Convert columns between numpy and pyarrow through their buffers.

pyarrow's own conversions import pandas, 75 MB and a second in each process that reads a recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

UTC: Final = pa.timestamp("ns", "UTC")
NAMES: Final = pa.dictionary(pa.int32(), pa.string())
"""Type of a column with few different texts."""


def texts_of(texts: Sequence[str]) -> pa.Array:
    """Return texts as a column."""
    data = "".join(texts).encode(errors="replace")
    lengths = np.fromiter(map(len, texts), np.int32, len(texts))
    if int(lengths.sum()) != len(data):
        lengths = np.fromiter((len(text.encode(errors="replace")) for text in texts), np.int32, len(texts))
    offsets = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def text_of(text: str) -> pa.Scalar:
    """Return one text for pyarrow's functions."""
    return texts_of([text])[0]


def rows_of(rows: NDArray[np.intp]) -> pa.Array:
    """Return row numbers as an int64 column for pyarrow's `take`."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, np.int64))])


def column_of(values: NDArray[Any], type_: pa.DataType, present: Mask | None = None) -> pa.Array:
    """Return values, not copied, as a column; null where `present` is false."""
    bits = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(type_, len(values), [bits, pa.py_buffer(np.ascontiguousarray(values))])


def batch_of(schema: pa.Schema, columns: Iterable[NDArray[Any] | pa.Array]) -> pa.RecordBatch:
    """Return rows of a schema; NaN becomes null."""
    arrays = [
        column_of(each, field.type, None if each.dtype.kind != "f" else ~np.isnan(each))
        if isinstance(each, np.ndarray)
        else each
        for field, each in zip(schema, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def names_of(code: NDArray[np.int32], names: Sequence[str]) -> pa.Array:
    """Return texts, given by their indexes in `names`, as a column."""
    return pa.DictionaryArray.from_arrays(column_of(code, pa.int32()), texts_of(names))


def _bits(buffer: pa.Buffer, column: pa.Array) -> Mask:
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little", count=column.offset + len(column))
    return bits[column.offset :].view(np.bool_)


def is_present(column: pa.Array) -> Mask:
    """Return True for each value that is not null, shape (n,)."""
    if column.null_count == 0:
        return np.ones(len(column), np.bool_)
    return np.zeros(len(column), np.bool_) if pa.types.is_null(column.type) else _bits(column.buffers()[0], column)


def is_true(column: pa.Array) -> Mask:
    """Return a boolean column as a mask, shape (n,); null is false."""
    return _bits(column.buffers()[1], column) & is_present(column) if len(column) else np.zeros(0, np.bool_)


def values_of(column: pa.Array, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a copy of the values of a column whose arrow type matches `dtype`; values at nulls have no meaning.

    Why a copy: compiled kernels treat read-only arrays as another type and would be compiled again.
    """
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)].copy()


def numbers_of(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return a copy of a column of numbers or times; NaN where a value is missing."""
    types: dict[pa.DataType, type[np.generic]] = {pa.float64(): np.float64, pa.int8(): np.int8}
    dtype = types.get(column.type, np.int64)
    parts = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        parts.append(values_of(chunk, dtype))
        if chunk.null_count:
            parts[-1][~is_present(chunk)] = np.nan
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def is_text(type_: pa.DataType) -> bool:
    """Return whether a column of type `type_` holds texts."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))
