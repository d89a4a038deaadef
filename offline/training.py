"""Train, test and register `volatility-baseline` on simulated days: what answers before any recording came."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from data.losses import qlike
from data.serving import ServedModel
from data.simulator import simulate_day
from data.spec import CONTRACT, FeatureSpec
from data.trades import NS
from offline.baseline import COVERAGE, Baseline, fit, to_onnx, with_intervals
from offline.registry import Candidate, RegistryError, champion_of, register
from offline.samples import SHORT_WINDOWS, TWELFTH, Sample, sample
from offline.settings import OfflineSettings

NAME = "volatility-baseline"
PRODUCTS = ("BTC-USD", "ETH-USD")
SEED = 0
FIT_DAYS = tuple(dt.date(2010, 1, day) for day in (4, 5, 6))
"""Before anyone exchanged bitcoin for dollars on a market: no recorded trade is ever in-sample."""
INTERVAL_DAYS = tuple(dt.date(2010, 1, day) for day in (7, 8))
TEST_DAYS = (dt.date(2010, 1, 9),)

EWMAS = ("ewma_variance_300", "ewma_variance_1200", "ewma_variance_3600")
"""Among these the half-life is chosen: on real markets 5 to 60 minutes were measured best, and the last minute alone
nearly the worst."""
MLFLOW_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # as it comes, a client whose server is away tries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def train(fitting: Sample, intervals: Sample, spec: FeatureSpec) -> tuple[Baseline, bytes]:
    """Fit the baseline, set its intervals on later rows, and write it as ONNX. The same samples give the same bytes.

    Raises:
        ValueError: the rows show no volatility to learn from, or the graph does not compute what was fitted.
    """
    inputs = [*CONTRACT, *EWMAS]
    baseline = fit(fitting.values[:, [spec.columns.index(name) for name in inputs]], inputs, fitting.targets)
    columns = [spec.columns.index(name) for name in baseline.columns]
    values = intervals.values[:, columns]
    whole = ~np.isnan(values).any(axis=1)
    baseline = with_intervals(baseline, values[whole], intervals.targets[whole])
    train_end = dt.datetime.fromtimestamp(-(-intervals.last_time // NS), dt.UTC)
    model_bytes = to_onnx(
        baseline,
        {
            "variant": "baseline",
            "columns": ",".join(baseline.columns),
            "spec_id": spec.spec_id,
            "horizon_s": str(spec.horizon_s),
            "train_end": train_end.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "coverage": str(COVERAGE),
        },
    )
    model = ServedModel.load(model_bytes, spec_id=spec.spec_id, known_columns=spec.columns)
    contract = values.copy()
    contract[:, len(CONTRACT) :] = np.nan
    both = np.concatenate([values, contract])
    off = float(np.max(np.abs(model.score(both).score / baseline.predict(both) - 1)))
    if off > 1e-5:  # float32 holds 7 digits
        raise ValueError(f"the ONNX graph differs from the fitted baseline by {off:.1e} of a score, allowed is 1e-5")
    return baseline, model_bytes


def evaluate(model: ServedModel, test: Sample, spec: FeatureSpec, floor: float) -> dict[str, float]:
    """Judge the model as it serves, on rows after its `train_end`: each input set on the same rows.

    Args:
        floor: what a smaller realized variance counts as, see `data.losses.variance_floor`.
    """
    values = test.values[:, [spec.columns.index(name) for name in model.columns]]
    whole = ~np.isnan(values).any(axis=1)
    values, targets = values[whole], test.targets[whole]
    contract, nothing = values.copy(), np.full_like(values, np.nan)
    contract[:, len(CONTRACT) :] = np.nan
    nothing[:, 0] = 0
    loss = partial(qlike, targets**2, floor=floor)
    floored = np.maximum(targets, np.sqrt(floor))
    metrics = {
        "qlike_unscaled_ewma": float(np.mean(loss(np.maximum(values[:, -1], floor)))),
        "test_rows": float(len(targets)),
        "test_horizons": len(targets) / TWELFTH,
        "zero_target_share": float(np.mean(targets == 0)),
        "variance_floor": floor,
    }
    for name, asked in (("", values), ("_contract", contract), ("_unconditional", nothing)):
        answer = model.score(asked)
        metrics[f"qlike{name}"] = float(np.mean(loss(answer.score**2)))
        metrics[f"coverage{name}"] = float(np.mean((answer.lower <= floored) & (floored <= answer.upper)))
    return metrics


def train_on_simulated_days(spec: FeatureSpec, hours: tuple[int, int] = (0, 24)) -> Candidate:
    """Return the baseline of the simulated days, tested and ready to register.

    Args:
        hours: which of each day; the longest half-life needs its own length of them.
    """

    def days(dates: Iterable[dt.date], short_windows: Sequence[int] = ()) -> Sample:
        streams = (simulate_day(product, day, SEED, hours) for day in dates for product in PRODUCTS)
        return Sample.join(sample(trades, spec, short_windows) for trades in streams)

    fitting, intervals, test = days(FIT_DAYS, SHORT_WINDOWS), days(INTERVAL_DAYS), days(TEST_DAYS)
    baseline, model_bytes = train(fitting, intervals, spec)
    model = ServedModel.load(model_bytes, spec_id=spec.spec_id, known_columns=spec.columns)
    params = {
        "products": " ".join(PRODUCTS),
        "fit_days": " ".join(map(str, FIT_DAYS)),
        "interval_days": " ".join(map(str, INTERVAL_DAYS)),
        "test_days": " ".join(map(str, TEST_DAYS)),
        "hours": f"{hours[0]} to {hours[1]}",
        "seed": SEED,
        **asdict(baseline),
    }
    example = intervals.values[:2, [spec.columns.index(name) for name in model.columns]]
    return Candidate(NAME, model_bytes, model, example, params, evaluate(model, test, spec, baseline.floor))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the baseline on simulated days, register it in MLflow, and make it the champion."""
    parser = argparse.ArgumentParser(prog="python -m offline.training", description=main.__doc__)
    parser.add_argument(
        "--if-missing", action="store_true", help="do nothing where a champion for these features serves"
    )
    only_if_missing = parser.parse_args(arguments).if_missing
    settings = OfflineSettings()
    uri, spec = settings.mlflow_tracking_uri.rstrip("/"), settings.spec()
    for name, value in MLFLOW_CLIENT.items():
        os.environ.setdefault(name, value)
    try:
        champion = champion_of(uri, NAME)
        if only_if_missing and champion is not None and champion.spec_id == spec.spec_id:
            print(f"{NAME} version {champion.version} is champion already: nothing to do")
            return
        candidate = train_on_simulated_days(spec)
        version = register(uri, candidate)
    except RegistryError as error:
        sys.exit(str(error))
    metrics = candidate.metrics
    print(
        f"{NAME} version {version} is champion: QLIKE {metrics['qlike']:.3f} on {metrics['test_horizons']:.0f} "
        f"horizons after training (unscaled EWMA {metrics['qlike_unscaled_ewma']:.3f}, contract alone "
        f"{metrics['qlike_contract']:.3f}), intervals cover {metrics['coverage']:.1%}"
    )


if __name__ == "__main__":
    main()
