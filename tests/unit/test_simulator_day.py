"""Simulated trades are a reproducible market, one day at a time."""

import datetime as dt
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from data.features.admission import TAKEN, Admission
from data.recordings.readers import read_trades
from data.simulator.__main__ import main
from data.simulator.day import IDS_A_DAY, simulate_day
from data.simulator.state import BUSIEST_HOUR, SCALE_SD, MarketShift, Streams, market_of, state_of
from data.simulator.truth import Truth, simulate_truth
from data.times import NS
from data.trades import Side, StreamKey, Trades

MONDAY = dt.date(2025, 1, 6)
MONDAY_NS = 20_094 * 86_400 * NS  # 55 years of 365 days, 14 leap days, 5 days
TICK = 0.01


@pytest.fixture(scope="module")
def monday() -> Trades:
    return simulate_day("BTC-USD", MONDAY)


def bytes_of(trades: Trades) -> list[bytes]:
    return [getattr(trades, field.name).tobytes() for field in fields(Trades) if field.name != "keys"]


def test_a_day_is_the_same_bytes_whatever_was_made_before(monday: Trades) -> None:
    simulate_day("ETH-USD", dt.date(2024, 2, 29), seed=7)
    assert bytes_of(simulate_day("BTC-USD", MONDAY)) == bytes_of(monday)


def test_seeds_days_and_products_differ(monday: Trades) -> None:
    others = [
        simulate_day("BTC-USD", MONDAY, seed=1),
        simulate_day("BTC-USD", MONDAY + dt.timedelta(days=1)),
        simulate_day("BCT-USD", MONDAY),
    ]
    for other in others:
        assert other.price[:1_000].tolist() != monday.price[:1_000].tolist()
        assert np.diff(other.event_time[:1_000]).tolist() != np.diff(monday.event_time[:1_000]).tolist()


def test_hours_are_cut_from_the_day(monday: Trades) -> None:
    hours = [simulate_day("BTC-USD", MONDAY, hours=cut) for cut in ((0, 1), (1, 23), (23, 24))]
    assert b"".join(part.price.tobytes() for part in hours) == monday.price.tobytes()
    assert hours[1].event_time[0] >= MONDAY_NS + 3_600 * NS > hours[0].event_time[-1]
    assert hours[2].event_time[0] >= MONDAY_NS + 23 * 3_600 * NS > hours[1].event_time[-1]


def test_columns_are_trades_of_that_day(monday: Trades) -> None:
    assert monday.keys == (StreamKey("", "BTC-USD"),)
    assert set(monday.stream.tolist()) == {0}
    assert monday.trade_id[0] == 20_094 * IDS_A_DAY
    assert set(np.diff(monday.trade_id).tolist()) == {1}
    assert monday.event_time[0] >= MONDAY_NS
    assert monday.event_time[-1] < MONDAY_NS + 86_400 * NS
    assert (np.diff(monday.event_time) >= 0).all()
    assert set(monday.ingest_time.tolist()) == {0}
    assert set(monday.side.tolist()) == {Side.BUY, Side.SELL}
    assert [getattr(monday, f.name).dtype.name for f in fields(Trades) if f.name != "keys"] == [
        "int32", "int64", "int64", "int64", "float64", "float64", "int8"
    ]  # fmt: skip
    assert (Admission().judge(monday) == TAKEN).all()


def test_prices_and_sizes_are_on_their_grids(monday: Trades) -> None:
    """A price on the grid is the double nearest to a number of cents: the price's text is short."""
    assert (monday.price > 0).all()
    assert (np.rint(monday.price * 100) / 100 == monday.price).all()
    assert (np.rint(monday.size * 1e8) / 1e8 == monday.size).all()
    assert monday.size.min() > 0


@pytest.mark.parametrize("product_id", ["BTC-USD", "ETH-USD", "SOL-EUR"])
@pytest.mark.parametrize("seed", [0, 5])
def test_midnight_is_an_ordinary_step(product_id: str, seed: int) -> None:
    """Prices: within ten ordinary moves. Ids: rise. Volatility: the hour before and the hour after are alike."""
    before = simulate_day(product_id, dt.date(2024, 12, 31), seed, hours=(23, 24))
    after = simulate_day(product_id, dt.date(2025, 1, 1), seed, hours=(0, 1))
    assert before.trade_id[-1] < after.trade_id[0]
    assert before.event_time[-1] < after.event_time[0]
    step = np.diff(np.log(before.price)).std()
    assert abs(np.log(after.price[0] / before.price[-1])) < 10 * step
    assert 0.3 < len(after) / len(before) < 3.3


def test_volatility_clusters_and_has_a_season() -> None:
    """Realized variance of an hour helps to forecast the next hour; afternoons of four days beat their nights."""
    days = [MONDAY + dt.timedelta(days=i) for i in range(4)]
    hourly = []
    for day in days:
        trades = simulate_day("BTC-USD", day)
        squares = np.diff(np.log(trades.price)) ** 2
        hour = (trades.event_time[1:] // (3_600 * NS)) % 24
        hourly.append(np.log(np.bincount(hour, squares, minlength=24)))
    variance = np.concatenate(hourly)
    assert np.corrcoef(variance[:-1], variance[1:])[0, 1] > 0.3
    by_hour = np.array(hourly).mean(axis=0)
    busy = [(BUSIEST_HOUR + h) % 24 for h in range(-4, 5)]
    quiet = [(BUSIEST_HOUR + 12 + h) % 24 for h in range(-4, 5)]
    assert by_hour[busy].mean() > by_hour[quiet].mean()


def test_a_product_that_is_not_listed_has_a_market_of_its_own() -> None:
    assert market_of("SOL-USD") == market_of("SOL-USD") != market_of("ADA-USD")
    for product_id in ("SOL-USD", "ADA-USD", "1INCH-USDT", "X-Y"):
        market = market_of(product_id)
        assert 0.1 <= market.price <= 1_000
        assert 0.5 <= market.trades_per_s <= 5.1
        assert 10**-market.decimals / market.price <= 1e-4  # a tick is at most one basis point


@pytest.mark.parametrize(
    ("product_id", "day", "seed", "hours", "message"),
    [
        ("btc-usd", MONDAY, 0, (0, 24), "named like BTC-USD"),
        ("BTC-USD", dt.date(1969, 12, 31), 0, (0, 24), "day must be from 1970-01-01"),
        ("BTC-USD", dt.date(2262, 1, 1), 0, (0, 24), "to 2199-12-31, was 2262-01-01"),
        ("BTC-USD", MONDAY, -1, (0, 24), "seed must be at least 0, was -1"),
        ("BTC-USD", MONDAY, 0, (4, 4), "hours must rise within 0 to 24, were 4 to 4"),
    ],
)
def test_bad_arguments_are_named(
    product_id: str, day: dt.date, seed: int, hours: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_day(product_id, day, seed, hours)


@pytest.mark.parametrize("day", [dt.date(1970, 1, 1), dt.date(2199, 12, 31)])
def test_the_first_and_the_last_day_exist(day: dt.date) -> None:
    trades = simulate_day("SOL-USD", day)
    assert trades.trade_id[0] >= 0
    assert (np.diff(trades.event_time) >= 0).all()


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["simulator", *arguments])
    main()


def test_the_command_writes_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "day.csv.gz"
    run_command(monkeypatch, "--day", "2025-01-06", "--hours", "0", "1", "--out", str(out))
    expected = simulate_day("BTC-USD", MONDAY, hours=(0, 1))
    batches = list(read_trades(out))
    assert b"".join(batch.trades.price.tobytes() for batch in batches) == expected.price.tobytes()
    assert b"".join(batch.trades.event_time.tobytes() for batch in batches) == expected.event_time.tobytes()
    assert capsys.readouterr().out == f"{out}: {len(expected):,} trades of BTC-USD\n"


def test_the_command_names_a_bad_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(monkeypatch, "--product", "btc", "--day", "2025-01-06", "--out", str(tmp_path / "x"))
    assert "named like BTC-USD (capitals and digits), was 'btc'" in capsys.readouterr().err


def test_the_command_writes_the_truth_of_the_same_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, truth_file = tmp_path / "hours.csv", tmp_path / "new" / "truth.parquet"
    arguments = ("--day", "2025-01-06", "--hours", "3", "5", "--out", str(out), "--truth", str(truth_file))
    run_command(monkeypatch, *arguments)
    truth = simulate_truth("BTC-USD", MONDAY)
    found = pyarrow.parquet.read_table(truth_file)
    assert found.column_names == list(Truth._fields)
    assert found["event_time"].cast("int64").to_pylist() == [MONDAY_NS + s * NS for s in range(10_800, 18_000)]
    assert found["expected_variance"].to_numpy().tolist() == truth.expected_variance[10_800:18_000].tolist()
    assert capsys.readouterr().out.endswith(f"{truth_file}: 7,200 seconds of true state\n")


def test_a_shifted_market_follows_another_law_from_its_second_on() -> None:
    """The default multiplies the weight of the fastest process by 4; another shift adds ln 2 to the log volatility."""
    state = state_of(Streams("BTC-USD", 0), MONDAY)
    plain = np.log(state.volatility)
    harmed = np.log(replace(state, shift=MarketShift(3_600)).volatility)
    assert harmed[:3_600].tolist() == plain[:3_600].tolist()
    assert harmed[3_600:] - plain[3_600:] == pytest.approx(0.45 * state.scales[0, 3_600:])
    doubled = np.log(replace(state, shift=MarketShift(3_600, SCALE_SD, float(np.log(2)))).volatility)
    assert doubled[3_600:] - plain[3_600:] == pytest.approx(np.full(86_401 - 3_600, np.log(2)))


def test_harm_is_an_option_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "harmed.csv"
    hours = ["--hours", "11", "13", "--harm-from", "12:00"]
    command = ["data.simulator", "--product", "SOL-USD", "--day", "2025-01-06", *hours, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    main()
    prices = np.concatenate([batch.trades.price for batch in read_trades([out])])
    expected = simulate_day("SOL-USD", MONDAY, 0, (11, 13), MarketShift(12 * 3_600))
    assert prices.tolist() == expected.price.tolist()
    assert expected.price.tolist() != simulate_day("SOL-USD", MONDAY, 0, (11, 13)).price.tolist()
