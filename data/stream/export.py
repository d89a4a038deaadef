"""Export a topic to a file: `python -m data.stream.export {trades,features,predictions} ... --out FILE`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from gzip import GzipFile
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from data.features.spec import FeatureSpec
from data.files import replacing
from data.names import NotRead, check_names, check_product_id
from data.recordings.dialects.base import OWN_COLUMNS
from data.settings import KafkaSettings
from data.stream.codec import decode_records
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PREDICTIONS, TIMES, TRADES, Shadow, record_types
from data.times import DAY_S, NS, start_ns, time_texts
from data.trades import StreamKey

BAD_REQUEST = 2
"""Exit code."""

PART_ROWS = 20_000
"""Rows in memory before a write to disk, over all products."""
GROUP_ROWS = 65_536
"""Approximate rows of a row group in Parquet."""
SOURCES_SHOWN = 20

_TYPES: Final[Mapping[str, pa.DataType]] = {
    **dict.fromkeys(TIMES, pa.timestamp("ns", "UTC")),
    **dict.fromkeys(("trade_id", "kafka_offset", "n", "horizon_s"), pa.int64()),
    **dict.fromkeys(("source_id", "product_id", "purpose", "side", "spec_id", "model_variant", "version", "digest"),
                    pa.string()),
    "kafka_partition": pa.int32(),
    "in_sample": pa.bool_(),
    "interval": pa.list_(pa.float64()),
    "missing": pa.list_(pa.string()),
}  # fmt: skip
"""Type of a column by name; a column without a type here is a number, or a list of shadows."""


class BadRequest(ValueError):
    """An export request cannot be fulfilled."""


@dataclass(frozen=True)
class ExportRequest:
    """The rows to take from a topic: rows of a source, or of a UTC day of event time; optionally of one product."""

    topic: str
    source_id: str | None
    day: date | None
    product_id: str | None

    def takes(self, record: Any) -> bool:
        if self.source_id is not None and record.source_id != self.source_id:
            return False
        if self.day is not None and not 0 <= record.event_time - start_ns(self.day) < DAY_S * NS:
            return False
        return self.product_id is None or record.product_id == self.product_id

    def __str__(self) -> str:
        what = f"of source {self.source_id}" if self.source_id is not None else f"of {self.day} (UTC, event time)"
        return what if self.product_id is None else f"{what}, {self.product_id}"


@dataclass
class ExportReport:
    """Counts of an export.

    Attributes:
        rows: exported rows, by product.
        sources: sources of the exported rows.
        others: the first `SOURCES_SHOWN` sources of the topic, in order of their first row.
        ended: streams that have an end record.
        unreadable: number of records that the topic may not hold.
    """

    rows: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)
    others: dict[str, None] = field(default_factory=dict)
    ended: set[StreamKey] = field(default_factory=set)
    unreadable: int = 0


def schema_of(record: type[Any]) -> pa.Schema:
    """Return the columns of a record type."""
    types = {"shadow": pa.list_(pa.struct(_fields(Shadow))), **_TYPES}
    return pa.schema(_fields(record, types))


def _fields(record: type[Any], types: Mapping[str, pa.DataType] = _TYPES) -> list[tuple[str, pa.DataType]]:
    return [(name, types.get(name, pa.float64())) for name in record.__struct_fields__]


class Parts:
    """Rows of each product on disk, in order of arrival: products arrive mixed, and are written sorted."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._waiting: dict[str, list[Any]] = {}
        self._count = 0
        self._files: dict[str, Path] = {}

    def add(self, record: Any) -> None:
        self._waiting.setdefault(record.product_id, []).append(record)
        self._count += 1
        if self._count >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Append the waiting rows to the file of their product; each batch is its own Arrow stream."""
        for product_id, records in self._waiting.items():
            path = self._files.setdefault(product_id, self._folder / str(len(self._files)))
            with path.open("ab") as file, pa.ipc.new_stream(file, self._schema) as writer:
                writer.write_batch(pa.RecordBatch.from_pylist(msgspec.to_builtins(records), self._schema))
        self._waiting, self._count = {}, 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows, sorted by product."""
        for _, path in sorted(self._files.items()):
            size = path.stat().st_size
            with path.open("rb") as file:
                while file.tell() < size:
                    with pa.ipc.open_stream(file) as reader:
                        yield from reader


def collect(values: Iterator[Sequence[bytes]], request: ExportRequest, parts: Parts) -> ExportReport:
    """Add the requested records of a topic to `parts`, and return the counts."""
    report = ExportReport()
    decode = msgspec.json.Decoder(record_types(FeatureSpec())[request.topic]).decode
    checked: set[StreamKey] = set()
    for batch in values:
        found = decode_records(batch, decode)
        report.unreadable += len(found.unreadable)
        report.ended.update(end.key for _, end in found.ends)
        for record in found.records:
            key = StreamKey(record.source_id, record.product_id)
            if len(report.others) < SOURCES_SHOWN:
                report.others[key.source_id] = None
            if not request.takes(record):
                continue
            if key not in checked:
                try:
                    check_names(key)
                except ValueError:
                    report.unreadable += 1
                    continue
                checked.add(key)
            report.rows[key.product_id] += 1
            report.sources.add(key.source_id)
            parts.add(record)
    parts.flush()
    return report


def read_topic(topic: str, settings: KafkaSettings) -> Iterator[list[bytes]]:
    """Read the committed values of a topic up to now, partition by partition.

    Raises:
        NotRead: the broker does not answer, or does not have the topic.
    """
    with TopicReader(settings) as reader:
        for partition in reader.partitions(topic):
            for block in reader.read(topic, partition):
                yield block.values


def _texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return columns for CSV: times in RFC 3339, nested values as JSON, unknown values empty."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, column in columns.items():
        if name in TIMES:
            columns[name] = pa.array(time_texts(column.cast(pa.int64()).to_numpy()))
        elif pa.types.is_list(column.type):
            columns[name] = pa.array([msgspec.json.encode(value).decode() for value in column.to_pylist()])
    return pa.RecordBatch.from_pydict(columns)


def _write_csv(file: BinaryIO | GzipFile, topic: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    # Trades are the project's own CSV, so that they can be replayed; none of its texts needs a quotation mark.
    names = list(OWN_COLUMNS) if topic == TRADES else schema.names
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none" if topic == TRADES else "needed")
    file.write(",".join(names).encode() + b"\n")
    for batch in batches:
        pyarrow.csv.write_csv(_texts(batch.select(names)), file, options)


def _write_parquet(file: BinaryIO | GzipFile, _: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    waiting: list[pa.RecordBatch] = []
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            waiting.append(batch)
            if sum(map(len, waiting)) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        writer.write_table(pa.Table.from_batches(waiting, schema))


_WRITERS: Final[Mapping[str, Callable[[BinaryIO | GzipFile, str, pa.Schema, Iterator[pa.RecordBatch]], None]]] = {
    ".csv": _write_csv,
    ".csv.gz": _write_csv,
    ".parquet": _write_parquet,
}


def export(request: ExportRequest, out: Path, values: Callable[[], Iterator[Sequence[bytes]]]) -> ExportReport:
    """Write the requested rows to a file, sorted by product, then in order of the topic.

    The file appears whole or not at all.

    Args:
        values: reads the records of the topic.

    Raises:
        BadRequest: the topic has no requested row, or the file cannot be written.
    """
    write = next((writer for ending, writer in _WRITERS.items() if out.name.endswith(ending)), None)
    if write is None:
        raise BadRequest(f"--out must end in {', '.join(_WRITERS)}, was {out}")
    schema = schema_of(record_types(FeatureSpec())[request.topic])
    with ExitStack() as cleanup:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.is_dir():
                raise IsADirectoryError(21, "it is a directory")
            # Beside the file, because the disk must have room for the file anyway.
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent))
            parts = Parts(Path(folder), schema)
            report = collect(values(), request, parts)
            if not report.rows:
                raise BadRequest(_no_rows_message(request, report))
            file = cleanup.enter_context(replacing(out))
            write(file, request.topic, schema, parts.batches())
        except OSError as error:
            raise BadRequest(f"{out} cannot be written ({error.strerror}): choose another path with --out") from error
    return report


def _no_rows_message(request: ExportRequest, report: ExportReport) -> str:
    if not report.others:
        return f"{request.topic} holds no rows at all: replay a recording first, as `make run RECORDING=trades.csv`"
    known = ", ".join(report.others) + (", ..." if len(report.others) == SOURCES_SHOWN else "")
    return f"{request.topic} has no rows {request}; it has rows of the sources {known}"


def _arguments() -> tuple[ExportRequest, Path]:
    parser = argparse.ArgumentParser(
        prog="python -m data.stream.export",
        description="Write the rows of a topic to a file, sorted by product, then in order of the topic.",
        epilog="The broker is KAFKA_BOOTSTRAP_SERVERS, 127.0.0.1:9092 where that is not set.",
    )
    topics = {"trades": TRADES, "features": FEATURES, "predictions": PREDICTIONS}
    parser.add_argument("what", choices=topics)
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--source", metavar="ID", help="all rows of this source")
    rows.add_argument(
        "--day", type=date.fromisoformat, metavar="YYYY-MM-DD", help="all rows of this UTC day of event time"
    )
    parser.add_argument("--product", help="of this product only, as BTC-USD")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"ends in {', '.join(_WRITERS)}")
    args = parser.parse_args()
    if args.product is not None:
        try:
            check_product_id(args.product)
        except ValueError as error:
            parser.error(str(error))
    return ExportRequest(topics[args.what], args.source, args.day, args.product), args.out


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def main() -> int:
    """Write the rows of a topic to a file."""
    request, out = _arguments()
    try:
        report = export(request, out, lambda: read_topic(request.topic, KafkaSettings()))
    except (BadRequest, NotRead) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_REQUEST
    for product_id, rows in sorted(report.rows.items()):
        print(f"{product_id}: {rows:,} rows")
    print(f"{out}: {report.rows.total():,} rows {request}")
    if report.unreadable:
        _warn(f"{report.unreadable:,} records of {request.topic} could not be read and are left out")
    if request.source_id is not None and any(StreamKey(request.source_id, p) not in report.ended for p in report.rows):
        _warn("the source has not ended: these are its rows so far")
    if request.topic == TRADES and len(report.sources) > 1:
        _warn(f"these are trades of {len(report.sources)} sources, and a replay takes one: export each by --source")
    return 0


if __name__ == "__main__":
    sys.exit(main())
