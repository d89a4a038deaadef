"""Recordings in the lake: a file of trades, of any dialect, or simulated days, staged by product and UTC day.

The day of a trade is the day of the counted time, see `counted_times`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa

from data.arrow import NAMES, UTC, batch_of, names_of, numbers_of, texts_of
from data.names import check_product_id
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.readers import read_trades
from data.simulator.day import simulate_day
from data.times import DAY_S, NS, to_datetime
from data.trades import Reject, StreamKey, Trades
from offline.days.merging import counted_times
from offline.lake.objects import ANY
from offline.lake.state import RECEIPTS, Entry, PartitionKey, Receipt, decoded_notes
from offline.lake.store import HeldLake, Lake
from offline.lake.writing import Writing

RECORDINGS = "recordings"
"""Table of the lake, with a sub-table per recording."""

SIMULATED = "simulated"
"""Name of the recording that holds all simulated days."""

SERVED = "served"
"""Name of the recording that holds the trades of finished days from the topic, see `offline.served.finished`."""

MEANING = "4"
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
TRADE_COLUMNS = STAGED.append(pa.field("recording", NAMES))
"""Columns of `recordings` and of `trades`: a day of one recording, none of it dropped, is one object for both."""
_REJECT_COLUMNS = pa.schema(
    [
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
        ("rows", pa.int64()),
        ("last_line", pa.int64()),
    ]
)
"""Columns of rejects, see `Reject`."""

_REJECT_CHARACTERS = 200
_NAME_CHARACTERS = 200
"""Limit of a recording's name in the lake: the name of a lock is 11 characters longer, and filesystems allow 255."""


class StagedNotes(msgspec.Struct, frozen=True):
    """Notes of one product and day of a recording.

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
    """Notes of a recording.

    Attributes:
        sha256: of the recording.
        version: of the recording where it came from, see `taken`; empty: unknown.
        product_id: for recordings without a product.
        columns: the column map.
        days: product, day, number of rows and content hash of each staged partition.
        rejects: number of rejected rows, by reason.
    """

    sha256: str
    product_id: str
    meaning: str = MEANING
    version: str = ""
    days: list[tuple[str, date, int, str]] = []
    rejects: dict[str, int] = {}
    columns: str = ""


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
    version: str = "",
    columns: str = "",
) -> Ingested:
    """Stage the trades of a recording of any dialect, by product and day: the whole recording or nothing.

    A recording of the same name and content is not read again; other content under the same name replaces the old. Of a
    recording that is not taken, for example because no row is a trade, the rejects are kept.

    Args:
        product_id: for recordings without a product.
        name: of the recording in the lake; default is the file name.
        first_day: of the lake; a recording with trades of an earlier day is refused.
        version: of the recording where it came from, for `taken`.
        columns: a column map for recordings that no dialect knows.

    Raises:
        ValueError: the column map is wrong; or the recording is damaged or holds no trades, see `read_trades`, or
            changes while it is read; or a trade comes before the first day; or the name is invalid, `simulated`, or as
            of `served_name`.
        OSError: the lake cannot be written.
    """
    name = recording.name if name is None else name
    if name == SIMULATED:
        raise ValueError(f"the name {SIMULATED!r} is that of all simulated days: give {recording} another one")
    table = recording_table(name)
    if is_served(table):
        raise ValueError(f"the name {name!r} is that of trades from the topic: give {recording} another one")
    # Raises if the file is no recording.
    batches = read_trades(recording, product_id=product_id, columns=ColumnMap.parse(columns))
    at_first = _state_of(recording)
    with recording.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made_from = RecordingNotes(sha256=digest, product_id=product_id, columns=columns)
    receipt = receipt_of(lake, name)
    with lake.batch() as batch:
        held = _held(batch, table, receipt)
        days = [(*place, entry.rows, entry.content_hash) for place, entry in held.items()]
        before = _notes_of(receipt, name)
        if before is not None:
            same = msgspec.structs.replace(made_from, days=days, rejects=before.rejects, version=before.version)
            if before == same:
                if version != before.version:
                    _put_receipt(lake, name, _taken(receipt.products, receipt.rejects, before, version))
                return _unchanged(name, before)

        reasons: Counter[str] = Counter()
        with ExitStack() as cleanup:
            stage = _Stage(batch, table, name, cleanup, first_day)
            rejected = cleanup.enter_context(batch.writing(f"{RECEIPTS}/{name}", _REJECT_COLUMNS))
            try:
                for part in batches:
                    _add_rejects(part.rejects, rejected, reasons)
                    stage.add(part.trades, part.has_ids)
            except ValueError as error:
                if not reasons:
                    raise
                refused = _noted(rejected.finish(), msgspec.structs.replace(made_from, rejects=dict(reasons)))
                _put_receipt(lake, name, msgspec.structs.replace(receipt, refused=refused))
                raise ValueError(f"{error}; the lake keeps the rejects in {refused.path}") from error
            found = stage.finish()
            rejects = rejected.finish()
        if _state_of(recording) != at_first:  # the digest could be of one content, and the trades of another
            raise ValueError(f"{recording}: the file changed while it was read, and is not taken: take it again")
        # All objects are there by now: only the manifests and the receipt are left.
        products = {product for product, _ in found}
        _put_receipt(lake, name, Receipt(products=sorted({*receipt.products, *products})))
        staged = [_record(batch, PartitionKey(table, *place), stage.notes, entry) for place, entry in found.items()]
        for product, day in held.keys() - found.keys():
            batch.delete(table, product, day)
            staged.append(Staged(product, day, 0, True))
        batch.publish()
        days = [(*place, entry.rows, entry.content_hash) for place, entry in found.items()]
        made_from = msgspec.structs.replace(made_from, days=days, rejects=dict(reasons))
        put = _taken(sorted(products), rejects, made_from, version)
        _put_receipt(lake, name, put)
    is_new = put != receipt or any(each.is_new for each in staged)
    return Ingested(name, sorted(staged), dict(reasons), is_new)


def _state_of(recording: Path) -> tuple[int, int, int]:
    """Return inode, size, and time of change of a file: any write makes another state."""
    info = recording.stat()
    return info.st_ino, info.st_size, info.st_ctime_ns


def taken(lake: Lake, name: str, product_id: str, version: str, columns: str = "") -> Ingested | None:
    """Return the result of the ingest of a recording that the lake holds in this version; None: it must be read.

    The recording itself is not looked at.

    Args:
        product_id: for recordings without a product.
        version: as given to `ingest` before; not empty.
        columns: a column map, as given to `ingest`.

    Raises:
        ValueError: the name or the receipt is invalid.
    """
    table, receipt = recording_table(name), receipt_of(lake, name)
    before = _notes_of(receipt, name)
    if before is None or before.version != version:
        return None
    days = [(*place, entry.rows, entry.content_hash) for place, entry in _held(lake, table, receipt).items()]
    same = msgspec.structs.replace(before, product_id=product_id, meaning=MEANING, columns=columns, days=days)
    return _unchanged(name, before) if before == same else None


def _held(lake: Lake, table: str, receipt: Receipt) -> dict[tuple[str, date], Entry]:
    """Return the staged partitions of a recording by product and day, sorted."""
    held = {
        (product, day): entry
        for product in receipt.products
        for day, entry in lake.product(product).tables.get(table, {}).items()
    }
    return dict(sorted(held.items()))


def _unchanged(name: str, notes: RecordingNotes) -> Ingested:
    return Ingested(name, [Staged(*day[:3], False) for day in notes.days], notes.rejects, False)


def _taken(products: list[str], rejects: Entry | None, notes: RecordingNotes, version: str) -> Receipt:
    """Return the receipt of a recording that is taken."""
    assert rejects is not None
    return Receipt(products=products, rejects=_noted(rejects, msgspec.structs.replace(notes, version=version)))


def _noted(rejects: Entry, notes: RecordingNotes) -> Entry:
    return msgspec.structs.replace(rejects, notes=msgspec.Raw(msgspec.json.encode(notes)))


def receipt_of(lake: Lake, name: str) -> Receipt:
    """Return the receipt of a recording; a receipt without products if the lake has none.

    Raises:
        ValueError: the receipt is damaged, or of another release.
    """
    path = receipt_path(name)
    held = lake.objects.get(path)
    try:
        return Receipt(products=[]) if held is None else msgspec.json.decode(held.content, type=Receipt)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{lake.objects.where(path)} is no receipt of a recording ({error}): remove it, then ingest {name} again"
        ) from None


def _notes_of(receipt: Receipt, name: str) -> RecordingNotes | None:
    """Return the notes of a recording; None if the recording is not taken."""
    return (
        None if receipt.rejects is None else decoded_notes(receipt.rejects.notes, RecordingNotes, f"recording {name}")
    )


def receipt_path(name: str) -> str:
    """Return the path of a recording's receipt below the root of a lake.

    >>> receipt_path("two words.csv")
    'rejects/two%20words.csv.json'
    """
    return f"{RECEIPTS}/{quote(name, safe='')}.json"


def _put_receipt(lake: Lake, name: str, receipt: Receipt) -> None:
    lake.objects.put(receipt_path(name), msgspec.json.encode(receipt), ANY)


def _record(batch: HeldLake, key: PartitionKey, notes: StagedNotes, entry: Entry) -> Staged:
    before = batch.product(key.product_id).entry(key.table, key.day)
    batch.record(key, entry, notes)
    is_new = before != batch.product(key.product_id).entry(key.table, key.day)
    return Staged(key.product_id, key.day, entry.rows, is_new)


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
    made = lake.write(table, product_id, day, [staged_batch(trades, SIMULATED)], TRADE_COLUMNS, notes)
    return Ingested(SIMULATED, [Staged(product_id, day, made.rows, True)], {}, True)


class _OpenDay(NamedTuple):
    """A day whose rows are being written; `cleanup` removes the local file."""

    day: date
    writing: Writing
    cleanup: ExitStack


class _Stage:
    """Writer of one recording's trades to objects: all products at once, one day of each product at a time."""

    def __init__(self, lake: HeldLake, table: str, name: str, cleanup: ExitStack, first_day: date) -> None:
        self.notes = StagedNotes(name, has_ids=True)
        self._lake, self._table, self._cleanup, self._first_day = lake, table, cleanup, first_day
        self._last_time: dict[str, int] = {}
        self._open: dict[str, _OpenDay] = {}
        self._finished: dict[tuple[str, date], Entry] = {}

    def add(self, trades: Trades, has_ids: bool) -> None:
        """Add the next trades of the recording, all of which have ids or none."""
        self.notes = StagedNotes(self.notes.name, has_ids)
        order = np.argsort(trades.stream, kind="stable")
        ends = np.cumsum(np.bincount(trades.stream, minlength=len(trades.keys))).tolist()
        for key, (begin, end) in zip(trades.keys, pairwise([0, *ends]), strict=True):
            if begin == end:
                continue
            mine = trades.take(order[begin:end])
            counted = counted_times(mine.event_time, self._last_time.get(key.product_id, 0))
            self._last_time[key.product_id] = int(counted[-1])
            days = counted // (DAY_S * NS)
            for part in np.split(np.arange(len(mine)), np.flatnonzero(np.diff(days)) + 1):
                day = to_datetime(int(counted[part[0]])).date()
                check_first_day(day, self._first_day)
                self._writing(key.product_id, day).write(staged_batch(mine.take(part), self.notes.name))

    def finish(self) -> dict[tuple[str, date], Entry]:
        """Put the last objects, and return the entry of each product and day, sorted."""
        for product in list(self._open):
            self._finish(product)
        return dict(sorted(self._finished.items()))

    def _writing(self, product_id: str, day: date) -> Writing:
        """Return the open rows of a product and day; days of a product follow each other."""
        if product_id in self._open and self._open[product_id].day != day:
            self._finish(product_id)
        if product_id not in self._open:
            own = self._cleanup.enter_context(ExitStack())
            writing = own.enter_context(self._lake.writing(PartitionKey(self._table, product_id, day), TRADE_COLUMNS))
            self._open[product_id] = _OpenDay(day, writing, own)
        return self._open[product_id].writing

    def _finish(self, product_id: str) -> None:
        open_day = self._open.pop(product_id)
        self._finished[product_id, open_day.day] = open_day.writing.finish()
        open_day.cleanup.close()


def trades_of(rows: pa.Table | pa.RecordBatch, product_id: str) -> Trades:
    """Convert rows of `trades` or `recordings` to trades of one stream."""
    columns = {name: numbers_of(rows[name]) for name in STAGED.names}
    n = len(rows)
    return Trades((StreamKey("lake", product_id),), np.zeros(n, np.int32), ingest_time=np.zeros(n, np.int64), **columns)


def staged_batch(trades: Trades, name: str) -> pa.RecordBatch:
    """Convert trades of one recording to rows of `TRADE_COLUMNS`."""
    return trade_batch(trades, names_of(np.zeros(len(trades), np.int32), [name]))


def trade_batch(trades: Trades, recording: pa.Array) -> pa.RecordBatch:
    """Convert trades to rows of `TRADE_COLUMNS`.

    Args:
        recording: name of each trade's recording, shape (n,).
    """
    return batch_of(TRADE_COLUMNS, [*(getattr(trades, name) for name in STAGED.names), recording])


def _add_rejects(rejects: Sequence[Reject], rejected: Writing, reasons: Counter[str]) -> None:
    """Write rejects, and count the rows by reason."""
    for reject in rejects:
        reasons[reject.kind] += reject.rows
    if rejects:
        rejected.write(_reject_batch(rejects))


def _reject_batch(rejects: Sequence[Reject]) -> pa.RecordBatch:
    lines, rows, last_lines = np.array([(each.line, each.rows, each.last_line) for each in rejects], np.int64).T
    reasons, texts = zip(*((each.reason, each.text[:_REJECT_CHARACTERS]) for each in rejects), strict=True)
    return batch_of(_REJECT_COLUMNS, [lines, texts_of(reasons), texts_of(texts), rows, last_lines])
