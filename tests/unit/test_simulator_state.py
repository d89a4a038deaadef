"""The state behind simulated trades has the documented law, and days meet at midnight."""

import datetime as dt
from itertools import pairwise

import numpy as np
import pytest

from data.simulator.state import (
    ECHO,
    ECHO_S,
    JUMP_STEP,
    JUMPS_A_DAY,
    SCALE_SD,
    SCALES_S,
    SEASON,
    Streams,
    log_levels,
    market_of,
    state_of,
)
from data.trades import Floats

DAYS = [dt.date(2025, 1, 6) + dt.timedelta(days=i) for i in range(60)]


def test_days_meet_at_midnight() -> None:
    """Processes, season, echoes and price of a day end at the values where the next day begins."""
    streams, market = Streams("BTC-USD", 3), market_of("BTC-USD")
    for today, tomorrow in pairwise(DAYS[:20]):
        before, after = state_of(streams, today), state_of(streams, tomorrow)
        assert before.scales[:, -1] == pytest.approx(after.scales[:, 0])
        assert before.season[-1] == pytest.approx(after.season[0])
        assert before.echo[-1] == pytest.approx(after.echo[0])
        assert log_levels(streams, market, today)[1] == pytest.approx(log_levels(streams, market, tomorrow)[0])


@pytest.fixture(scope="module")
def paths() -> Floats:
    """Return the processes over all days, shape (scales, seconds)."""
    streams = Streams("ETH-USD", 1)
    return np.concatenate([state_of(streams, day).scales[:, :-1] for day in DAYS], axis=1)


@pytest.mark.parametrize("scale", range(len(SCALES_S)))
def test_each_process_has_its_law(paths: Floats, scale: int) -> None:
    """Variance 1, and correlation 1 / e after the time of the scale: over 60 days, within days and across midnights."""
    path = paths[scale]
    lag = int(SCALES_S[scale])
    independent = len(path) / (2 * lag)  # stretches that know little of each other
    assert np.mean(path**2) == pytest.approx(1, abs=4 * np.sqrt(2 / independent))
    assert np.mean(path[lag:] * path[:-lag]) == pytest.approx(np.exp(-1), abs=4 * np.sqrt(1.2 / independent))
    assert np.std(np.diff(path)) == pytest.approx(np.sqrt(2 * (1 - np.exp(-1 / lag))), rel=0.01)


def test_jumps_come_at_their_rate_and_echo() -> None:
    streams = Streams("BTC-USD", 0)
    states = [state_of(streams, day) for day in DAYS]
    count = sum(len(state.jump) for state in states)
    assert count == pytest.approx(JUMPS_A_DAY * len(DAYS), abs=4 * np.sqrt(JUMPS_A_DAY * len(DAYS)))
    jumps = np.concatenate([state.jump for state in states])
    assert np.abs(jumps).min() >= JUMP_STEP
    assert abs(np.sign(jumps).sum()) < 4 * np.sqrt(count)
    for state in states:
        for second in state.jump_second:
            assert state.echo[second + 1] - state.echo[second] * np.exp(-1 / ECHO_S) == pytest.approx(ECHO)


def test_volatility_is_the_exponential_of_its_parts() -> None:
    state = state_of(Streams("BTC-USD", 0), DAYS[0])
    assert state.volatility.shape == (86_401,)
    log = np.log(state.volatility)
    assert log[15 * 3_600] - log[3 * 3_600] == pytest.approx(
        2 * SEASON
        + state.echo[15 * 3_600]
        - state.echo[3 * 3_600]
        + np.dot(SCALE_SD, state.scales[:, 15 * 3_600] - state.scales[:, 3 * 3_600])
    )
