"""Score whole recordings with served models, and simulated days with their oracle."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import ALL_PRODUCTS, ServedModel
from data.models.served import BASELINE as REGISTERED_BASELINE
from data.models.served import ML as REGISTERED_ML
from data.simulator.day import simulate_day
from data.simulator.state import FIRST_DAY
from data.simulator.truth import simulate_truth
from data.times import DAY_S, NS, second_text, to_ns
from data.truth.targets import variance_floor
from offline.evaluation.rivals import BASELINE, ML, Ewma, recipes
from offline.evaluation.scoring import ORACLE
from offline.evaluation.walk_forward import (
    CALIBRATED_EWMA,
    EMBARGO,
    Past,
    Run,
    TooShort,
    adapted_forecasts,
    growing_times,
)
from offline.history import History, history_of
from offline.models.cascade import Forecasts
from offline.models.recipes import (
    SEED,
    TEST_DAY,
    simulated_rows,
    train_baseline,
    train_end_of_simulated_days,
    train_ml,
)

FIRST_FIT_HORIZONS = 12
"""Horizons of a recording before the rivals are fitted for the first time."""

SIMULATED_PRODUCT = "BTC-USD"


def champions(uri: str, spec: FeatureSpec) -> dict[str, ServedModel]:
    """Return the models that the registry serves, as `baseline` and `ml`; a model without a champion is left out.

    Raises:
        RegistryError: MLflow does not answer or fails.
        ModelRefused: a champion does not load.
    """
    registry = Registry(uri)
    found = {}
    for name, registered in ((BASELINE, REGISTERED_BASELINE), (ML, REGISTERED_ML)):
        if (champion := registry.champion(registered)) is not None:
            file = registry.fetch(champion)
            found[name] = ServedModel.load(
                file.model_bytes, spec_id=spec.spec_id, digest=file.digest, known_columns=spec.columns
            )
    return found


def trained_on_simulated_days(spec: FeatureSpec) -> dict[str, ServedModel]:
    """Return models trained on simulated days, as `baseline` and `ml`.

    The baseline is the baseline of `make run`. The `volatility-ml` of `make run` learns from a simulated day more.
    """
    rows, train_end = simulated_rows(spec), train_end_of_simulated_days()
    return {
        BASELINE: train_baseline(rows, spec, train_end).model,
        ML: train_ml(rows, spec, train_end).model,
    }


def score_served(history: History, models: Mapping[str, ServedModel], *, stated_floors: bool) -> Run:
    """Return the adapted forecasts of served models and of rivals, from the first row of a recording on.

    Fitted rivals learn from the recording's own past; until then they answer as the unscaled EWMA of the
    longest known half-life. The floor is 1 % of the recording's median of variance. Rows that a model's training saw
    are left out.

    Args:
        models: of the history's spec; must have `baseline`.
        stated_floors: judge each model with the floor that the model states, as live, and all others with the largest
            stated floor. A floor is an absolute level: the floor of a wilder market is too high here.

    Raises:
        ValueError: no row is later than the training of all models.
    """
    train_end = max(to_ns(model.train_end) for model in models.values())
    history = history.take(history.event_time > train_end)
    is_counted = ~np.isnan(history.targets)
    if not is_counted.any():
        raise ValueError(f"no forecast after {second_text(max(each.train_end for each in models.values()))} is judged")
    counted = history.take(is_counted)
    stated = {
        name: model.variance_floor
        for name, model in models.items()
        if stated_floors and model.variance_floor is not None
    }
    floor = max(stated.values(), default=0.0) or variance_floor(counted.realized)
    prior = models[BASELINE].priors[ALL_PRODUCTS]
    found: dict[str, Forecasts] = {}
    for name, model in models.items():
        found[name] = adapted_forecasts(history, _raw(model, history), to_ns(model.train_end)).take(is_counted)
    rivals, left_out, refits = _rivals(counted, floor, prior)
    least = np.sqrt(floor)
    found |= {name: Forecasts(*(np.maximum(end, least) for end in each)) for name, each in rivals.items()}
    return Run(counted, found, np.full(len(counted), floor), left_out, refits, {}, own_floors=stated)


def _raw(model: ServedModel, rows: History) -> Forecasts:
    values = rows.values[:, rows.spec.places(model.columns)]
    found = model.score(values, [rows.products[product] for product in rows.product])
    return Forecasts(found.score, found.lower, found.upper)


def _rivals(counted: History, floor: float, prior: float) -> tuple[dict[str, Forecasts], dict[str, str], np.ndarray]:
    """Return the forecasts of the rivals, reasons for rivals without forecasts, and the times of fits."""
    horizon = counted.spec.horizon_s * NS
    begin, end = int(counted.event_time[0]), int(counted.event_time[-1])
    times = growing_times(begin, begin + FIRST_FIT_HORIZONS * horizon, end, horizon)
    longest = Ewma(len(counted.spec.half_lives) - 1, 1.0, prior).forecast(counted)
    found, left_out = {}, {}
    for name, recipe in recipes(counted.spec).items():
        if name in (BASELINE, ML):
            continue
        score, reason = longest.score.copy(), ""
        unfitted = Past(counted.take(np.zeros(len(counted), np.bool_)), begin, floor, prior)
        try:
            score = recipe(unfitted).forecast(counted).score
        except TooShort as error:
            reason = str(error)
            for time in times.tolist():
                training = counted.take(counted.event_time <= time - EMBARGO * horizon)
                rows = counted.event_time >= time
                try:
                    fitted = recipe(Past(training, time, floor, float(np.mean(training.realized))))
                except TooShort as error:
                    reason = str(error)
                    continue
                score[rows], reason = fitted.forecast(counted.take(rows)).score, ""
        if reason and name != CALIBRATED_EWMA:
            left_out[name] = reason
        else:
            found[name] = Forecasts(score, np.full(len(score), np.nan), np.full(len(score), np.nan))
    return found, left_out, times


def simulated_history(days: int, spec: FeatureSpec) -> History:
    """Return simulated days after the training days, one stream without a hole.

    Args:
        days: at least 1.
    """
    streams = [simulate_day(SIMULATED_PRODUCT, TEST_DAY + dt.timedelta(days=day), SEED) for day in range(days)]
    return history_of([type(streams[0]).join(streams)], spec)


def with_oracle(run: Run) -> Run:
    """Return a run over `simulated_history` with the jumps and the oracle, who knows the state of the market."""
    second = -(-run.rows.event_time // NS)
    day = np.minimum(second // DAY_S, run.rows.event_time // (DAY_S * NS))
    variance = np.empty(len(second))
    jumps = []
    for number in np.unique(day):
        mine = day == number
        date = FIRST_DAY + dt.timedelta(days=int(number))
        truth = simulate_truth(SIMULATED_PRODUCT, date, SEED, run.rows.spec.horizon_s)
        jumps.append(truth.event_time[truth.is_jump])
        variance[mine] = truth.expected_variance[np.minimum(second[mine] - number * DAY_S, DAY_S - 1)]
    forecasts = run.forecasts | {ORACLE: Forecasts.of(variance)}
    return replace(run, forecasts=forecasts, jumps=np.concatenate(jumps))
