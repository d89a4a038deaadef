"""Trades of finished days of sources as recordings of the lake: a training sees what was served.

The table `recordings/served` holds the trades of all sources whose ids and times agree, each trade once. A source that
disagrees, as a replay with moved times, gets a table of its own: `recordings/served-2` and so on. The table `trades`
then merges all recordings, and recordings of the inbox come first.

Trades are those that the forecaster took, so each has a published row. A stream that started anew after rejects goes on
in its table; the stray trades that it left behind are left out. If the stream goes on behind its own past, as with ids
that begin anew, the later trades are added as if they were another source's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import count
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute

from data.arrow import column_of
from data.features.admission import FALLEN_TIME, PASSED_ID, TAKEN, Admission, is_taken
from data.features.strays import judged
from data.stream.codec import side_numbers
from data.stream.records import TRADES
from data.times import DAY_S, NS, start_ns, to_datetime
from data.trades import Trades
from offline.days.merging import RecordedTrades, merge
from offline.days.staging import (
    RECORDINGS,
    STAGED,
    TRADE_COLUMNS,
    Staged,
    StagedNotes,
    is_served,
    recording_table,
    served_name,
    staged_batch,
    trades_of,
)
from offline.days.steps import SEEN_BY_NEIGHBOURS
from offline.lake.state import Partition
from offline.lake.store import Lake
from offline.served.columns import IS_TAKEN, columns_of
from offline.served.files import read_rows
from offline.served.manifest import Manifest, ServedFile, read_manifest


class FinishedDay(NamedTuple):
    """A product-day of sources that have ended, or have gone on to a later day.

    Attributes:
        sources: generation and name of each source, in the order of their first offsets.
        files: the files with the day's trades.
    """

    product_id: str
    day: date
    sources: list[tuple[int, str]]
    files: list[ServedFile]


def finished_days(manifest: Manifest) -> list[FinishedDay]:
    """Return the finished days of sources of purpose `live` and `replay`, sorted by product and day."""
    unfinished = {
        (each.source_id, each.product_id, to_datetime(time).date())
        for each in manifest.open_streams
        for time in each.open_times
    }
    by_day: dict[tuple[str, date], list[ServedFile]] = {}
    for key, files in manifest.files_by_key().items():
        if key.product_id is not None and key.day is not None:
            by_day.setdefault((key.product_id, key.day), []).extend(files)
    found = []
    for (product_id, day), files in sorted(by_day.items()):
        sources = dict.fromkeys(
            (file.generation, source_id)
            for file in files
            for source_id, purpose in file.sources.items()
            if purpose != "drill"
            and not (file.generation == manifest.generation and (source_id, product_id, day) in unfinished)
        )
        if sources:
            found.append(FinishedDay(product_id, day, list(sources), files))
    return found


def are_staged(lake: Lake, product_id: str, day: date, files: Sequence[ServedFile]) -> bool:
    """Return whether the trades of all sources of a product-day are staged, drills apart.

    Args:
        files: all files of the product-day.
    """
    names = {
        _source_name(file.generation, source_id)
        for file in files
        for source_id, purpose in file.sources.items()
        if purpose != "drill"
    }
    return names <= {name for notes, _ in _staged(lake, product_id, day) for name in notes.sources}


def stage_finished(lake: Lake) -> list[Staged]:
    """Stage the trades of all finished days; return the product-days whose trades changed.

    Sources staged before are not read again. The first staged source wins where two sources disagree on a trade.

    Raises:
        ValueError: a file of the lake is damaged.
        OSError: the lake cannot be written.
    """
    changed: dict[tuple[str, date], Staged] = {}
    with lake.batch(in_part=True) as batch:
        for finished in finished_days(read_manifest(lake, TRADES)):
            staged_before = _staged(batch, finished.product_id, finished.day)
            known = {source for notes, _ in staged_before for source in notes.sources}
            for generation, source_id in finished.sources:
                name = _source_name(generation, source_id)
                if name in known:
                    continue
                for trades in _passages(_taken_trades(batch, finished, generation, source_id)):
                    if (staged := _add(batch, finished.product_id, finished.day, name, trades)) is not None:
                        changed[staged.product_id, staged.day] = staged
    return list(changed.values())


def _source_name(generation: int, source_id: str) -> str:
    return source_id if generation == 0 else f"{source_id}, generation {generation}"


def _staged(lake: Lake, product_id: str, day: date) -> Iterator[tuple[StagedNotes, Partition]]:
    """Yield the staged tables of served trades of a product-day."""
    for staged in lake.partitions_on(RECORDINGS, product_id, day):
        if is_served(staged.table):
            yield staged.notes_as(StagedNotes), staged


def _taken_trades(lake: Lake, finished: FinishedDay, generation: int, source_id: str) -> Trades:
    """Return the trades of a source on a finished day that the forecaster took, in the order of the topic."""
    columns = columns_of(TRADES)
    schema = pa.schema([columns.field(name) for name in ("source_id", *STAGED.names, IS_TAKEN)])
    parts = [
        read_rows(lake.objects, file.path, schema, [("source_id", "==", source_id)])
        for file in finished.files
        if file.generation == generation and source_id in file.sources
    ]
    rows = pa.concat_tables(parts).drop_columns("source_id")
    side = column_of(side_numbers(rows["side"].to_pylist()), pa.int8())
    trades = trades_of(rows.set_column(STAGED.names.index("side"), "side", side), finished.product_id)
    if rows[IS_TAKEN].null_count:
        return trades.take(is_taken(Admission().judge(trades)))
    return trades.take(rows[IS_TAKEN].to_numpy())


def _passages(trades: Trades) -> Iterator[Trades]:
    """Yield trades whose ids rise and whose times do not fall: all trades but strays, or the passages of a stream."""
    while len(trades):
        status = judged(trades)
        yield trades.take(status == TAKEN)
        trades = trades.take((status == PASSED_ID) | (status == FALLEN_TIME))


def _add(lake: Lake, product_id: str, day: date, source: str, trades: Trades) -> Staged | None:
    """Add the trades of a source to the first table that agrees; return the table's day if its trades changed."""
    begin = start_ns(day)
    for number in count(1):
        name = served_name(number)
        table = recording_table(name)
        old = lake.partition(table, product_id, day)
        if old is None:
            joined, sources, before = trades, [source], ""
        else:
            known = RecordedTrades(name, True, trades_of(lake.read(table, product_id, day, STAGED.names), product_id))
            merged = merge([known, RecordedTrades(source, True, trades)], (begin, begin + DAY_S * NS),
                           SEEN_BY_NEIGHBOURS.gap_s)  # fmt: skip
            if merged.id_spaces > 1:
                continue
            sources = list(dict.fromkeys([*old.notes_as(StagedNotes).sources, source]))
            joined, before = merged.trades, old.content_hash
        notes = StagedNotes(name, True, sources=sources)
        made = lake.write(table, product_id, day, [staged_batch(joined, name)], TRADE_COLUMNS, notes)
        return Staged(product_id, day, made.rows, True) if made.content_hash != before else None
    raise AssertionError
