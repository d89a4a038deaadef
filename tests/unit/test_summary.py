"""Summaries of recordings equal counts by hand."""

from __future__ import annotations

import gzip
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.recordings.__main__ import main
from data.recordings.inspection import summary as inspection
from data.recordings.inspection.picture import PictureBins
from data.recordings.inspection.summary import HOLES_KEPT, as_json, as_text, inspect
from data.recordings.readers import read_trades
from data.recordings.tally import REASONS_KEPT

PLAIN = "timestamp,price,volume\n"
OWN = "product_id,trade_id,event_time,price,size,side\n"


def recording(folder: Path, content: str, name: str = "recording.csv") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_a_small_recording_counted_by_hand(tmp_path: Path) -> None:
    """Product B has 4 trades and 3 steps: a step of 0 s, a step of 2 s, and a hole of 400 s; so 4 trades in 2 s."""
    path = recording(
        tmp_path,
        OWN
        + "B-USD,1,2025-01-01T00:00:00Z,10,1,\n"
        + "A-USD,1,2025-01-01T00:00:00Z,7,1,\n"
        + "B-USD,2,2025-01-01T00:00:02Z,12.5,1,\n"
        + "B-USD,2,2025-01-01T00:00:02Z,9,1,\n"
        + "B-USD,3,2025-01-01T00:00:02Z,9.5,1,\n"
        + "B-USD,4,2025-01-01T00:06:42Z,11,1,\n"
        + "B-USD,5,2025-01-01T00:06:42Z,0,1,\n"
        + "B-USD,6,2025-01-01T00:06:42Z,-1,1,\n",
    )
    facts = as_json(inspect(path))
    a, b = facts.pop("products")
    assert b == {
        "product_id": "B-USD",
        "rows": 4,
        "first": "2025-01-01T00:00:00.000000000Z",
        "last": "2025-01-01T00:06:42.000000000Z",
        "span_s": 402.0,
        "rate_outside_holes": 2.0,
        "same_time_share": 1 / 3,
        "falling_time_share": 0.0,
        "missing_ids": 0,
        "price_low": 9.5,
        "price_high": 12.5,
        "holes": 1,
        "longest_holes": [
            {"seconds": 400.0, "after": "2025-01-01T00:00:02.000000000Z", "until": "2025-01-01T00:06:42.000000000Z"}
        ],
    }
    assert (a["rows"], a["rate_outside_holes"], a["same_time_share"], a["longest_holes"]) == (1, None, None, [])
    assert (facts["rows"], facts["rejected"], facts["skipped"], facts["error"]) == (5, 3, 0, None)
    assert (facts["holds"], facts["trade_ids"], facts["products_named"], facts["hole_s"]) == ("trades", True, True, 300)
    assert [(r["reason"], r["rows"], r["first_line"]) for r in facts["rejects"]] == [
        ("trade id was already taken or passed", 1, 5),
        ("price must be a finite number above 0", 2, 8),
    ]


def message(kind: str, trade_id: int, price: str = "9") -> str:
    return json.dumps(
        {"type": kind, "product_id": "A-USD", "trade_id": trade_id, "time": f"2025-01-01T00:00:{trade_id:02}Z",
         "price": price, "size": "1", "last_size": "1", "side": "buy"}
    ) + "\n"  # fmt: skip


def test_a_mixed_recording_names_the_messages_read_and_skipped(tmp_path: Path) -> None:
    """A ticker with a wrong price is read, and rejected; a line that is no message has no type."""
    content = message("ticker", 1) + message("match", 1) + message("last_match", 2) + "{\n" + message("ticker", 2)
    found = inspect(recording(tmp_path, content + message("heartbeat", 3) + message("ticker", 4, "0")))
    facts = as_json(found)
    assert (facts["rows"], facts["rejected"], facts["skipped"]) == (2, 2, 3)
    assert facts["read_types"] == {"ticker": 3}
    assert facts["skipped_types"] == {"match": 1, "last_match": 1, "heartbeat": 1}
    assert "  read messages: 3 ticker\n  skipped messages: 1 match, 1 last_match, 1 heartbeat\n" in as_text(found)


def test_messages_of_one_channel_are_counted_by_their_own_type(tmp_path: Path) -> None:
    matches = recording(tmp_path, message("last_match", 1) + message("match", 2) + message("match", 3))
    assert as_json(inspect(matches))["read_types"] == {"match": 2, "last_match": 1}
    tick = {"type": "ticker", "product_id": "A-USD", "price": "9"}
    frames = [
        {"channel": channel, "timestamp": f"2025-01-01T00:00:0{i}Z", "events": [{"tickers": [tick, tick]}]}
        for i, channel in enumerate(["ticker", "ticker_batch", "ticker_batch"])
    ]
    facts = as_json(inspect(recording(tmp_path, "".join(json.dumps(frame) + "\n" for frame in frames))))
    assert (facts["rows"], facts["read_types"]) == (6, {"ticker_batch": 2, "ticker": 1})


def test_a_table_with_types_of_messages_names_the_rows_read(tmp_path: Path) -> None:
    rows = "".join(f"{kind},A-USD,{i},2025-01-01T00:00:0{i}Z,9,1,buy\n" for i, kind in enumerate(["ticker", "x"], 1))
    table = recording(tmp_path, "type,product_id,trade_id,time,price,last_size,side\n" + rows)
    facts = as_json(inspect(table))
    assert (facts["read_types"], facts["skipped_types"]) == ({"ticker": 1}, {"x": 1})


def test_how_a_recording_is_cut_into_batches_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    times = np.datetime64("2025-01-01", "ms") + np.cumsum(rng.choice([0, 700, 301_000], 200, p=[0.5, 0.45, 0.05]))
    path = recording(tmp_path, PLAIN + "".join(f"{time}Z,{100 + i % 7},1\n" for i, time in enumerate(times)))
    whole = as_json(inspect(path))
    monkeypatch.setattr(inspection, "read_trades", partial(read_trades, batch_rows=3))
    assert as_json(inspect(path)) == whole
    (product,) = whole["products"]
    steps = np.diff(times) / np.timedelta64(1, "s")
    assert product["holes"] == int(np.sum(steps > 300)) > 0
    assert product["same_time_share"] == np.mean(steps == 0)
    assert product["rate_outside_holes"] == pytest.approx(200 / steps[steps < 300].sum())


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    """60 holes, and rows with 2 to 62 fields too many: 60 kinds of rejects."""
    rows = [
        f"2025-01-{1 + i // 24:02}T{i % 24:02}:00:00Z,1,1\n2025-01-01T00:00:00Z,1,1{',' * (i + 2)}\n" for i in range(61)
    ]
    found = inspect(recording(tmp_path, PLAIN + "".join(rows)))
    facts = as_json(found)
    (product,) = facts["products"]
    assert (product["holes"], len(product["longest_holes"])) == (60, HOLES_KEPT)
    assert (len(facts["rejects"]), facts["rejected"]) == (REASONS_KEPT + 1, 61)
    assert f"60 holes of more than 300 s, the longest {HOLES_KEPT} of each product" in as_text(found)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["inspect", *map(str, arguments)])
    return main()


def test_a_file_that_is_no_recording_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = recording(tmp_path, PLAIN + "2025-01-01T00:00:00Z,1,1\n")
    bad = recording(tmp_path, "Dear reader,\n", "letter.txt")
    assert run(monkeypatch, bad, good, "--product", "ETH-USD") == 2
    text = capsys.readouterr().out
    assert f"error: {bad}: holds no trades: it is a text without a known header" in text
    assert re.search(r"ETH-USD +1 +2025-01-01T00:00:00Z", text)
    assert "no product named, --product is taken" in text
    assert run(monkeypatch, good) == 0
    capsys.readouterr()
    assert run(monkeypatch, "--json", good, bad) == 2
    first, second = json.loads(capsys.readouterr().out)
    assert (first["rows"], first["error"]) == (1, None)
    assert (second["rows"], second["dialect"], second["error"][: len(str(bad))]) == (0, None, str(bad))


def test_rows_before_the_damage_are_in_the_summary(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv.gz"
    rows = "".join(f"2025-01-01T00:00:{second:02}Z,1,1\n" for second in range(60))
    path.write_bytes(gzip.compress((PLAIN + rows).encode(), compresslevel=0)[:1_000])
    facts = as_json(inspect(path))
    assert facts["rows"] == (1_000 - 15 - len(PLAIN)) // len("2025-01-01T00:00:00Z,1,1\n")
    assert "the gzip ends early after 38 whole rows" in facts["error"]


def test_a_product_must_be_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "any.csv", "--product", "btc")
    assert "named like BTC-USD" in capsys.readouterr().err


def test_candles_with_a_missing_minute(tmp_path: Path) -> None:
    header = "unix,date,symbol,open,high,low,close,volume btc,volume usd\n"
    rows = [f"{1735689600 + 60 * minute},x,BTC/USD,10,12,{9 - minute / 10},11,2,22\n" for minute in (3, 1, 0)]
    found = inspect(recording(tmp_path, header + "".join(rows)))
    (product,) = as_json(found)["products"]
    assert (product["rows"], product["missing_bars"], product["holes"]) == (3, 1, 1)
    assert (product["first"], product["price_low"]) == ("2025-01-01T00:01:00.000000000Z", 8.7)
    assert "1 hole of more than 60 s" in as_text(found)


EXCHANGE = "coinbase_exchange_ticker_btcusd_20251112-13.ndjson.gz"
TRADES = {
    "coinbase_trades_btcusd_20251117.csv": (4_337, 0, 0, "2025-11-17T23:33:18", "2025-11-17T23:43:17"),
    "coinbase_exchange_ticker_btcusd_20251112-13.ndjson.gz": (
        2_824,
        3,
        2,
        "2025-11-12T07:20:11",
        "2025-11-14T00:00:51",
    ),
    "coinbase_advanced_ws_btcusd_20260405.ndjson.gz": (5_970, 1, 0, "2026-04-05T22:35:13", "2026-04-05T22:55:13"),
    "coinbase_advanced_ticker_btcusd_20251108.ndjson": (223, 0, 0, "2025-11-08T15:12:31", "2025-11-08T15:13:14"),
}


@pytest.mark.parametrize("name", TRADES)
def test_shared_recordings_of_trades(shared: Path, name: str) -> None:
    rows, skipped, holes, first, last = TRADES[name]
    facts: dict[str, Any] = as_json(inspect(shared / name))
    (product,) = facts["products"]
    assert (facts["rows"], facts["skipped"], facts["rejected"], facts["error"]) == (rows, skipped, 0, None)
    assert (product["product_id"], product["holes"]) == ("BTC-USD", holes)
    assert (product["first"][:19], product["last"][:19]) == (first, last)


def test_shared_recordings_as_they_are_described(shared: Path) -> None:
    """7.2 trades/s; 43 % (42.5) and 56 % at the time of the trade before; holes of 35.3 and 5.4 h; a missing minute."""
    (plain,) = as_json(inspect(shared / "coinbase_trades_btcusd_20251117.csv"))["products"]
    assert round(plain["rate_outside_holes"], 1) == 7.2
    assert round(100 * plain["same_time_share"], 1) == 42.5
    (exchange,) = as_json(inspect(shared / EXCHANGE))["products"]
    assert round(100 * exchange["same_time_share"]) == 56
    assert [round(hole["seconds"] / 3_600, 1) for hole in exchange["longest_holes"]] == [35.3, 5.4]
    (candles,) = as_json(inspect(shared / "cryptodatadownload_coinbase_btcusd_1m_202011-12.csv.gz"))["products"]
    assert (candles["rows"], candles["missing_bars"]) == (27_950, 1)
    assert candles["longest_holes"][0]["after"] == "2020-11-24T21:09:00.000000000Z", "the end of minute 21:08"


def test_a_summary_counts_missing_ids_falling_times_and_the_last_rejected_line(tmp_path: Path) -> None:
    """Ids 1, 2, 5, 9: 2 and 3 ids are left out. One of the 3 steps in time falls, by half a second."""
    head = "source_id,product_id,trade_id,event_time,ingest_time,price,size,side\n"
    rows = [
        f"s,BTC-USD,{i},2025-01-01T00:00:{at}Z,,{price},1,\n"
        for i, at, price in [(1, "01", 1), (2, "02", 1), (3, "02", 0), (5, "01.5", 1), (6, "02", 0), (9, "03", 1)]
    ]
    found = inspect(recording(tmp_path, head + "".join(rows)))
    facts = as_json(found)
    (product,) = facts["products"]
    assert (product["rows"], product["missing_ids"], product["falling_time_share"]) == (4, 5, 1 / 3)
    assert [(r["rows"], r["first_line"], r["last_line"]) for r in facts["rejects"]] == [(2, 4, 6)]
    assert "warning: 33.3% of the rows are lost: 2 rows are rejected" in as_text(found)


def test_a_recording_without_a_trade_is_an_error_with_its_commonest_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path, PLAIN + "2025-01-01,1,1\n")
    monkeypatch.setattr("sys.argv", ["data.recordings", str(path)])
    assert main() == 2
    said = capsys.readouterr().out
    assert f"error: {path}: no row is a trade: 1 rows are rejected, reason: timestamp has no zone" in said
    assert f"first in {path}:2: 2025-01-01,1,1" in said


def test_a_picture_shows_each_trade_in_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trades at 0 s, 1 s and 1 h: two stand in the first of 1,500 intervals of 2.4 s, and one in the last."""
    rows = "2025-01-01T00:00:00Z,5,1\n2025-01-01T00:00:01Z,7,1\n2025-01-01T01:00:00Z,6,1\n"
    path = recording(tmp_path, PLAIN + rows)
    bins = PictureBins(inspect(path).products["BTC-USD"])
    for batch in read_trades(path):
        bins.add(batch.trades.event_time, batch.trades.price)
    assert bins.trades[[0, -1]].tolist() == [2, 1]
    assert (bins.low[0], bins.high[0], bins.high[-1], int(bins.trades.sum())) == (5, 7, 6, 3)
    picture = tmp_path / "picture.png"
    monkeypatch.setattr("sys.argv", ["data.recordings", str(path), "--plot", str(picture)])
    assert main() == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("data.recordings.inspection.picture.find_spec", lambda _: None)
    assert main() == 2
    assert "a picture needs matplotlib, which the group `offline` has" in capsys.readouterr().err
