"""Records of one layout, many at once, between bytes and columns.

A record that we write is `{head, field, field, ...}`, with the fields always in the same order and without a blank: so
it can be read by comparing what is always the same and by taking apart only what is not. A record of any other form is
left to a general parser. Both ways give the same values, and the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.digits import (
    TIME_BYTES,
    Bytes,
    read_integer,
    read_number,
    read_time,
    stands,
    write_integer,
    write_number,
    write_time,
)
from data.trades import Floats, Int64s

MAX_HEADS = 256
"""Different heads in a batch; the streams of a partition are fewer."""


MAX_KEPT = 16
"""Streams whose last numbers are remembered while a batch is written."""

_U = np.uint64


class Kind(IntEnum):
    """What stands in a field."""

    INTEGER = 0
    TIME = 1
    NUMBER = 2
    """A double; null where it is not finite, and NaN where null is read."""
    CHOICE = 3
    """One of the texts of the layout, by its index."""


class Field(NamedTuple):
    """A field of a record: what always stands before its value, and what the value is."""

    key: bytes
    kind: Kind

    @classmethod
    def named(cls, name: str, kind: Kind) -> Field:
        return cls(f',"{name}":'.encode(), kind)


class Found(NamedTuple):
    """Records that were read, in columns; rows of the others hold nothing of use.

    Attributes:
        head: shape (n,), index into `heads`, -1 where a record is not of the layout.
        heads: the different beginnings of the records, up to the first field.
        integers: shape (n, fields that are no numbers): integers, ns since 1970, indices of choices; by field.
        numbers: shape (n, fields that are numbers).
    """

    head: Int64s
    heads: list[bytes]
    integers: Int64s
    numbers: Floats


class Layout:
    """How the records of a topic are written.

    Args:
        fields: those after the head, in order.
        choices: texts as JSON, of all fields of that kind.
    """

    def __init__(self, fields: Sequence[Field], choices: Sequence[bytes] = ()) -> None:
        self._kinds = np.array([field.kind for field in fields], np.int64)
        self._keys = _Texts.of([field.key for field in fields])
        self._choices = _Texts.of(choices)
        self._integers = sum(field.kind != Kind.NUMBER for field in fields)
        self._numbers = len(fields) - self._integers

    def read(self, values: Sequence[bytes]) -> Found:
        """Read records."""
        n = len(values)
        text, ends = _Texts.of(values)
        head, heads = np.empty(n, np.int64), np.empty((MAX_HEADS, 2), np.int64)
        integers, numbers = np.empty((n, self._integers), np.int64), np.empty((n, self._numbers))
        count = _read(text, ends, self._kinds, *self._keys, *self._choices, head, heads, integers, numbers)
        return Found(head, [text[start:end].tobytes() for start, end in heads[:count]], integers, numbers)

    def write(
        self, heads: Sequence[bytes], head: NDArray[np.integer], integers: Int64s, numbers: Floats
    ) -> list[bytes]:
        """Write records, see `Found`."""
        n = len(head)
        head_text, head_ends = _Texts.of(heads)
        longest = max(map(len, heads), default=0) + len(self._keys.text) + len(self._choices.text)
        longest += TIME_BYTES * len(self._kinds)
        out, ends = np.empty(n * longest, np.uint8), np.empty(n, np.int64)
        end = _write(
            head_text, head_ends, head, self._kinds, *self._keys, *self._choices, integers, numbers,
            numbers.view(np.uint64), out, ends,
        )  # fmt: skip
        data, bounds = out[:end].tobytes(), [0, *ends.tolist()]
        return [data[start:stop] for start, stop in pairwise(bounds)]


class _Texts(NamedTuple):
    """Texts behind each other, and where each ends."""

    text: Bytes
    ends: Int64s

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> _Texts:
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(np.frombuffer(b"".join(texts), np.uint8), np.cumsum(lengths))


@compiled
def _find_head(text: Bytes, at: int, end: int, key: Bytes, heads: Int64s, count: int, likely: int) -> int:
    """Return which head stands at a place, or -1; a new one, at `count`, is added to `heads`."""
    for turn in range(count):
        head = likely if turn == 0 else turn - (turn <= likely)
        start, stop = heads[head]
        after = at + stop - start
        if stands(text, at, end, text, start, stop) and stands(text, after, end, key, 0, len(key)):
            return head
    if count == len(heads):
        return -1
    for place in range(at, end):
        if stands(text, place, end, key, 0, len(key)):
            heads[count, 0], heads[count, 1] = at, place
            return count
    return -1


@compiled
def _read(  # noqa: PLR0912 - the kinds in a function of their own cost a third more
    text: Bytes,
    ends: Int64s,
    kinds: Int64s,
    keys: Bytes,
    key_ends: Int64s,
    choices: Bytes,
    choice_ends: Int64s,
    head: Int64s,
    heads: Int64s,
    integers: Int64s,
    numbers: Floats,
) -> int:
    """Read records into columns, and return how many different heads they have."""
    count = likely = end = 0
    for row in range(len(ends)):
        at, end = end, ends[row]
        head[row] = -1
        found = _find_head(text, at, end, keys[: key_ends[0]], heads, count, likely)
        if found < 0:
            continue
        count = max(count, found + 1)
        likely = found
        at += heads[found, 1] - heads[found, 0]
        integer = number = key = 0
        for field in range(len(kinds)):
            if not stands(text, at, end, keys, key, key_ends[field]):
                at = -1
                break
            at += key_ends[field] - key
            key = key_ends[field]
            kind = kinds[field]
            if kind == 2:
                if at < end and text[at] == 110:
                    numbers[row, number] = np.nan
                    at = at + 4 if stands(text, at, end, NULL, 0, 4) else -1
                else:
                    numbers[row, number], at = read_number(text, at, end)
                number += 1
            else:
                if kind == 0:
                    integers[row, integer], at = read_integer(text, at, end)
                elif kind == 1:
                    integers[row, integer], at = _read_quoted_time(text, at, end)
                else:
                    integers[row, integer], at = _read_choice(text, at, end, choices, choice_ends)
                integer += 1
            if at < 0:
                break
        if at == end - 1 and text[at] == 125:  # }
            head[row] = found
    return count


NULL = np.frombuffer(b"null", np.uint8)


@compiled
def _read_quoted_time(text: Bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end or text[at] != 34:
        return 0, -1
    ns, at = read_time(text, at + 1, end)
    if at < 0 or at >= end or text[at] != 34:
        return 0, -1
    return ns, at + 1


@compiled
def _read_choice(text: Bytes, at: int, end: int, choices: Bytes, choice_ends: Int64s) -> tuple[int, int]:
    start = 0
    for choice in range(len(choice_ends)):
        stop = choice_ends[choice]
        if stands(text, at, end, choices, start, stop):
            return choice, at + stop - start
        start = stop
    return 0, -1


@compiled
def _copy(out: Bytes, at: int, text: Bytes, start: int, stop: int) -> int:
    for i in range(_U(stop - start)):  # unsigned, so that the compiler need not ask for indices from the end
        out[_U(at) + i] = text[_U(start) + i]
    return at + stop - start


@compiled
def _write(
    head_text: Bytes,
    head_ends: Int64s,
    head: NDArray[np.integer],
    kinds: Int64s,
    keys: Bytes,
    key_ends: Int64s,
    choices: Bytes,
    choice_ends: Int64s,
    integers: Int64s,
    numbers: Floats,
    bits: NDArray[np.uint64],
    out: Bytes,
    ends: Int64s,
) -> int:
    """Write records behind each other, and return where the last one ends."""
    # The last number of each field, and where its text stands: neighbours in a stream have much in common.
    last_bits = np.zeros((MAX_KEPT, numbers.shape[1]), np.uint64)
    last = np.zeros((MAX_KEPT, numbers.shape[1], 2), np.int64)
    at = 0
    for row in range(len(head)):
        which = head[row]
        kept = which % MAX_KEPT
        at = _copy(out, at, head_text, head_ends[which - 1] if which > 0 else 0, head_ends[which])
        integer = number = key = 0
        for field in range(len(kinds)):
            at = _copy(out, at, keys, key, key_ends[field])
            key = key_ends[field]
            kind = kinds[field]
            if kind == 2:
                if bits[row, number] == last_bits[kept, number] and last[kept, number, 1] > 0:
                    at = _copy(out, at, out, last[kept, number, 0], last[kept, number, 1])
                else:
                    start = at
                    if not np.isfinite(numbers[row, number]):
                        at = _copy(out, at, NULL, 0, 4)
                    else:
                        at = write_number(out, at, numbers[row, number], bits[row, number])
                    last_bits[kept, number] = bits[row, number]
                    last[kept, number, 0], last[kept, number, 1] = start, at
                number += 1
                continue
            value = integers[row, integer]
            integer += 1
            if kind == 0:
                at = write_integer(out, at, value)
            elif kind == 1:
                out[at] = 34
                at = write_time(out, at + 1, value)
                out[at] = 34
                at += 1
            else:
                at = _copy(out, at, choices, choice_ends[value - 1] if value > 0 else 0, choice_ends[value])
        out[at] = 125
        at += 1
        ends[row] = at
    return at
