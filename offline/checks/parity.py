"""Comparison of a day's feature rows in the lake with the published ones: a certificate, byte for byte."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.admission import MAX_FALL_S, NEW_STREAM, NOTHING_YET, STRAY_ID, STRAY_TIME, Admission, is_taken
from data.features.reach import reach_s
from data.features.spec import FeatureSpec
from data.features.strays import judged
from data.settings import KafkaSettings
from data.stream.codec import decode_features, decode_trades, mark_of
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, partition_of
from data.stream.records import TRADES as TRADES_TOPIC
from data.times import DAY_S, NS, start_ns, time_texts
from data.trades import Floats, Int64s, StreamKey, Trades
from offline.days.feature_rows import StoredFeatureColumns, feature_columns, history, make_feature_rows, rows_after
from offline.days.staging import STAGED, trades_of
from offline.days.steps import FEATURE_ROWS, TRADES
from offline.days.trades import make_trades
from offline.lake.store import Lake


class Certificate(NamedTuple):
    """Result of comparing the rows of a product and day, within the time covered by the source.

    A source covers all trades read by the source, if the source has ended and its trades have not expired; else only
    the published rows.

    Attributes:
        equal, different: rows on both sides, with all bytes equal or not.
        missing: rows of the lake that were not published.
        extra: published rows that are absent from the lake, or duplicates.
        remade: rows made again as the source saw them, for the comparison: their reach begins before the source, and
            the lake has older trades. The stored rows are compared with rows made from all trades of the lake.
        lake_hash, published_hash: hashes of all compared rows.
        first_difference: in words; empty if all rows are equal.
        has_ended: the source has ended.
        covers_from, covers_to: event times of the first and the last compared row.
        rows_of_day: number of rows in the lake, compared or not.
        strays: published rows that are not compared: the stream left their trades behind when it started anew, and the
            lake leaves such trades out, see `offline.served.finished`.
    """

    source_id: str
    product_id: str
    day: dt.date
    equal: int
    missing: int
    extra: int
    different: int
    remade: int
    lake_hash: str
    published_hash: str
    first_difference: str
    has_ended: bool
    covers_from: str
    covers_to: str
    rows_of_day: int
    strays: int = 0

    @property
    def compared(self) -> int:
        """Number of compared rows of the lake."""
        return self.equal + self.missing + self.different

    @property
    def holds(self) -> bool:
        """True if there is at least one row, and all rows are equal and in the same order."""
        is_equal = self.equal > 0 and not self.missing + self.extra + self.different
        return is_equal and self.lake_hash == self.published_hash


@dataclass
class Published:
    """Rows of one source and product on `features`.

    Attributes:
        first: id and counted time of the first trade, if known; else of the oldest row, on any day.
        has_beginning: the source begins at `first`; else older rows have expired.
        has_day: the source has rows of the day.
        parts: the rows of the day, unless a newer source has begun the day.
        has_ended: the source has ended.
        last_trade: id and counted time of the last taken trade, if known.
        restarts: id and counted time of each trade at which the stream started anew after rejects, see `judge_one`.
        newest: id and event time of the newest row.
    """

    source_id: str
    first: tuple[int, int]
    has_beginning: bool
    newest: tuple[int, int] = NOTHING_YET
    has_day: bool = False
    parts: list[StoredFeatureColumns] = field(default_factory=list)
    has_ended: bool = False
    last_trade: tuple[int, int] | None = None
    restarts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, rows: StoredFeatureColumns) -> None:
        """Note the time of the newest row, and the restarts: rows without a return, with an id or a time that fell."""
        ids = np.append(self.newest[0], rows.trade_id)
        times = np.append(self.newest[1], rows.event_time)
        fell = (np.diff(ids) <= 0) | (np.diff(times) < 0)
        for row in np.flatnonzero(fell & (rows.values[:, 0] == 0)):
            self.restarts.append((int(rows.trade_id[row]), int(rows.event_time[row])))
        self.newest = int(rows.trade_id[-1]), int(rows.event_time[-1])


def certify(
    lake: Lake,
    spec: FeatureSpec,
    product_id: str,
    day: dt.date,
    kafka: KafkaSettings,
    source_id: str | None = None,
) -> Certificate:
    """Compare the lake's feature rows of a product and day with the rows published by the forecaster.

    Args:
        source_id: default is the newest source with rows of this product and day.

    Raises:
        ValueError: the lake or the topic has no rows of the product and day.
        NotRead: the broker does not answer.
    """
    if lake.partition(FEATURE_ROWS, product_id, day) is None:
        raise ValueError(f"the lake has no feature rows of {product_id} on {day} (UTC): make them first (backfill)")
    with TopicReader(kafka) as reader:
        partition = partition_of(product_id, len(reader.partitions(FEATURES)))
        values = (block.values for block in reader.read(FEATURES, partition))
        published = find_published(values, spec, product_id, day, source_id)
        if published.has_ended:  # before that, rows may be on their way
            is_whole = reader.span(FEATURES, partition)[0] == 0
            partition = partition_of(product_id, len(reader.partitions(TRADES_TOPIC)))
            values = (block.values for block in reader.read(TRADES_TOPIC, partition))
            ends = find_ends(values, StreamKey(published.source_id, product_id))
            if ends is not None:
                first, published.last_trade = ends
                if is_whole and first[0] < published.first[0]:  # no row has expired: the first trade's row is missing
                    published.first, published.has_beginning = first, True
    return compare(lake, spec, product_id, day, published)


def find_published(
    batches: Iterable[Sequence[bytes]],
    spec: FeatureSpec,
    product_id: str,
    day: dt.date,
    source_id: str | None = None,
) -> Published:
    """Find the rows of a product and day among records of `features`, in the order of the topic.

    Only the rows of one source are kept in memory at a time.

    Args:
        source_id: default is the source whose rows of this product and day begin last.

    Raises:
        ValueError: there are no rows; the message names the sources with rows of the product.
    """
    known: dict[str, Published] = {}
    newest: Published | None = None
    other_specs = set()
    start, end = start_ns(day), start_ns(day) + DAY_S * NS
    mine = f'"product_id":"{product_id}"'.encode()
    for batch in batches:
        found = decode_features([value for value in batch if mine in value], spec)
        other_specs |= found.other_specs
        rows = StoredFeatureColumns(found.trade_id, found.event_time, found.price, found.values)
        for source in dict.fromkeys(key.source_id for key in found.keys):
            some = rows.take(np.array([key.source_id == source for key in found.keys]))
            if source not in known:
                first = int(some.trade_id[0]), int(some.event_time[0])
                known[source] = Published(source, first, some.values[0, 0] == 0)
            each = known[source]
            each.add(some)
            of_day = some.take((some.event_time >= start) & (some.event_time < end))
            if not len(of_day.trade_id) or source_id not in (None, source):
                continue
            if not each.has_day:
                each.has_day = True
                if newest is not None:
                    newest.parts = []
                newest = each
            if newest is each:
                each.parts.append(of_day)
        for _, record in found.ends:
            if record.source_id in known:
                known[record.source_id].has_ended = True
    if newest is None:
        whose = f"the source {source_id} has" if source_id else "it has"
        others = f"; it has rows of the product of the sources {', '.join(list(known)[-20:])}" if known else ""
        specs = f"; rows of other feature specs are there ({', '.join(sorted(other_specs))})" if other_specs else ""
        raise ValueError(
            f"`features` holds nothing to compare with: {whose} no rows of {product_id} on {day} (UTC), spec "
            f"{spec.spec_id}{others}{specs}; replay a recording of that day, or name another source"
        )
    return newest


def find_ends(batches: Iterable[Sequence[bytes]], key: StreamKey) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Find the first and the last taken trade of a stream among records of `coinbase-trades`, in the topic's order.

    Returns:
        Id and counted time, ns since 1970, of each of the two trades; None if the topic holds no trade of the stream.
    """
    source, product = mark_of(key.source_id), f'"product_id":"{key.product_id}"'.encode()
    admission = Admission()
    first: tuple[int, int] | None = None
    for batch in batches:
        values = [value for value in batch if source in value and product in value]
        trades = decode_trades(values).trades
        if key not in trades.keys:
            continue
        mine = trades.take(trades.stream == trades.keys.index(key))
        taken = mine.take(is_taken(admission.judge(mine)))
        if first is None and len(taken):
            first = int(taken.trade_id[0]), int(taken.event_time[0])
    last = admission.states.get(key, NEW_STREAM)[:2]
    return None if first is None else (first, last)


def compare(lake: Lake, spec: FeatureSpec, product_id: str, day: dt.date, published: Published) -> Certificate:
    """Compare the lake's rows of a product and day with the published rows of one source."""
    lake = lake.held()
    has_ids = make_trades.stored(lake, product_id, day).facts.has_ids
    by = 0 if has_ids else 1
    theirs, strays = _without_strays(StoredFeatureColumns.join(published.parts), published)
    ours, remade, spoilt = _rows_as_seen(lake, spec, product_id, day, published, by)
    last = published.last_trade or (int(theirs.trade_id[-1]), published.newest[1])
    if last[1] < start_ns(day) + DAY_S * NS:
        ours = ours.take(slice(int(np.searchsorted(ours[by], last[by], "right"))))
    one, other = (ours.trade_id, theirs.trade_id) if has_ids else (_time_keys(ours), _time_keys(theirs))
    # Of duplicate rows, the first is compared, and the others count as missing or extra.
    _, in_ours, in_theirs = np.intersect1d(one, other, return_indices=True)
    differs = _differs(ours.take(in_ours), theirs.take(in_theirs))
    missing = np.setdiff1d(np.arange(len(one)), in_ours)
    extra = np.setdiff1d(np.arange(len(other)), in_theirs)
    found: list[tuple[int, str]] = []
    is_spoilt = np.isin(in_ours, np.flatnonzero(spoilt))
    if is_spoilt.any():
        row = in_ours[np.argmax(is_spoilt)]
        found.append((int(ours.event_time[row]), f"{_named(ours, row)} differs from the row of the lake's own trades"))
    if len(missing):
        found.append((int(ours.event_time[missing[0]]), f"{_named(ours, missing[0])} was not published"))
    if len(extra):
        found.append((int(theirs.event_time[extra[0]]), f"{_named(theirs, extra[0])} is not in the lake, or once more"))
    rows, columns = np.nonzero(differs)
    if len(rows):
        row, name = rows[0], ("event_time", "price", *spec.columns)[columns[0]]
        texts = [_value(each, at[row], int(columns[0])) for each, at in ((ours, in_ours), (theirs, in_theirs))]
        said = f"{_named(ours, in_ours[row])}: {name} is {texts[0]} in the lake and {texts[1]} as published"
        found.append((int(ours.event_time[in_ours[row]]), said))
    different = int(np.sum(differs.any(axis=1) | is_spoilt))
    times = np.concatenate([ours.event_time, theirs.event_time])
    covers_from, covers_to = time_texts(np.array([times.min(), times.max()]))
    return Certificate(
        source_id=published.source_id,
        product_id=product_id,
        day=day,
        equal=len(in_ours) - different,
        missing=len(missing),
        extra=len(extra),
        different=different,
        remade=min(remade, len(ours.trade_id)),
        lake_hash=_hash(ours, has_ids),
        published_hash=_hash(theirs, has_ids),
        first_difference=min(found)[1] if found else "",
        has_ended=published.has_ended,
        covers_from=covers_from,
        covers_to=covers_to,
        rows_of_day=make_feature_rows.stored(lake, product_id, day).facts.rows,
        strays=strays,
    )


def _without_strays(rows: StoredFeatureColumns, published: Published) -> tuple[StoredFeatureColumns, int]:
    """Return the rows of a day without the rows of trades that the stream left behind, and the number of the latter."""
    if not published.restarts:
        return rows, 0
    n, key = len(rows.trade_id), StreamKey(published.source_id, "")
    no_sizes, no_times = np.full(n, np.nan), np.zeros(n, np.int64)
    stream, side = np.zeros(n, np.int32), np.zeros(n, np.int8)
    status = judged(Trades((key,), stream, rows.trade_id, rows.event_time, no_times, rows.price, no_sizes, side))
    is_stray = (status == STRAY_ID) | (status == STRAY_TIME)
    return rows.take(~is_stray), int(np.sum(is_stray))


def _rows_as_seen(
    lake: Lake, spec: FeatureSpec, product_id: str, day: dt.date, published: Published, by: int
) -> tuple[StoredFeatureColumns, int, NDArray[np.bool_]]:
    """Return the lake's rows of a day as the source saw them, from the source's first trade on.

    Without ids, the first row is the first one with the event time of the source's first trade.

    A row that reaches back beyond the source's first trade, or beyond a trade at which the source started anew, is made
    again without older trades, if the lake has older trades.

    Args:
        by: 0: trade ids order the rows; 1: event times.

    Returns:
        The rows; the number of remade rows; and a mask of rows that differ from rows made of the lake's own trades.
    """
    rows = feature_columns(lake, spec, product_id, day)
    start, reach = start_ns(day), reach_s(spec) * NS
    firsts = sorted([published.first, *published.restarts], key=lambda first: first[1])
    firsts = [first for first in firsts if first[1] < start + DAY_S * NS]
    bounds = [int(np.searchsorted(rows[by], first[by])) if first[1] >= start else 0 for first in firsts]
    parts, spoilt, remade, whole = [], [], 0, None
    ends = [*bounds[1:], len(rows.trade_id)]
    for first, following, begin, end in zip(firsts, [*firsts[1:], None], bounds, ends, strict=True):
        mine = rows.take(slice(begin, end))
        parts.append(mine)
        spoilt.append(np.zeros(len(mine.trade_id), np.bool_))
        is_beginning = published.has_beginning or first != published.first
        if not len(mine.trade_id) or not is_beginning or first[1] + reach < start:
            continue
        trades, has_older = _trades_from(lake, spec, product_id, day, first, by)
        if not has_older:
            continue
        if following is not None:
            trades = trades.take((trades.trade_id, trades.event_time)[by] < following[by])
        seen = _rows_of(trades, None, spec)
        seen = seen.take(seen.event_time >= start)
        count = int(np.searchsorted(seen.event_time, first[1] + reach, "right"))
        parts[-1] = StoredFeatureColumns.join([seen.take(slice(count)), mine.take(slice(count, None))])
        remade += count
        if whole is None:
            of_day = trades_of(lake.read(TRADES, product_id, day, STAGED.names), product_id)
            whole = _rows_of(of_day, history(lake, product_id, day, spec), spec)
        made, stand = (each.take(slice(begin, begin + count)) for each in (whole, rows))
        is_same = np.array_equal(made.trade_id, stand.trade_id)
        differs = _differs(made, stand).any(axis=1) if is_same else np.ones(count, np.bool_)
        spoilt[-1] = np.append(differs, np.zeros(len(parts[-1].trade_id) - count, np.bool_))
    return StoredFeatureColumns.join(parts), remade, np.concatenate(spoilt)


def _rows_of(trades: Trades, before: Trades | None, spec: FeatureSpec) -> StoredFeatureColumns:
    """Return the feature rows of trades, after earlier trades of the stream."""
    (made,) = rows_after(before, [trades], spec)
    return StoredFeatureColumns(made.trades.trade_id, made.trades.event_time, made.trades.price, made.values)


def _trades_from(
    lake: Lake, spec: FeatureSpec, product_id: str, day: dt.date, first: tuple[int, int], by: int
) -> tuple[Trades, bool]:
    """Return the lake's trades from the source's first trade to the end of a day.

    Returns:
        The trades; and whether the segment of the source's first trade begins earlier in the lake.
    """
    first_day = dt.date(1970, 1, 1) + dt.timedelta(seconds=first[1] // NS)
    days = [key for key in lake.partition_keys(TRADES, product_id) if first_day <= key.day <= day]
    parts = [trades_of(lake.read(*key, STAGED.names), product_id) for key in days]
    if (before := history(lake, product_id, first_day, spec)) is not None:
        parts.insert(0, before)
    trades = Trades.join(parts)
    n = 0 if before is None else len(before)
    later = trades.take(slice(n, None))
    if by == 0:  # days before may hold other numberings, so that ids alone order nothing
        is_later = (later.trade_id >= first[0]) & (later.event_time >= first[1] - MAX_FALL_S * NS)
        if (is_first := is_later & (later.trade_id == first[0])).any():
            is_later = is_first
    else:
        is_later = later.event_time >= first[1]
    begins = n + int(np.argmax(is_later))
    has_older = begins > 0 and first[1] - int(trades.event_time[:begins].max()) <= spec.gap_s * NS
    return trades.take(slice(begins, None)), has_older


def _time_keys(rows: StoredFeatureColumns) -> Int64s:
    """Return keys for rows without ids: the event time, and the rank among rows of the same time."""
    order = np.argsort(rows.event_time, kind="stable")
    times = rows.event_time[order]
    keys = np.empty(len(order), [("time", np.int64), ("rank", np.int64)])
    keys["time"][order], keys["rank"][order] = times, np.arange(len(times)) - np.searchsorted(times, times)
    return keys


def _differs(one: StoredFeatureColumns, other: StoredFeatureColumns) -> NDArray[np.bool_]:
    """Return a mask of different values, shape (n, 2 + columns of the spec): event time, price, and each column."""
    return np.column_stack(
        [
            one.event_time != other.event_time,
            one.price.view(np.int64) != other.price.view(np.int64),
            _bits(one.values) != _bits(other.values),
        ]
    )


def _bits(values: Floats) -> Int64s:
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def _hash(rows: StoredFeatureColumns, has_ids: bool) -> str:
    found = hashlib.sha256(rows.trade_id.tobytes() if has_ids else b"")
    for part in (rows.event_time, rows.price, _bits(rows.values)):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def _named(rows: StoredFeatureColumns, row: Any) -> str:
    return f"trade {rows.trade_id[row]} at {time_texts(rows.event_time[row : row + 1])[0]}"


def _value(rows: StoredFeatureColumns, row: Any, column: int) -> str:
    if column == 0:
        return time_texts(rows.event_time[row : row + 1])[0]
    value = float(rows.price[row] if column == 1 else rows.values[row, column - 2])
    return "missing" if np.isnan(value) else repr(value)
