"""Summarize recordings, for `python -m data.recordings FILE...`."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.features.spec import FeatureSpec
from data.names import printable
from data.recordings.dialects.bars.base import BarBatch, BarDialect
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.readers import Batch, is_newest_first, read_bars, read_trades
from data.recordings.recognition import recognize
from data.recordings.tally import Tally
from data.times import NS, time_texts
from data.trades import Floats, Int64s, Trades

HOLES_KEPT = 10
"""Number of longest holes in the summary of a product."""
COLUMNS_SHOWN = 50
KINDS_SHOWN = 10
"""Types of read messages, and of skipped messages, in the text of a summary."""
_MINUTE_S = 60


@dataclass
class Product:
    """Counts of one product; all counts start at 0.

    Attributes:
        rows: number of trades or bars.
        first_ns, last_ns: times, ns since 1970.
        same_time: number of trades at exactly the time of the trade before.
        falls: number of taken trades whose time falls behind the trade before.
        missing_ids: number of ids that are left out between the first and the last trade.
        low, high: lowest and highest price.
        holes: number of holes.
        in_holes_s: length of all holes, seconds.
        longest: the longest holes: seconds, start, end; start and end in ns since 1970.
    """

    rows: int = 0
    first_ns: int = 0
    last_ns: int = 0
    same_time: int = 0
    falls: int = 0
    missing_ids: int = 0
    low: float = np.inf
    high: float = 0.0
    holes: int = 0
    in_holes_s: float = 0.0
    longest: list[tuple[float, int, int]] = field(default_factory=list)
    _last: tuple[int, int] | None = None  # id and recorded time of the last trade

    def add_trades(self, time: Int64s, trade_id: Int64s, price: Floats, hole_s: float) -> None:
        """Count further trades, see `add`."""
        last_id, last_time = self._last or (int(trade_id[0]) - 1, int(time[0]))
        self.falls += int(np.sum(np.diff(time, prepend=last_time) < 0))
        self.missing_ids += int(np.sum(np.diff(trade_id, prepend=last_id) - 1))
        self._last = int(trade_id[-1]), int(time[-1])
        self.add(time, price, price, hole_s)

    def add(self, time: Int64s, low: Floats, high: Floats, hole_s: float) -> None:
        """Count further rows; a step in time of more than `hole_s` is a hole."""
        if not self.rows:
            self.first_ns = self.last_ns = int(time[0])
        time = np.maximum.accumulate(np.concatenate([[self.last_ns], time]))
        step = np.diff(time)
        self.same_time += int(np.sum(step == 0)) - (not self.rows)
        for i in np.flatnonzero(step > hole_s * NS):
            self.holes += 1
            self.in_holes_s += step[i] / NS
            heapq.heappush(self.longest, (float(step[i] / NS), int(time[i]), int(time[i + 1])))
            if len(self.longest) > HOLES_KEPT:
                heapq.heappop(self.longest)
        self.rows += len(step)
        self.last_ns = int(time[-1])
        self.low, self.high = min(self.low, float(low.min())), max(self.high, float(high.max()))


@dataclass
class Inspection:
    """Summary of one file.

    Attributes:
        step_s: seconds that a bar covers; None for trades.
        products_named: whether the recording names its products.
        is_newest_first: the recording is read from its last row to its first.
        hole_s: seconds; a longer step in time is a hole.
        tally: trades or bars, and rejects by kind.
        skipped: number of messages of other kinds.
        skipped_types: the same by type of message, where messages have types.
        read_types: number of messages that were read, taken or rejected, by type, where messages have types.
        unread: names of columns that no dialect knows.
        error: reason why the file was not read, or not to its end.
    """

    file: str
    dialect: str = ""
    step_s: int | None = None
    has_ids: bool = False
    products_named: bool = True
    is_newest_first: bool = False
    hole_s: float = 0.0
    products: dict[str, Product] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    skipped: int = 0
    skipped_types: Counter[str] = field(default_factory=Counter)
    read_types: Counter[str] = field(default_factory=Counter)
    unread: tuple[str, ...] = ()
    error: str | None = None


def inspect(path: Path, product_id: str = "BTC-USD", columns: ColumnMap | None = None) -> Inspection:
    """Summarize a recording, in memory that does not depend on the recording's length.

    Args:
        product_id: product of trades in a recording without product names.
        columns: names of columns that no dialect knows.
    """
    found = Inspection(str(path))
    try:
        dialect = recognize(path, product_id, columns)
        found.dialect, found.unread = dialect.name, dialect.unread
        if isinstance(dialect, BarDialect):
            found.step_s = dialect.step_s
            # Quiet seconds have no bar. A quiet minute is rare enough to report, and feeds leave no minute out.
            found.hole_s = dialect.step_s if dialect.step_s >= _MINUTE_S else FeatureSpec().gap_s
            for bars in read_bars(path, product_id=product_id):
                _add(found, bars)
        else:
            found.has_ids, found.products_named = dialect.has_ids, "product_id" in dialect.columns
            found.hole_s = FeatureSpec().gap_s
            found.is_newest_first = is_newest_first(path, dialect, product_id)
            for trades in read_trades(path, product_id=product_id, columns=columns):
                _add(found, trades)
                found.skipped += trades.skipped
                found.skipped_types.update(trades.skipped_types)
                found.read_types.update(trades.read_types)
    except (ValueError, OSError) as error:
        found.error = str(error)
    return found


def _add(found: Inspection, batch: Batch | BarBatch) -> None:
    rows = batch.trades if isinstance(batch, Batch) else batch.bars
    for place, key in enumerate(rows.keys):
        mine = rows.stream == place
        if mine.any():
            product = found.products.setdefault(key.product_id, Product())
            if isinstance(rows, Trades):
                product.add_trades(rows.event_time[mine], rows.trade_id[mine], rows.price[mine], found.hole_s)
            else:
                product.add(rows.event_time[mine], rows.low[mine], rows.high[mine], found.hole_s)
    found.tally.add(len(rows), batch.rejects)


def as_json(found: Inspection) -> dict[str, Any]:
    """Return a summary as JSON values; times in RFC 3339, prices in the quote currency."""
    return {
        "file": found.file,
        "error": found.error,
        "holds": None if not found.dialect else "trades" if found.step_s is None else "bars",
        "dialect": found.dialect or None,
        "step_s": found.step_s,
        "trade_ids": found.has_ids,
        "products_named": found.products_named,
        "newest_first": found.is_newest_first,
        "rows": sum(product.rows for product in found.products.values()),
        "rejected": found.tally.rejected,
        "skipped": found.skipped,
        "read_types": dict(found.read_types.most_common()),
        "skipped_types": dict(found.skipped_types.most_common()),
        "columns_not_read": list(found.unread),
        "rejects": [
            {
                "reason": kind,
                "rows": reason.rows,
                "first_line": reason.first.line,
                "first_text": reason.first.text,
                "last_line": reason.last.last_line or reason.last.line,
            }
            for kind, reason in found.tally.reasons.items()
        ],
        "hole_s": found.hole_s,
        "products": [_product_json(name, product, found) for name, product in sorted(found.products.items())],
    }


def _product_json(name: str, product: Product, found: Inspection) -> dict[str, Any]:
    first, last = time_texts(np.array([product.first_ns, product.last_ns]))
    span_s = (product.last_ns - product.first_ns) / NS
    active_s = span_s - product.in_holes_s
    facts: dict[str, Any] = {"product_id": name, "rows": product.rows, "first": first, "last": last, "span_s": span_s}
    if found.step_s is None:
        facts["rate_outside_holes"] = product.rows / active_s if active_s > 0 else None
        facts["same_time_share"] = product.same_time / (product.rows - 1) if product.rows > 1 else None
        facts["falling_time_share"] = product.falls / (product.rows - 1) if product.rows > 1 else None
        facts["missing_ids"] = product.missing_ids if found.has_ids else None
    else:
        facts["missing_bars"] = round(span_s) // found.step_s + 1 - product.rows
    facts["price_low"], facts["price_high"] = product.low, product.high
    facts["holes"] = product.holes
    facts["longest_holes"] = [
        {"seconds": seconds, "after": after, "until": until}
        for seconds, start, end in sorted(product.longest, reverse=True)
        for after, until in [time_texts(np.array([start, end]))]
    ]
    return facts


def as_text(found: Inspection) -> str:
    """Return a summary as text for people."""
    facts = as_json(found)
    lines = [printable(found.file)]
    if found.dialect:
        what = facts["holds"]
        lines.append(f"  {what}: {found.dialect}")
        if found.step_s is None:
            ids = "of the recording" if found.has_ids else "none, rows are numbered"
            named = "" if found.products_named else "; no product named, --product is taken"
            lines.append(f"  trade ids: {ids}{named}")
            if found.is_newest_first:
                lines.append("  the newest row comes first: read from the last row on")
        skipped = f", {found.skipped:,} messages of other kinds" if found.step_s is None else ""
        lines.append(f"  {facts['rows']:,} {what}, {found.tally.rejected:,} rejected{skipped}")
        for done, types in (("read", found.read_types), ("skipped", found.skipped_types)):
            if kinds := [f"{count:,} {kind}" for kind, count in types.most_common(KINDS_SHOWN) if kind]:
                lines.append(f"  {done} messages: {', '.join(kinds)}")
        if found.unread:
            more = f", and {len(found.unread) - COLUMNS_SHOWN:,} others" * (len(found.unread) > COLUMNS_SHOWN)
            lines.append(f"  columns not read: {', '.join(found.unread[:COLUMNS_SHOWN])}{more}")
        lines += _table(_product_rows(facts["products"], found))
        holes = [(product["product_id"], hole) for product in facts["products"] for hole in product["longest_holes"]]
        count = sum(product["holes"] for product in facts["products"])
        if holes:
            shown = "" if count == len(holes) else f", the longest {HOLES_KEPT} of each product"
            lines.append(f"  {count:,} hole{'s' * (count > 1)} of more than {found.hole_s:g} s{shown}:")
            lines += _table(
                [(name, _duration(h["seconds"]), _time(h["after"]), _time(h["until"])) for name, h in holes]
            )
        if facts["rejects"]:
            lines.append("  rejected:")
            lines += _table([(f"{r['rows']:,}", f"{r['reason']}; first in line {r['first_line']}, last in line "
                              f"{r['last_line']}: {r['first_text']}") for r in facts["rejects"]])  # fmt: skip
    if (warning := found.tally.warning()) is not None and found.error is None:
        lines.append("  warning: " + warning)
    if found.error is not None:
        lines.append("  error: " + found.error)
    return "\n".join(map(printable, "\n".join(lines).split("\n")))


def _product_rows(products: Sequence[dict[str, Any]], found: Inspection) -> list[tuple[str, ...]]:
    own = ("missing",) if found.step_s is not None else ("rows/s", "same time", "falling", "ids missing")
    ends = ("from", "to") if found.step_s is None else ("first ends", "last ends")
    rows = [("product", "rows", *ends, *own, "price from", "to")] if products else []
    for p in products:
        if found.step_s is not None:
            facts = [f"{p['missing_bars']:,}"]
        else:
            rate, same = p["rate_outside_holes"], p["same_time_share"]
            falling, missing = p["falling_time_share"], p["missing_ids"]
            facts = [
                "–" if rate is None else f"{rate:,.2f}",
                *("–" if s is None else f"{s:.1%}" for s in (same, falling)),
            ]
            facts.append("–" if missing is None else f"{missing:,}")
        prices = f"{p['price_low']:,}", f"{p['price_high']:,}"
        rows.append((p["product_id"], f"{p['rows']:,}", _time(p["first"]), _time(p["last"]), *facts, *prices))
    return rows


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows of texts with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "    " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _time(text: str) -> str:
    """Remove trailing zeros of the second's fraction."""
    return text.removesuffix("Z").rstrip("0").rstrip(".") + "Z"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
