"""Read candles with one row a candle: CSV with or without a header, Parquet, and JSON arrays, which become CSV."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from data.names import Damaged
from data.recordings.dialects.bars.base import PRICE_COLUMNS, BarDialect
from data.recordings.dialects.bars.columns import CandleColumns
from data.recordings.dialects.bars.starts import STARTS
from data.recordings.dialects.bars.survey import survey
from data.recordings.dialects.file_names import product_in_name
from data.recordings.dialects.symbols import ALIASES, BASES, QUOTES, product_of
from data.recordings.dialects.tables.headers import has_header, plain, with_index_time
from data.recordings.dialects.tables.known import PRODUCT_NAMES, VENUE_NAMES
from data.recordings.dialects.tables.parquet import column_names, flat_batches
from data.recordings.lines import Lines, data_lines, whole_lines
from data.times import NS
from data.trades import Int64s

Text = Callable[[], Iterator[bytes]]
"""Reads the candles as CSV, in chunks."""

_START_NAMES: Final = (
    "unix", "unixtimestamp", "opentime", "opentimestamp", "starttime", "start", "timestamp", "time", "ts", "datetime",
    "date",
)  # fmt: skip
_COUNT_NAMES: Final = ("tradecount", "trades", "count", "numberoftrades", "numtrades", "numberoftrade")
_FINISHED_NAMES: Final = (
    "confirm", "confirmed", "closed", "isclosed", "complete", "iscomplete", "finished", "isfinished", "final",
    "isfinal",
)  # fmt: skip
"""Columns that tell whether a candle is finished."""
_SECOND_VOLUMES: Final = (
    "quotevolume", "quoteassetvolume", "volumequote", "basevolume", "volumebase", "turnover", "amount",
)  # fmt: skip
"""Columns beside a volume: the ratio tells which of the two is the base currency's."""
_LOW_FIRST: Final = ("low", "high", "open", "close")
_CLOSE_SECOND: Final = ("open", "close", "high", "low")
_KLINE_COLUMNS: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume",
    "taker_buy_quote_volume", "ignore",
)  # fmt: skip
_HEADERLESS: Final[Mapping[int, Sequence[tuple[str, Sequence[str]]]]] = {
    6: (
        ("OHLCV", ("time", *PRICE_COLUMNS, "volume")),
        ("Coinbase", ("time", *_LOW_FIRST, "volume")),
        ("Bitfinex", ("time", *_CLOSE_SECOND, "volume")),
        ("Gate", ("time", "volume", "close", "high", "low", "open")),
    ),
    7: (
        ("Kraken", ("time", *PRICE_COLUMNS, "volume", "count")),
        ("KuCoin", ("time", *_CLOSE_SECOND, "volume", "turnover")),
    ),
    8: (("Kraken REST", ("time", *PRICE_COLUMNS, "vwap", "volume", "count")),),
    12: (("Binance", _KLINE_COLUMNS),),
}
"""Venues and names of candles without a header, by the number of columns; of several, the rows tell the order."""
_BYBIT: Final = ("Bybit, Gate or OKX", ("time", *PRICE_COLUMNS, "volume", "turnover"))
_NUMBER = rb'"?[0-9][0-9.eE+-]*"?'
_WHOLE = re.compile(rb"\d+(\.0*)?")
_HEADERLESS_ROW = re.compile(rb'"?\d{9,19}(\.\d+)?"?(,' + _NUMBER + rb"){5,11}\s*")
_KNOWN: Final = frozenset(
    [
        "id",
        "date",
        "quotevolume",
        "quoteassetvolume",
        "takerbuyvolume",
        "takerbuyquotevolume",
        "takerbuybaseassetvolume",
        "takerbuyquoteassetvolume",
        "closetime",
        "ignore",
        "vwap",
        "weightedprice",
        "unnamed:0",
        "index",
        "indexlevel0",
    ]
) | {"", *_START_NAMES}

_ALIKE_NAMES: Final = (
    "source", "markettype", "frequency", "tf", *map(plain, VENUE_NAMES),
)  # fmt: skip
"""Columns of which all rows must have the same value: the exchange, the kind of market, and other lengths' names."""
_LENGTH_NAMES: Final = ("interval", "granularity", "timeframe", "resolution", "barsize")
_END_NAMES: Final = ("closetime", "endtime", "stop", "end")

_VOLUMES_IN_QUOTE: Final = {
    "adjclose": "Yahoo Finance", "dividends": "Yahoo Finance", "marketcap": "CoinMarketCap or CoinGecko",
}  # fmt: skip
"""Columns of venues whose volume is in the quote currency, and the venues."""

_BASE_UNITS: Final = ("base", "baseasset", "coin", "coins", "asset", "crypto", "traded")

_QUOTE_NAMES: Final = {
    "currency",
    "quote",
    *(quote.lower() for quote in QUOTES if quote not in ("BTC", "XBT", "ETH", "BNB")),
}


_ANY = "CSV with or without a header, Parquet, JSON arrays, zip of one CSV"
CANDLES: Final = (
    ("CryptoDataDownload", "CSV: candles", "`unix`, or `Date` and `Symbol`, with `open`, `high`, `low`, `close`",
     "which of two volumes is the base currency's: their ratio tells"),
    ("Coinbase", f"{_ANY}: candles", "`time` or `start`, `low`, `high`, `open`, `close`, `volume`; without a header by "
     "the numbers: the first price is the lowest", "product; number of trades"),
    ("Bitfinex", f"{_ANY}: candles", "6 columns: `time,open,close,high,low,volume`, by the numbers",
     "product; number of trades"),
    ("Gate", f"{_ANY}: candles", "6 columns: `time,volume,close,high,low,open`, by the numbers",
     "the product, where the name of the file does not tell it; number of trades"),
    ("Bybit, KuCoin", f"{_ANY}: candles", "7 columns: `time,open,high,low,close,volume,turnover` (Bybit) or "
     "`time,open,close,high,low,volume,turnover` (KuCoin), by the numbers", "product; number of trades"),
    ("Gate, OKX", "JSON arrays: candles", "8 values, the last `\"true\"` (Gate: "
     "`time,turnover,close,high,low,open,volume,finished`), or 9 values, the last `\"1\"` (OKX: "
     "`time,open,high,low,close,volume,volume,turnover,finished`)",
     "product; number of trades; an unfinished candle is rejected"),
    ("Binance", f"{_ANY}: klines", f"12 columns: `{','.join(_KLINE_COLUMNS)}`",
     "the product, where the name of the file does not tell it"),
    ("Kraken", f"{_ANY}: OHLCVT", "7 columns: `time,open,high,low,close,volume,trades`, the last of whole numbers",
     "the product, where the name of the file does not tell it"),
    ("Coinbase Advanced Trade, Kraken, Bybit, OKX, KuCoin, Bitstamp, CryptoCompare", "JSON: answers of REST interfaces",
     "a list under `candles`, `result`, `result.list`, `data`, `data.ohlc` or `Data.Data`",
     "the product, where no symbol or pair stands before the list; whether the newest candle is finished, but for "
     "Kraken and OKX, whose unfinished candles are rejected"),
    ("ccxt, freqtrade, others", f"{_ANY}: OHLCV", "`timestamp`, `time` or `date`, then `open,high,low,close,volume`",
     "product; the zone of a time without a zone, which is taken as UTC; a time is a start"),
)  # fmt: skip
"""Candles for people: venue, file, how it is told apart, what it does not tell."""


class _Candles(BarDialect):
    """Reader of candles in CSV, oldest first, in whatever order they stand."""

    start = STARTS

    def __init__(self, path: Path, text: Text, columns: CandleColumns, told: str, is_told_inside: bool) -> None:
        self.path, self._text, self._header_line, self.told = path, text, columns.header_line, told
        self.width = len(columns.names)
        found = survey(self._blocks(), columns)
        at = dict(columns.at)
        venue, volumes = columns.venue, columns.volumes
        if found.order:
            venue, names = columns.others[found.order - 1]
            at |= zip(PRICE_COLUMNS, columns.orders[found.order], strict=True)
            at.pop("count", None)
            volumes = volumes if len(volumes) == 2 else [names.index("volume")]
        base = volumes[found.base]
        self.step_s, self.phase_s, self.newest_first = found.step_s, found.phase_s, found.newest_first
        named = columns.names if columns.header_line else _places(columns.names)
        self.columns = {field: (i, named[i]) for field, i in at.items()} | {"volume": (base, named[base])}
        notes = [f"{'newest' if self.newest_first else 'oldest'} first", f"base volume in {named[base]!r}"]
        if len(found.units) > 1:
            notes.append(f"times in {' and '.join(found.units)}, each row in its own")
        if "product_id" not in at:
            by_name = None if is_told_inside else product_in_name(path, told)
            self.product = by_name or told
            notes.append(
                f"the name of the file tells the product {by_name}" if by_name else f"no product named: {told}"
            )
        self._check_asset(columns, found.products)
        known = {
            *_KNOWN,
            *(plain(columns.names[i]) for i in (*at.values(), *volumes, *columns.alike, columns.end or 0)),
        }
        if columns.header_line:
            self.unread = tuple(name for name in columns.names if plain(name) not in known)
        self.name = f"{venue} candles of {self.step_s} s, {', '.join(notes)}"

    def _check_asset(self, columns: CandleColumns, symbols: Sequence[str]) -> None:
        """Raise ValueError if the volume is in the quote currency of a product, as `Volume BTC` of ETH/BTC."""
        for symbol in symbols if self.product is None else (self.product,):
            base, _, quote = product_of(symbol, self.told).partition("-")
            if columns.asset and columns.asset == quote != base:
                raise ValueError(
                    f"has candles of {base}-{quote} with one volume in {quote}, which is the quote currency"
                )

    def _blocks(self) -> Iterator[Lines]:
        return map(self._data, data_lines(self._text()))

    def lines(self) -> Iterator[Lines]:
        if not self.newest_first:
            yield from self._blocks()
            return
        damage = None
        blocks: list[tuple[int, int, int]] = []  # of each block: its first line, place and bytes in the file
        with tempfile.TemporaryFile() as spill:
            number = 1
            try:
                for block in whole_lines(self._text()):
                    blocks.append((number, spill.tell(), spill.write(block)))
                    number += block.count(b"\n")
            except Damaged as error:
                damage = error
            for number, place, size in reversed(blocks):
                spill.seek(place)
                yield self._data(Lines.of(spill.read(size), number)[0]).reversed()
        if damage is not None:
            raise damage

    def _data(self, lines: Lines) -> Lines:
        """Return the lines without the header, and without a first line above the header that is no row of its width.

        Other lines above the header are read as rows: none may get lost without a reason.
        """
        is_row = lines.number > self._header_line
        for i in np.flatnonzero(lines.number < self._header_line).tolist():
            is_row[i] = lines.number[i] > 1 or lines[i].count(b",") + 1 == self.width
        return lines.take(np.flatnonzero(is_row))

    def start_s(self, start: Int64s) -> Int64s:
        return np.where(start % NS == 0, start // NS, -1)


def _places(names: Sequence[str]) -> list[str]:
    return [f"column {i + 1}" for i in range(len(names))]


def candle_dialect(
    path: Path, text: Text, head: Sequence[bytes], told: str, *, is_told_inside: bool = False
) -> BarDialect | None:
    """Return the dialect of a text of candles; None if the text holds no candles.

    Args:
        text: reads the candles as CSV.
        head: the first lines, blank lines too.
        told: product of candles that name none, and whose symbol without a separator is known thereby.
        is_told_inside: the file has `told` beside its rows, so the name of the file does not matter.

    Raises:
        ValueError: the columns do not name a volume, or the rows do not show the length of a candle, or which volume is
            the base currency's.
    """
    for number, line in enumerate(head[:5], 1):
        try:
            header, row = (
                next(csv.reader([text.decode()]), []) for text in (line, b"".join(head[number : number + 1]))
            )
        except (UnicodeDecodeError, csv.Error):
            continue
        columns = _header_columns(with_index_time(header, row), number)
        if columns is not None:
            if not any(line.strip() for line in head[number:]):
                raise ValueError("has the header of candles and no row")
            return _Candles(path, text, columns, told, is_told_inside)
    columns = _headerless_columns(head)
    return None if columns is None else _Candles(path, text, columns, told, is_told_inside)


def _header_columns(header: Sequence[str], number: int) -> CandleColumns | None:
    """Return the columns of a header; None if the header names no candles."""
    at = {plain(name): i for i, name in reversed(list(enumerate(header)))}
    start = next((at[name] for name in _START_NAMES if name in at), None)
    if start is None or not set(PRICE_COLUMNS) <= set(at):
        return None
    for name in PRICE_COLUMNS:
        if sum(plain(each) == name for each in header) > 1:
            raise ValueError(f"has more than one column {name!r}")
    columns = {"start": start, **{name: at[name] for name in PRICE_COLUMNS}}
    product = next((at[plain(name)] for name in PRODUCT_NAMES if plain(name) in at), None)
    if product is not None:
        columns["product_id"] = product
    if (count := next((at[name] for name in _COUNT_NAMES if name in at), None)) is not None:
        columns["count"] = count
    if (finished := next((at[name] for name in _FINISHED_NAMES if name in at), None)) is not None:
        columns["finished"] = finished
    order = sorted(PRICE_COLUMNS, key=lambda name: at[name])
    if "unix" in at or "unixtimestamp" in at or (product is not None and at.get("date") == start):
        venue = "CryptoDataDownload"
    elif "opentime" in at and "closetime" in at:
        venue = "Binance"
    else:
        venue = "Coinbase" if tuple(order) == _LOW_FIRST else "OHLCV"
    if {"base", "quote"} <= set(at) and product is None:
        raise ValueError(
            "has candles whose product stands in two columns, 'base' and 'quote': join them as one, 'symbol'"
        )
    if header[1:] == ["Close", "High", "Low", "Open", "Volume"]:
        raise ValueError(
            "has candles of Yahoo Finance, as the order of the columns tells: their volume is in the quote currency"
        )
    others = ("name",) if product is None else ("market",) if at.get("instrument") == product else ()
    constant = (*_ALIKE_NAMES, *_LENGTH_NAMES, *others)
    alike = [i for i, name in enumerate(header) if plain(name) in constant and i != product]
    length, end = (next((at[name] for name in names if name in at), None) for names in (_LENGTH_NAMES, _END_NAMES))
    found = _volumes(header)
    return CandleColumns(venue, header, number, columns, found.places, found.is_named, alike, length, end, found.asset)


class _Volumes(NamedTuple):
    """Columns of volumes.

    Attributes:
        places: index of the base currency's volume, or of two volumes whose order the numbers tell.
        is_named: whether the first of two is the base currency's if the numbers do not tell.
        asset: base asset that the name of the only volume tells.
    """

    places: list[int]
    is_named: bool = False
    asset: str = ""


def _volumes(header: Sequence[str]) -> _Volumes:
    """Return the columns of volumes.

    Raises:
        ValueError: no column, or too many columns, can be the base currency's volume.
    """
    names = [plain(name) for name in header]
    for name, venue in _VOLUMES_IN_QUOTE.items():
        if name in names:
            raise ValueError(
                f"has candles of {venue}, as the column {header[names.index(name)]!r} tells: their volume is in the "
                "quote currency"
            )
    if {"homenotional", "foreignnotional"} <= set(names):
        raise ValueError(
            "has candles of BitMEX, whose times are ends, and whose volume counts contracts: write the times of the "
            "starts, and `homeNotional` alone as volume"
        )
    if "vol" in names and (second := next((n for n in ("amount", "volccyquote") if n in names), None)) is not None:
        # HTX's `vol` is in the quote currency, and OKX's in the base currency.
        return _Volumes([names.index("vol"), names.index(second)])
    for exact in ("volume", "vol", "basevolume", "volumebase"):
        if names.count(exact) == 1:
            second = next((name for name in _SECOND_VOLUMES if name != exact and names.count(name) == 1), None)
            return _Volumes([names.index(each) for each in (exact, second) if each is not None], second is not None)
    found = [i for i, name in enumerate(names) if "vol" in name and not name.startswith(("quote", "taker"))]
    if not 1 <= len(found) <= 2:
        raise ValueError(f"has candles with {len(found)} columns of volumes; one is read, or two: of base and of quote")
    units = [re.sub(r"volume|vol|\W", "", names[i]) for i in found]
    if len(found) == 2:
        first_is_quote, second_is_quote = (unit in _QUOTE_NAMES for unit in units)
        ordered = found[::-1] if first_is_quote and not second_is_quote else found
        return _Volumes(ordered, is_named=first_is_quote != second_is_quote)
    if units[0] in _QUOTE_NAMES:
        raise ValueError(f"has candles with one volume, {header[found[0]]!r}, which is in the quote currency")
    asset = units[0].upper()
    if asset not in BASES and units[0] not in _BASE_UNITS:
        raise ValueError(
            f"has candles with one volume, {header[found[0]]!r}, of an unknown unit: call the column `volume` if the "
            "unit is the base currency"
        )
    return _Volumes(found, asset=ALIASES.get(asset, asset) if asset in BASES else "")


def _headerless_columns(head: Sequence[bytes]) -> CandleColumns | None:
    rows = [line for line in head[:50] if line.strip()]
    if has_header(rows):
        return None
    fitting = [line for line in rows if _HEADERLESS_ROW.fullmatch(line)]
    if not fitting or len(fitting) < len(rows) / 2:
        return None
    widths = [line.count(b",") + 1 for line in fitting]
    width = max(set(widths), key=widths.count)
    if width not in _HEADERLESS:
        return None
    (venue, names), *others = _HEADERLESS[width]
    last = [line.rsplit(b",", 1)[1].strip(b'" \r') for line in fitting if line.count(b",") + 1 == width]
    if "count" in names and not all(_WHOLE.fullmatch(text) for text in last):
        if width != len(_BYBIT[1]):
            return None
        venue, names = _BYBIT
    if "vwap" in names and not _have_vwaps(fitting, names):
        return None
    at = {name: names.index(name) for name in PRICE_COLUMNS} | {"start": 0}
    if "count" in names:
        at["count"] = names.index("count")
    volumes = [names.index(name) for name in ("volume", "turnover") if name in names]
    is_named = "quote_volume" in names
    if is_named:
        volumes.append(names.index("quote_volume"))
    end = names.index("close_time") if "close_time" in names else None
    return CandleColumns(venue, names, 0, at, volumes, is_named, end=end, others=others)


def _have_vwaps(rows: Sequence[bytes], names: Sequence[str]) -> bool:
    """Return whether most mean prices lie between low and high, or are 0, as of candles without a trade."""
    low, high, mean = (names.index(name) for name in ("low", "high", "vwap"))
    found = 0
    for row in rows:
        with suppress(ValueError):  # the reader tells of a text that is no number
            values = [float(text.strip(b'"')) for text in row.strip().split(b",")]
            found += len(values) == len(names) and (values[low] <= values[mean] <= values[high] or not values[mean])
    return found * 2 > len(rows)


def parquet_text(path: Path, schema: pa.Schema) -> Text:
    """Return a reader of a Parquet file as CSV with a header; a row's line is its number plus 1."""

    def text() -> Iterator[bytes]:
        options = pyarrow.csv.WriteOptions(include_header=False)
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(column_names(schema))
        ahead = header.getvalue().encode()  # goes with the first rows, without which the file is damaged
        for batch in flat_batches(path, schema):
            columns = [_csv_column(batch, name) for name in schema.names]
            written = pa.BufferOutputStream()
            written.write(ahead)
            ahead = b""
            pyarrow.csv.write_csv(pa.RecordBatch.from_arrays(columns, names=schema.names), written, options)
            yield written.getvalue().to_pybytes()
        if ahead:
            yield ahead

    return text


def _csv_column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column that CSV can hold: no decimals, and empty texts for a nested column or one of two of a name."""
    at = batch.schema.get_field_index(name)
    if at < 0:
        return pa.nulls(len(batch), pa.string())
    column = batch.column(at)
    return column.cast(pa.string()) if pa.types.is_decimal(column.type) else column
