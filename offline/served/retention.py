"""Remove old days of served records from the lake.

The `ingest_time` tells the age, so a replay of an old recording is new. A product-day is removed whole, when its newest
record is too old and nothing needs the day any more. End records and rejects, which have no day, stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import msgspec

from data.stream.records import TRADES
from data.times import DAY_S, NS
from offline.lake.store import Lake
from offline.served.finished import are_staged
from offline.served.manifest import Gone, Manifest, ServedFile, read_manifest, writing_manifest

READ_DAYS = timedelta(days=12)
"""Days of event time, up to the newest record of a product, that stay: a drift report may read so far back."""


def remove_old(lake: Lake, topic: str, now_ns: int, keep_days: int, *, feeds_trades: bool = True) -> int:
    """Remove the product-days of a topic whose newest record is older than `keep_days`; return the number of records.

    The manifest is replaced first, and the files are removed then. After a kill in between, the next writer of the
    manifest removes the files.

    Args:
        now_ns: wall time, ns since 1970.
        feeds_trades: a day of `coinbase-trades` stays until its trades are staged for the table `trades`, see
            `offline.served.finished.stage_finished`.

    Raises:
        Occupied, ValueError, OSError: see `offline.served.sink.sink`.
    """
    if not removable(lake, read_manifest(lake, topic), now_ns, keep_days, feeds_trades=feeds_trades):
        return 0
    with writing_manifest(lake, topic) as writer:
        manifest = writer.manifest
        gone = removable(lake, manifest, now_ns, keep_days, feeds_trades=feeds_trades)
        paths, rows = {file.path for file in gone}, sum(file.rows for file in gone)
        files = [file for file in manifest.files if file.path not in paths]
        noted = with_gone(manifest.gone, gone)
        writer.publish(msgspec.structs.replace(manifest, files=files, removed=manifest.removed + rows, gone=noted))
    return rows


def with_gone(noted: Sequence[Gone], files: Sequence[ServedFile]) -> list[Gone]:
    """Return the notes on removed rows with the rows of some more files."""
    found = {(each.generation, each.partition, each.product_id): each for each in noted}
    for file in files:
        assert file.product_id is not None
        place = file.generation, file.partition, file.product_id
        before = found.get(place, Gone(*place, -1, 0))
        found[place] = Gone(*place, max(before.last, file.last), before.rows + file.rows)
    return list(found.values())


def removable(
    lake: Lake, manifest: Manifest, now_ns: int, keep_days: int, *, feeds_trades: bool = True
) -> list[ServedFile]:
    """Return the files of all product-days that can be removed, see `remove_old`."""
    products: dict[str, dict[date, list[ServedFile]]] = {}
    for file in manifest.files:
        if file.product_id is not None and file.day is not None:
            products.setdefault(file.product_id, {}).setdefault(file.day, []).append(file)
    oldest = now_ns - keep_days * DAY_S * NS
    gone: list[ServedFile] = []
    for product_id, days in products.items():
        last = _newest_day([file for files in days.values() for file in files])
        for day, files in days.items():
            is_old = all(file.ingest_time < oldest for file in files)
            is_read = last - READ_DAYS <= day <= last
            if (
                is_old
                and not is_read
                and (manifest.topic != TRADES or not feeds_trades or are_staged(lake, product_id, day, files))
            ):
                gone += files
    return gone


def _newest_day(files: Sequence[ServedFile]) -> date:
    """Return the day of the newest record of a product, drills apart if there are others."""
    newest = max(files, key=lambda file: (set(file.sources.values()) != {"drill"}, file.ingest_time, file.day))
    assert newest.day is not None
    return newest.day
