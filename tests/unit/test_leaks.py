"""The leak sentinels on small cases: a leak is named by its sentinel, and an honest model passes."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from data.features.spec import CONTRACT
from data.models.served import Scores, ServedModel
from data.times import NS, to_datetime, to_ns
from data.trades import Floats, Trades
from offline.leaks.models import BLOCK_ROWS, check_model
from offline.leaks.rows import check_rows, duplicates
from offline.leaks.verdicts import (
    ANSWERS,
    COLUMNS,
    DUPLICATES,
    FUTURE_CHANGED,
    FUTURE_CUT_OFF,
    MODEL_SENTINELS,
    ROW_SENTINELS,
    SHUFFLED_LABELS,
    SPLIT,
    TOO_GOOD,
    LeakFound,
    Verdict,
)
from offline.samples import Sample, TradeSpan, sample
from tests.days import trades_at
from tests.models import NAN, SPEC

HOUR = 3_600 * NS
EWMA, SECRET = SPEC.columns.index("ewma_variance_300"), SPEC.columns.index("trade_rate_60")
INPUTS = (*CONTRACT, "ewma_variance_300", "trade_rate_60")
TRAIN_END = dt.datetime(2010, 1, 8, 12, tzinfo=dt.UTC)


def failed(verdicts: Sequence[Verdict]) -> list[str]:
    return [each.name for each in verdicts if not each.passed]


def found(verdicts: Sequence[Verdict], name: str) -> str:
    return next(each.found for each in verdicts if each.name == name)


# Rows


def contract_rows(rows: Sequence[tuple[float, float, float]]) -> Sample:
    """Return rows of (seconds, ret_std, target) with n = 50 and no column beyond the contract."""
    values = np.full((len(rows), len(SPEC.columns)), NAN)
    values[:, 0], values[:, 1], values[:, 2] = 50, 0.0, [std for _, std, _ in rows]
    time = (np.array([second for second, _, _ in rows]) * NS).astype(np.int64)
    targets = np.array([target for _, _, target in rows])
    return Sample(values, targets, time, int(time[-1]), np.full(len(rows), "BTC-USD"))


def test_a_row_that_comes_again_in_all_columns_is_a_duplicate() -> None:
    rows = contract_rows([(0, 1, 5), (100, 2, 6), (200, 3, 7), (300, 2, 6)])
    nothing = rows.take(rows.event_time < 0)
    assert duplicates(rows, nothing, SPEC).tolist() == [False, True, False, True]
    assert duplicates(contract_rows([(900, 3, 7), (950, 3, 8)]), rows, SPEC).tolist() == [True, False]


def test_a_copied_stretch_differs_in_its_long_windows_and_is_found_by_rows_in_succession() -> None:
    """Rows 1 and 2 come again as 4 and 5; the long window of each row is its own."""
    rows = contract_rows([(0, 1, 5), (100, 2, 6), (105, 3, 7), (200, 9, 9), (300, 2, 6), (305, 3, 7)])
    rows.values[:, EWMA] = [1, 2, 3, 4, 5, 6]
    nothing = rows.take(rows.event_time < 0)
    assert duplicates(rows, nothing, SPEC).tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 2, 6), (30, 2, 6)],  # within a horizon
        [(0, 0, 6), (100, 0, 6)],  # without a move before
        [(0, 2, 0), (100, 2, 0)],  # without a move after
    ],
)
def test_rows_that_are_equal_by_nature_are_no_duplicates(rows: list[tuple[float, float, float]]) -> None:
    these = contract_rows(rows)
    assert not duplicates(these, these.take(these.event_time < 0), SPEC).any()


class Recorded(NamedTuple):
    trades: Trades
    rows: Sample


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Three hours with a trade each 2 s."""
    begin = to_ns(TRAIN_END) - HOUR
    trades = trades_at(begin + np.arange(0, 3 * HOUR, 2 * NS) + 1)
    return Recorded(trades, sample(trades, SPEC))


def check(recorded: Recorded, rows: Sample, since: int | None = None) -> list[Verdict]:
    first = int(recorded.trades.event_time[0])
    return check_rows(rows, SPEC, TRAIN_END, [TradeSpan(recorded.trades, first if since is None else since)])


def test_rows_of_their_trades_pass(recorded: Recorded) -> None:
    verdicts = check(recorded, recorded.rows)
    assert tuple(each.name for each in verdicts) == ROW_SENTINELS
    assert failed(verdicts) == []
    assert found(verdicts, FUTURE_CUT_OFF).startswith(f"0 of {len(recorded.rows):,} rows differ")


def test_rows_before_a_span_begins_are_not_asked_for(recorded: Recorded) -> None:
    later = recorded.rows.take(recorded.rows.event_time >= to_ns(TRAIN_END))
    verdicts = check(recorded, Sample.join([later, contract_rows([(0, 1, 5)])]), to_ns(TRAIN_END))
    assert FUTURE_CUT_OFF not in failed(verdicts)
    assert f"0 of {len(later):,} rows differ" in found(verdicts, FUTURE_CUT_OFF)


@pytest.mark.parametrize("column", [EWMA, "target", "missing"])
def test_one_row_that_is_not_of_its_trades_is_found(recorded: Recorded, column: int | str) -> None:
    values, targets = recorded.rows.values.copy(), recorded.rows.targets.copy()
    if isinstance(column, int):
        values[900, column] *= 1 + 1e-15
    elif column == "target":
        targets[900] = targets[901]
    rows = replace(recorded.rows, values=values, targets=targets)
    if column == "missing":
        rows = rows.take(np.arange(len(rows)) != 900)
    verdicts = check(recorded, rows)
    assert failed(verdicts) == [FUTURE_CUT_OFF]
    assert found(verdicts, FUTURE_CUT_OFF).startswith("1 of ")


def test_without_trades_nobody_knows_whether_rows_see_the_future(recorded: Recorded) -> None:
    assert failed(check_rows(recorded.rows, SPEC, TRAIN_END, [])) == [FUTURE_CUT_OFF]


def test_a_target_of_another_time_is_found_in_the_code_too(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted code takes the target of 30 trades before, so stored rows and rows made again are equal."""
    from data.truth.targets import target_volatility

    def earlier(event_time: NDArray[np.int64], price: Floats, spec: Any) -> Floats:
        return np.concatenate([np.full(30, NAN), target_volatility(event_time, price, spec)[:-30]])

    monkeypatch.setattr("offline.samples.target_volatility", earlier)
    verdicts = check(recorded, sample(recorded.trades, SPEC))
    assert failed(verdicts) == [FUTURE_CUT_OFF]
    assert found(verdicts, FUTURE_CUT_OFF).endswith("without later trades: target")


def test_a_copied_hour_is_named_with_its_share(recorded: Recorded) -> None:
    hour = recorded.rows.after(TRAIN_END)
    copied = Sample.join([recorded.rows, replace(hour, event_time=hour.event_time + 5 * HOUR)])
    assert DUPLICATES in failed(check(recorded, copied))
    assert found(check(recorded, copied), DUPLICATES) == (
        "100.0% of the test rows and 0.0% of the training rows equal other rows"
    )


# Models


@dataclass
class Stub:
    """A model that multiplies one column; its digest names the rows of its fit."""

    scale: float
    column: str = "ewma_variance_300"
    columns: tuple[str, ...] = INPUTS
    train_end: dt.datetime = TRAIN_END
    digest: str = ""
    width: float = 0.5
    model: ServedModel = field(init=False)

    def __post_init__(self) -> None:
        self.model = cast(ServedModel, self)

    def score(self, values: Floats, _: Sequence[str]) -> Scores:
        score = np.sqrt(self.scale * values[:, self.columns.index(self.column)])
        missing = np.zeros(values.shape, np.bool_)
        return Scores(score, score * (1 - self.width), score * (1 + self.width), missing)


@pytest.fixture(scope="module")
def rows() -> Sample:
    """A row each 5 s for 24 hours; variance = 3 x EWMA x noise, and the secret column is the variance to come."""
    rng = np.random.default_rng(0)
    count = 24 * 720
    values = np.ones((count, len(SPEC.columns)))
    level = np.exp(np.sin(np.arange(count) / 900))
    targets = np.sqrt(1e-6 * level * rng.gamma(3, 1 / 3, count))
    for half_life in SPEC.half_lives:
        values[:, SPEC.columns.index(f"ewma_variance_{half_life}")] = 1e-6 * level / 3
    values[:, SECRET] = targets**2
    time = to_ns(TRAIN_END) - 12 * HOUR + (np.arange(count) * 5 + 2) * NS
    return Sample(values, targets, time, int(time[-1]), np.full(count, "BTC-USD"))


def fitted_to(chosen: Callable[[NDArray[np.int64]], NDArray[np.bool_]], **changes: Any) -> Callable[..., Stub]:
    """Return a recipe that fits the scale to rows chosen by the last time that each target sees, seconds after the end
    of training."""

    def recipe(rows: Sample, spec: Any, train_end: dt.datetime) -> Stub:
        seen = -(-rows.event_time // NS) + spec.horizon_s - to_ns(train_end) // NS
        fit = rows.take(chosen(seen))
        digest = hashlib.sha256(fit.targets.tobytes() + fit.values.tobytes()).hexdigest()
        return replace(Stub(float(np.mean(fit.targets**2 / fit.values[:, EWMA])), digest=digest), **changes)

    return recipe


HONEST = fitted_to(lambda seen: seen <= 0)


def checked(rows: Sample, recipe: Callable[..., Stub], reason: str = "") -> list[Verdict]:
    verdicts = check_model(recipe(rows, SPEC, TRAIN_END), recipe, rows, SPEC, TRAIN_END, reason)
    assert tuple(each.name for each in verdicts) == MODEL_SENTINELS
    return verdicts


def test_an_honest_model_passes(rows: Sample) -> None:
    verdicts = checked(rows, HONEST)
    assert failed(verdicts) == []
    assert found(verdicts, TOO_GOOD) == "QLIKE 1.000 of the calibrated EWMA"


@pytest.mark.parametrize(
    ("recipe", "sentinel"),
    [
        (fitted_to(lambda seen: seen <= 2), SPLIT),  # one row's target ends 2 s late
        (fitted_to(lambda seen: (seen <= 0) | (seen > SPEC.horizon_s)), FUTURE_CHANGED),
        (fitted_to(lambda seen: seen <= 0, train_end=TRAIN_END - dt.timedelta(seconds=1)), SPLIT),
        (fitted_to(lambda seen: seen <= 0, width=0.0), ANSWERS),
        (fitted_to(lambda seen: seen <= 0, scale=1e12), ANSWERS),
    ],
)
def test_each_dishonest_model_is_named(rows: Sample, recipe: Callable[..., Stub], sentinel: str) -> None:
    assert failed(checked(rows, recipe)) == [sentinel]


def test_a_model_that_reads_the_target_needs_a_reason(rows: Sample) -> None:
    knows = fitted_to(lambda seen: seen <= 0, column="trade_rate_60", scale=1.0)
    verdicts = checked(rows, knows)
    assert {TOO_GOOD, SHUFFLED_LABELS} == set(failed(verdicts))
    verdicts = checked(rows, knows, reason="a market of my own making")
    assert failed(verdicts) == [SHUFFLED_LABELS]
    assert found(verdicts, TOO_GOOD) == "QLIKE 0.000 of the calibrated EWMA; reason: a market of my own making"


@pytest.mark.parametrize("name", ["price", "event_time", "ewma_variance_price", "target_volatility", "xtrend_20"])
def test_an_unknown_column_is_named_and_its_model_is_not_asked(rows: Sample, name: str) -> None:
    recipe = fitted_to(lambda seen: seen <= 0, columns=(*INPUTS, name))
    verdicts = check_model(recipe(rows, SPEC, TRAIN_END), recipe, rows, SPEC, TRAIN_END)
    assert failed(verdicts) == [COLUMNS]
    assert found(verdicts, COLUMNS) == name


def test_every_column_of_the_spec_is_known(rows: Sample) -> None:
    recipe = fitted_to(lambda seen: seen <= 0, columns=SPEC.columns)
    assert failed(checked(rows, recipe)) == []


def test_a_recipe_that_fails_on_changed_rows_does_not_pass(rows: Sample) -> None:
    def fails_on_others(given: Sample, spec: Any, train_end: dt.datetime) -> Stub:
        if not np.array_equal(given.targets, rows.targets):
            raise ValueError("these rows are strange")
        return HONEST(given, spec, train_end)

    verdicts = checked(rows, fails_on_others)
    assert failed(verdicts) == [FUTURE_CHANGED, SPLIT, SHUFFLED_LABELS]
    assert found(verdicts, SHUFFLED_LABELS) == "these rows are strange"


def test_a_recipe_with_chance_in_it_is_told_apart_from_a_leak(rows: Sample) -> None:
    numbers = iter(range(100))

    def by_chance(given: Sample, spec: Any, train_end: dt.datetime) -> Stub:
        return replace(HONEST(given, spec, train_end), digest=str(next(numbers)))

    assert found(checked(rows, by_chance), FUTURE_CHANGED).endswith("the same rows give other bytes too")


def test_labels_are_shuffled_in_blocks_within_the_newest_part_of_training(rows: Sample) -> None:
    """Half a day of training: 720 horizons, of which the newest 480 are fitted: 5,760 rows in 48 blocks of 120."""
    fits: list[Sample] = []

    def recipe(given: Sample, spec: Any, train_end: dt.datetime) -> Stub:
        fits.append(given)
        return HONEST(given, spec, train_end)

    checked(rows, recipe)
    shuffled = fits[-1]
    end = to_ns(TRAIN_END)
    before = shuffled.event_time <= end
    assert to_datetime(int(shuffled.event_time.min())) == TRAIN_END - dt.timedelta(hours=8) + dt.timedelta(seconds=2)
    kept = rows.take(rows.event_time >= shuffled.event_time.min())
    np.testing.assert_array_equal(shuffled.targets[~before], kept.targets[~before])
    assert sorted(shuffled.targets[before]) == sorted(kept.targets[before])
    where = {target: i for i, target in enumerate(kept.targets)}
    moved = np.array([where[target] for target in shuffled.targets[before]])
    assert np.sum(np.diff(moved) == 1) >= np.sum(before) * (1 - 1 / BLOCK_ROWS) - 1
    assert not np.array_equal(moved, np.arange(len(moved)))


def test_the_error_names_the_failed_sentinels_alone() -> None:
    verdicts = [Verdict("one", True, "1", "1"), Verdict("two", False, "a", "b"), Verdict("three", False, "c", "d")]
    error = LeakFound("volatility-ml", verdicts)
    assert str(error) == (
        "the training of volatility-ml is blocked, and nothing is registered. two: found a, allowed is b; three: found "
        "c, allowed is d. See docs/leaks.md"
    )
    assert error.verdicts == tuple(verdicts)
