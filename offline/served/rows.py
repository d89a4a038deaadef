"""The served rows of a product and a span of time as a frame, for notebooks and for drift reports."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute

from data.arrow import UTC
from data.times import to_ns
from offline.lake.store import Lake
from offline.served.columns import SERVED_TOPICS, columns_of
from offline.served.files import read_again, read_rows
from offline.served.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import pandas as pd


def served_rows(
    lake: Lake | str | Path,
    topic: str,
    product_id: str,
    begin: datetime,
    end: datetime,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the rows of a product on `features`, `predictions` or `coinbase-trades`, once each, in order of offsets.

    The columns are the fields of the topic's records (`python -m data.stream.records`); times are of pandas, UTC. The
    columns `generation`, `record_partition` and `record_offset` are the record's place on the topic. Rows of all
    sources and purposes are returned: choose by `source_id` and `purpose`.

    Args:
        lake: a lake, or its folder or URI.
        begin, end: aware; rows with begin <= event_time < end are returned.
        columns: names of the columns to return; None: all.

    Raises:
        ValueError: the topic or a column is unknown, a time is not aware, or the manifest is damaged.

    In a notebook::

        frame = served_rows("var/lake", "predictions", "BTC-USD",
                            datetime(2025, 1, 6, 13, tzinfo=UTC), datetime(2025, 1, 6, 14, tzinfo=UTC))
        frame.groupby(["model_variant", "version"], observed=True)["score"].mean()
    """
    if topic not in SERVED_TOPICS:
        raise ValueError(f"the topic must be one of {', '.join(SERVED_TOPICS)}, was {topic!r}")
    if begin.tzinfo is None or end.tzinfo is None:
        raise ValueError(f"begin and end must be aware, as datetime(2025, 1, 6, tzinfo=UTC), were {begin} and {end}")
    names = columns_of(topic).names if columns is None else list(columns)
    if unknown := set(names) - set(columns_of(topic).names):
        raise ValueError(
            f"{topic} has no column {', '.join(sorted(unknown))}; it has {', '.join(columns_of(topic).names)}"
        )
    store = lake if isinstance(lake, Lake) else Lake.open(lake)
    span = to_ns(begin), to_ns(end)
    return read_again(lambda: _read(store, read_manifest(store, topic), product_id, span, names)).to_pandas()


def _read(lake: Lake, manifest: Manifest, product_id: str, span: tuple[int, int], names: list[str]) -> pa.Table:
    begin, end = (pa.scalar(each, UTC) for each in span)
    filters = [("event_time", ">=", begin), ("event_time", "<", end)]
    files = [file for file in manifest.files if file.product_id == product_id]
    files = [file for file in files if file.end >= span[0] and file.begin < span[1]]
    place = ["generation", "record_partition", "record_offset"]
    wanted = [*place, *(name for name in names if name not in place)]
    schema = pa.schema([columns_of(manifest.topic).field(name) for name in wanted])
    parts = [read_rows(lake.objects, file.path, schema, filters) for file in files]
    table = pa.concat_tables([schema.empty_table(), *parts]).unify_dictionaries()
    # A file of a day may lie between the offsets of another day's file.
    table = table.sort_by([(name, "ascending") for name in place])
    return table.select(names)
