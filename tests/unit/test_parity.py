"""The certificate that the lake's rows equal the published rows; the certificate can fail."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.codec import encode, encode_features, encode_trades
from data.stream.reader import RecordBlock
from data.stream.records import FEATURES, TRADES, End
from data.times import NS, time_text, time_texts
from data.trades import StreamKey, Trades
from offline.checks.certificates import certified as kept_certificate
from offline.checks.certificates import keep_certificate
from offline.checks.parity import Certificate, certify, compare, find_published
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import ingest
from offline.days.trades import make_trades
from offline.lake.store import Lake
from offline.served.finished import stage_finished
from offline.served.sink import sink
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, rough_times, trades_at, without
from tests.served import FakeTopic

SPEC = FeatureSpec()
NO_BROKER = KafkaSettings()
HOUR = 3_600 * NS
NEXT = DAY + dt.timedelta(days=1)


def made(lake: Lake, product: str, *days: dt.date) -> None:
    for day in days:
        make_trades(lake, product, day)
        make_feature_rows(lake, product, day, SPEC)


def records(trades: Trades, source_id: str = "s", has_ended: bool = False) -> list[bytes]:
    """Return what the forecaster publishes for trades of one product."""
    (product,) = {key.product_id for key in trades.keys}
    key = StreamKey(source_id, product)
    rows = feature_rows(replace(trades, keys=(key,)), Windows(SPEC))
    place = np.zeros(len(rows.values), np.int64)
    found: list[bytes] = [*encode_features(rows, SPEC, {key: "replay"}, 0, place)]
    end = End(source_id, product, "replay", 1_741_478_400_000_000_000, True)
    return [*found, encode(end)] if has_ended else found


def certified(lake: Lake, day: dt.date, *batches: list[bytes], source_id: str | None = None) -> Certificate:
    return compare(lake, SPEC, "BTC-USD", day, find_published(batches, SPEC, "BTC-USD", day, source_id))


STREAM = trades_at(rough_times(MIDNIGHT + 12 * HOUR, MIDNIGHT + 40 * HOUR, 20))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """`STREAM` over two days."""
    folder = tmp_path_factory.mktemp("parity")
    lake = Lake.open(folder / "lake")
    ingest(lake, recorded(folder / "r.csv", STREAM))
    made(lake, "BTC-USD", DAY, NEXT)
    return lake


def of_day(day: dt.date) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    counted = np.maximum.accumulate(STREAM.event_time)
    return np.asarray((counted - MIDNIGHT) // DAY_NS == (day - DAY).days)


def test_a_certificate_counts_all_rows_of_the_day(lake: Lake) -> None:
    found = [certified(lake, day, records(STREAM, has_ended=True)) for day in (DAY, NEXT)]
    assert [each.equal for each in found] == [int(np.sum(of_day(day))) for day in (DAY, NEXT)]
    assert [(each.missing, each.extra, each.different, each.first_difference) for each in found] == [(0, 0, 0, "")] * 2
    assert all(each.holds and each.has_ended and each.lake_hash == each.published_hash for each in found)
    assert found[0].lake_hash != found[1].lake_hash
    assert not certified(lake, DAY, records(STREAM)).has_ended


@pytest.mark.parametrize("name", ["price", "n", "ret_std", "ewma_variance_3600", "relative_volume_300"])
def test_one_changed_value_is_found_and_named(lake: Lake, name: str) -> None:
    """The smallest change of a number, or one more return."""
    published = records(STREAM)
    at = int(np.flatnonzero(of_day(NEXT))[2_000])
    record = msgspec.json.decode(published[at] or b"")
    before = record[name]
    record[name] = before + 1 if name == "n" else float(np.nextafter(before, np.inf))
    published[at] = msgspec.json.encode(record)
    found = certified(lake, NEXT, published)
    assert (found.missing, found.extra, found.different) == (0, 0, 1)
    assert found.equal == np.sum(of_day(NEXT)) - 1
    assert found.lake_hash != found.published_hash
    assert not found.holds
    trade = f"trade {STREAM.trade_id[at]} at {time_text(record['event_time'])}"
    said = f"{trade}: {name} is {float(before)!r} in the lake and {float(record[name])!r} as published"
    assert found.first_difference == said
    assert certified(lake, DAY, published).holds


def test_a_value_that_is_missing_on_one_side_is_found(lake: Lake) -> None:
    published = records(STREAM)
    record = msgspec.json.decode(published[-1] or b"")
    published[-1] = msgspec.json.encode(record | {"ret_mean": None})
    found = certified(lake, NEXT, published)
    assert found.different == 1
    assert found.first_difference.endswith("in the lake and missing as published")


def test_rows_that_only_one_side_has_are_found(lake: Lake) -> None:
    """One row of the lake was never published; two published rows before it are missing in the lake."""
    published = records(STREAM)
    rows = np.flatnonzero(of_day(NEXT))
    gone = published.pop(int(rows[3_000]))
    record = msgspec.json.decode(published[int(rows[300])] or b"")
    more = [msgspec.json.encode(record | {"trade_id": record["trade_id"] + i}) for i in (1, 2)]
    published[int(rows[300]) + 1 : int(rows[300]) + 1] = more
    found = certified(lake, NEXT, published)
    assert (found.equal, found.missing, found.extra, found.different) == (len(rows) - 1, 1, 2, 0)
    assert (
        found.first_difference
        == f"trade {record['trade_id'] + 1} at {time_text(record['event_time'])} is not in the lake, or once more"
    )
    lost = msgspec.json.decode(gone or b"")
    only = certified(lake, NEXT, records(STREAM.take(STREAM.trade_id != lost["trade_id"]))[: int(rows[3_000])])
    assert only.missing == 0  # the source has not come so far
    without_more = [value for value in published if value not in more]
    found = certified(lake, NEXT, without_more)
    assert found.first_difference == f"trade {lost['trade_id']} at {time_text(lost['event_time'])} was not published"


class Topics:
    """In place of a broker: all records of a topic in one partition, a thousand at a time."""

    def __init__(self, values: dict[str, list[bytes]]) -> None:
        self._values = values

    def __enter__(self) -> Topics:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def partitions(self, topic: str) -> list[int]:
        return [0] if topic in self._values else []

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self._values[topic]) if partition == 0 else 0

    def read(self, topic: str, partition: int) -> Iterator[RecordBlock]:
        values = self._values[topic] if partition == 0 else []
        for at in range(0, len(values), 1_000):
            part = values[at : at + 1_000]
            yield RecordBlock(list(range(at, at + len(part))), part)


@pytest.mark.parametrize("has_ended", [True, False])
def test_rows_missing_at_the_end_of_a_source_are_found(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """The source read all but the last 500 trades; the last 20 of its rows were not published.

    While the source goes on, the rows may be on their way.
    """
    source = STREAM.take(slice(0, -500))
    published = [*records(source)[:-20], *records(source, has_ended=True)[-1 if has_ended else len(source) + 1 :]]
    key = StreamKey("s", "BTC-USD")
    again, late = source.take(slice(-30, -20)), replace(source.take(slice(-1, None)), event_time=source.event_time[:1])
    late = replace(late, trade_id=late.trade_id + 1)
    read = Trades.join([replace(part, keys=(key,)) for part in (source, again, late)])
    other = replace(STREAM, keys=(StreamKey("other", "BTC-USD"),))
    topics = Topics({FEATURES: published, TRADES: [*encode_trades(other, "replay"), *encode_trades(read, "replay")]})
    monkeypatch.setattr("offline.checks.parity.TopicReader", lambda _: topics)
    found = certify(lake, SPEC, "BTC-USD", NEXT, NO_BROKER)
    of_source = int(np.sum(of_day(NEXT)[:-500]))
    if not has_ended:
        assert (found.holds, found.has_ended, found.compared) == (True, False, of_source - 20)
        return
    assert (found.holds, found.missing, found.extra, found.different) == (False, 20, 0, 0)
    assert found.first_difference.startswith(f"trade {source.trade_id[-20]} at ")
    assert found.first_difference.endswith("was not published")
    assert (found.compared, found.rows_of_day) == (of_source, of_source + 500)
    times = np.array([STREAM.event_time[of_day(NEXT)][0], source.event_time[-1]])
    assert [found.covers_from[:19], found.covers_to[:19]] == [time[:19] for time in time_texts(times)]
    only_other = Topics({FEATURES: published, TRADES: [*encode_trades(other, "replay")]})  # its own have expired
    monkeypatch.setattr("offline.checks.parity.TopicReader", lambda _: only_other)
    assert certify(lake, SPEC, "BTC-USD", NEXT, NO_BROKER).compared == of_source - 20


def test_rows_missing_at_the_beginning_of_a_source_are_found(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while the topic has lost no record: expired rows are not missing."""
    key = StreamKey("s", "BTC-USD")
    topics = Topics(
        {
            FEATURES: records(STREAM, has_ended=True)[1_500:],
            TRADES: [*encode_trades(replace(STREAM, keys=(key,)), "replay")],
        }
    )
    monkeypatch.setattr("offline.checks.parity.TopicReader", lambda _: topics)
    found = certify(lake, SPEC, "BTC-USD", DAY, NO_BROKER)
    assert (found.holds, found.missing, found.extra, found.different) == (False, 1_500, 0, 0)
    assert found.first_difference.startswith(f"trade {STREAM.trade_id[0]} at ")
    monkeypatch.setattr(topics, "span", lambda *_: (1_500, 9_000))
    assert certify(lake, SPEC, "BTC-USD", DAY, NO_BROKER).holds


def test_a_row_that_was_published_twice_is_extra(lake: Lake) -> None:
    published = records(STREAM, has_ended=True)
    at = int(np.flatnonzero(of_day(NEXT))[2_000])
    record = msgspec.json.decode(published[at] or b"")
    for again in (record, record | {"price": 1.0}):
        found = certified(lake, NEXT, [*published[: at + 3], msgspec.json.encode(again), *published[at + 3 :]])
        assert (found.holds, found.missing, found.extra, found.different) == (False, 0, 1, 0)
        assert found.equal == np.sum(of_day(NEXT))
        assert found.first_difference.startswith(f"trade {STREAM.trade_id[at]} at ")


def test_rows_in_another_order_are_not_the_same(lake: Lake) -> None:
    published = records(STREAM)
    at = int(np.flatnonzero(of_day(NEXT))[2_000])
    published.insert(at + 10, published.pop(at))
    found = certified(lake, NEXT, published)
    assert found.equal == np.sum(of_day(NEXT))
    assert found.different == 0
    assert not found.holds


@pytest.mark.parametrize(("begins", "is_remade"), [(0, False), (1_000, True)])
def test_a_row_that_is_another_in_the_lake_is_found_wherever_the_source_begins(
    lake: Lake, tmp_path: Path, begins: int, is_remade: bool
) -> None:
    """Where the lake has trades before the source, the lake's row cannot be compared unchanged."""
    spoilt = Lake.open(shutil.copytree(Path(lake.partitions("feature_rows")[0].path).parents[2], tmp_path / "spoilt"))
    partition = spoilt.partition("feature_rows", "BTC-USD", DAY)
    assert partition is not None
    table = spoilt.read("feature_rows", "BTC-USD", DAY)
    values = table["ret_std"].to_numpy().copy()
    values[1_200] = np.nextafter(values[1_200], 1)
    column = table.schema.get_field_index("ret_std")
    table = table.set_column(column, table.schema.field(column), pa.chunked_array([values]))
    spoilt.write("feature_rows", "BTC-USD", DAY, table.to_batches(), table.schema, partition.notes)
    published = records(STREAM.take(slice(begins, None)), has_ended=True)
    assert certified(lake, DAY, published).holds
    found = certified(spoilt, DAY, published)
    assert (found.holds, found.missing, found.extra, found.different) == (False, 0, 0, 1)
    assert found.first_difference.startswith(f"trade {STREAM.trade_id[1_200]} at ")
    assert (found.remade > 0) is is_remade


@pytest.mark.parametrize("begins_h", [13, 20, 23.99, 24.5, 30])
def test_a_source_that_began_later_is_compared_as_it_saw(lake: Lake, begins_h: float) -> None:
    """The source begins on the day before, within reach of midnight or earlier, or on the day itself."""
    begins = int(np.searchsorted(np.maximum.accumulate(STREAM.event_time), MIDNIGHT + int(begins_h * HOUR)))
    found = certified(lake, NEXT, records(STREAM.take(slice(begins, None))))
    assert (found.holds, found.first_difference) == (True, "")
    assert found.equal == np.sum(of_day(NEXT)[begins:])
    # A row is remade if the source began less than 15,000 s before it: 51 trades can be as far apart.
    reach = STREAM.event_time[begins] + 15_000 * NS
    counted = np.maximum.accumulate(STREAM.event_time)[begins:]
    assert found.remade == int(np.sum(of_day(NEXT)[begins:] & (counted <= reach)))


def test_what_a_source_saw_is_still_checked_where_it_was_remade(lake: Lake) -> None:
    published = records(STREAM.take(slice(1_000, None)))
    record = msgspec.json.decode(published[100] or b"")
    published[100] = msgspec.json.encode(record | {"ret_mean": 0.5})
    found = certified(lake, DAY, published)
    assert (found.different, found.missing, found.extra) == (1, 0, 0)
    assert found.remade > 100


def test_a_source_whose_beginning_has_expired_is_compared_with_what_the_lake_has(lake: Lake) -> None:
    found = certified(lake, NEXT, records(STREAM)[5_000:])
    assert (found.holds, found.remade) == (True, 0)


def test_the_newest_source_is_taken_unless_one_is_named(lake: Lake) -> None:
    old, new = records(STREAM, "old", True), records(STREAM.take(of_day(NEXT)), "new")
    other_day = records(STREAM.take(of_day(DAY)), "other-day", True)
    assert certified(lake, NEXT, old, new, other_day).source_id == "new"
    assert certified(lake, NEXT, new[:10], old, new[10:], other_day).source_id == "old"
    assert certified(lake, NEXT, old, new, other_day, source_id="old").source_id == "old"
    assert certified(lake, NEXT, old[:7_000] + new + old[7_000:], source_id="old").holds


def test_without_ids_rows_are_told_apart_by_time_and_order(tmp_path: Path) -> None:
    """Two recordings without ids: the source numbers on, the lake numbers each recording from 1."""
    lake, half = Lake.open(tmp_path / "lake"), len(STREAM) // 2
    parts = [
        STREAM.take(slice(0, half)),
        without(STREAM.take(slice(half, None)), [(0, int(STREAM.event_time[half]) + NS)]),
    ]
    for name, part in zip("ab", parts, strict=True):
        texts = [f"{time},{price!r},{size!r}" for time, price, size in zip(
            time_texts(part.event_time), part.price.tolist(), part.size.tolist(), strict=True)]  # fmt: skip
        (tmp_path / name).write_text("timestamp,price,volume\n" + "\n".join(texts) + "\n")
        ingest(lake, tmp_path / name)
    made(lake, "BTC-USD", DAY, NEXT)
    joined = Trades.join(parts)
    numbered = replace(joined, trade_id=np.arange(1, len(joined) + 1))
    published = records(numbered)
    found = [certified(lake, day, published) for day in (DAY, NEXT)]
    assert [each.first_difference for each in found] == ["", ""]
    assert sum(each.equal for each in found) == len(joined)
    record = msgspec.json.decode(published[-7] or b"")
    published[-7] = msgspec.json.encode(record | {"ret_mean": 0.5})
    assert certified(lake, NEXT, published).different == 1
    counted = np.maximum.accumulate(numbered.event_time)
    alone = np.flatnonzero((np.diff(counted) > 0)[1_000:])[0] + 1_001  # no tie with the trade before it
    found_late = certified(lake, NEXT, records(numbered.take(slice(int(alone), None))))
    assert (found_late.holds, found_late.first_difference) == (True, "")


def test_nothing_to_compare_with_is_said(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    only_day = records(STREAM.take(of_day(DAY)), "s-1")
    with pytest.raises(
        ValueError, match=r"no rows of BTC-USD on 2025-03-06 \(UTC\), spec .*of the sources s-1; replay"
    ):
        certified(lake, NEXT, only_day)
    with pytest.raises(ValueError, match="the source s-2 has no rows of BTC-USD on 2025-03-05"):
        certified(lake, DAY, only_day, source_id="s-2")
    with pytest.raises(ValueError, match="the lake has no feature rows of ETH-USD on 2025-03-05"):
        certify(lake, SPEC, "ETH-USD", DAY, KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9"))
    monkeypatch.setattr("data.stream.reader.PATIENCE_S", 0.5)
    with pytest.raises(NotRead, match=r"no broker answers at 127\.0\.0\.1:9"):
        certify(lake, SPEC, "BTC-USD", DAY, KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9"))


def test_a_certificate_is_kept_until_rows_or_spec_change_or_a_comparison_fails(lake: Lake, tmp_path: Path) -> None:
    """The first day's certificate, then the second day's; the second fails; then the first day's rows change."""
    folder = tmp_path / "lake"
    shutil.copytree(lake.objects.where(""), folder)
    own = Lake.open(folder)
    assert kept_certificate(own, SPEC) == ""
    published = records(STREAM, has_ended=True)
    for day in (DAY, NEXT):
        keep_certificate(own, SPEC, certified(own, day, published))
        equal = int(np.sum(of_day(day)))
        assert kept_certificate(own, SPEC) == f"BTC-USD {day}: {equal:,} rows equal to those of source s"
    assert kept_certificate(own, FeatureSpec(window_size=20)) == ""
    keep_certificate(own, SPEC, certified(own, NEXT, [*published[:-300], *published[-100:]]))
    assert kept_certificate(own, SPEC).startswith(f"BTC-USD {DAY}")
    ingest(
        own, recorded(tmp_path / "late.csv", trades_at(rough_times(MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR, 20), seed=9))
    )
    made(own, "BTC-USD", DAY)
    assert kept_certificate(own, SPEC) == ""


REJECTED = 20
"""A stream starts anew with the 21st trade after a stray trade; the 20 trades before have no row."""
DENSE = trades_at(rough_times(MIDNIGHT + 21 * HOUR, MIDNIGHT + 27 * HOUR, 5))
"""20 rejects in this stream are no hole in time."""
BEFORE_MIDNIGHT = int(np.flatnonzero(np.maximum.accumulate(DENSE.event_time) >= MIDNIGHT + DAY_NS)[0]) - 40


def served_lake(folder: Path, trades: Trades) -> Lake:
    """Return a lake whose only trades are those of a source that has ended, taken from the topic."""
    lake = Lake.open(folder)
    named = replace(trades, keys=(StreamKey("s", "BTC-USD"),))
    end = encode(End("s", "BTC-USD", "replay", 9, end=True))
    topic = FakeTopic({0: [*encode_trades(named, "replay"), end]}, block=1_000)
    sink(lake, topic.reader, TRADES)
    staged = stage_finished(lake)
    made(lake, "BTC-USD", *sorted(each.day for each in staged))
    return lake


def moved(at: int, column: str, by: int) -> Trades:
    """Return `DENSE` with one id or one time moved."""
    values = getattr(DENSE, column).copy()
    values[at] += by
    return replace(DENSE, **{column: values})


@pytest.mark.parametrize("kind", ["event_time", "trade_id"])
@pytest.mark.parametrize("at", [1_000, BEFORE_MIDNIGHT])
@pytest.mark.parametrize("by", [HOUR, DAY_NS, 10 * DAY_NS])
def test_a_served_stream_that_started_anew_is_in_the_lake_as_published(
    tmp_path: Path, kind: str, at: int, by: int
) -> None:
    """One time or id is ahead, hours or minutes before midnight.

    Of the trades after the stray, 20 are rejected, and the 21st begins a segment. The stray has a row on its own day.
    """
    trades = moved(at, kind, by)
    lake = served_lake(tmp_path, trades)
    published = records(trades, has_ended=True)
    assert len(published) == len(trades) - REJECTED + 1
    found = [certified(lake, day, published) for day in (DAY, NEXT)]
    assert [(each.holds, each.first_difference) for each in found] == [(True, "")] * 2
    assert [each.missing + each.extra + each.different for each in found] == [0, 0]
    of_two_days = len(trades) - REJECTED - 1
    assert sum(each.equal for each in found) == of_two_days
    assert sum(each.strays for each in found) == (kind == "trade_id" or by < 10 * DAY_NS)
    assert sum(each.remade for each in found) > 100, "the rows after the restart know no older trade"
    ids = lake.read("trades", "BTC-USD", DAY)["trade_id"].to_pylist()
    ids += lake.read("trades", "BTC-USD", NEXT)["trade_id"].to_pylist()
    assert ids == np.delete(DENSE.trade_id, slice(at, at + REJECTED + 1)).tolist()


def test_a_day_is_not_finished_while_its_stream_may_come_back(tmp_path: Path) -> None:
    """The sink reads up to a stray trade of the next day and half of the rejects, and the rest later."""
    trades = replace(moved(1_000, "event_time", DAY_NS), keys=(StreamKey("s", "BTC-USD"),))
    lake, topic = Lake.open(tmp_path), FakeTopic({0: []}, block=1_000)
    values: list[bytes] = list(encode_trades(trades, "replay"))
    for begin, end in ((0, 1_001), (1_001, 1_011)):
        topic.records[0] += values[begin:end]
        sink(lake, topic.reader, TRADES)
        assert stage_finished(lake) == []
    topic.records[0] += [*values[1_011:], encode(End("s", "BTC-USD", "replay", 9, end=True))]
    sink(lake, topic.reader, TRADES)
    assert [each.day for each in stage_finished(lake)] == [DAY, NEXT]
    made(lake, "BTC-USD", DAY, NEXT)
    assert all(certified(lake, day, records(trades, has_ended=True)).holds for day in (DAY, NEXT))


def test_a_wrong_row_after_a_restart_is_found(tmp_path: Path) -> None:
    trades = moved(1_000, "event_time", DAY_NS)
    lake = served_lake(tmp_path, trades)
    published = records(trades, has_ended=True)
    record = msgspec.json.decode(published[1_010] or b"")
    published[1_010] = msgspec.json.encode(record | {"ret_mean": 0.5})
    found = certified(lake, DAY, published)
    assert (found.holds, found.different, found.missing, found.extra) == (False, 1, 0, 0)
    assert found.first_difference.startswith(f"trade {trades.trade_id[1_010 + REJECTED]} at ")


def test_a_served_stream_whose_ids_begin_anew_goes_on(tmp_path: Path) -> None:
    """The exchange counts from 1 again: two numberings in one stream, both in the lake, and parity by time."""
    ids = DENSE.trade_id.copy()
    ids[1_000:] = np.arange(1, len(ids) - 999)
    ids[:1_000] += 10**9
    trades = replace(DENSE, trade_id=ids)
    lake = served_lake(tmp_path, trades)
    published = records(trades, has_ended=True)
    found = [certified(lake, day, published) for day in (DAY, NEXT)]
    assert [(each.holds, each.first_difference, each.strays) for each in found] == [(True, "", 0)] * 2
    assert sum(each.equal for each in found) == len(trades) - REJECTED


def test_a_late_trade_behind_midnight_is_no_trade_of_the_next_day(tmp_path: Path) -> None:
    """The forecaster rejects a repetition of an old trade; a look at the next day alone would take the repetition."""
    begin = BEFORE_MIDNIGHT + 40
    repeated = DENSE.take(slice(100, 101))
    trades = Trades.join([DENSE.take(slice(0, begin)), repeated, DENSE.take(slice(begin, None))])
    lake = served_lake(tmp_path, trades)
    assert [certified(lake, day, records(trades, has_ended=True)).holds for day in (DAY, NEXT)] == [True, True]
    ids = [lake.read("trades", "BTC-USD", day)["trade_id"].to_pylist() for day in (DAY, NEXT)]
    assert ids[0] + ids[1] == DENSE.trade_id.tolist()
