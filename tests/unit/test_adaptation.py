"""Adaptation of forecasts: by hand, in any batches, and resumed from what was published."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features.spec import FeatureSpec
from data.models.served import Scores
from data.times import NS
from data.trades import StreamKey
from data.truth.adaptation import (
    DECAY,
    MAX_OFFSET,
    OWN_INTERVAL_HORIZONS,
    STEP,
    Adaptations,
    Adapted,
    Published,
    RawForecasts,
    adapted,
    reach_ns,
    teaching,
)
from tests.unit.test_streaming import market

SPEC = FeatureSpec()
KEYS = (StreamKey("a", "BTC-USD"), StreamKey("b", "BTC-USD"))


def forecasts(seed: int, spec: FeatureSpec = SPEC, n: int = 1_500) -> RawForecasts:
    """Return forecasts of one stream; some may not teach."""
    rng = np.random.default_rng(seed)
    event_time, price = market(seed, spec, n)
    score = 4e-4 * np.exp(rng.normal(0, 0.5, n))
    ends = score * np.exp(-rng.uniform(0, 0.5, n)), score * np.exp(rng.uniform(0, 0.5, n))
    return RawForecasts(np.zeros(n, np.int32), event_time, price, score, *ends, rng.random(n) < 0.9)


def take(raw: RawForecasts, rows: slice) -> RawForecasts:
    return RawForecasts(**{name: column[rows] for name, column in raw._asdict().items()})


def scores_of(raw: RawForecasts) -> Scores:
    return Scores(raw.score, raw.lower, raw.upper, np.zeros((len(raw.score), 0), np.bool_))


def constant(score: float, n: int) -> Scores:
    """Return n equal forecasts with ends at half and twice the score."""
    column = np.full(n, score)
    return Scores(column, column / 2, column * 2, np.zeros((n, 0), np.bool_))


def join(parts: list[Adapted]) -> dict[str, np.ndarray]:
    names = Adapted._fields[:-1]
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def published(raw: RawForecasts, found: dict[str, np.ndarray], rows: slice) -> Published:
    part = take(raw, rows)
    columns: dict[str, Any] = {name: column[rows] for name, column in found.items() if name != "score"}
    columns |= {name: getattr(part, name) for name in ("event_time", "price", "teaches")}
    return Published(**columns, raw_score=part.score)


def at_each_second(squared_returns: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows at whole seconds from 0 on, with these squared returns from row to row."""
    moved = np.sqrt([0.0, *squared_returns]) * (-1) ** np.arange(len(squared_returns) + 1)
    return np.arange(len(moved)) * NS, 100 * np.exp(np.cumsum(moved))


def test_the_first_forecasts_are_the_models_own() -> None:
    event_time, price = at_each_second([1e-6] * 60)
    scores = constant(0.002, 61)
    found = adapted(event_time, price, scores, np.ones(61, np.bool_), SPEC)
    assert found.score.tolist() == scores.score.tolist()
    assert (found.lower.tolist(), found.upper.tolist()) == (scores.lower.tolist(), scores.upper.tolist())
    assert set(found.weighted_sum) == set(found.weight) == {60.0}
    assert set(found.alike) == {0}


def test_a_passed_horizon_moves_the_scale_and_both_offsets() -> None:
    """60 steps of 1e-6 are a variance of 6e-5. The row at 0 s counts: its forecast of 1e-5 was too low by a factor 6.

    The target, .0077, lies above the upper end, so above the lower end too. The row at 61 s is the first after 60 s.
    """
    event_time, price = at_each_second([1e-6] * 61)
    raw = math.sqrt(1e-5)
    found = adapted(event_time, price, constant(raw, 62), np.ones(62, np.bool_), SPEC)
    assert found.judged_horizons.tolist() == [0.0] * 61 + [0.083333]
    assert found.weighted_sum[-1] == pytest.approx(60 * DECAY + 6 / 12)
    assert found.weight[-1] == pytest.approx(60 * DECAY + 1 / 12)
    assert found.score[-1] == pytest.approx(raw * math.sqrt(found.weighted_sum[-1] / found.weight[-1]))
    assert found.offset_high[-1] == pytest.approx(0.95 * STEP)
    assert found.offset_low[-1] == pytest.approx(0.05 * STEP)
    assert found.alike.tolist() == [0] * 61 + [61]


def test_only_the_last_row_of_a_twelfth_teaches_and_only_if_it_may() -> None:
    """Rows at 0 to 65 s: the rows at 0 and 5 s count. The row at 5 s may not teach."""
    event_time, price = at_each_second([1e-6] * 70)
    found = adapted(event_time, price, constant(math.sqrt(6e-5), 71), np.arange(71) != 5, SPEC)
    assert found.judged_horizons[61:66].tolist() == [0.083333] * 5
    assert found.judged_horizons[66:].tolist() == [0.083333] * 5


def test_one_bad_print_counts_at_most_twenty_times_the_forecast() -> None:
    event_time, price = at_each_second([1e-6] * 30 + [4.0] + [1e-6] * 30)
    found = adapted(event_time, price, constant(math.sqrt(6e-5), 62), np.ones(62, np.bool_), SPEC)
    assert found.weighted_sum[-1] == pytest.approx(60 * DECAY + 20 / 12)


def test_a_market_without_moves_keeps_scores_above_0_and_ends_in_order() -> None:
    n = 40_000
    event_time, price = np.arange(n) * 10 * NS, np.full(n, 100.0)
    found = adapted(event_time, price, constant(1e-4, n), np.ones(n, np.bool_), SPEC)
    assert found.score.min() > 0
    assert (found.lower <= found.score).all()
    assert (found.score <= found.upper).all()
    assert found.offset_low[-1] == -MAX_OFFSET
    assert found.offset_high[-1] == -MAX_OFFSET


def test_the_models_own_interval_is_published_until_24_horizons_are_judged() -> None:
    raw = forecasts(1, n=9_000)
    found = adapted(raw.event_time, raw.price, scores_of(raw), raw.teaches, SPEC)
    young = found.judged_horizons < OWN_INTERVAL_HORIZONS
    assert 1_000 < young.sum() < 8_000
    assert (found.upper / found.score)[young] == pytest.approx((raw.upper / raw.score)[young], rel=1e-12)
    wanted = np.maximum(raw.upper / raw.score * np.exp(found.offset_high), 1)
    assert (found.upper / found.score)[~young] == pytest.approx(wanted[~young], rel=1e-12)
    wanted = np.minimum(raw.lower / raw.score * np.exp(found.offset_low), 1)
    assert (found.lower / found.score)[~young] == pytest.approx(wanted[~young], rel=1e-12)


@given(st.integers(0, 1_000), st.lists(st.integers(0, 3_000), max_size=20), st.integers(0, 1_000))
def test_any_batches_and_other_streams_change_no_byte(seed: int, cuts: list[int], other: int) -> None:
    one, two = forecasts(seed), forecasts(other)
    order = np.random.default_rng(seed).permutation(np.repeat([0, 1], 1_500))
    place = np.argsort(np.argsort(order, kind="stable"))  # in the rows of both streams, one behind the other
    columns: Any = zip(one._fields, one, two, strict=True)
    both: dict[str, Any] = {name: np.concatenate((a, b))[place] for name, a, b in columns}
    mixed = RawForecasts(**both | {"stream": order.astype(np.int32)})
    states = Adaptations(SPEC)
    parts = [states.adapt(KEYS, take(mixed, slice(*bounds))) for bounds in pairwise([0, *sorted(cuts), 3_000])]
    found = join(parts)
    for stream, raw in enumerate((one, two)):
        alone = join([Adaptations(SPEC).adapt(KEYS[:1], raw)])
        assert alone["judged_horizons"][-1] > 1
        assert same({name: column[order == stream] for name, column in found.items()}, alone)
    for part in parts:
        for name in ("weighted_sum", "weight", "offset_low", "offset_high", "judged_horizons"):
            column = getattr(part, name)
            assert column[part.alike].tolist() == column.tolist()


@pytest.mark.parametrize(
    "spec", [SPEC, FeatureSpec(horizon_s=3, gap_s=9), FeatureSpec(grid_step_s=60, horizon_s=3_600, gap_s=600)]
)
@given(st.integers(0, 1_000), st.integers(1, 4_999))
def test_a_state_resumed_from_published_forecasts_goes_on_with_the_same_bytes(
    spec: FeatureSpec, seed: int, cut: int
) -> None:
    raw = forecasts(seed, spec, 5_000)
    whole = join([Adaptations(spec).adapt(KEYS[:1], raw)])
    since = int(np.searchsorted(raw.event_time, raw.event_time[cut - 1] - reach_ns(spec)))
    states = Adaptations(spec)
    states.resume(KEYS[0], published(raw, whole, slice(since, cut)))
    rest = join([states.adapt(KEYS[:1], take(raw, slice(cut, None)))])
    assert same(rest, {name: column[cut:] for name, column in whole.items()})


def test_a_dropped_stream_starts_afresh() -> None:
    raw = forecasts(4)
    states = Adaptations(SPEC)
    first = states.adapt(KEYS[:1], raw)
    states.drop(KEYS[0])
    assert states.open_streams == ()
    assert same(join([states.adapt(KEYS[:1], raw)]), join([first]))


def test_forecasts_teach_with_a_known_half_life_and_after_the_training_data() -> None:
    values = np.zeros((3, len(SPEC.columns)))
    values[0, SPEC.columns.index("ewma_variance_60")] = np.nan
    assert teaching(values, np.array([10, 10, 11]), 10, SPEC).tolist() == [False, False, True]
