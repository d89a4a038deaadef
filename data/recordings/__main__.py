"""Summarize recordings: `python -m data.recordings FILE ...`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import structlog

from data.files import may_lose_its_reader
from data.names import check_product_id
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.inspection.picture import draw
from data.recordings.inspection.summary import as_json, as_text, inspect

BAD_RECORDING = 2
"""Exit code."""


def main() -> int:
    """Summarize recordings: dialect, products, rows, times, holes, rejects."""
    parser = argparse.ArgumentParser(prog="python -m data.recordings", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="trades or bars of any dialect")
    parser.add_argument("--json", action="store_true", help="one JSON array, an object a file")
    parser.add_argument("--product", default="BTC-USD", help="of trades in files that name none; default BTC-USD")
    parser.add_argument(
        "--columns", default="", metavar="MAP", help="names of columns, as time=ts,price=px,size=qty,side=taker,unit=ms"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PICTURE", help="draw price, trades a second and holes of one FILE"
    )
    args = parser.parse_args()
    # A summary is the only text on standard output.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if args.plot is not None and len(args.files) != 1:
        parser.error("--plot draws one recording")
    try:
        check_product_id(args.product)
        columns = ColumnMap.parse(args.columns)
    except ValueError as error:
        parser.error(str(error))
    found = []
    for path in args.files:
        found.append(inspect(path, args.product, columns))
        if not args.json:
            print(as_text(found[-1]), flush=True)
    if args.plot is not None and found[0].error is None:
        try:
            draw(found[0], args.plot, args.product, columns)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_RECORDING
    if args.json:
        print(json.dumps([as_json(inspection) for inspection in found], indent=2))
    return BAD_RECORDING if any(inspection.error is not None for inspection in found) else 0


if __name__ == "__main__":
    with may_lose_its_reader():
        sys.exit(main())
