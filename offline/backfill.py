"""Feature rows in Parquet from recordings: `python -m offline.backfill RECORDING... --out FEATURES.parquet`.

The feature stage without Kafka: the same kernel over the same trades gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.arrow import UTC, batch_of, names_of
from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.files import replacing
from data.names import check_product_id
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.read_ahead import read_ahead
from data.recordings.readers import read_trades
from data.recordings.tally import Tally
from offline.lake.parquet import RowGroups

BAD_RECORDING = 2
"""Exit code for a recording that cannot be read."""

AHEAD = 16
"""Batches made ahead of the writer: enough that neither side waits for the other."""


def feature_schema(spec: FeatureSpec) -> pa.Schema:
    """Return the Parquet schema of feature rows, with the spec's id in the metadata."""
    columns = [(name, pa.int64() if name == "n" else pa.float64()) for name in spec.columns]
    key = [
        ("product_id", pa.dictionary(pa.int32(), pa.string())),
        ("trade_id", pa.int64()),
        ("event_time", UTC),
        ("price", pa.float64()),
    ]
    return pa.schema([*key, *columns], {"spec_id": spec.spec_id})


def feature_batch(rows: FeatureRows, spec: FeatureSpec) -> pa.RecordBatch:
    """Convert feature rows to columns of `feature_schema`; a missing feature is null."""
    trades, (n, *others) = rows.trades, np.ascontiguousarray(rows.values.T)
    products = names_of(trades.stream, [key.product_id for key in trades.keys])
    key = [products, trades.trade_id, trades.event_time, trades.price]
    return batch_of(feature_schema(spec), [*key, n.astype(np.int64), *others])


def main() -> int:
    """Write the feature rows of one source: recordings in the order of recording."""
    parser = argparse.ArgumentParser(prog="python -m offline.backfill", description=main.__doc__)
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING")
    parser.add_argument("--product", default="BTC-USD", help="product of recordings without a product; BTC-USD")
    parser.add_argument("--columns", default="", metavar="MAP", help="names of columns, as time=ts,price=px,size=qty")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a Parquet file")
    args = parser.parse_args()
    spec = FeatureSpec()
    try:
        check_product_id(args.product)
        found = backfill_files(args.recordings, args.out, spec, args.product, ColumnMap.parse(args.columns))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_RECORDING
    print(
        f"{args.out}: {found.taken:,} feature rows of spec {spec.spec_id}; "
        f"{found.rejected:,} rows of the recordings rejected"
    )
    if (warning := found.warning()) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def backfill_files(
    recordings: list[Path],
    out: Path,
    spec: FeatureSpec,
    product_id: str = "BTC-USD",
    columns: ColumnMap | None = None,
) -> Tally:
    """Write the feature rows of a source to a Parquet file, whole or not at all, and return the rows by outcome.

    Raises:
        ValueError: see `read_trades`.
    """
    windows, tally = Windows(spec), Tally()

    def made_rows() -> Generator[FeatureRows]:
        for batch in read_trades(recordings, product_id=product_id, columns=columns):
            tally.add(len(batch.trades), batch.rejects)
            yield feature_rows(batch.trades, windows)

    # A thread helps: the slow parts of both sides release the interpreter lock.
    with (
        read_ahead(made_rows(), AHEAD) as rows,
        replacing(out) as file,
        RowGroups(file, feature_schema(spec)) as groups,
    ):
        for some in rows:
            groups.write(feature_batch(some, spec))
    return tally


if __name__ == "__main__":
    sys.exit(main())
