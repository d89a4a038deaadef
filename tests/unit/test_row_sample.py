"""A stratified sample of training rows: the same rows each time, in the strata's shares, and seen by the sentinels."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from data.simulator.day import simulate_day
from data.times import DAY_S, NS, to_ns
from offline.days.row_budget import FIXED_MB, LEAST_ROWS, ROW_KB, days_of_test, days_of_training, sampled_days
from offline.lake.state import Partition
from offline.leaks.rows import check_rows, duplicates
from offline.leaks.verdicts import FUTURE_CUT_OFF
from offline.losses_table import evaluate, join
from offline.samples import SHORT_WINDOWS, Sample, TradeSpan, sample, thinned
from tests.models import SPEC
from tests.unit.test_losses_table import MODEL, rows_of

DAY = dt.date(2010, 1, 4)
END = dt.datetime(2010, 1, 4, 2, tzinfo=dt.UTC)
TRADES = simulate_day("BTC-USD", DAY, 0, (0, 3))


@pytest.fixture(scope="module")
def day() -> Sample:
    return sample(TRADES, SPEC, SHORT_WINDOWS)


def test_each_stratum_keeps_its_share(day: Sample) -> None:
    """A fifth of the rows: of each tenth of the targets, and of each length of short windows, a fifth too."""
    some = thinned(day, 0.2, 0)
    assert (len(some), some.share) == (round(len(day) / 5), 0.2)
    for is_short in (False, True):
        whole, taken = (rows.targets[rows.is_short() == is_short] for rows in (day, some))
        assert len(taken) == pytest.approx(len(whole) / 5, abs=1)
        tenths = np.quantile(whole, np.linspace(0, 1, 11))
        shares = np.histogram(taken, tenths)[0] / np.histogram(whole, tenths)[0]
        assert shares == pytest.approx(0.2, abs=0.03)
    for length in SHORT_WINDOWS:
        whole, taken = (int(np.sum(rows.is_short() & (rows.values[:, 0] == length))) for rows in (day, some))
        assert taken == pytest.approx(whole / 5, abs=2)


def test_a_sample_is_the_same_each_time_and_another_one_by_another_seed(day: Sample) -> None:
    one, again, other = (thinned(day, 0.1, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.event_time, again.event_time)
    assert len(one) == len(other)
    assert len(set(one.event_time) & set(other.event_time)) < len(one) / 2
    assert (np.diff(one.event_time[~one.is_short()]) > 0).all(), "the order of the rows stays"
    assert thinned(day, 1.0, 0) is day


def test_a_copied_day_is_a_copy_in_the_sample_too(day: Sample) -> None:
    copy = replace(day, event_time=day.event_time + DAY_S * NS, product_id=np.full(len(day), "ETH-USD"))
    one, other = thinned(day, 0.1, 0), thinned(copy, 0.1, 0)
    np.testing.assert_array_equal(one.event_time + DAY_S * NS, other.event_time)
    assert duplicates(one, other, SPEC)[~one.is_short()].mean() > 0.9


def test_the_mean_variance_of_a_sample_is_that_of_the_day(day: Sample) -> None:
    """Priors are means of variances with a heavy tail: a sample by chance alone is further off."""
    rng, variance, count = np.random.default_rng(0), day.targets**2, round(len(day) / 20)
    means = [float(np.mean(thinned(day, 0.05, seed).targets ** 2)) for seed in range(20)]
    by_chance = [float(np.mean(rng.choice(variance, count, replace=False))) for _ in range(20)]
    assert np.std(means) < 0.03 * np.mean(variance)
    assert np.std(means) < np.std(by_chance) / 2


def test_the_sentinel_compares_the_rows_of_a_sample_with_their_trades(day: Sample) -> None:
    spans = [TradeSpan(TRADES, int(TRADES.event_time[0]))]
    some = thinned(day, 0.1, 0)
    honest = next(each for each in check_rows(some, SPEC, END, spans) if each.name == FUTURE_CUT_OFF)
    assert honest.passed
    assert honest.found.startswith(f"0 of {int(np.sum(~some.is_short())):,} rows differ")
    planted = replace(some, targets=np.roll(some.targets, 1))
    assert not next(each for each in check_rows(planted, SPEC, END, spans) if each.name == FUTURE_CUT_OFF).passed


def partitions(products: int, days: int, rows: int) -> list[Partition]:
    return [
        Partition("training_set", f"P{i:03}-USD", DAY + dt.timedelta(days=j), "", rows, "", msgspec.Raw(b"{}"))
        for i in range(products)
        for j in range(days)
    ]


def test_all_rows_that_fit_are_taken() -> None:
    found = sampled_days(partitions(2, 3, 100), 600)
    assert (len(found.partitions), found.share) == (6, 1.0)


def test_a_share_of_each_product_day_is_taken_of_more_rows() -> None:
    found = sampled_days(partitions(2, 3, 1_000), 3_000)
    assert (len(found.partitions), found.share) == (6, 0.5)


def test_fewer_product_days_give_rows_where_each_would_give_very_few() -> None:
    """1,000 product-days, and a budget of 100: each product keeps 10 days of 100, one of each ten."""
    whole = partitions(10, 100, 1_000)
    found = sampled_days(whole, 100 * LEAST_ROWS)
    assert (len(found.partitions), found.share) == (100, LEAST_ROWS / 1_000)
    tenths = [(each.product_id, (each.day - DAY).days // 10) for each in found.partitions]
    assert len(set(tenths)) == 100
    assert found.partitions == sorted(found.partitions, key=lambda each: (each.product_id, each.day))
    assert len({(each.day - DAY).days % 10 for each in found.partitions}) > 5, "not the same weekday each time"


def test_the_bound_of_memory_holds_training_and_test() -> None:
    whole = partitions(100, 100, 30_000)
    for max_mb in (1_000, 2_000, 4_000):
        training, test = days_of_training(whole, max_mb), days_of_test(whole, max_mb)
        rows = sum(round(each.rows * training.share) for each in training.partitions)
        assert rows <= 1.01 * (max_mb - FIXED_MB) * 1e3 / ROW_KB
        assert 0 < sum(round(each.rows * test.share) for each in test.partitions) < rows


def test_joined_evaluations_are_the_evaluation_of_all_rows() -> None:
    """Two products, the second with twice the rows; a sample of the judged rows changes no loss."""
    one, other = rows_of([1e-6] * 40, [2e-3] * 40), rows_of([2e-6] * 80, [1e-3] * 80)
    other = replace(other, product_id=np.full(80, "ETH-USD"), event_time=other.event_time + to_ns(END))
    whole = evaluate({"a": MODEL}, Sample.join([one, other]), SPEC, 1e-10)
    found = join(evaluate({"a": MODEL}, each, SPEC, 1e-10).thinned(0.5, 0) for each in (one, other))
    assert (len(found.judged), len(found.answers["a"].score)) == (60, 60)
    facts = ("rows", "horizons", "zero_target_share", "first_time", "last_time", "variance_floor")
    assert [getattr(found, name) for name in facts] == [getattr(whole, name) for name in facts]
    for ours, theirs in zip(found.losses, whole.losses, strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2:] == pytest.approx(theirs[2:], nan_ok=True)
    scores = np.unique(found.answers["a"].score)
    assert scores == pytest.approx(np.unique(whole.answers["a"].score))


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="no product of the test"):
        join([])
