"""How wrong forecasts are: by hand, on the same rows for all, in distinct horizons of time."""

from __future__ import annotations

import numpy as np
import pytest

from data.models.served import ServedModel
from data.times import NS
from data.trades import Floats
from offline.losses_table import CONTRACT_ALONE, NOTHING, UNSCALED_EWMA, evaluate
from offline.samples import Sample
from tests.models import BASELINE, NAN, SPEC, model_bytes

MODEL = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)


def rows_of(ewma: list[float], targets: list[float], seconds: list[float] | None = None) -> Sample:
    """Rows with 50 returns, `ret_std` 1e-4 and the given `ewma_variance_300`; all other columns are missing."""
    values: Floats = np.full((len(ewma), len(SPEC.columns)), NAN)
    values[:, [SPEC.columns.index(name) for name in BASELINE.columns[:3]]] = [50, 0, 1e-4]
    values[:, SPEC.columns.index("ewma_variance_300")] = ewma
    times = np.array(range(len(ewma)) if seconds is None else seconds) * NS
    return Sample(values, np.array(targets), times.astype(np.int64), 0, np.full(len(ewma), "BTC-USD"))


def test_losses_and_coverage_by_hand() -> None:
    """ewma 1e-6 times 4: score 2e-3, interval 1e-3 to 3e-3. Targets: right; a bit above the lower end; outside."""
    targets = [2e-3, 1.001e-3, 0.5e-3]
    line = evaluate({"a": MODEL}, rows_of([1e-6] * 3, targets), SPEC, floor=1e-10).losses_of("a")
    assert line.coverage == pytest.approx(2 / 3)
    assert line.qlike == pytest.approx(np.mean([r - np.log(r) - 1 for r in (1.0, 1.001**2 / 4, 1 / 16)]), rel=1e-4)
    assert line.log_mse == pytest.approx(np.mean([0, np.log(1.001 / 2) ** 2, np.log(1 / 4) ** 2]), rel=1e-4)


def test_all_forecasters_are_judged_on_the_same_rows_those_with_an_ewma() -> None:
    """The second row has none, so nobody is asked about it. Unscaled: r = 4; nothing known: score 1e-3, r = 4."""
    other = ServedModel.load(model_bytes(variant="ml"), spec_id=SPEC.spec_id)
    found = evaluate({"a": MODEL, "b": other}, rows_of([1e-6, NAN], [2e-3, 9.0]), SPEC, floor=1e-10)
    assert found.rows == 1
    assert found.losses_of("a")[2:] == found.losses_of("b")[2:]
    assert found.losses_of("a").qlike == pytest.approx(0, abs=1e-9)
    by_hand = 4 - np.log(4) - 1
    assert found.losses_of(UNSCALED_EWMA).qlike == pytest.approx(by_hand)
    assert np.isnan(found.losses_of(UNSCALED_EWMA).coverage)
    assert found.losses_of("a", NOTHING).qlike == pytest.approx(by_hand, rel=1e-5)
    assert found.losses_of("a", CONTRACT_ALONE).qlike == pytest.approx(by_hand, rel=1e-5)  # 100 * 1e-8 is 1e-6 as well


def test_products_that_move_in_the_same_minute_are_one_horizon() -> None:
    """Two rows each in minutes 0 and 1, by two products; the floor lifts the zero."""
    found = evaluate({"a": MODEL}, rows_of([1e-6] * 4, [0, 1e-3, 1e-3, 1e-3], [1, 1, 61, 119]), SPEC, floor=1e-6)
    assert found.horizons == 2
    assert found.zero_target_share == 0.25
    assert found.losses_of("a").qlike == pytest.approx(1 / 4 - np.log(1 / 4) - 1, rel=1e-5)  # all four at 1e-6
    assert (found.first_time.second, found.last_time.second) == (1, 59)


def test_metrics_name_the_others_by_their_forecaster() -> None:
    metrics = evaluate({"a": MODEL}, rows_of([1e-6], [2e-3]), SPEC, floor=1e-10).metrics("a")
    assert metrics["qlike"] == pytest.approx(0, abs=1e-9)
    assert metrics["qlike_unscaled_ewma"] > 1
    assert {"coverage", "coverage_contract", "log_mse_unconditional", "variance_floor", "test_horizons"} <= set(metrics)


def test_rows_that_never_had_minutes_of_history_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="none of 2 test rows has a grid step before the row: more history is needed"):
        evaluate({"a": MODEL}, rows_of([NAN, NAN], [1e-3, 1e-3]), SPEC, floor=1e-10)
