"""Turn files that are no texts of lines into lines: JSON arrays, pretty-printed JSON, and zips of one member."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled, copy
from data.names import Damaged
from data.recordings.limits import RecordingLimits
from data.recordings.lines import Meter

Bytes = NDArray[np.uint8]

_RUN = re.compile(rb"\][,\[\]]*+")
_START = re.compile(rb'\{\s*("[^"]*")')
_OPEN, _CLOSE, _QUOTE, _ESCAPE = 1, 2, 3, 4
_CODES = np.zeros(256, np.uint8)
_CODES[list(b'{}"\\')] = (_OPEN, _CLOSE, _QUOTE, _ESCAPE)
_BRACE, _NEWLINE = b"{\n"
_BLANKS = b" \t\r\n"
_IS_BLANK = np.isin(np.arange(256), list(b" \t\r\n\f\v"))
_IS_FILLER = np.isin(np.arange(256), list(b" \t\r\n\f\v,[]"))
_WITHOUT_LINES = bytes.maketrans(b"\r\n", b"  ")


def array_rows(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the arrays of a JSON text of arrays, as [[1,"a"],[2,"b"]], as lines of CSV.

    A line has the number of its array. The arrays are flat, and their texts hold no bracket and no blank.
    """
    rest, started, limits = b"", False, RecordingLimits.here()
    for chunk in chunks:
        data = rest + chunk.translate(None, _BLANKS)
        if not started:
            data = data.lstrip(b"\xef\xbb\xbf").lstrip(b"[")
            started = bool(data)
        rows, rest = _rows_of(data)
        if rows:
            yield rows
        limits.check_line(len(rest), "a JSON value")
    rest = rest.rstrip(b"],")
    if rest:
        yield rest + b"\n"


def object_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the objects of a JSON text, in an array or one behind the other, as lines; each object has a line.

    An object ends where all its braces are closed, or before an object that starts like the first one, and an object
    without an object in it before the next brace: so a broken object costs itself alone.
    """
    rest, start, limits = b"", b"", RecordingLimits.here()
    for chunk in chunks:
        data = rest + (chunk.translate(_WITHOUT_LINES) if b"\n" in chunk or b"\r" in chunk else chunk)
        if not start:
            data = data.lstrip(b"\xef\xbb\xbf" + _BLANKS).lstrip(b"[" + _BLANKS)
            found = _START.match(data)
            start = b"" if found is None else found[1]
        lines = np.empty(2 * len(data), np.uint8)
        written, begin = _write_objects(_bytes_of(data), _bytes_of(start), lines)
        if written:
            yield lines[:written].tobytes()
        rest = data[begin:]
        limits.check_line(len(rest), "a JSON value")
    if rest := rest.rstrip(b"]," + _BLANKS):
        yield rest + b"\n"


def _rows_of(data: bytes) -> tuple[bytes, bytes]:
    """Return the whole arrays of a text without blanks as lines, and the rest, which may go on behind the text."""
    lines, between, rest = data.replace(b"],[", b"\n").rpartition(b"\n")
    if b"[" not in lines and b"]" not in lines and b"[" not in rest:
        return lines + between, rest
    found, begin = [], 0
    for run in _RUN.finditer(data):  # several brackets, or commas, between two arrays
        if (last := run[0].rfind(b"[")) > 0:
            found += [data[begin : run.start()], b"\n"]
            begin = run.start() + last + 1
    return b"".join(found), data[begin:]


def _bytes_of(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8)


@compiled
def _write_objects(data: Bytes, start: Bytes, out: Bytes) -> tuple[int, int]:
    """Write the whole objects of a text as lines.

    Args:
        data: a text without line ends that begins with an object.
        start: the first key of the first object, in quotation marks.
        out: room for all objects, each with a line end.

    Returns:
        the number of bytes written, and the begin of the last object, which may go on behind the text.
    """
    begin = written = depth = opened = i = 0
    in_text = False
    while True:
        while i < len(data) and _CODES[data[i]] == 0:
            i += 1
        if i >= len(data):
            return written, begin
        code = _CODES[data[i]]
        i += 1
        if code == _ESCAPE:
            i += 1
        elif code == _QUOTE:
            in_text = not in_text
        elif code == _OPEN:
            depth += not in_text
            opened += 1
        else:
            depth -= not in_text
            after = i
            while after < len(data) and _IS_FILLER[data[after]]:
                after += 1
            if after == len(data) or data[after] != _BRACE:
                continue
            is_whole = depth == 0 and not in_text
            if is_whole or opened == 1 or _starts_with(data, after + 1, start):
                copy(data[begin:i], out[written:])
                end = written + i - begin
                out[end] = _NEWLINE
                written, begin, i = end + 1, after, after
                depth, opened, in_text = 0, 0, False


@compiled
def _starts_with(data: Bytes, at: int, start: Bytes) -> bool:
    """Return whether a text goes on with `start`, which is not empty, behind blanks."""
    while at < len(data) and _IS_BLANK[data[at]]:
        at += 1
    alike = 0
    while alike < min(len(start), len(data) - at) and data[at + alike] == start[alike]:
        alike += 1
    return 0 < alike == len(start)


# Errors of a zip with a damaged directory: a password, a method or version, a name, an offset beyond the end.
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError)


def member_chunks(path: Path, member: str, meter: Meter | None = None) -> Iterator[bytes]:
    """Yield the bytes of a member of a zip.

    Raises:
        Damaged: the rest of the member cannot be read.
    """
    try:
        with path.open("rb") as packed, zipfile.ZipFile(packed) as archive, archive.open(member) as file:
            size, limits, packed_size = 0, RecordingLimits.here(), path.stat().st_size
            while chunk := file.read(1 << 16):  # a wrong checksum at the end loses the last chunk
                size += len(chunk)
                limits.check_unpacked(size, packed_size)
                if meter is not None:
                    meter.read = packed.tell()
                yield chunk
    except _ZIP_FAULTS as error:
        raise Damaged(f"the zip is damaged ({error})") from error


def zip_members(path: Path) -> list[str]:
    """Return the names of the files within a zip, without those that a Mac adds.

    Raises:
        ValueError: the zip cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [each.filename for each in archive.infolist() if not each.is_dir()]
    except _ZIP_FAULTS:  # their messages can show bytes of the file
        raise ValueError("starts as a zip archive, but cannot be read; copy or download it again") from None
    return [name for name in names if not name.startswith("__MACOSX/")]
