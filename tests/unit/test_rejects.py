"""Rejects on `trades-rejected`: listed, shown, repaired and planned for a replay. The broker is in test_rejects.py of
tests/services.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from data.stream.clients import MAX_REJECT, MAX_VALUE, Incoming
from data.stream.codec import encode
from data.stream.reader import RecordBlock, TopicReader
from data.stream.records import REJECTED, TRADES, End, Rejected, Trade
from data.trades import StreamKey
from online.exactly_once.loop import rejected
from online.rejects.choice import Choice
from online.rejects.kept import Kept, RejectsReader
from online.rejects.pages import count, list_document, list_page, reject_page
from online.rejects.repair import IS_END, ROW, UNREADABLE, BadRepair, read_repaired
from online.rejects.resend import REPLAYED, plan

TIME = 1_741_183_200_000_000_000
OF_AN_EARLIER_RELEASE = (
    b'{"stage":"forecaster","where":"coinbase-trades[3]@7","reason":"its source has ended","text":"{}",'
    b'"source_id":"replay-1","product_id":"BTC-USD"}'
)


def trade(trade_id: int, source_id: str = "replay-1", product_id: str = "BTC-USD", **more: Any) -> bytes:
    fields = {"source_id": source_id, "product_id": product_id, "purpose": "live", "trade_id": trade_id}
    return json.dumps(fields | {"event_time": TIME + trade_id, "ingest_time": TIME, "price": 1.5} | more).encode()


def refused(value: bytes, offset: int, reason: str, key: StreamKey | None = None) -> bytes:
    """Return the record that the forecaster writes for a refused record."""
    return rejected(Incoming(TRADES, 3, offset, value, 0), reason, key)[3]


class FakeTopic:
    """Stands in for `TopicReader`: partitions of `trades-rejected`, records a second apart."""

    def __init__(self, **partitions: list[bytes]) -> None:
        self._records = {int(name.removeprefix("p")): values for name, values in partitions.items()}

    def partitions(self, topic: str) -> list[int]:
        assert topic == REJECTED
        return sorted(self._records)

    def span(self, _: str, partition: int) -> tuple[int, int]:
        return 0, len(self._records[partition])

    def read(self, _: str, partition: int, *, end: int) -> Iterator[RecordBlock]:
        for at in range(0, end, 2):
            offsets = list(range(at, min(end, at + 2)))
            values = [self._records[partition][offset] for offset in offsets]
            yield RecordBlock(offsets, values, [1_000 * offset + partition for offset in offsets])


def kept_of(**partitions: list[bytes]) -> list[Kept]:
    return list(RejectsReader(cast(TopicReader, FakeTopic(**partitions))).read())


PASSED = "trade id was already taken or passed"
LATE = refused(trade(5), 40, PASSED, StreamKey("replay-1", "BTC-USD"))
NONSENSE = refused(b"\xffnonsense", 41, "JSON is malformed: invalid character (byte 0)")
ROW_OF_A_FILE = encode(Rejected("ingestor", "day.csv:7", "price must be a finite number above 0, was '-1'", "-1"))


def test_a_refused_record_is_kept_with_its_bytes_and_its_place() -> None:
    found = msgspec.json.decode(NONSENSE, type=Rejected)
    assert found.original == b"\xffnonsense"
    assert (found.topic, found.kafka_partition, found.kafka_offset) == (TRADES, 3, 41)
    assert found.where == "coinbase-trades[3]@41"
    assert json.loads(NONSENSE)["original"] == "/25vbnNlbnNl"  # base64, worked by hand with `base64`


def test_the_longest_reject_is_read_whole() -> None:
    """16,384 bytes that JSON escapes, and a reason as long as the forecaster lets one become."""
    assert len(refused(b"\x01" * MAX_VALUE, 2**40, "\x01" * 2_000)) <= MAX_REJECT


def test_a_reject_of_an_earlier_release_is_listed_and_shown() -> None:
    [kept] = kept_of(p3=[OF_AN_EARLIER_RELEASE])
    assert (kept.id, kept.reject.original, kept.replayed_as) == ("3@0", None, None)
    assert "reason      its source has ended" in list(reject_page(kept))
    assert any("earlier release" in line for line in reject_page(kept))


def test_an_earlier_release_reads_todays_rejects() -> None:
    class EarlierRejected(msgspec.Struct, frozen=True):
        stage: str
        where: str
        reason: str
        text: str
        source_id: str | None = None
        product_id: str | None = None

    found = msgspec.json.decode(LATE, type=EarlierRejected)
    assert (found.where, found.source_id) == ("coinbase-trades[3]@40", "replay-1")


def test_the_list_counts_reasons_without_their_values_and_shows_the_newest_first() -> None:
    other = refused(b"{", 42, "JSON is malformed: invalid character (byte 9)")
    reader = RejectsReader(cast(TopicReader, FakeTopic(p3=[LATE, NONSENSE, b"no reject", other], p4=[ROW_OF_A_FILE])))
    counts = count(reader.read(), most=2)
    assert counts.reasons == {
        PASSED: 1,
        "JSON is malformed: invalid character": 2,
        "price must be a finite number above 0": 1,
    }
    assert [kept.id for kept in counts.newest] == ["3@3", "3@1"]
    page = list(list_page(counts, reader.unreadable))
    assert page[:2] == [
        "4 rejects on trades-rejected, 0 of them replayed",
        "1 further records of trades-rejected are no rejects, and are left out",
    ]
    assert page[-1] == "... the newest 2 of 4; --newest shows more"
    assert list_document(counts, 1)["rejects"][0]["id"] == "3@3"


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        (Choice(), ["3@0", "3@1", "4@0"]),
        (Choice(reason="MALFORMED"), ["3@1"]),
        (Choice(product_id="BTC-USD"), ["3@0"]),
        (Choice(source_id="replay-1"), ["3@0"]),
        (Choice(since_ms=4, until_ms=1_003), ["4@0"]),
        (Choice(ids=frozenset(["coinbase-trades[3]@41", "4@0"])), ["3@1", "4@0"]),
        (Choice(is_of_replay=True), []),
    ],
)
def test_rejects_are_chosen_by_each_condition(choice: Choice, ids: list[str]) -> None:
    assert [kept.id for kept in kept_of(p3=[LATE, NONSENSE], p4=[ROW_OF_A_FILE]) if choice.takes(kept)] == ids


def test_no_byte_of_a_record_reaches_the_terminal_as_a_command() -> None:
    """A record with escapes of a terminal, as text and in names."""
    hostile = json.dumps({"source_id": "\x1b[2J", "product_id": "\u202e"}, ensure_ascii=False).encode()
    [kept] = kept_of(p0=[refused(hostile, 1, "\x1b]0;a reason\x07")])
    lines = [*reject_page(kept), *list_page(count([kept], 1), 0)]
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J" in line for line in lines)


def test_bytes_that_are_no_text_are_shown_in_hexadecimal() -> None:
    [_, kept] = kept_of(p3=[LATE, NONSENSE])
    assert list(reject_page(kept))[-2:] == [
        "record      9 bytes",
        "00000000  ff 6e 6f 6e 73 65 6e 73 65                       .nonsense",
    ]


def test_a_replay_makes_a_source_of_each_source_ordered_by_product_and_id() -> None:
    key = StreamKey("replay-1", "BTC-USD")
    values = [trade(9), trade(7), trade(8, product_id="ADA-USD"), trade(3, source_id="other", purpose="drill")]
    made = plan(kept_of(p3=[refused(value, i, PASSED, key) for i, value in enumerate(values[:3])]
                        + [refused(values[3], 3, PASSED, StreamKey("other", "BTC-USD"))]), "rejects-x", {})  # fmt: skip
    assert made.origins == {"rejects-x-1": "replay-1", "rejects-x-2": "other"}
    first, second = made.sources["rejects-x-1"], made.sources["rejects-x-2"]
    assert [(each.trade.product_id, each.trade.trade_id) for each in first] == [
        ("ADA-USD", 8),
        ("BTC-USD", 7),
        ("BTC-USD", 9),
    ]
    assert {each.trade.purpose for each in first} == {"replay"}
    assert [(each.trade.source_id, each.trade.purpose) for each in second] == [("rejects-x-2", "drill")]
    assert made.left_out == {}


def test_a_reject_with_a_receipt_is_not_sent_again() -> None:
    [kept] = kept_of(p3=[LATE])
    receipt = msgspec.structs.replace(kept.reject, original=None, replayed_as="rejects-x-1", reject_offset=0)
    [kept] = kept_of(p3=[LATE, encode(receipt)])
    assert kept.replayed_as == "rejects-x-1"
    made = plan([kept], "rejects-y", {})
    assert (made.trades, made.left_out) == (0, {REPLAYED: 1})


def test_what_gives_no_trade_is_left_out_with_the_reason() -> None:
    end = encode(End("replay-1", "BTC-USD", "replay", TIME, end=True))
    of_a_product = refused(trade(1, product_id="btcusd"), 2, "product_id must match")
    values = [NONSENSE, ROW_OF_A_FILE, refused(end, 1, "its source has ended"), of_a_product, OF_AN_EARLIER_RELEASE]
    made = plan(kept_of(p3=values), "rejects-x", {})
    assert (made.trades, made.left_out) == (0, {UNREADABLE: 2, ROW: 2, IS_END: 1})


def test_the_list_with_mended_trades_is_a_repaired_list(tmp_path: Path) -> None:
    """The price is mended; source, purpose and ingest time of the trade are those of the replay."""
    [kept] = kept_of(p3=[refused(trade(5, price=-1.0), 40, "Expected `float` > 0.0 - at `$.price`")])
    document = list_document(count([kept], 1), 0)
    assert document["rejects"][0]["trade"]["price"] == -1.0
    document["rejects"][0]["trade"]["price"] = 2.5
    path = tmp_path / "repaired.json"
    path.write_bytes(encode(document))
    made = plan([kept], "rejects-x", read_repaired(path))
    [[sent]] = made.sources.values()
    assert sent.trade == Trade("rejects-x-1", "BTC-USD", "replay", 5, TIME + 5, 0, 2.5)
    assert made.origins == {"rejects-x-1": "replay-1"}
    assert sent.kept.reject.original is None


def test_a_trade_that_is_still_none_is_refused_with_its_field() -> None:
    [kept] = kept_of(p3=[NONSENSE])
    with pytest.raises(BadRepair, match=r"trade of reject 3@0 cannot be sent: .* at `\$\.price`"):
        plan([kept], "rejects-x", {"3@0": json.loads(trade(1, price="1"))})
    with pytest.raises(BadRepair, match="product_id must match"):
        plan([kept], "rejects-x", {"3@0": json.loads(trade(1, product_id="btcusd"))})


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 5_000, b'{"rejects":[{"trade":{}}]}', b"\xff"])
def test_a_file_that_is_no_repaired_list_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "repaired.json"
    path.write_bytes(content)
    with pytest.raises(BadRepair, match=r"repaired.json is no list as of `list --json`"):
        read_repaired(path)
    with pytest.raises(BadRepair, match="cannot be read: No such file"):
        read_repaired(tmp_path / "missing.json")
