"""A real Prometheus answers each query of the dashboards: with plausible values, and with those of a running stack."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest

from data.models.served import BASELINE, ML
from data.simulator.day import simulate_day
from data.stream.records import PREDICTIONS, Figure
from monitoring.dashboards.__main__ import FOLDER
from monitoring.drift.files import CURRENT
from monitoring.drift.verdict import Findings
from offline.served.sink import sink_figures
from orchestration.assets.drift import figures_of, judge
from tests.broker import Broker
from tests.drawing.stack import observed_stack
from tests.drifting import market
from tests.fakes import FakeRegistry
from tests.models import baseline, model_bytes, model_file
from tests.pipeline import running, wait_until
from tests.plausible import history
from tests.prometheus import empty_queries, expressions, prometheus_of, result_of, sent_queries
from tests.proofs import Proof

END = float(round(time.time()) // 60 * 60)
START = END - 1_200.0
"""Seconds since 1970 of the history's ends."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a Prometheus with plausible values of each metric, one every 15 s."""
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip("Prometheus is not installed")
    times = [START + 15.0 * step for step in range(81)]
    with prometheus_of(history(times, END), (START, END), 15, tmp_path_factory.mktemp("prometheus")) as found:
        yield found


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.json")))
def test_prometheus_has_data_for_each_query(url: str, name: str) -> None:
    board = json.loads((FOLDER / name).read_text())
    assert len(list(expressions(board))) > 10
    assert empty_queries(url, board, END) == []


def test_a_wrong_query_is_reported(url: str) -> None:
    assert empty_queries(url, {"panels": [{"targets": [{"expr": "cryptovol_absent"}]}]}, END) == ["cryptovol_absent"]
    with pytest.raises(ValueError, match="parse error"):
        result_of(url, "sum by (")


MADE = {"variance_floor": "1e-10", "tercile_bounds": "0.0002,0.0004"}
BASELINE_FILE = model_file(version="3", content=model_bytes(baseline(), **MADE))
ML_FILES = [
    model_file(ML, version, model_bytes(baseline(scale=scale), variant="ml", **MADE))
    for version, scale in (("1", 4.0), ("2", 5.0))
]
PROMISED = {"promised_coverage_05": "0.8", "promised_qlike_95": "0.3"}
SPEED = {"REPLAY_SPEED": "120"}
"""Four hours of event time, for the p of Diebold and Mariano, take two minutes."""
WITHIN_S, STEP_S = 400.0, 5
DAY, TRAINED = dt.date(2025, 3, 5), dt.date(2010, 1, 8)
"""A day after the training of the models, and a day before its end: forecasts of the latter are in sample."""
RIGHTLY_EMPTY: dict[str, str] = {}
"""By dashboard and panel: why the panel has no number in a stack in which all is well."""


def figures_of_jobs(folder: Path) -> list[Figure]:
    """Return the figures of all batch jobs but the moves; the drift is judged by the process that judges real rows."""
    champion = folder / "champion.parquet"
    for path, days, seed in ((champion, 4, 1), (folder / CURRENT, 2, 9)):
        event_time, columns = market(days, seed)
        frame = pd.DataFrame(columns, pd.DatetimeIndex(event_time, tz="UTC", name="event_time"))
        frame.to_parquet(path)
    found = judge(folder, champion, after=0)
    assert isinstance(found, Findings)
    now = time.time_ns()
    drift = [each for product_id in ("BTC-USD", "ETH-USD") for each in figures_of(found, product_id, now)]
    parity = Figure("parity_different_rows", {"product_id": "BTC-USD"}, 0.0, now)
    return [*drift, parity, Figure("retrain_failed", {}, 0.0, now), *sink_figures({PREDICTIONS: 7})]


@pytest.mark.acceptance
def test_a_running_stack_has_a_number_for_each_query(
    tmp_path: Path, own_broker: Broker, registry: FakeRegistry, proof: Proof
) -> None:
    """Three replays, a client, malformed rows, a challenger, its promotion and rollback, figures of batch jobs."""
    if not shutil.which("prometheus"):
        pytest.skip("Prometheus is not installed")
    boards = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    registry.files = {BASELINE: BASELINE_FILE, ML: ML_FILES[0]}
    registry.challengers = {ML: ML_FILES[1]}
    registry.tags = {BASELINE: PROMISED, ML: PROMISED}
    proof.disturbs("a champion promoted and rolled back, malformed records and rows")
    figures = figures_of_jobs(tmp_path)
    with observed_stack(tmp_path, own_broker, registry) as stack:
        began = time.time()
        ports = [{"INGESTOR_PORT": str(int(stack.environ["INGESTOR_PORT"]) + number)} for number in range(3)]
        with running(
            stack.ingestor("first", simulate_day("BTC-USD", DAY, hours=(6, 16)), **SPEED, **ports[0]),
            stack.ingestor("second", simulate_day("ETH-USD", DAY, hours=(6, 16)), **SPEED, **ports[1]),
            stack.ingestor("trained", simulate_day("BTC-USD", TRAINED, hours=(6, 8)), **SPEED, **ports[2]),
        ):
            stack.publish(figures)
            stack.send_malformed()
            shadow = 'cryptovol_forecast_qlike{role="shadow",version="2"}'
            wait_until(lambda: result_of(stack.prometheus, shadow), "the challenger's forecasts are judged", 120)
            stack.move("promote", ML_FILES[1])
            served = 'cryptovol_forecast_qlike{role="champion",version="2"}'
            wait_until(lambda: result_of(stack.prometheus, served), "the promoted version's forecasts are judged", 120)
            stack.move("rollback", ML_FILES[0])
            deadline = time.monotonic() + WITHIN_S
            while True:
                now = time.time()
                asked = (sent_queries(stack.prometheus, board, began, now, STEP_S) for board in boards)
                sent = list(chain.from_iterable(asked))
                empty = {each.place: each.expr for each in sent if not each.has_number}
                if empty.keys() <= RIGHTLY_EMPTY.keys() or time.monotonic() > deadline:
                    break
                time.sleep(5)
    proof.saw(queries=len(sent), rightly_empty=len(empty), until_all_have_numbers_s=now - began)
    assert {place: expr for place, expr in empty.items() if place not in RIGHTLY_EMPTY} == {}
