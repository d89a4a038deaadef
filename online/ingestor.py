"""Replay recordings onto the topic, at their pace: `python -m online.ingestor RECORDING...`."""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from data.names import Stopped, new_replay_id
from data.process.logs import configure_logs
from data.process.metrics import SIDE_BY_SIDE, serve_metrics
from data.process.running import REFUSED, end_if_set_back, until_stopped
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.read_ahead import read_ahead
from data.recordings.readers import Batch, read_trades
from data.recordings.tally import Tally
from data.stream.clients import UNUSED, idempotent_config, refusal
from data.stream.codec import encode, encode_trades
from data.stream.origin import difference, read_origin, write_origin
from data.stream.records import REJECTED, TRADES, End, Purpose, Rejected, partition_of
from data.times import NS, time_text
from data.trades import Floats, Reject, StreamKey, Trades
from online.metrics import IngestorMetrics
from online.replay.lease import SourceLease, SourceTaken
from online.replay.meter import ReplayMeter
from online.replay.pace import Pace, Speed, parse_speed
from online.replay.progress import ProgressUnknown, SourceProgress, find_progress
from online.replay.share import write_share
from online.settings import IngestorSettings

log = structlog.get_logger()

Delivery = Callable[[KafkaError | None, Message], None]

PIECE = 1_000
"""Most trades that are prepared at once, and most trades with the same `ingest_time`."""
AHEAD = 16
"""Pieces that are prepared before they are due."""
STAMP = b'"ingest_time":'
"""Key of a record's publishing time; its value is 0 before the publication. No name in a record can hold a quotation
mark."""
POLL_S = 0.02
"""Possible delay at the end of the client's wait; the clock's wait ends within 0.1 ms."""
SWITCH_S = 0.0005
"""Switch interval in seconds between the thread that reads ahead and the thread that sends; Python's default is
0.005."""

PROGRESS_S = 5.0
UNANSWERED = "stopped before the broker answered"
DELIVERY_TIMEOUT_S = 5.0
"""How long a stop waits for the broker."""


_partition_of = lru_cache(maxsize=1_024)(partition_of)


class _Piece(NamedTuple):
    """Hold some trades of a source, ready to be sent.

    Attributes:
        rejects: rejected rows before or among the trades.
        due: shape (n,), seconds after the first trade of the source.
        cut: by row, the full length in seconds of a shortened wait before the row.
        parts: of each record, the bytes before and after its `ingest_time`.
        shares: of the recordings, the shares before the first and after the last row, see `Batch.share`.
    """

    rejects: list[Reject]
    trades: Trades
    due: Floats
    cut: dict[int, float]
    parts: list[list[bytes]]
    shares: tuple[float, float]

    def share(self, sent: int) -> float:
        """Return the share of the recordings before row `sent`."""
        before, after = self.shares
        return before + (after - before) * sent / len(self.trades)


class BadRecording(ValueError):
    """A recording cannot be read further."""


class NotDelivered(RuntimeError):
    """The broker did not take all records."""


@dataclass(eq=False)
class Ingestor:
    """Write one source to the topic.

    Args:
        progress: of the source on the topics.
        may_write: asked before trades are sent; may raise.
        commit: commits an offset of the source's group, and does not wait.

    Attributes:
        delivered: number of trades that the broker has.
        rejected: number of rejected rows of the recordings.
    """

    _producer: Producer
    _metrics: IngestorMetrics
    _source_id: str
    _purpose: Purpose
    _progress: SourceProgress
    _may_write: Callable[[], bool]
    _running: Callable[[], bool]
    _commit: Callable[[TopicPartition], None] = lambda _: None
    delivered: int = 0
    rejected: int = 0
    _shift_ns: int | None = None
    _refused: KafkaError | None = None
    _noted: tuple[float, int] = -math.inf, 0  # time and `delivered` of the last note

    def __post_init__(self) -> None:
        self._products = set(self._progress.last)
        self._delivered_trades = self._metrics.messages_out.labels(TRADES)

    def replay(self, batches: Generator[Batch], speed: Speed, max_wait_s: float) -> bool:
        """Write the trades of all batches when due; return False if stopped before the end.

        Raises:
            NotDelivered: the broker refuses a record.
            BadRecording: a recording cannot be read further.
            ProgressUnknown: the trades of a product may have been removed.
            SourceTaken, Stopped: raised by `may_write`.
        """
        start: float | None = None
        told, told_delivered = time.monotonic(), 0
        meter = ReplayMeter(self._metrics, speed.factor, told)
        with read_ahead(self._pieces(batches, speed, max_wait_s), AHEAD, self._running) as pieces:
            for piece in pieces:
                for reject in piece.rejects:
                    self._metrics.rejects.labels("recording", self._purpose).inc(reject.rows)
                    self._reject(reject)
                trades = piece.trades
                if not len(trades):
                    meter.has_sent(piece.shares[1])
                    continue
                products = {key.product_id for key in trades.keys}
                if not products <= self._products or start is None:
                    meter.writes(products)
                self._products |= products
                start = time.monotonic() if start is None else start
                due = piece.due + start
                sent = 0
                while sent < len(trades):
                    if not self._running():
                        return False
                    self._check_refusal()
                    if not self._may_write():
                        self._producer.poll(POLL_S)
                        continue
                    now = time.monotonic()
                    ready = int(np.searchsorted(due, now, side="right"))
                    if ready > sent:
                        self._send(piece, slice(sent, ready))
                        if math.isfinite(speed.factor):
                            self._metrics.pacing_error.observe(time.monotonic() - due[sent:ready])
                        sent = ready
                        meter.has_sent(share := piece.share(sent))
                        self._note_share(share, now)
                    else:
                        if sent in piece.cut:
                            log.info("hole", would_wait_s=round(piece.cut.pop(sent), 1), waits_s=max_wait_s)
                        self._wait(due[sent] - now)
                    if now - told >= PROGRESS_S:
                        log.info(
                            "replaying",
                            trades=self.delivered,
                            rate=round((self.delivered - told_delivered) / (now - told)),
                            at=time_text(int(trades.event_time[sent - 1])) if sent else None,
                            behind_s=round(max(0.0, now - due[sent]), 3) if sent < len(trades) else 0.0,
                        )
                        meter.saw(trades.event_time[:sent])
                        meter.measure(now)
                        told, told_delivered = now, self.delivered
                meter.saw(trades.event_time)
        return self._running()

    def _pieces(self, batches: Generator[Batch], speed: Speed, max_wait_s: float) -> Generator[_Piece]:
        """Yield trades prepared before their due time: only the `ingest_time` is missing."""
        pace, share = Pace(speed.factor, max_wait_s), 0.0
        with closing(batches):
            for batch in batches:
                trades = self._still_to_send(batch.trades)
                if speed.now and len(trades):
                    trades = self._moved(trades)
                rejects, rows, shares = batch.rejects, max(1, len(trades)), (share, batch.share)
                share = batch.share
                for begin in range(0, rows, PIECE):
                    piece = trades.take(slice(begin, begin + PIECE))
                    due, cut = pace.due(piece.event_time)
                    parts = [value.split(STAMP + b"0", 1) for value in encode_trades(piece, self._purpose)]
                    part = np.interp((begin, min(begin + PIECE, rows)), (0, rows), shares)
                    yield _Piece(rejects, piece, due, cut, parts, (float(part[0]), float(part[1])))
                    rejects = []

    def _note_share(self, share: float, now: float) -> None:
        """Tell other processes the share that was sent, each `PROGRESS_S`, while the broker takes trades."""
        at, delivered = self._noted
        place = self._progress.noted_at
        if place is not None and now - at >= PROGRESS_S and self.delivered > delivered:
            self._commit(TopicPartition(place.topic, place.partition, place.offset, write_share(share)))
            self._noted = now, self.delivered

    def _wait(self, left_s: float) -> None:
        """Wait, for `left_s` or less: the client's wait handles deliveries, and the clock's wait is exact."""
        if left_s > POLL_S:
            self._producer.poll(min(left_s - POLL_S, 0.5))
        else:
            time.sleep(left_s)

    def end(self) -> None:
        """Write the end record of each product that has none."""
        while not self._may_write():
            self._producer.poll(POLL_S)
        for product_id in sorted(self._products - self._progress.ended):
            end = End(self._source_id, product_id, self._purpose, time.time_ns(), end=True)
            self._produce(TRADES, product_id, encode(end), self._on_record)

    def flush(self) -> None:
        """Wait until the broker has all records.

        Raises:
            NotDelivered: records are left `DELIVERY_TIMEOUT_S` after a stop, or the broker refuses a record.
        """
        while left := self._producer.flush(DELIVERY_TIMEOUT_S):
            log.warning("waiting for the broker", records=left)
            if not self._running():
                raise NotDelivered("the broker did not answer")
        self._check_refusal()

    def _check_refusal(self) -> None:
        if self._refused is not None:
            raise NotDelivered(f"the broker refuses what is sent: {refusal(self._refused, (TRADES, REJECTED))}")

    def _still_to_send(self, trades: Trades) -> Trades:
        """Set the source of trades, and leave out the trades that the topic already holds."""
        keys = tuple(StreamKey(self._source_id, key.product_id) for key in trades.keys)
        for key in keys:
            self._progress.check_known(key.product_id)
        trades = replace(trades, keys=keys)
        known = [self._progress.last.get(key.product_id, (-1, 0)) for key in keys]
        last_id = np.array([trade_id for trade_id, _ in known])[trades.stream]
        for row in np.flatnonzero(trades.trade_id == last_id)[:1]:
            self._shift_ns = known[trades.stream[row]][1] - int(trades.event_time[row])
        return trades.take(trades.trade_id > last_id)

    def _moved(self, trades: Trades) -> Trades:
        """Move event times by whole seconds, so that the source's first trade happens now; a resumed source keeps its
        shift."""
        if self._shift_ns is None:
            self._shift_ns = (time.time_ns() - int(trades.event_time[0])) // NS * NS
        return replace(trades, event_time=trades.event_time + self._shift_ns)

    def _send(self, piece: _Piece, rows: slice) -> None:
        now_ns = time.time_ns()
        now_ms, stamp = now_ns // 1_000_000, STAMP + b"%d" % now_ns
        products = [key.product_id for key in piece.trades.keys]
        for stream, parts in zip(piece.trades.stream[rows].tolist(), piece.parts[rows], strict=True):
            self._produce(TRADES, products[stream], stamp.join(parts), self._on_trade, now_ms)
        self._producer.poll(0)

    def _reject(self, reject: Reject) -> None:
        where = reject.where
        self.rejected += reject.rows
        if where in self._progress.rejected:
            return
        reason = reject.reason if not reject.last_line else f"{reject.reason} ({reject.rows:,} rows of these lines)"
        log.warning("rejected", where=where, reason=reason)
        record = Rejected("ingestor", where, reason, reject.text, self._source_id)
        self._produce(REJECTED, reject.file, encode(record), self._on_record)

    def _on_trade(self, error: KafkaError | None, message: Message) -> None:
        self._on_record(error, message)
        if error is None:
            self.delivered += 1
            self._delivered_trades.inc()

    def _on_record(self, error: KafkaError | None, _: Message) -> None:
        self._refused = self._refused or error

    def _produce(self, topic: str, key: str, value: bytes, on_delivery: Delivery, timestamp_ms: int = 0) -> None:
        # By number: after somebody added partitions to a topic, the client would move keys to other partitions.
        partition = _partition_of(key)
        while True:
            try:
                return self._producer.produce(
                    topic, value, key, partition, timestamp=timestamp_ms, on_delivery=on_delivery
                )
            except BufferError:  # the broker is slower, or away
                self._producer.poll(0.1)
                if not self._running():
                    raise NotDelivered("the broker did not answer") from None


def _batches(recordings: list[Path], product_id: str, columns: ColumnMap | None = None) -> Generator[Batch]:
    """Read the recordings of a source; raise `BadRecording` for an error of a recording, not of the program."""
    tally = Tally()
    try:
        for batch in read_trades(recordings, product_id=product_id, columns=columns):
            tally.add(len(batch.trades), batch.rejects)
            yield batch
    except ValueError as error:
        raise BadRecording(f"this recording cannot be read: {error}") from error
    if (warning := tally.warning()) is not None:
        log.warning(warning)


def run(recordings: list[Path], settings: IngestorSettings, running: Callable[[], bool], *, is_new: bool) -> int:
    """Replay one source, to its end or until stopped; return the exit code.

    Args:
        is_new: REPLAY_ID was made for this start.

    Raises:
        OSError: see `serve_metrics`.
    """
    is_new = is_new or settings.replay_id is None
    source_id = settings.replay_id or new_replay_id(datetime.now(UTC))
    metrics = IngestorMetrics()
    with serve_metrics(
        metrics.registry, settings.host, settings.ingestor_port, ports=SIDE_BY_SIDE, names=settings.host_names
    ) as port:
        log.info("ingestor", source_id=source_id, metrics_port=port)
        has_begun = False
        while True:
            lease = SourceLease(settings, source_id, running, is_new=is_new)
            try:
                with lease:
                    return _write_source(recordings, settings, source_id, lease, metrics, running, is_new=is_new)
            except SourceTaken as taken:
                if not lease.was_held:
                    log.error(str(taken), source_id=source_id)
                    return 1
                log.warning(f"{taken}; looking again", source_id=source_id)
                is_new, has_begun = False, True
            except Stopped:
                if has_begun:
                    log.error(
                        "stopped before the broker answered; start again with this id to go on", REPLAY_ID=source_id
                    )
                    return 1
                log.warning(f"{UNANSWERED}: nothing was sent", source_id=source_id)
                return 0
            except KafkaException as error:
                said = refusal(error.args[0], (TRADES, REJECTED), (lease.group, UNUSED))
                log.error(f"the broker refuses: {said}", source_id=source_id)
                return 1


def _write_source(
    recordings: list[Path],
    settings: IngestorSettings,
    source_id: str,
    lease: SourceLease,
    metrics: IngestorMetrics,
    running: Callable[[], bool],
    *,
    is_new: bool,
) -> int:
    """Write the trades that the topic does not hold yet; return the exit code.

    Raises:
        SourceTaken: the right to write the source is lost.
        Stopped: told to stop before the broker answered.
    """
    note = write_origin(recordings, settings.product_id, settings.replay_speed, settings.recording_columns)
    progress = find_progress(settings, source_id, running, lease, note, is_new=is_new)
    is_same = settings.ingestor_restarted and not _difference(progress.note, recordings, settings)
    if progress.is_finished and (is_new or is_same):  # a process before this one died after its last record
        log.info("replay ended", source_id=source_id, trades=0)
        return 0
    if progress.is_finished:
        log.error("this source has ended: leave REPLAY_ID empty, or choose a new one", source_id=source_id)
        return REFUSED
    if differs := _difference(progress.note, recordings, settings):
        log.error(f"this source cannot go on with these recordings: {differs}", source_id=source_id)
        return REFUSED
    speed = parse_speed(settings.replay_speed)
    end_on_stop = settings.replay_id is None if settings.replay_end_on_stop is None else settings.replay_end_on_stop
    # At a recorded pace each trade goes at once: its forecast comes 1.5 ms sooner, the broker is as busy as with 2 ms.
    producer = Producer(idempotent_config(settings, linger_ms=0 if math.isfinite(speed.factor) else 2))
    ingestor = Ingestor(
        producer, metrics, source_id, settings.purpose, progress, lease.check, running, lease.commit_soon
    )
    metrics.ready.set(1)
    names = [str(path) for path in recordings]
    resumes_after = progress.last or None
    log.info("replay", source_id=source_id, recordings=names, speed=settings.replay_speed, resumes_after=resumes_after)
    code = 0
    try:
        try:
            batches = _batches(recordings, settings.product_id, ColumnMap.parse(settings.recording_columns))
            whole = ingestor.replay(batches, speed, settings.max_wait_s)
        except (BadRecording, ProgressUnknown) as error:
            ingestor.flush()
            log.error(str(error), trades=ingestor.delivered)
            whole, code = isinstance(error, BadRecording), REFUSED
        if whole or (end_on_stop and code == 0):
            ingestor.flush()
            ingestor.end()
        ingestor.flush()
    except SourceTaken:
        producer.purge(in_flight=False)  # the records would come after the records of the new writer
        producer.flush(DELIVERY_TIMEOUT_S)
        raise
    except (NotDelivered, Stopped) as error:
        said = str(error) or UNANSWERED
        log.error(f"{said}; start again with this id to go on", REPLAY_ID=source_id, trades=ingestor.delivered)
        return 1
    log.info("replay ended" if whole else "replay stopped", source_id=source_id, trades=ingestor.delivered)
    return code


def _difference(note: str, recordings: list[Path], settings: IngestorSettings) -> str | None:
    """Return the reason why a begun source cannot go on with these recordings; None without a reason."""
    if not note:
        return None
    try:
        origin = read_origin(note)
    except ValueError:
        log.warning("the note of this source's recordings cannot be read: they are not compared")
        return None
    return difference(origin, recordings, settings.product_id, settings.replay_speed, settings.recording_columns)


def end_source(source_id: str, settings: IngestorSettings, running: Callable[[], bool]) -> int:
    """Write the end of a source whose ingestor is gone for good; return the exit code."""
    try:
        with SourceLease(settings, source_id, running) as lease:
            progress = find_progress(settings, source_id, running, lease, None)
            if progress.purpose is None or progress.is_finished:
                found = "has ended" if progress.is_finished else "has no trade on the topic"
                log.error(f"nothing to end: this source {found}", source_id=source_id)
                return REFUSED
            producer = Producer(idempotent_config(settings, linger_ms=0))
            ingestor = Ingestor(
                producer, IngestorMetrics(), source_id, progress.purpose, progress, lease.check, running
            )
            ingestor.end()
            ingestor.flush()
    except (NotDelivered, SourceTaken) as error:
        log.error(f"not ended: {error}", source_id=source_id)
        return 1
    except KafkaException as error:
        log.error(f"not ended: the broker refuses: {error.args[0].str()}", source_id=source_id)
        return 1
    except Stopped:
        log.error(f"not ended: {UNANSWERED}", source_id=source_id)
        return 1
    log.info("source ended", source_id=source_id, products=sorted(set(progress.last) - progress.ended))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay recorded trades as one source, or end a source.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", help="in the order of their trades")
    parser.add_argument("--end", metavar="SOURCE_ID", help="free the place of a source whose ingestor is gone for good")
    parser.add_argument(
        "--new", action="store_true", help="REPLAY_ID was made for this start: no topic can hold it yet"
    )
    arguments = parser.parse_args()
    if bool(arguments.recordings) == bool(arguments.end):
        parser.error("name either recordings to replay, or with --end a source to end")
    settings = IngestorSettings()
    configure_logs(settings)
    try:
        parse_speed(settings.replay_speed)
        ColumnMap.parse(settings.recording_columns)
    except ValueError as error:
        log.error(str(error))
        return REFUSED
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # lasting objects are not scanned again while a trade is due
    if arguments.end:
        return end_source(arguments.end, settings, until_stopped())
    end_if_set_back()
    return run(arguments.recordings, settings, until_stopped(), is_new=arguments.new)


if __name__ == "__main__":
    sys.exit(main())
