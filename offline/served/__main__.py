"""Take new records of the topics into the lake, without Dagster: `python -m offline.served`."""

from __future__ import annotations

import argparse
import sys
import time

from data.names import NotRead
from data.settings import KafkaSettings
from offline.lake.store import Lake
from offline.served.columns import SERVED_TOPICS
from offline.served.compaction import compact
from offline.served.finished import stage_finished
from offline.served.kept.begins import keep_begins
from offline.served.retention import remove_old
from offline.served.sink import sink, topic_reader
from offline.settings import OfflineSettings


def main() -> int:
    """Take all topics, merge closed, stage finished and remove old days; return the exit code, 2 for a refusal."""
    argparse.ArgumentParser(prog="python -m offline.served", description=main.__doc__).parse_args()
    settings = OfflineSettings()
    lake = Lake.open(settings.lake_uri)
    try:
        with topic_reader(KafkaSettings()) as reader:
            for topic in SERVED_TOPICS:
                done = sink(lake, reader, topic)
                merged = compact(lake, topic, time.time_ns())
                print(f"{topic}: {done.rows:,} rows, {done.ends} ends, {done.rejects} rejects and {done.lost} lost "
                      f"offsets are new; {merged} days were merged")  # fmt: skip
        keep_begins(lake, KafkaSettings())
        for day in stage_finished(lake):
            print(f"{day.product_id} {day.day}: {day.rows:,} trades for the table trades; `backfill` makes the rest")
        if (keep_days := settings.served_keep_days) is not None:
            for topic in SERVED_TOPICS:
                removed = remove_old(lake, topic, time.time_ns(), keep_days)
                print(f"{topic}: {removed:,} records older than {keep_days} days were removed")
    except (NotRead, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
