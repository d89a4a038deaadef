"""Forecasts are made again whatever happened to the services and the models since."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path

import numpy as np
import pytest

from data.readers import write_csv
from data.simulator import simulate_day
from data.spec import FeatureSpec
from data.trades import StreamKey, Trades
from offline.explain import Explainer
from offline.promotion import promote, roll_back
from offline.registry import call
from offline.samples import Sample
from orchestration.local.broker import Broker
from tests.faults.drill import Drill
from tests.mlflow_server import running_mlflow
from tests.models import BASELINE, model_bytes, put_version
from tests.pipeline import running
from tests.proofs import Proof

SPEC = FeatureSpec()
PRODUCTS = ("BTC-USD", "ETH-USD")
FORECASTS = 1_000
ROWS = 20_000
"""Of each product."""


def recorded(folder: Path) -> Path:
    """Six hours of two products in one file, by time, thinned to `ROWS` each: windows reach their limit of four."""
    parts = []
    for product_id in PRODUCTS:
        trades = simulate_day(product_id, dt.date(2025, 3, 7), hours=(9, 15))
        parts.append(trades.take(slice(0, None, len(trades) // ROWS)).take(slice(0, ROWS)))
    trades = Trades.join(parts)
    path = folder / "recording.csv"
    write_csv(path, [trades.take(np.argsort(trades.event_time, kind="stable"))])
    return path


def nothing_after(_: dt.datetime) -> Sample:
    raise ValueError("there are no test rows: what is promoted here is forced")


@pytest.mark.acceptance
def test_1000_random_forecasts_are_made_again_exactly_after_promotions_rollbacks_and_kills(
    own_broker: Broker, tmp_path: Path, proof: Proof
) -> None:
    recording = recorded(tmp_path)
    (tmp_path / "mlflow").mkdir()
    with running_mlflow(tmp_path / "mlflow") as server:
        uri = server.uri
        put_version(uri, "volatility-baseline", model_bytes())
        for scale in (2.0, 8.0):
            put_version(uri, "volatility-ml", model_bytes(replace(BASELINE, scale=scale), variant="ml"))

        def move(model: str, version: str) -> None:
            promote(uri, model, version, test=nothing_after, spec=SPEC, who="drill", why="drill", force=True)

        move("volatility-baseline", "1")
        drill = Drill(own_broker, tmp_path / "models", tmp_path, MLFLOW_TRACKING_URI=uri, MODEL_VARIANT="ml")
        scale_8 = partial(move, "volatility-ml", "2")
        scale_2 = partial(move, "volatility-ml", "1")
        back = partial(roll_back, uri, "volatility-ml", spec=SPEC, who="drill", why="drill")
        turn: list[Callable[[], object]] = [
            scale_8,
            back,
            scale_8,
            drill.forecaster.kill,
            scale_2,
            back,
            back,
        ]
        moves: Iterator[Callable[[], object]] = chain([scale_2], cycle(turn))
        with drill.services(), running(drill.replay("explained", recording, REPLAY_SPEED="400")):
            rows = done = 0
            while drill.predictions.ends("explained") < len(PRODUCTS):
                drill.read()
                rows = len(drill.predictions.records["explained"])
                if rows >= (done + 1) * 2_000 and rows < 1.8 * ROWS:
                    next(moves)()
                    done += 1
                    if drill.forecaster.process.poll() is not None:
                        drill.forecaster.start()
            records = drill.predictions.rows("explained")
        assert len(records) == len(PRODUCTS) * ROWS
        versions = Counter(f"{record['model_variant']} {record['version']}" for record in records)
        proof.disturbs(f"{done} promotions, rollbacks, kills of the forecaster while it ran")
        chosen = np.random.default_rng(6).choice(len(records), FORECASTS, replace=False)
        kafka = {"bootstrap.servers": own_broker.bootstrap_servers}
        explainer = Explainer(kafka, uri, tmp_path / "no models", SPEC)
        found = []
        for product_id in PRODUCTS:
            ids = [records[i]["trade_id"] for i in chosen if records[i]["product_id"] == product_id]
            found += explainer.explain(StreamKey("explained", product_id), ids)
        second = next(each for each in found if each.prediction.version == "2")
        call(uri, "DELETE", "model-versions/delete", {"name": "volatility-ml", "version": "2"})
        explainer = Explainer(kafka, uri, tmp_path / "no models", SPEC)
        (without,) = explainer.explain(
            StreamKey("explained", second.prediction.product_id), [second.prediction.trade_id]
        )
    proof.saw(rows=len(records), explained=len(found), versions=len(versions))
    proof.saw(rarest_version=min(versions.values()), in_window=max(len(each.window or ()) for each in found))
    proof.equal([each.findings for each in found if each.exit_code], [], "parts that differ or are gone")
    assert len(found) == FORECASTS
    assert versions.keys() == {"baseline 1", "ml 1", "ml 2"}
    assert {finding.part for finding in without.findings if finding.outcome == "expired"} == {"model", "score"}
    assert {finding.outcome for finding in without.findings} == {"expired", "equal"}, "a model that was deleted"
