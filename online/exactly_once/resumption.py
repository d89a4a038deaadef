"""Read the published forecasts from which the adaptations of a stream are resumed after a start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from data.features.spec import FeatureSpec
from data.stream.codec import decode_records
from data.stream.published import newest_of, published, published_type, versions_of
from data.stream.reader import RecordBlock
from data.trades import StreamKey
from data.truth.adaptation import Published
from online.exactly_once.feature_stage import StreamTail

TOGETHER = 50_000
"""Streams whose trades lie up to this many offsets apart are read together."""

VISIBLE_S = 5.0
"""How long a start waits for the newest forecasts: the broker makes the offsets of a transaction visible at times some
milliseconds before its records."""
LOOK_AGAIN_S = 0.05

OFFSETS_OF_A_FORECAST = 2
"""Most offsets of a forecast on its topic, with the mark of its transaction, if no transaction was aborted."""
SPARE_OFFSETS = 100
"""Offsets behind the newest forecast, as of ends."""

ReadPredictions = Callable[[int, int, int | None], Iterable[RecordBlock]]
"""Called with (partition, time in ms, most), returns the records of `predictions` from the first record of the time on,
but at most the newest `most` offsets; None: all."""


class PublishedForecasts:
    """Find published forecasts of open streams."""

    def __init__(self, spec: FeatureSpec, read: ReadPredictions) -> None:
        self._spec, self._read = spec, read
        self._decode = msgspec.json.Decoder(published_type(spec)).decode

    def find(
        self, partition: int, tails: dict[StreamKey, StreamTail]
    ) -> tuple[list[tuple[StreamKey, str, Published]], int]:
        """Return the forecasts of each stream's tail, and the number of streams without their newest forecast.

        Forecasts of each model in the newest record of a stream, served or not, come with the model's digest. A stream
        without such forecasts, or with forecasts of an earlier release, is left out.
        """
        deadline = time.monotonic() + VISIBLE_S
        newest = max(tail.last for tail in tails.values())
        found: list[tuple[StreamKey, str, Published]] = []
        absent = 0
        for group in _groups(tails):
            while True:
                records = self._records(partition, group, newest)
                missing = [key for key, tail in group.items() if not _has_newest(records[key], tail)]
                if not missing or time.monotonic() > deadline:
                    break
                time.sleep(LOOK_AGAIN_S)
            absent += len(missing)
            for key, mine in records.items():
                for digest in versions_of(mine[-1]) if mine else ():
                    found.append((key, digest, published(newest_of(mine, digest), digest, self._spec)))
        return found, absent

    def _records(self, partition: int, group: dict[StreamKey, StreamTail], newest: int) -> dict[StreamKey, list[Any]]:
        """Read the forecasts of some streams, in order; a trade that was forecast again is left out.

        Args:
            newest: offset of the newest trade of all streams.
        """
        records: dict[tuple[str, str], list[Any]] = {key: [] for key in group}
        tails: dict[tuple[str, str], StreamTail] = dict(group.items())
        last = max(tail.last for tail in group.values())
        for forecasts in self._forecasts(partition, group, newest):
            for record in forecasts:
                tail = tails.get(key := (record.source_id, record.product_id))
                if tail is not None and tail.first <= record.kafka_offset <= tail.last:
                    mine = records[key]
                    if not mine or mine[-1].kafka_offset < record.kafka_offset:
                        mine.append(record)
            if any(mine and mine[-1].kafka_offset == last for mine in records.values()):
                break
        return {key: records[key] for key in group}

    def _forecasts(self, partition: int, group: dict[StreamKey, StreamTail], newest: int) -> Iterator[list[Any]]:
        """Yield the forecasts of a partition from the first one of a group on, or earlier ones, in blocks.

        Times alone can name a much earlier place: the mark of a transaction has the time of its writing, so after a lag
        the first marks are newer than many records behind them. So the end of the topic is tried first.
        """
        first = min(tail.first for tail in group.values())
        since_ms = min(tail.since_ms for tail in group.values())
        for most in (OFFSETS_OF_A_FORECAST * (newest - first + 1) + SPARE_OFFSETS, None):
            began = most is None
            for block in self._read(partition, since_ms, most):
                forecasts = decode_records(block.values, self._decode).records
                if not began and not (forecasts and forecasts[0].kafka_offset <= first):
                    break  # other offsets, as of aborted transactions, lie among the newest
                began = True
                yield forecasts
            if began:
                return


def _groups(tails: dict[StreamKey, StreamTail]) -> Iterator[dict[StreamKey, StreamTail]]:
    """Yield streams whose trades lie near each other, in the order of their offsets."""
    group: dict[StreamKey, StreamTail] = {}
    end = 0
    for key, tail in sorted(tails.items(), key=lambda item: item[1].first):
        if group and tail.first > end + TOGETHER:
            yield group
            group = {}
        group[key] = tail
        end = max(end, tail.last)
    if group:
        yield group


def _has_newest(records: list[Any], tail: StreamTail) -> bool:
    return bool(records) and records[-1].kafka_offset == tail.last
