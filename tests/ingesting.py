"""Take recordings into a lake, as the job `ingest` does: `python -m tests.ingesting LAKE FILE ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from offline.days.staging import ingest
from offline.lake.store import Lake


def main() -> None:
    """Print a line of JSON for each file: rows and rejects, or the error."""
    lake = Lake.open(sys.argv[1])
    for number, file in enumerate(sys.argv[2:]):
        try:
            found = ingest(lake, Path(file), "BTC-USDT", f"recording {number}")
        except ValueError as error:
            print(json.dumps({"error": str(error)}))
        else:
            rows, rejected = sum(each.rows for each in found.days), sum(found.rejects.values())
            print(json.dumps({"error": None, "rows": rows, "rejected": rejected}))


if __name__ == "__main__":
    main()
