"""Recordings in the lake: a file of trades, of any dialect, or simulated days, staged by product and UTC day.

The day of a trade is the day of the counted time, see `counted_times`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa

from data.arrow import UTC, batch_of, numbers_of, texts_of
from data.names import check_product_id
from data.recordings.dialects.base import Dialect
from data.recordings.readers import read_trades
from data.recordings.recognition import recognize
from data.simulator.day import simulate_day
from data.times import DAY_S, NS, to_datetime
from data.trades import StreamKey, Trades
from offline.days.merging import counted_times
from offline.lake.store import Lake, PartitionKey, StoredFile, Writing

RECORDINGS, REJECTS = "recordings", "rejects"
"""Tables of the lake. `recordings` has a sub-table per recording; `rejects` has one file per recording."""

SIMULATED = "simulated"
"""Name of the recording that holds all simulated days."""

SERVED = "served"
"""Name of the recording that holds the trades of finished days from the topic, see `offline.served.finished`."""

MEANING = "2"
"""Raise this number when staging gives another result for the same recording: all recordings are then staged again."""


STAGED = pa.schema(
    [
        ("trade_id", pa.int64()),
        ("event_time", UTC),
        ("price", pa.float64()),
        ("size", pa.float64()),
        ("side", pa.int8()),
    ]
)
"""Trades of one recording: times as recorded, -1 for sell, 1 for buy; in the order of the recording."""
_REJECT_COLUMNS = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())])

_REJECT_CHARACTERS = 200
_NAME_CHARACTERS = 200
"""Limit of a recording's name in the lake: a temporary file name is 47 characters longer, and filesystems allow 255."""


class StagedNotes(msgspec.Struct, frozen=True):
    """Notes in the file of one product and day of a recording.

    Attributes:
        name: of the recording.
        has_ids: the trades have ids of the market; else the trades are numbered.
        made_from: arguments of a simulated day.
        sources: of trades from the topic.
    """

    name: str
    has_ids: bool
    made_from: str = ""
    sources: list[str] = []


class RecordingNotes(msgspec.Struct, frozen=True, kw_only=True):
    """Notes in the file of a recording's rejects.

    Attributes:
        sha256: of the recording.
        product_id: for recordings without a product.
        days: product, day, number of rows and content hash of each staged file.
        rejects: number of rejected rows, by reason.
    """

    sha256: str
    product_id: str
    meaning: str = MEANING
    days: list[tuple[str, date, int, str]] = []
    rejects: dict[str, int] = {}


class Staged(NamedTuple):
    """One product and day of a recording."""

    product_id: str
    day: date
    rows: int
    is_new: bool


class Ingested(NamedTuple):
    """Result of ingesting a recording.

    Attributes:
        name: of the recording in the lake.
        days: sorted by product and day; a day that a former version held and the new one lacks has 0 rows.
        rejects: number of rejected rows, by reason.
        is_new: true if the lake has changed.
    """

    name: str
    days: list[Staged]
    rejects: dict[str, int]
    is_new: bool


def recording_table(name: str) -> str:
    """Return the table name of one recording.

    Raises:
        ValueError: the name is too long, or empty, or only dots.

    >>> recording_table("monday.csv"), recording_table("two words.csv")
    ('recordings/monday.csv', 'recordings/two%20words.csv')
    """
    quoted = quote(name, safe="")
    if not name.strip(".") or len(quoted) > _NAME_CHARACTERS:
        raise ValueError(
            f"a recording is named by 1 to {_NAME_CHARACTERS} characters, not dots alone (a letter beyond ASCII counts "
            f"as 6 or more), was {name[:210]!r}, which counts as {len(quoted)}: rename it"
        )
    return f"{RECORDINGS}/{quoted}"


def served_name(number: int) -> str:
    """Return the name of a recording of trades from the topic; sources that number trades differently are apart.

    >>> served_name(1), served_name(2)
    ('served', 'served-2')
    """
    return SERVED if number == 1 else f"{SERVED}-{number}"


def is_served(table: str) -> bool:
    """Return whether a table holds trades from the topic.

    >>> is_served("recordings/served-2"), is_served("recordings/served-monday")
    (True, False)
    """
    return re.fullmatch(rf"{RECORDINGS}/{SERVED}(-\d+)?", table) is not None


def check_first_day(day: date, first_day: date) -> None:
    """Raise ValueError for a day before the first day of the lake.

    >>> check_first_day(date(2009, 12, 31), date(2010, 1, 1))
    Traceback (most recent call last):
    ValueError: 2009-12-31 (UTC) comes before the first day of the lake, 2010-01-01: LAKE_FIRST_DAY sets an earlier day
    """
    if day < first_day:
        raise ValueError(
            f"{day} (UTC) comes before the first day of the lake, {first_day}: LAKE_FIRST_DAY sets an earlier day"
        )


def ingest(
    lake: Lake,
    recording: Path,
    product_id: str = "BTC-USD",
    name: str | None = None,
    first_day: date = date.min,
) -> Ingested:
    """Stage the trades of a recording of any dialect, by product and day: the whole recording or nothing.

    A recording of the same name and content is not read again; other content under the same name replaces the old.

    Args:
        product_id: for recordings without a product.
        name: of the recording in the lake; default is the file name.
        first_day: of the lake; a recording with trades of an earlier day is refused.

    Raises:
        ValueError: the recording is damaged or holds no trades, see `read_trades`; or a trade comes before the first
            day; or the name is invalid, `simulated`, or as of `served_name`.
        OSError: the lake cannot be written.
    """
    name = recording.name if name is None else name
    if name == SIMULATED:
        raise ValueError(f"the name {SIMULATED!r} is that of all simulated days: give {recording} another one")
    table, rejects_path = recording_table(name), f"{REJECTS}/{quote(name, safe='')}.parquet"
    if is_served(table):
        raise ValueError(f"the name {name!r} is that of trades from the topic: give {recording} another one")
    batches = read_trades(recording, product_id=product_id)  # raises at once if the file is no recording
    dialect = recognize(recording)
    assert isinstance(dialect, Dialect)
    with recording.open("rb") as file:
        made_from = RecordingNotes(sha256=hashlib.file_digest(file, "sha256").hexdigest(), product_id=product_id)
    stored = lake.stored(rejects_path)
    before = None if stored is None else stored.notes_as(RecordingNotes)
    keys = lake.partition_keys(table)
    held = [(key.product_id, key.day, *_rows_and_hash(lake, key)) for key in keys]
    if before is not None and before == msgspec.structs.replace(made_from, days=held, rejects=before.rejects):
        days = [Staged(product, day, rows, False) for product, day, rows, _ in held]
        return Ingested(name, days, before.rejects, False)

    reasons: Counter[str] = Counter()
    with ExitStack() as cleanup:
        stage = _Stage(lake, table, name, dialect.has_ids, cleanup, first_day)
        rejects = cleanup.enter_context(lake.writing(rejects_path, _REJECT_COLUMNS))
        for batch in batches:
            stage.add(batch.trades)
            if batch.rejects:
                reasons.update(reject.reason.partition(", was ")[0] for reject in batch.rejects)
                rejects.write(_reject_batch(batch.rejects))
        staged = stage.finish()
        rejects.finish(msgspec.structs.replace(made_from, days=staged, rejects=dict(reasons)))
        # All rows are written by now: only the renames are left.
        days = stage.publish()
        gone = {(key.product_id, key.day) for key in keys} - {(each.product_id, each.day) for each in days}
        for product, day in sorted(gone):
            lake.delete(table, product, day)
            days.append(Staged(product, day, 0, True))
        is_new = rejects.publish() or any(each.is_new for each in days)
    return Ingested(name, sorted(days), dict(reasons), is_new)


def _rows_and_hash(lake: Lake, key: PartitionKey) -> tuple[int, str]:
    """Return the number of rows and the content hash of a partition; no hash if missing or damaged."""
    with suppress(ValueError):
        if (found := lake.partition(*key)) is not None:
            return found.rows, found.content_hash
    return 0, ""


def simulate(lake: Lake, product_id: str, day: date, seed: int = 0, hours: tuple[int, int] = (0, 24)) -> Ingested:
    """Stage a simulated day in the recording `simulated`; another seed replaces the day.

    Args:
        hours: first hour (inclusive) and last hour (exclusive) to simulate.

    Raises:
        ValueError: see `simulate_day`.
        OSError: the lake cannot be written.
    """
    check_product_id(product_id)
    table = recording_table(SIMULATED)
    notes = StagedNotes(SIMULATED, True, f"seed {seed}, hours {hours}, meaning {MEANING}")
    known = lake.partition(table, product_id, day)
    if known is not None and known.notes_as(StagedNotes) == notes:
        return Ingested(SIMULATED, [Staged(product_id, day, known.rows, False)], {}, False)
    trades = simulate_day(product_id, day, seed, hours)
    made = lake.write(table, product_id, day, [staged_batch(trades)], STAGED, notes)
    return Ingested(SIMULATED, [Staged(product_id, day, made.rows, True)], {}, True)


class _Stage:
    """Writer of one recording's trades to the lake: all products at once, invisible to readers until `publish`."""

    def __init__(self, lake: Lake, table: str, name: str, has_ids: bool, cleanup: ExitStack, first_day: date) -> None:
        self._lake, self._table, self._cleanup = lake, table, cleanup
        self._notes, self._first_day = StagedNotes(name, has_ids), first_day
        self._last_time: dict[str, int] = {}
        self._open: dict[str, tuple[PartitionKey, Writing]] = {}
        self._finished: list[tuple[PartitionKey, Writing, StoredFile]] = []

    def add(self, trades: Trades) -> None:
        """Add the next trades of the recording."""
        order = np.argsort(trades.stream, kind="stable")
        ends = np.cumsum(np.bincount(trades.stream, minlength=len(trades.keys)))
        for key, rows in zip(trades.keys, np.split(order, ends[:-1]), strict=True):
            if not len(rows):
                continue
            mine = trades.take(rows)
            counted = counted_times(mine.event_time, self._last_time.get(key.product_id, 0))
            self._last_time[key.product_id] = int(counted[-1])
            days = counted // (DAY_S * NS)
            for part in np.split(np.arange(len(mine)), np.flatnonzero(np.diff(days)) + 1):
                day = to_datetime(int(counted[part[0]])).date()
                check_first_day(day, self._first_day)
                self._writing(key.product_id, day).write(staged_batch(mine.take(part)))

    def finish(self) -> list[tuple[str, date, int, str]]:
        """Finish all files; return product, day, number of rows and content hash of each file."""
        for product in list(self._open):
            self._finish(product)
        self._finished.sort()
        return [(place.product_id, place.day, file.rows, file.content_hash) for place, _, file in self._finished]

    def publish(self) -> list[Staged]:
        """Rename all finished files to their final names."""
        return [
            Staged(place.product_id, place.day, file.rows, writing.publish()) for place, writing, file in self._finished
        ]

    def _writing(self, product_id: str, day: date) -> Writing:
        """Return the open file of a product and day; days of a product follow each other."""
        place = PartitionKey(self._table, product_id, day)
        if product_id in self._open and self._open[product_id][0] != place:
            self._finish(product_id)
        if product_id not in self._open:
            self._open[product_id] = place, self._cleanup.enter_context(self._lake.writing(place.path, STAGED))
        return self._open[product_id][1]

    def _finish(self, product_id: str) -> None:
        place, writing = self._open.pop(product_id)
        self._finished.append((place, writing, writing.finish(self._notes)))


def trades_of(rows: pa.Table | pa.RecordBatch, product_id: str) -> Trades:
    """Convert rows of `trades` or `recordings` to trades of one stream."""
    columns = {name: numbers_of(rows[name]) for name in STAGED.names}
    n = len(rows)
    return Trades((StreamKey("lake", product_id),), np.zeros(n, np.int32), ingest_time=np.zeros(n, np.int64), **columns)


def staged_batch(trades: Trades) -> pa.RecordBatch:
    """Convert trades to rows of `STAGED`."""
    return batch_of(STAGED, [getattr(trades, name) for name in STAGED.names])


def _reject_batch(rejects: Sequence[Any]) -> pa.RecordBatch:
    lines = np.array([reject.line for reject in rejects], np.int64)
    reasons, texts = zip(*((reject.reason, reject.text[:_REJECT_CHARACTERS]) for reject in rejects), strict=True)
    return batch_of(_REJECT_COLUMNS, [lines, texts_of(reasons), texts_of(texts)])
