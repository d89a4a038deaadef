"""Records broken in each way that a writer, a wire or a disk can break them, by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

LARGE = 900_000
"""Bytes of a large value: the broker takes records up to 1,048,576 bytes."""
LARGE_SHARE = 0.004
TURN_IDS, TURN_NS = 10**9, 600 * 10**9
"""Distance of two turns through the good records: more ids, and more time, than the records span."""

HUGE = (
    *("1e100", "1e-100", "3e99", "7e-99", "1e308", "5e-324", "1e400", "-1e400", "9" * 400, "-0", "0", "1e-400"),
    *(str(2**63), str(-(2**63) - 1), str(2**31)),
)
NAN_SPELLINGS = ("NaN", "nan", "-NaN", "NAN", "Infinity", "-Infinity", "inf", "1.#QNAN", '"NaN"', '"Infinity"', "1e999")
OTHER_TYPES = ("null", "true", "[]", "{}", '""', '"text"', "1.5", "-1", "[1]", '{"a":1}')
NO_UTF8 = (b"\xff", b"\xfe\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xe2\x82")
NAMES = ("a\nb", "a\n", "", " ", "../../etc", "a" * 5_000, "\u202e", "\x00", "\x1b[2J", "BTC-USD\n", "Ö", "a/b")

_MARK = "@value@"


def _with_raw(fields: dict[str, Any], name: str, raw: str | bytes) -> bytes:
    """Return a record in which a field has a value that no JSON library would write."""
    text = json.dumps(fields | {name: _MARK}).encode()
    return text.replace(f'"{_MARK}"'.encode(), raw.encode() if isinstance(raw, str) else raw)


def _flipped(good: bytes, rng: random.Random) -> bytes:
    broken = bytearray(good)
    for _ in range(rng.randint(1, 8)):
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    return bytes(broken)


def _truncated(good: bytes, rng: random.Random) -> bytes:
    return good[: rng.randrange(1, len(good))]


def _continued(good: bytes, rng: random.Random) -> bytes:
    return good + rng.choice([b"{}", good, b"\x00", b",", rng.randbytes(20), b" x"])


def _random_bytes(_: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(1, 300))


def _deep(good: bytes, rng: random.Random) -> bytes:
    depth, (opening, closing) = rng.choice([10, 500, 2_000, 7_000]), rng.choice([("[", "]"), ('{"a":', "}")])
    fields = json.loads(good)
    name = rng.choice([*fields, "another"])
    return _with_raw(fields, name, opening * depth + "1" + closing * (depth if rng.random() < 0.5 else 0))


def _field_is(raws: Sequence[str]) -> Callable[[bytes, random.Random], bytes]:
    def broken(good: bytes, rng: random.Random) -> bytes:
        fields = json.loads(good)
        return _with_raw(fields, rng.choice(list(fields)), rng.choice(raws))

    return broken


def _no_utf8(good: bytes, rng: random.Random) -> bytes:
    fields = json.loads(good)
    names = [name for name, value in fields.items() if isinstance(value, str)]
    return _with_raw(fields, rng.choice(names), b'"a' + rng.choice(NO_UTF8) + b'b"')


def _other_name(good: bytes, rng: random.Random) -> bytes:
    fields = json.loads(good)
    names = [name for name, value in fields.items() if isinstance(value, str)]
    return json.dumps(fields | {rng.choice(names): rng.choice(NAMES)}, ensure_ascii=rng.random() < 0.5).encode()


def _twice(good: bytes, rng: random.Random) -> bytes:
    """Repeat a key, with another value."""
    name = rng.choice(list(json.loads(good)))
    return good[:-1] + f',"{name}":{rng.choice([*OTHER_TYPES, *HUGE])}}}'.encode()


def _missing(good: bytes, rng: random.Random) -> bytes:
    fields = json.loads(good)
    del fields[rng.choice(list(fields))]
    return json.dumps(fields).encode()


def _empty(_: bytes, rng: random.Random) -> bytes | None:
    return rng.choice([b"", None, b" ", b"{}", b"[]", b"null", b"0", b'""', b"\x00"])


def _large(good: bytes, rng: random.Random) -> bytes:
    fields = json.loads(good)
    name = rng.choice(list(fields))
    raw = rng.choice(['"' + "A" * LARGE + '"', "1" + "0" * LARGE, "[" * LARGE, " " * LARGE + "1", '"\\u0000' * 100_000])
    return _with_raw(fields, name, raw)


KINDS: tuple[Callable[[bytes, random.Random], bytes | None], ...] = (
    _flipped,
    _flipped,
    _truncated,
    _continued,
    _random_bytes,
    _deep,
    _field_is(HUGE),
    _field_is(NAN_SPELLINGS),
    _field_is(OTHER_TYPES),
    _no_utf8,
    _other_name,
    _twice,
    _missing,
    _empty,
)


def mutations(good: Sequence[bytes], seed: int) -> Iterator[bytes | None]:
    """Yield broken copies of good records without end; None is a record without a value. A few copies stay valid.

    Args:
        good: records with rising trade ids. They come in this order, again and again, with ids that go on rising.
    """
    rng = random.Random(seed)
    for turn in count():
        for record in good:
            kind = _large if rng.random() < LARGE_SHARE else rng.choice(KINDS)
            yield kind(_later(record, turn), rng)


def _later(record: bytes, turn: int) -> bytes:
    """Return a record as of a later turn."""
    fields = json.loads(record)
    fields["trade_id"] += turn * TURN_IDS
    fields["event_time"] += turn * TURN_NS
    return json.dumps(fields, separators=(",", ":")).encode()
