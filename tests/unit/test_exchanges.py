"""Rows of two exchanges, or of two lengths of candles, are no single series; an index of pandas is a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.recordings.readers import read_bars, read_trades
from data.recordings.recognition import recognize
from data.trades import Reject, Trades

ROWS = 120


def trades_of_cryptofeed() -> pd.DataFrame:
    at = 1_735_689_600.25 + np.arange(ROWS)
    columns: dict[str, Any] = {"exchange": "COINBASE", "symbol": "BTC-USD", "side": "buy", "amount": 0.5}
    columns |= {"price": 100 + np.arange(ROWS) / 4, "id": np.arange(ROWS), "timestamp": at, "receipt_timestamp": at}
    return pd.DataFrame(columns)


def written(folder: Path, kind: str, table: pd.DataFrame, *, index: bool = False) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "csv":
        table.to_csv(path, index=index)
    elif kind == "json":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path, index=index)
    return path


def read(path: Path) -> tuple[Trades, list[Reject]]:
    batches = list(read_trades(path, product_id="BTC-USD"))
    return Trades.join([each.trades for each in batches]), [reject for each in batches for reject in each.rejects]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_trades_of_several_exchanges_are_refused(tmp_path: Path, kind: str) -> None:
    table = trades_of_cryptofeed()
    table.loc[5:, "exchange"] = "BINANCE"
    with pytest.raises(ValueError, match="the column 'exchange' tells: 'COINBASE', 'BINANCE'; write one file for each"):
        recognize(written(tmp_path, kind, table))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_later_row_of_another_exchange_is_rejected_with_its_reason(tmp_path: Path, kind: str) -> None:
    table = trades_of_cryptofeed()
    table.loc[100, "exchange"] = "BINANCE"
    trades, rejects = read(written(tmp_path, kind, table))
    assert trades.trade_id.tolist() == [i for i in range(ROWS) if i != 100]
    (reject,) = rejects
    assert reject.reason == (
        "exchange must be 'COINBASE', as in the first rows: write one file for each exchange; was 'BINANCE'"
    )


@pytest.mark.parametrize("name", ["venue", "Exchange", "exch"])
def test_any_column_of_exchanges_keeps_them_apart(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv"
    times = [f"2025-01-01T00:00:0{i}Z" for i in range(4)]
    path.write_text(f"timestamp,price,volume,{name}\n" + "".join(f"{time},1,1,kraken\n" for time in times))
    assert len(read(path)[0]) == 4
    assert recognize(path).unread == ()
    path.write_text(path.read_text().replace("03Z,1,1,kraken", "03Z,1,1,gemini"))
    with pytest.raises(ValueError, match=f"the column '{name}' tells: 'kraken', 'gemini'"):
        recognize(path)


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [("interval", "1m", "5m"), ("granularity", 60, 300), ("exchange", "kraken", "gemini")],
)
def test_candles_of_two_lengths_or_exchanges_are_refused(
    tmp_path: Path, column: str, first: object, second: object
) -> None:
    starts = pd.date_range("2025-01-01", periods=100, freq="1min").strftime("%Y-%m-%dT%H:%M:%SZ")
    table = pd.DataFrame({"time": starts, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0})
    table[column] = first
    (batch,) = read_bars(written(tmp_path, "csv", table))
    assert (len(batch.bars), batch.bars.step_s) == (100, 60)
    assert recognize(tmp_path / "rows.csv").unread == ()
    table.loc[99:, column] = second
    with pytest.raises(
        ValueError, match=f"the column '{column}' tells: '{first}' and '{second}'; write one file for each"
    ):
        recognize(written(tmp_path, "csv", table))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_nameless_index_of_times_is_the_time_of_trades(tmp_path: Path, kind: str) -> None:
    index = pd.date_range("2025-01-01", periods=100, freq="1s", tz="UTC")
    table = pd.DataFrame({"price": 100 + np.arange(100) / 8, "volume": 1.0}, index=index)
    trades, rejects = read(written(tmp_path, kind, table, index=True))
    assert rejects == []
    assert trades.event_time.tolist() == [1_735_689_600_000_000_000 + i * 1_000_000_000 for i in range(100)]
    assert trades.price.tolist() == [100 + i / 8 for i in range(100)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_nameless_index_of_times_is_the_start_of_candles(tmp_path: Path, kind: str) -> None:
    index = pd.date_range("2025-01-01", periods=100, freq="1min")
    table = pd.DataFrame({"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0}, index=index)
    (batch,) = read_bars(written(tmp_path, kind, table, index=True))
    assert batch.rejects == []
    assert batch.bars.event_time.tolist() == [1_735_689_660_000_000_000 + i * 60_000_000_000 for i in range(100)]


@pytest.mark.parametrize(
    "header", ["time,price,size", "datetime,price,amount", "ts,price,qty", "timestamp,price,quantity"]
)
def test_common_names_of_time_price_and_size_are_read(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n2025-01-01T00:00:00.5Z,99.5,0.25\n1735689601500,99.75,0.5\n")
    trades, rejects = read(path)
    assert rejects == []
    assert trades.event_time.tolist() == [1_735_689_600_500_000_000, 1_735_689_601_500_000_000]
    assert (trades.price.tolist(), trades.size.tolist()) == ([99.5, 99.75], [0.25, 0.5])
    assert set(trades.side.tolist()) == {0}


def test_candles_in_an_unknown_form_are_not_offered_as_trades(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Date,Price,Open,High,Low,Vol.,Change %\n2025-01-02,2,1,3,1,1.5K,1.0%\n")
    with pytest.raises(ValueError, match="has 'Open', 'High', 'Low', as candles or a ticker have") as refused:
        recognize(path)
    assert "--columns" not in str(refused.value)
