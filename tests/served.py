"""Topics in memory for the sink, and records of a market of seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast

import msgspec
import pytest

from data.features.spec import FeatureSpec
from data.stream.codec import encode
from data.stream.reader import RecordBlock, TopicReader
from data.stream.records import FEATURES, TRADES, End, Purpose, feature_type, prediction_type, record_types
from offline.lake.store import Lake
from offline.served.columns import IS_TAKEN, OTHERS, columns_of
from offline.served.files import read_rows
from offline.served.manifest import read_manifest

SPEC = FeatureSpec()
PRODUCT = "BTC-USD"


class FakeTopic:
    """A topic without a broker, with the methods of `TopicReader` that the sink calls.

    Attributes:
        records: by partition; None is a marker of a transaction, which no reader sees.
        low: by partition, the oldest offset.
    """

    def __init__(self, records: dict[int, list[bytes | None]], block: int = 3) -> None:
        self.records, self.low, self.id, self._block = records, dict.fromkeys(records, 0), "a", block

    @property
    def reader(self) -> TopicReader:
        return cast(TopicReader, self)

    def partitions(self, _: str) -> list[int]:
        return sorted(self.records)

    def topic_id(self, _: str) -> str:
        return self.id

    def span(self, _: str, partition: int) -> tuple[int, int]:
        return self.low[partition], len(self.records[partition])

    def read(self, _: str, partition: int, start: int, end: int) -> Iterator[RecordBlock]:
        kept = [(offset, value) for offset, value in self.kept(partition) if start <= offset < end]
        for first in range(0, len(kept), self._block):
            offsets, values = zip(*kept[first : first + self._block], strict=True)
            yield RecordBlock(list(offsets), list(values))

    def kept(self, partition: int) -> list[tuple[int, bytes]]:
        """Return offsets and values of a partition's records."""
        values = enumerate(self.records[partition])
        return [(offset, value) for offset, value in values if value is not None and offset >= self.low[partition]]

    def all(self) -> dict[tuple[int, int], bytes]:
        """Return all records by partition and offset."""
        return {(partition, offset): value for partition in self.records for offset, value in self.kept(partition)}


def record(
    topic: str, trade_id: int, event_time: int, source_id: str = "one", purpose: Purpose = "replay", **more: Any
) -> bytes:
    """Return a record of a topic; its price is the trade id."""
    fields: dict[str, Any] = {
        "source_id": source_id,
        "product_id": PRODUCT,
        "purpose": purpose,
        "trade_id": trade_id,
        "event_time": event_time,
        "ingest_time": event_time + 5,
        "price": float(trade_id),
        **more,
    }
    if topic == TRADES:
        return encode({"size": 0.5, "side": "sell"} | fields)
    columns: dict[str, Any] = dict.fromkeys(SPEC.columns, 0.25) | {"n": 7, "ret_std": None}
    fields = {"kafka_partition": 3, "kafka_offset": 2**40, "spec_id": SPEC.spec_id} | columns | fields
    if topic == FEATURES:
        return encode(feature_type(SPEC)(**fields))
    forecast = {"ts": 9, "horizon_s": 60, "score": 1e-4, "interval": (5e-5, 2e-4), "model_variant": "ml"}
    forecast |= {"version": "7", "digest": "ab", "in_sample": False, "missing": ["ret_std", "x"]}
    shadow = [{"model_variant": "baseline", "version": "1", "score": 2e-4}]
    return encode(prediction_type(SPEC)(**(forecast | {"shadow": msgspec.convert(shadow, list[Any])} | fields)))


def end(source_id: str = "one", product_id: str = PRODUCT, purpose: Purpose = "replay") -> bytes:
    return encode(End(source_id, product_id, purpose, 9, end=True))


def records_of(lake: Lake, topic: str, generation: int = 0) -> dict[tuple[int, int], bytes]:
    """Return all records that the lake names, by partition and offset; fail on a record that is there twice."""
    found: dict[tuple[int, int], bytes] = {}
    for file in read_manifest(lake, topic).files:
        if file.generation != generation:
            continue
        rows = read_rows(lake.objects, file.path, OTHERS if file.day is None else columns_of(topic))
        assert len(rows) == file.rows
        assert rows["record_offset"][0].as_py() == file.first
        assert rows["record_offset"][-1].as_py() == file.last
        for row in rows.to_pylist() if file.day is None else _as_records(rows, topic):
            place = row["record_partition"], row["record_offset"]
            assert place not in found
            found[place] = _normal(row["value"], topic)
    return found


def _as_records(rows: Any, topic: str) -> Iterator[dict[str, Any]]:
    """Yield the place of each row, and the record that the row was."""
    times = [name for name in ("event_time", "ingest_time", "ts") if name in rows.schema.names]
    for name in times:
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast("int64"))
    for row in rows.to_pylist():
        place = {name: row.pop(name) for name in ("generation", "record_partition", "record_offset")}
        row.pop(IS_TAKEN, None)
        assert list(row) == [name for name in columns_of(topic).names[3:] if name != IS_TAKEN]
        yield place | {"value": encode(row)}


def normal(values: dict[tuple[int, int], bytes], topic: str) -> dict[tuple[int, int], bytes]:
    """Return records with all optional fields written."""
    return {place: _normal(value, topic) for place, value in values.items()}


def _normal(value: bytes, topic: str) -> bytes:
    """Return a record with all optional fields written; end records and rejects as they are."""
    try:
        return encode(msgspec.json.decode(value, type=record_types(SPEC)[topic]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return value


class Killed(BaseException):
    """Stands for a kill: no handler of the program runs for it but those of Python."""


STEPS = ("add", "put", "get", "delete")
"""Methods of a lake's objects: a kill may come at each call."""


def is_killed(lake: Lake, at: int, work: Callable[[], object], leave: Callable[[], None] = lambda: None) -> bool:
    """Do some work on a lake, with a kill in place of a step of the store; return False if the work ended before.

    Args:
        at: the step, from 1 on.
        leave: called by the kill, for what a killed step leaves behind.
    """
    steps = count(1)

    def dying(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            if next(steps) == at:
                leave()
                raise Killed
            return do(*arguments)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(lake.objects, name, dying(getattr(lake.objects, name)))
        try:
            work()
        except Killed:
            for path in lake.objects.paths():  # here the process lives on, so nobody could take over its lock
                if path.endswith("/lock.json"):
                    lake.objects.delete(path)
            return True
    return False
