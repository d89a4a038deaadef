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

from data.names import Damaged
from data.recordings.limits import RecordingLimits
from data.recordings.lines import BLOCK_BYTES, Meter

_BETWEEN_ROWS = re.compile(rb"\][\s,\[\]]*\[")
_RUN = re.compile(rb"\][\s,\[\]]*+")
_LONG_RUN = re.compile(rb"[\s,\[\]]{256}")
_MANY_BRACKETS = 1_000
_START = re.compile(rb'\{\s*("[^"]*")')
_NOTHING = re.compile(rb"(?!)")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_OPEN, _CLOSE, _QUOTE = 1, 2, 3
_CODES = np.zeros(256, np.uint8)
_CODES[list(b'{}"')] = (_OPEN, _CLOSE, _QUOTE)
_BLANKS = b" \t\r\n"
_FILLERS = b" \t\r\n\f\v,[]"
_IS_FILLER = np.isin(np.arange(256), list(_FILLERS))
_WITHOUT_LINES = bytes.maketrans(b"\r\n", b"  ")
_WINDOW = 1 << 14
_LONGEST_GAP = 64
"""Bytes of a gap that are searched for all gaps at once."""


def array_rows(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the arrays of a JSON text of arrays, as [[1,"a"],[2,"b"]], as lines of CSV.

    A line has the number of its array. The arrays are flat, and their texts hold no bracket and no blank.
    """
    rest = b""
    started = False
    for chunk in chunks:
        data = rest + chunk
        if not started:
            data = data.lstrip(b"\xef\xbb\xbf" + _BLANKS)
            data = data.lstrip(b"[" + _BLANKS)
            started = bool(data)
        *rows, rest = _rows_of(data)
        # A gap between two arrays may go on in the next chunk.
        if rows:
            yield b"".join(row.translate(None, _BLANKS) + b"\n" for row in rows)
        _check_length(rest)
    rest = rest.translate(None, _BLANKS).rstrip(b"],")
    if rest:
        yield rest + b"\n"


def object_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the objects of a JSON text, in an array or one behind the other, as lines; each object has a line.

    An object ends where all its braces are closed, or before an object that starts like the first one: so a broken
    object costs itself alone.
    """
    rest = start = b""
    for chunk in chunks:
        data = rest + chunk.translate(_WITHOUT_LINES)
        if not start:
            data = data.lstrip(b"\xef\xbb\xbf" + _BLANKS).lstrip(b"[" + _BLANKS)
            found = _START.match(data)
            start = b"" if found is None else found[1]
        objects, rest = _cut_objects(data, start)
        if objects:
            yield b"\n".join([*objects, b""])
        _check_length(rest)
    if rest := rest.rstrip(b"]," + _BLANKS):
        yield rest + b"\n"


def _rows_of(data: bytes) -> list[bytes]:
    """Split a text of arrays between the arrays."""
    if data.count(b"]") < _MANY_BRACKETS or _LONG_RUN.search(data) is None:
        return _BETWEEN_ROWS.split(data)
    # In a long run of brackets, each bracket would look for the end of the run: so each run is looked at once.
    found, begin = [], 0
    for run in _RUN.finditer(data):
        if (last := run[0].rfind(b"[")) > 0:
            found.append(data[begin : run.start()])
            begin = run.start() + last + 1
    return [*found, data[begin:]]


def _check_length(rest: bytes) -> None:
    if len(rest) > BLOCK_BYTES:  # else there is nothing to ask the environment for
        RecordingLimits.here().check_line(len(rest), "a JSON value")


def _cut_objects(data: bytes, start: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole objects of a text that begins with an object, and the rest from the last object on.

    Args:
        start: the first key of the first object.
    """
    objects: list[bytes] = []
    at, window = 0, len(data)
    while True:
        part = data[at : at + window]
        cut, is_broken = _cuts(part, start)
        begin = 0
        for end, next_begin in cut:
            objects.append(part[begin:end])
            begin = next_begin
        at += begin
        if is_broken:
            window = _WINDOW  # behind a broken object there may be many more, and each counts anew from its begin
        elif at - begin + window >= len(data):
            return objects, data[at:]
        else:
            window *= 2


def _cuts(data: bytes, start: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Return the end of each object and the begin of the next one, up to the first broken object.

    Returns:
        the cuts, and whether the object before the last cut is broken: the braces behind it must be counted anew.
    """
    ends, begins, are_nested = _gaps(data)
    if not len(ends) or not are_nested:
        return _pairs(ends, begins), False
    is_outer = _depths(data, begins) == 0
    alike = re.compile(rb"\{\s*" + re.escape(start)) if start else _NOTHING
    inner = np.flatnonzero(~is_outer).tolist()
    broken = next((i for i in inner if alike.match(data, int(begins[i]))), None)
    if broken is not None:
        is_outer[broken] = True
        is_outer[broken + 1 :] = False
    return _pairs(ends[is_outer], begins[is_outer]), broken is not None


def _pairs(ends: NDArray[np.intp], begins: NDArray[np.intp]) -> list[tuple[int, int]]:
    return list(zip(ends.tolist(), begins.tolist(), strict=True))


def _gaps(data: bytes) -> tuple[NDArray[np.intp], NDArray[np.intp], bool]:
    """Return end and next begin of each gap between two objects, and whether there are objects within objects.

    A gap is a closed brace, blanks, commas and brackets, and an open brace.
    """
    text = np.frombuffer(data, np.uint8)
    # In parts: masks of a whole text of one long value would be several times as long.
    parts = [(begin, text[begin : begin + BLOCK_BYTES]) for begin in range(0, max(1, len(text)), BLOCK_BYTES)]
    braces = np.concatenate([begin + np.flatnonzero((p == ord("{")) | (p == ord("}"))) for begin, p in parts])
    opens = text[braces] == ord("{")
    pairs = np.flatnonzero(~opens[:-1] & opens[1:])
    ends, begins = braces[pairs] + 1, braces[pairs + 1]
    good = begins - ends <= _LONGEST_GAP
    for far in np.flatnonzero(~good).tolist():
        good[far] = not data[ends[far] : begins[far]].strip(_FILLERS)
    for step in range(int((begins - ends)[begins - ends <= _LONGEST_GAP].max(initial=0))):
        at = ends + step
        good &= (at >= begins) | (begins - ends > _LONGEST_GAP) | _IS_FILLER[text[np.minimum(at, begins)]]
    return ends[good], begins[good], int(opens.sum()) > int(good.sum()) + 1


def _depths(data: bytes, places: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return how many braces are open before some places; braces in texts do not count."""
    if b"\\" in data:
        data = _ESCAPED.sub(b"__", data)
    codes = _CODES[np.frombuffer(data, np.uint8)]
    at = np.flatnonzero(codes)
    code = codes[at]
    is_outside = np.cumsum(code == _QUOTE) % 2 == 0
    steps = ((code == _OPEN).astype(np.int8) - (code == _CLOSE)) * is_outside
    depths = np.cumsum(steps, dtype=np.int64)
    found: NDArray[np.int64] = depths[np.searchsorted(at, places) - 1]
    return found


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
