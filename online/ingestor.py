"""Recordings onto the topic, at their pace: `python -m online.ingestor RECORDING...`."""

from __future__ import annotations

import argparse
import errno
import functools
import gc
import math
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from data.ahead import read_ahead
from data.origin import write_origin
from data.readers import Batch, read_trades
from data.topics import (
    PARTITIONS,
    REJECTED,
    TRADES,
    End,
    Purpose,
    Rejected,
    decode_records,
    decode_trades,
    encode,
    encode_trades,
)
from data.trades import NS, Floats, Reject, StreamKey, Trades, iso_times
from online.kafka import Stopped, idempotent_config, insist, read_range, reader_config, until_stopped
from online.logs import configure_logs
from online.metrics import Metrics, serve_metrics
from online.replay.pace import Pace, Speed, parse_speed
from online.settings import IngestorSettings, KafkaSettings

log = structlog.get_logger()

T = TypeVar("T")

PIECE = 1_000
"""Trades that are prepared at once; at most so many are written with one `ingest_time`."""
AHEAD = 16
"""Pieces that are prepared before they are due."""
STAMP_KEY, STAMP_LENGTH = b'"ingest_time":"', len("1970-01-01T00:00:00.000000000Z")
"""Where a record gets the time of its publishing: no name in it can hold a quotation mark."""
POLL_S = 0.02
"""The client's wait can end so much late; the clock's ends within 0.1 ms."""
SWITCH_S = 0.0005
"""How soon the thread that reads ahead makes way for the one that sends; by default it is 5 ms."""

PROGRESS_S = 5.0
DELIVERY_TIMEOUT_S = 5.0
"""How long a stop waits for the broker."""

BAD_RECORDING = NOTHING_TO_DO = 2
"""Exit code that no restart mends."""


@dataclass
class Place:
    """How far a source has come: what the topic holds of it.

    Attributes:
        last: last delivered trade id and its event time, ns, a product.
        ended: products with an end record.
        rejected: where the rows stood that are on `trades-rejected`.
        purpose: of its newest trade; None without any.
    """

    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    purpose: Purpose | None = None

    @property
    def is_finished(self) -> bool:
        return bool(self.ended) and self.ended >= set(self.last)


def find_place(settings: KafkaSettings, source_id: str, running: Callable[[], bool], note: str | None) -> Place:
    """Return how far a source has come, from the topic's end back to where the source began.

    A source's beginning is kept by the broker, as the committed offsets of a group of the source's own; a source that
    has none is new, and begins here.

    Args:
        note: what a new source is made of, kept with the first of these offsets. None: nothing is committed, and a
            source without a beginning is looked for in all that the topic holds.

    Raises:
        Stopped: told to stop before the broker answered.
    """
    reader = reader_config(settings)
    consumer = Consumer(reader | {"group.id": f"ingestor-{source_id}"})

    def insisting(ask: Callable[[float], T]) -> T:
        return insist(ask, running, settings.kafka_bootstrap_servers)

    try:
        topics = (TRADES, REJECTED)
        partitions = [TopicPartition(topic, partition) for topic in topics for partition in range(PARTITIONS)]
        starts = insisting(lambda timeout_s: consumer.committed(partitions, timeout=timeout_s))
        ends = {(p.topic, p.partition): insisting(functools.partial(_end_offset, consumer, p)) for p in partitions}
        if note is not None and all(start.offset < 0 for start in starts):
            here = [TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()]
            here[0] = TopicPartition(here[0].topic, here[0].partition, here[0].offset, note)
            insisting(lambda _: consumer.commit(offsets=here, asynchronous=False))
            return Place()
    finally:
        consumer.close()
    place = Place()
    mine = f'"source_id":"{source_id}"'.encode()
    decode_rejected = msgspec.json.Decoder(Rejected).decode
    for start in starts:
        end = ends[start.topic, start.partition]
        for stretch in read_range(reader, running, start.topic, start.partition, max(start.offset, 0), end):
            values = [value for value in stretch.values if mine in value]
            if start.topic == REJECTED:
                place.rejected.update(found.where for found in decode_records(values, decode_rejected).records)
                continue
            found = decode_trades(values)
            for stream, trade_id, time_ns in zip(
                found.trades.stream.tolist(),
                found.trades.trade_id.tolist(),
                found.trades.event_time.tolist(),
                strict=True,
            ):
                place.last[found.trades.keys[stream].product_id] = trade_id, time_ns
            place.purpose = next(iter(found.purposes.values()), place.purpose)
            place.ended.update(end.product_id for _, end in found.ends)
    return place


def _end_offset(consumer: Consumer, place: TopicPartition, timeout_s: float) -> int:
    return int(consumer.get_watermark_offsets(place, timeout=timeout_s)[1])


class _Piece(NamedTuple):
    """Some trades of a source, ready to be sent.

    Attributes:
        rejects: rows that stood before or among them.
        due: shape (n,), seconds after the first trade of the source.
        cut: rows before which a wait was cut, with the seconds that it had been.
        before, after: of each record, what stands around its `ingest_time`.
    """

    rejects: list[Reject]
    trades: Trades
    due: Floats
    cut: dict[int, float]
    before: list[bytes]
    after: list[bytes]


class BadRecording(ValueError):
    """The recording cannot be read on."""


class NotDelivered(RuntimeError):
    """The broker did not take what was read before the process had to end."""


class Ingestor:
    """Writes one source to the topic.

    Args:
        source_id: of the source.
        place: what the topic already holds of it.
    """

    def __init__(
        self,
        producer: Producer,
        metrics: Metrics,
        source_id: str,
        purpose: Purpose,
        place: Place,
        running: Callable[[], bool],
    ) -> None:
        self._producer, self._metrics, self._running = producer, metrics, running
        self._source_id, self._purpose, self._place = source_id, purpose, place
        self._products = set(place.last)
        self._shift_ns: int | None = None
        self._refused: KafkaError | None = None
        self.sent = 0
        self.rejected = 0

    def replay(self, batches: Generator[Batch], speed: Speed, max_wait_s: float) -> bool:
        """Write the trades of all batches when they are due; False if it was stopped before the end."""
        start: float | None = None
        told, told_sent = time.monotonic(), 0
        with read_ahead(self._pieces(batches, speed, max_wait_s), AHEAD, self._running) as pieces:
            for piece in pieces:
                for reject in piece.rejects:
                    self._metrics.rejects.labels("recording").inc()
                    self._reject(reject)
                trades = piece.trades
                if not len(trades):
                    continue
                self._products.update(key.product_id for key in trades.keys)
                start = time.monotonic() if start is None else start
                due = piece.due + start
                sent = 0
                while sent < len(trades):
                    if not self._running():
                        return False
                    now = time.monotonic()
                    ready = int(np.searchsorted(due, now, side="right"))
                    if ready > sent:
                        self._send(piece, slice(sent, ready))
                        if math.isfinite(speed.factor):
                            self._metrics.pacing_error.observe(time.monotonic() - due[sent:ready])
                        sent = ready
                    else:
                        if sent in piece.cut:
                            log.info("hole", would_wait_s=round(piece.cut.pop(sent), 1), waits_s=max_wait_s)
                        self._wait(due[sent] - now)
                    if now - told >= PROGRESS_S:
                        log.info(
                            "replaying",
                            trades=self.sent,
                            rate=round((self.sent - told_sent) / (now - told)),
                            at=iso_times(trades.event_time[sent - 1 : sent])[0] if sent else None,
                            behind_s=round(max(0.0, now - due[sent]), 3) if sent < len(trades) else 0.0,
                        )
                        told, told_sent = now, self.sent
        return self._running()

    def _pieces(self, batches: Generator[Batch], speed: Speed, max_wait_s: float) -> Generator[_Piece]:
        """Do before a trade is due all that can be done: only its `ingest_time` is left."""
        pace = Pace(speed.factor, max_wait_s)
        with closing(batches):
            for batch in batches:
                trades = self._still_to_send(batch.trades)
                if speed.now and len(trades):
                    trades = self._moved(trades)
                rejects = batch.rejects
                for begin in range(0, max(1, len(trades)), PIECE):
                    piece = trades.take(slice(begin, begin + PIECE))
                    due, cut = pace.due(piece.event_time)
                    parts = [value.partition(STAMP_KEY) for value in encode_trades(piece, self._purpose)]
                    before = [head + key for head, key, _ in parts]
                    after = [tail[STAMP_LENGTH:] for *_, tail in parts]
                    yield _Piece(rejects, piece, due, cut, before, after)
                    rejects = []

    def _wait(self, left_s: float) -> None:
        """Wait, or a part of it: the client's own wait hears of deliveries, and the clock's is exact."""
        if left_s > POLL_S:
            self._producer.poll(min(left_s - POLL_S, 0.5))
        else:
            time.sleep(left_s)

    def end(self) -> None:
        """Say of each product that the source says no more."""
        for product_id in sorted(self._products - self._place.ended):
            end = End(self._source_id, product_id, self._purpose, iso_times(np.array([time.time_ns()]))[0], end=True)
            self._produce(TRADES, product_id, encode(end))

    def flush(self) -> None:
        """Wait until the broker has it all.

        Raises:
            NotDelivered: it does not within `DELIVERY_TIMEOUT_S` after a stop.
        """
        while left := self._producer.flush(DELIVERY_TIMEOUT_S):
            log.warning("waiting for the broker", trades=left)
            if not self._running():
                raise NotDelivered("the broker did not answer")
        if self._refused is not None:
            raise NotDelivered(f"the broker refused: {self._refused.str()}")

    def _still_to_send(self, trades: Trades) -> Trades:
        """Name the source, and leave out what the topic already holds."""
        keys = tuple(StreamKey(self._source_id, key.product_id) for key in trades.keys)
        trades = replace(trades, keys=keys)
        if not self._place.last:
            return trades
        known = [self._place.last.get(key.product_id, (-1, 0)) for key in keys]
        last_id = np.array([trade_id for trade_id, _ in known])[trades.stream]
        for row in np.flatnonzero(trades.trade_id == last_id)[:1]:
            self._shift_ns = known[trades.stream[row]][1] - int(trades.event_time[row])
        return trades.take(trades.trade_id > last_id)

    def _moved(self, trades: Trades) -> Trades:
        """Move times by whole seconds, so that the first trade of the source happens now; a resumed one goes on so."""
        if self._shift_ns is None:
            self._shift_ns = (time.time_ns() - int(trades.event_time[0])) // NS * NS
        return replace(trades, event_time=trades.event_time + self._shift_ns)

    def _send(self, piece: _Piece, rows: slice) -> None:
        now_ns = time.time_ns()
        now_ms = now_ns // 1_000_000
        stamp = iso_times(np.array([now_ns]))[0].encode()
        keys = piece.trades.keys
        for stream, before, after in zip(
            piece.trades.stream[rows].tolist(), piece.before[rows], piece.after[rows], strict=True
        ):
            self._produce(TRADES, keys[stream].product_id, before + stamp + after, now_ms)
        self._producer.poll(0)
        sent = rows.stop - rows.start
        self.sent += sent
        self._metrics.messages_out.labels(TRADES).inc(sent)

    def _reject(self, reject: Reject) -> None:
        where = f"{reject.file}:{reject.line}"
        self.rejected += 1
        if where in self._place.rejected:
            return
        log.warning("rejected", where=where, reason=reject.reason)
        record = Rejected("ingestor", where, reject.reason, reject.text, self._source_id)
        self._produce(REJECTED, reject.file, encode(record))

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and self._refused is None:
            self._refused = error

    def _produce(self, topic: str, key: str, value: bytes, timestamp_ms: int = 0) -> None:
        while True:
            try:
                return self._producer.produce(topic, value, key, timestamp=timestamp_ms, on_delivery=self._on_delivery)
            except BufferError:  # the broker is slower, or away
                self._producer.poll(0.1)
                if not self._running():
                    raise NotDelivered("the broker did not answer") from None


@contextmanager
def _next_free_port(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Serve metrics on the first free port from `port`: replays may run side by side."""
    for candidate in range(port, port + 100):
        try:
            with serve_metrics(metrics, host, candidate) as served:
                yield served
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(f"no port from {port} to {port + 99} is free for the ingestor's metrics")


def _batches(recordings: list[Path], product_id: str) -> Generator[Batch]:
    """Read a source, and tell what is wrong with a recording from what is wrong with the program."""
    try:
        yield from read_trades(recordings, product_id=product_id)
    except ValueError as error:
        raise BadRecording(str(error)) from error


def run(recordings: list[Path], settings: IngestorSettings, running: Callable[[], bool]) -> int:
    """Replay one source, to its end or until told to stop; return the exit code."""
    speed = parse_speed(settings.replay_speed)
    source_id = settings.replay_id or f"replay-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    names = [str(path) for path in recordings]
    try:
        note = write_origin(recordings, settings.product_id, settings.replay_speed)
        place = find_place(settings, source_id, running, note)
    except Stopped:
        log.warning("stopped before the broker answered: nothing was sent", source_id=source_id)
        return 0
    if place.is_finished:
        log.error("this source has ended: leave REPLAY_ID empty, or choose a new one", source_id=source_id)
        return BAD_RECORDING
    end_on_stop = settings.replay_id is None if settings.replay_end_on_stop is None else settings.replay_end_on_stop
    metrics = Metrics()
    # At a recorded pace each trade goes at once: its forecast comes 1.5 ms sooner, the broker is as busy as with 2 ms.
    producer = Producer(idempotent_config(settings, linger_ms=0 if math.isfinite(speed.factor) else 2))
    ingestor = Ingestor(producer, metrics, source_id, settings.purpose, place, running)
    with _next_free_port(metrics, settings.host, settings.ingestor_port) as port:
        metrics.ready.set(1)
        log.info(
            "replay",
            source_id=source_id,
            recordings=names,
            speed=settings.replay_speed,
            resumes_after=place.last or None,
            metrics_port=port,
        )
        code = 0
        try:
            batches = _batches(recordings, settings.product_id)
            try:
                whole = ingestor.replay(batches, speed, settings.max_wait_s)
            except BadRecording as error:
                log.error(f"this recording cannot be read: {error}", delivered=ingestor.sent)
                whole, code = True, BAD_RECORDING
            if whole or end_on_stop:
                ingestor.flush()
                ingestor.end()
            ingestor.flush()
        except NotDelivered as error:
            log.error(f"not all was delivered: {error}; start again with this id to go on", REPLAY_ID=source_id)
            return 1
        if whole and code == 0 and not ingestor.sent and not place.last:
            log.error(f"not one of {ingestor.rejected} rows is a trade; the reasons are above", recordings=names)
            return BAD_RECORDING
        log.info("replay ended" if whole else "replay stopped", source_id=source_id, trades=ingestor.sent)
    return code


def end_source(source_id: str, settings: IngestorSettings, running: Callable[[], bool]) -> int:
    """Say of a source whose ingestor is gone for good that it says no more; return the exit code."""
    try:
        place = find_place(settings, source_id, running, None)
        if place.purpose is None or place.is_finished:
            found = "has ended" if place.is_finished else "has no trade on the topic"
            log.error(f"nothing to end: this source {found}", source_id=source_id)
            return NOTHING_TO_DO
        producer = Producer(idempotent_config(settings, linger_ms=0))
        ingestor = Ingestor(producer, Metrics(), source_id, place.purpose, place, running)
        ingestor.end()
        ingestor.flush()
    except (Stopped, NotDelivered) as error:
        log.error(f"not ended: {error}", source_id=source_id)
        return 1
    log.info("source ended", source_id=source_id, products=sorted(set(place.last) - place.ended))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay recorded trades as one source, or end a source.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", help="in the order of their trades")
    parser.add_argument("--end", metavar="SOURCE_ID", help="free the place of a source whose ingestor is gone for good")
    arguments = parser.parse_args()
    if bool(arguments.recordings) == bool(arguments.end):
        parser.error("name either recordings to replay, or with --end a source to end")
    settings = IngestorSettings()
    configure_logs(settings)
    try:
        parse_speed(settings.replay_speed)
    except ValueError as error:
        log.error(str(error))
        return BAD_RECORDING
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # what stays is not looked through again while a trade is due
    if arguments.end:
        return end_source(arguments.end, settings, until_stopped())
    return run(arguments.recordings, settings, until_stopped())


if __name__ == "__main__":
    sys.exit(main())
