"""Show bytes from outside to a person: no control character of theirs reaches the terminal."""

from __future__ import annotations

from typing import Any

import msgspec

from data.names import printable

HEX_COLUMNS = 16
LINE = 110
"""Most characters of a line of text."""


def fields_of(original: bytes | None) -> dict[str, Any] | None:
    """Return the fields of a JSON object; None for bytes that are none."""
    try:
        found = msgspec.json.decode(original or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def shortened(text: str, most: int) -> str:
    """Return a printable text of at most `most` characters.

    >>> shortened("price must be above 0", 10)
    'price m...'
    """
    shown = printable(text)
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def readable(content: bytes) -> list[str]:
    r"""Return lines that show bytes: a text as text, other bytes in hexadecimal.

    >>> readable(b'{"price":1}')
    ['{"price":1}']
    >>> readable(b"\xffab")
    ['00000000  ff 61 62                                         .ab']
    """
    try:
        text = printable(content.decode())
    except UnicodeDecodeError:
        starts = range(0, len(content), HEX_COLUMNS)
        return [_hex_line(start, content[start : start + HEX_COLUMNS]) for start in starts]
    return [text[start : start + LINE] for start in range(0, len(text), LINE)]


def _hex_line(start: int, part: bytes) -> str:
    characters = "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in part)
    return f"{start:08x}  {part.hex(' '):<{3 * HEX_COLUMNS}} {characters}"
