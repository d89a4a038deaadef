"""Read text files as numbered lines: unpacked, in blocks of bounded size; split CSV lines into fields, one by one."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Final, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from data.arrow import rows_of
from data.names import Damaged
from data.recordings.limits import RecordingLimits
from data.trades import Int64s, Reject

BLOCK_BYTES: Final = 1 << 20
"""Bytes of text that are parsed at once: enough to hide the cost of a call, little beside the memory limit."""
_ENOUGH_BYTES: Final = BLOCK_BYTES * 3 // 4
"""Bytes of a block that wait for no further chunk: a chunk of JSON is a little shorter once it is lines."""
HEAD_BYTES: Final = 1 << 16
"""Bytes at the start of a file that decide the dialect."""
REJECT_CHARACTERS: Final = 200
"""Characters of a rejected line in a reject."""

GZIP_MAGIC: Final = b"\x1f\x8b"
_FIELD = rb'(?:"(?:[^"]|"")*+"[^,]*+|(?!")[^,]*+)'
_CLOSED = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+", re.DOTALL)
"""A line of CSV whose quotation marks are closed, as pyarrow reads them. No part gives back what it took: a long line
takes a time in proportion."""


class Lines:
    """Consecutive lines of a file, without blank lines.

    Args:
        data: the lines, each with its line end.
        number: shape (n,), 1-based line number in the file.
    """

    def __init__(self, data: bytes, number: Int64s) -> None:
        self.data = data
        self.number = number

    @classmethod
    def of(cls, data: bytes, first_number: int) -> tuple[Lines, int]:
        """Number the lines of a text that ends with a line end, and leave out blank lines.

        Returns:
            the lines, and the number of the line that follows the text.
        """
        if b"\r" in data:
            data = re.sub(rb"\r+\n", b"\n", data)
        lines = cls(data, np.empty(0, np.int64))
        lines.number = first_number + np.arange(len(lines.ends), dtype=np.int64)
        next_number = first_number + len(lines.ends)
        blank = np.diff(lines.ends, prepend=-1) == 1
        if not blank.any():
            return lines, next_number
        kept = np.ones(len(data), np.bool_)
        kept[lines.ends[blank]] = False
        return cls(np.frombuffer(data, np.uint8)[kept].tobytes(), lines.number[~blank]), next_number

    @cached_property
    def ends(self) -> NDArray[np.intp]:
        """Return the index in `data` of each line's end, shape (n,)."""
        return np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self.number)

    def cut(self, first: int, last: int) -> Lines:
        """Return the lines from `first` up to, but not with, `last`."""
        start = int(self.ends[first - 1]) + 1 if first else 0
        stop = int(self.ends[last - 1]) + 1 if last else 0
        return Lines(self.data[start:stop], self.number[first:last])

    def take(self, rows: NDArray[np.intp]) -> Lines:
        """Return some of the lines."""
        if len(rows) == len(self):
            return self
        return Lines(b"".join(self[i] + b"\n" for i in rows), self.number[rows])

    def __getitem__(self, i: int) -> bytes:
        return self.data[int(self.ends[i - 1]) + 1 if i else 0 : int(self.ends[i])]

    def reversed(self) -> Lines:
        """Return the lines in reverse order."""
        return Lines(b"\n".join([*reversed(self.data.split(b"\n")[:-1]), b""]), self.number[::-1])

    def text(self, i: int) -> str:
        """Return the text of a rejected line, cut to `REJECT_CHARACTERS`."""
        return self[i][: 4 * REJECT_CHARACTERS].decode(errors="replace")[:REJECT_CHARACTERS]

    @cached_property
    def are_texts(self) -> bool:
        """Return whether all lines are UTF-8 without a carriage return."""
        if b"\r" in self.data:
            return False
        try:
            return self.data.isascii() or bool(self.data.decode())
        except UnicodeDecodeError:
            return False

    def readable(self) -> tuple[NDArray[np.intp], dict[int, str]]:
        """Return the indexes of lines that are texts, and by index the reason why a line is no text."""
        reasons: dict[int, str] = {}
        if not self.are_texts:
            for i in range(len(self)):
                try:
                    self[i].decode()
                    if b"\r" in self[i]:
                        reasons[i] = "the line must be one line, but has a carriage return within"
                except UnicodeDecodeError as error:
                    reasons[i] = (
                        f"the line must be UTF-8, but its byte {error.start + 1} is {self[i][error.start]:#04x}"
                    )
        return np.delete(np.arange(len(self)), list(reasons)), reasons


class Meter:
    """Hold the number of bytes that were read of a file, packed as they are; the reader of the file counts."""

    def __init__(self) -> None:
        self.read = 0


def chunks_of(path: Path, meter: Meter | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file; a gzip is unpacked.

    Raises:
        Damaged: the rest of the gzip cannot be read, or is too much.
    """
    limits, size = RecordingLimits.here(), 0
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            is_packed = file.peek(2)[:2] == GZIP_MAGIC
            stream = unpacked if is_packed else file
            packed_size = path.stat().st_size
            while chunk := stream.read1(1 << 20):
                size += len(chunk)
                if is_packed:
                    limits.check_unpacked(size, packed_size)
                if meter is not None:
                    meter.read = file.tell()
                yield chunk
    except EOFError as error:
        raise Damaged("the gzip ends early", "gzip -dc") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"the gzip is damaged ({error})", "gzip -dc") from error


def head_of(chunks: Iterable[bytes]) -> bytes:
    """Return the first readable bytes of a text, at most `HEAD_BYTES`.

    Raises:
        Damaged: the first byte cannot be read.
    """
    head = b""
    try:
        for chunk in chunks:
            head += chunk
            if len(head) >= HEAD_BYTES:
                break
    except Damaged:
        if not head:
            raise
    return head[:HEAD_BYTES]


def data_lines(chunks: Iterable[bytes], header_lines: int = 0) -> Iterator[Lines]:
    """Yield the lines of a text after its header, without a byte order mark, in blocks.

    Raises:
        Damaged: after all whole lines, if `chunks` raises Damaged, a line is too long, or the lines are too many.
    """
    limits, number = RecordingLimits.here(), 1
    to_skip = header_lines
    for block in whole_lines(iter(chunks)):
        lines, number = Lines.of(block, number)
        limits.check_rows(number - 1)
        if skipped := min(to_skip, len(lines)):
            to_skip -= skipped
            lines = lines.cut(skipped, len(lines))
        if len(lines):
            yield lines


def whole_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a text, without a byte order mark, in blocks that end with a line end; raises as `data_lines`."""
    text, wanted, limits = bytearray(), _ENOUGH_BYTES, RecordingLimits.here()
    damage = None
    start = True
    while True:
        try:
            chunk = next(chunks, b"")
        except Damaged as error:
            chunk, damage = b"", error
        text += chunk
        if chunk and len(text) < wanted:
            continue
        if start and text.startswith(codecs.BOM_UTF8):
            del text[: len(codecs.BOM_UTF8)]
        start = False
        if not chunk and not damage and text and not text.endswith(b"\n"):
            text += b"\n"
        end = text.rfind(b"\n") + 1
        if end:
            yield bytes(text[:end])
            del text[:end]
        if damage:
            raise damage
        if not chunk:
            return
        wanted = len(text) + _ENOUGH_BYTES
        limits.check_line(len(text))


def lines_backwards(
    path: Path, meter: Meter, header_lines: int = 0, text: Iterator[bytes] | None = None
) -> Iterator[Lines]:
    """Yield the lines of a text after its header from the last to the first, in blocks; a gzip is unpacked to disk.

    Args:
        text: the text in chunks, where the file holds no lines; written to disk.

    Raises:
        Damaged: after all whole lines, as `data_lines`.
    """
    with path.open("rb") as packed, ExitStack() as cleanup:
        file: BinaryIO = packed
        damage: Damaged | None = None
        if text is not None or packed.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
            file = cast(BinaryIO, cleanup.enter_context(TemporaryFile()))
            try:
                for chunk in chunks_of(path) if text is None else text:
                    file.write(chunk)
            except Damaged as error:
                damage = error
        size = file.seek(0, os.SEEK_END)
        packed_size = path.stat().st_size
        for left, lines in _backwards(file, size, damage is not None, header_lines):
            meter.read = packed_size * (size - left) // size
            if len(lines):
                yield lines.reversed()
        if damage is not None:
            raise damage


def _backwards(file: BinaryIO, size: int, is_cut: bool, header_lines: int) -> Iterator[tuple[int, Lines]]:
    """Yield numbered lines in blocks from the end of a file, with the number of bytes before the block.

    Args:
        is_cut: the text ends within a line, which is left out.
    """
    file.seek(0)
    number, end, limits = 1, b"\n", RecordingLimits.here()
    while chunk := file.read(BLOCK_BYTES):
        number += chunk.count(b"\n")
        end = chunk[-1:]
        limits.check_rows(number - 1)
    number += end != b"\n"  # behind the last line
    left, tail = size, b""
    while left:
        step = min(BLOCK_BYTES, left)
        left -= step
        file.seek(left)
        text = file.read(step) + tail
        if left + len(text) == size and end != b"\n":
            whole = text.rfind(b"\n") + 1
            text = text[:whole] if is_cut else text + b"\n"
            number -= is_cut
            size = -1  # once
        first = text.find(b"\n") + 1 if left else 0
        tail, text = text[:first] if first else text if left else b"", text[first:] if first or not left else b""
        limits.check_line(len(tail), where="before it")
        if not left:
            text = text.removeprefix(codecs.BOM_UTF8)
        number -= text.count(b"\n")
        lines, _ = Lines.of(text, number)
        yield left, lines if left else lines.cut(min(header_lines, len(lines)), len(lines))


class Fault(NamedTuple):
    """Why rows are rejected.

    Attributes:
        at, row: index of the line, and of the row, or -1 for a line that cannot be split.
        last: of several rows, index of the last line.
        rows: number of rows.
    """

    at: int
    row: int
    reason: str
    last: int = -1
    rows: int = 1

    def reject(self, file: str, number: Int64s, text: Callable[[int], str]) -> Reject:
        """Return the reject; of several rows without a text."""
        if self.last < 0:
            return Reject(file, int(number[self.at]), self.reason, text(self.at))
        return Reject(file, int(number[self.at]), self.reason, "", self.rows, int(number[self.last]))


def cut_rows(
    file: str,
    number: Int64s,
    text: Callable[[int], str],
    at: NDArray[np.intp],
    reasons: Sequence[Fault | tuple[int, int, str]],
    batch_rows: int,
) -> Iterator[tuple[tuple[int, int], slice, list[Reject]]]:
    """Cut n lines in batches of `batch_rows` lines; yield the lines, the accepted rows, and the rejects of each batch.

    Args:
        number: shape (n,), number of each line in the file.
        text: returns the text of a line by its index.
        at: shape (m,), line index of each accepted row, not falling.
        reasons: sorted.
    """
    for first in range(0, len(number), batch_rows):
        span = first, first + batch_rows
        begin, end = (bisect_left(reasons, (bound,)) for bound in span)
        rejects = [Fault(*reason).reject(file, number, text) for reason in reasons[begin:end]]
        yield span, slice(*np.searchsorted(at, span)), rejects


class Fields(NamedTuple):
    """Fields of CSV lines.

    Attributes:
        at: shape (m,), index of each line that could be split.
        texts: the wanted columns by index of the column, m texts each.
        broken: by line index, the reason why a line could not be split.
    """

    at: NDArray[np.intp]
    texts: dict[int, pa.Array]
    broken: dict[int, str]


def csv_fields(lines: Lines, width: int, wanted: Sequence[int]) -> Fields:
    """Split readable lines into `width` CSV fields; the result for a line does not depend on neighbouring lines.

    A comma behind the last field is no further field.

    Args:
        wanted: indexes of the columns to return.
    """
    broken: dict[int, str] = {}
    schema = pa.schema([(str(i), pa.string()) for i in wanted])
    if len(lines) and lines[0].count(b",") == width and _all_end_in_comma(lines):
        pieces = _pieces(lines, np.arange(len(lines)), width + 1, schema, broken)
        if not broken:
            table = pa.concat_tables([table for _, table in pieces])
            return Fields(np.arange(len(lines)), {i: table[str(i)].combine_chunks() for i in wanted}, {})
        broken = {}
    pieces = _pieces(lines, np.arange(len(lines)), width, schema, broken)
    one_more = f"expected {width} fields, found {width + 1}"
    if trailing := [i for i, reason in sorted(broken.items()) if reason == one_more and lines[i].endswith(b",")]:
        for i in trailing:
            del broken[i]
        again = Lines(b"".join(lines[i][:-1] + b"\n" for i in trailing), lines.number[trailing])
        pieces += _pieces(again, np.array(trailing), width, schema, broken)
    if not pieces:
        pieces = [(np.empty(0, np.intp), schema.empty_table())]
    table = pa.concat_tables([table for _, table in pieces])
    at = np.concatenate([at for at, _ in pieces])
    if trailing:
        order = np.argsort(at)
        at, table = at[order], table.take(rows_of(order))
    texts = {i: table[str(i)].combine_chunks() for i in wanted}
    return Fields(at, texts, broken)


def _all_end_in_comma(lines: Lines) -> bool:
    text = np.frombuffer(lines.data, np.uint8)
    return bool((text[np.maximum(lines.ends - 1, 0)] == ord(",")).all())


def _pieces(
    lines: Lines, at: NDArray[np.intp], width: int, schema: pa.Schema, broken: dict[int, str]
) -> list[tuple[NDArray[np.intp], pa.Table]]:
    """Return tables of texts, each with the line index of its rows, and note all other lines in `broken`."""
    if len(lines) == 0:
        return []
    wrong: dict[int, str] = {}

    def note(row: pyarrow.csv.InvalidRow) -> str:
        wrong[row.number - 1] = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        return "skip"

    # A last row of empty fields, so that an open quotation mark on the last line swallows a row and is noticed.
    text = lines.data + b"," * (width - 1) + b"\n"
    table = csv_table(text, width, schema, note)
    if table.num_rows + len(wrong) == len(lines) + 1:
        broken |= {int(at[i]): reason for i, reason in wrong.items()}
        return [(np.delete(at, list(wrong)), table[:-1])]
    # A row spans lines: a quotation mark is open. Only the line with the mark is lost.
    closed = np.array([_CLOSED.fullmatch(line) is not None for line in lines.data.split(b"\n")[:-1]], np.bool_)
    if not closed.all():
        broken |= dict.fromkeys(at[~closed].tolist(), "a quotation mark is not closed on its line")
        return _pieces(lines.take(np.flatnonzero(closed)), at[closed], width, schema, broken)
    if len(lines) == 1:
        broken[int(at[0])] = "a quotation mark is not closed on its line"
        return []
    half = len(lines) // 2
    return [
        *_pieces(lines.cut(0, half), at[:half], width, schema, broken),
        *_pieces(lines.cut(half, len(lines)), at[half:], width, schema, broken),
    ]


def csv_table(
    text: bytes, width: int, schema: pa.Schema, note: Callable[[pyarrow.csv.InvalidRow], str] | None = None
) -> pa.Table:
    """Parse CSV of `width` columns without a header; an empty number or time is null, an empty text stays.

    Args:
        schema: types of the wanted columns, named by index.
        note: called with each row of another width; returns what pyarrow does with the row.

    Raises:
        pyarrow.ArrowInvalid: a value is not of its type, or, without `note`, a row has another width.
    """
    names = [str(i) for i in range(width)]
    return pyarrow.csv.read_csv(
        pa.BufferReader(text),
        # One block, because only one block gives row numbers.
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
        pyarrow.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=note),
        pyarrow.csv.ConvertOptions(
            include_columns=schema.names, column_types=schema, null_values=[""], strings_can_be_null=False
        ),
    )
