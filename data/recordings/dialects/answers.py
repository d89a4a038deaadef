"""Unfold answers of REST interfaces: JSON objects around a list of trades or candles."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from data.names import Damaged
from data.recordings.dialects.documents import object_lines
from data.recordings.dialects.symbols import product_of

_TOKEN = re.compile(rb'\s*(?:("(?:[^"\\]|\\.)*")|([{}\[\],:])|([^\s{}\[\],:"]+))')
_SYMBOL = re.compile(rb'"(?:symbol|pair)"\s*:\s*"([A-Za-z0-9/_-]{3,30})"')
_BLANKS = b" \t\r\n"

KNOWN_PATHS: Final = (
    ("Coinbase Advanced Trade", ("trades",)),
    ("Coinbase Advanced Trade", ("candles",)),
    ("Bybit", ("result", "list")),
    ("Kraken", ("result", "*")),
    ("OKX or KuCoin", ("data",)),
    ("Bitstamp", ("data", "ohlc")),
    ("CryptoCompare", ("Data", "Data")),
)
"""Venue, and the keys above the list of an answer; `*` is a name of a pair."""


class Answer(NamedTuple):
    """The form of a file of answers.

    Attributes:
        path: keys above the list.
        has_objects: whether the list holds objects; else it holds arrays.
        product_id: of the pair named beside the rows; empty without a pair.
        pair: the pair as the first document names it.
    """

    venue: str
    path: tuple[str, ...]
    has_objects: bool
    product_id: str
    pair: str = ""

    def rows(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the rows of the lists as lines: objects unchanged, arrays as CSV.

        A document without a list, as an error of a server, is a line itself.

        Raises:
            Damaged: at a document of another pair.
        """
        for chunk in object_lines(chunks):
            for document in chunk.splitlines():
                yield b"".join(line + b"\n" for line in self._lines_of(document) or [document])

    def first_rows(self, chunks: Iterator[bytes]) -> list[bytes] | None:
        """Return the rows of the first document; None for a list without an end."""
        return self._lines_of(next(object_lines(chunks), b"").partition(b"\n")[0])

    def _lines_of(self, document: bytes) -> list[bytes] | None:
        """Return the rows of a document; None without a list."""
        if self.pair and (other := self._other_pair(document)):
            raise Damaged(f"answers of {other} follow answers of {self.pair}, and a file holds one pair")
        around: dict[str, msgspec.Raw] = {}
        inner = msgspec.Raw(document)
        try:
            for key in self.path:
                around = _OBJECT.decode(inner)
                inner = around[key]
            rows = list(map(bytes, _LIST.decode(inner)))
        except (msgspec.MsgspecError, UnicodeError, KeyError):
            return None
        if self.has_objects:
            return rows
        last = bytes(around.get("last", msgspec.Raw())).strip(b'"')
        newest = int(last) if self.venue == "Kraken" and last.isdigit() else None
        return [_array_line(row, newest) for row in rows]

    def _other_pair(self, document: bytes) -> str:
        """Return the pair of a document, if another one than the first document's; else an empty text."""
        if self.venue == "Kraken":
            found = _first_list(document[:_START_BYTES])
            other = found[0][-1] if found is not None and found[0][:-1] == self.path[:-1] else self.pair
        else:
            symbol = _SYMBOL.search(document, 0, _START_BYTES)
            other = symbol[1].decode() if symbol else self.pair
        return "" if other == self.pair else other[:40]


_START_BYTES: Final = 500
"""Bytes of a document in which the pair stands, before the first rows or in the first row."""
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_OKX, _GATE = 9, 8
_ORDERS: Final = {(_OKX, b"1"): (0, 1, 2, 3, 4, 5, 7), (_GATE, b"true"): (0, 5, 3, 4, 2, 6, 1)}
"""Indexes of start, open, high, low, close, base and quote volume, by the number of values and the last value, the flag
of a finished candle."""


def answer_of(head: bytes, told: str) -> Answer | None:
    """Return the form of a text with an answer of a known venue at its start, else None.

    Args:
        told: product whose symbol without a separator is known thereby.
    """
    found = _first_list(head)
    if found is None:
        return None
    path, at = found
    for venue, keys in KNOWN_PATHS:
        if len(keys) == len(path) and all(key in ("*", name) for key, name in zip(keys, path, strict=True)):
            symbol = _SYMBOL.search(head, 0, at)
            pair = path[-1] if keys[-1] == "*" else symbol[1].decode() if symbol else ""
            product = product_of(pair, told) if pair else ""
            has_objects = head[at:].lstrip(_BLANKS).startswith(b"{")
            return Answer(venue, path, has_objects, product if "-" in product else "", pair)
    return None


def _first_list(head: bytes) -> tuple[tuple[str, ...], int] | None:
    """Return the keys above the first list of objects or arrays in an object, and the place of the first row."""
    keys: list[str] = []
    is_key = False
    flat = 0  # open brackets of lists without objects and arrays
    at = 0
    while (token := _TOKEN.match(head, at)) is not None:
        at = token.end()
        mark = token[2] or b""
        if flat:
            flat += (mark == b"[") - (mark == b"]")
        elif mark == b"{":
            keys.append("")
            is_key = True
        elif mark == b"}":
            keys.pop()
            if not keys:
                return None
        elif mark == b"[":
            if not keys:
                return None
            if head[at:].lstrip(_BLANKS)[:1] in (b"{", b"["):
                return tuple(keys), at
            flat = 1
        elif mark == b",":
            is_key = True
        elif token[1] and is_key:
            keys[-1] = token[1][1:-1].decode(errors="replace")
            is_key = False
        elif not keys:
            return None
    return None


def _array_line(row: bytes, newest: int | None) -> bytes:
    """Return an array as a line of CSV, candles of Gate and OKX in the order of Bybit's.

    An unfinished candle keeps the venue's flag as one field more, and is rejected for the field.

    Args:
        newest: start of the last finished candle of Kraken; None: unknown.
    """
    fields = row.translate(None, _BLANKS).strip(b"[]").split(b",")
    order = _ORDERS.get((len(fields), fields[-1].strip(b'"')))
    if order is not None:
        fields = [fields[i] for i in order]
    elif newest is not None and (start := fields[0].strip(b'"')).isdigit() and int(start) > newest:
        fields.append(b"unfinished")
    return b",".join(fields)


def have_flags(rows: Sequence[bytes]) -> bool:
    """Return whether most arrays of a text, as lines, are candles with the flag of a finished candle."""
    flags = [(row.count(b",") + 1, row.rpartition(b",")[2].strip(b'"')) in _ORDERS for row in rows]
    return sum(flags) * 2 > len(flags)


def finished_rows(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield candles of Gate and OKX in the order of Bybit's; unfinished ones stay as they are."""
    for chunk in lines:
        yield b"".join(_array_line(line, None) + b"\n" for line in chunk.splitlines())


def objects_as_csv(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield flat JSON objects, one a line, as CSV with the keys of the first object as header.

    Any other line stays unchanged.
    """
    keys: list[str] = []
    for chunk in lines:
        rows = []
        for line in chunk.splitlines():
            try:
                found = _OBJECT.decode(line)
                if not keys:
                    keys = list(found)
                    rows.append(",".join(keys).encode())
                rows.append(b",".join(bytes(found[key]) for key in keys))
            except (msgspec.MsgspecError, UnicodeError, KeyError):
                rows.append(line)
        yield b"".join(row + b"\n" for row in rows)


_ASK = "in place of trades: ask the server again"
_BY_MAP = "save the objects of their `data`, one a line, and read them with a column map"
_NOT_READ: Final[Sequence[tuple[str, str]]] = (
    (r'^\{"error":\["E', f"is an error of Kraken's REST interface {_ASK}"),
    (r'^\{"retCode":(?!0\b)', f"is an error of Bybit's REST interface {_ASK}"),
    (
        r'^\{"code":"?(?!00000")-?\d+"?,"(msg|message)":"[^"]',
        f"is an error of the REST of Binance, OKX or KuCoin {_ASK}",
    ),
    (r'^\{"label":"', f"is an error of Gate's REST interface {_ASK}"),
    (r'^\{"message":"[^"]*"\}', f"is an error of Coinbase's REST interface {_ASK}"),
    (r'^\["error",', f"is an error of Bitfinex's REST interface {_ASK}"),
    (r'^\{"code":"00000"', "is an answer of Bitget's REST interface without trades that are read"),
    (r"^(\[\]|\{\}|null)$", "is a JSON document without content: it has no row"),
    (r'"topic":"publicTrade\.', f"has messages of Bybit's websocket, which are not read: {_BY_MAP}"),
    (
        r'^\{"channel":"[a-z_]+","type":"(snapshot|update)","data":',
        f"has messages of Kraken's websocket (version 2), which are not read: {_BY_MAP}",
    ),
    (r'^\[\d+,.*,"[a-z-]+\d*","[A-Z]+/[A-Z]+"\]', "has messages of Kraken's websocket (version 1), which are not read"),
    (r'^\{"stream":"\w+@', f"has messages of Binance's combined streams, which are not read: {_BY_MAP}"),
    (r'^\{"e":"kline"', "has Binance's kline messages, whose candles are not finished: they are not read"),
    (r'^\{"u":\d+,"s":"\w+","b":', "has Binance's bookTicker messages: best bids and asks, and no trades"),
    (r'"ch":"market\.', "is of HTX (Huobi), whose answers are not read: save the trades as a table"),
    (r'"jsonrpc":"2', "is an answer of Deribit, which is not read: save the trades as a table"),
    (r'"(asks|bids)":\[', "is an order book, with bids and asks: it has no trades"),
    (r'"(lastPrice|volume24h|priceChange|bid1Price)":', "is a ticker or a statistic of 24 hours: it has no trades"),
    (r'^\{"(trades|candles)":\[\]', "is an answer of Coinbase Advanced Trade with an empty list: it has no row"),
    (r'^\{"error":\[\],"result":', "is an answer of Kraken's REST interface without trades or candles"),
    (r'^\{"retCode":0', "is an answer of Bybit's REST interface without trades or candles"),
    (r'^\{"ticker":"X:', "is an answer of Polygon, whose keys are letters: save its candles with a header"),
)
"""Known forms of JSON without a dialect, blanks left out, and the sentence for each."""
_FORMS: Final = tuple((re.compile(form.encode()), said) for form, said in _NOT_READ)


_OTHER_FEED: Final = re.compile(rb'\s*\{[^{\[]*"data"\s*:\s*\[')


def is_of_other_feed(head: bytes) -> bool:
    """Return whether a text starts with an object with a list `data`, as messages of other venues than Coinbase."""
    return _OTHER_FEED.match(head) is not None


def described_form(head: bytes) -> str:
    """Return the name of a known form of JSON without a dialect; empty for any other text."""
    text = head.removeprefix(codecs.BOM_UTF8).translate(None, _BLANKS)
    return next((said for form, said in _FORMS if form.search(text)), "")


def described_json(head: bytes) -> str:
    """Return the kind of a JSON text without a dialect, and no byte of the text; empty for a text of another kind."""
    text = head.translate(None, _BLANKS)
    if not text.startswith((b"{", b"[")):
        return ""
    if text.startswith(b"[["):
        return f"is a JSON array of arrays of {text.partition(b']')[0].count(b',') + 1} values, which no dialect knows"
    if _first_list(head) is not None:
        return (
            "is JSON with a list within an object, as the answer of a server, and no dialect knows its keys: save the "
            "list alone, if its elements are trades or candles, and read it with a column map"
        )
    return "is JSON whose keys no dialect knows, and no two are named like a time and a price: a column map names them"
