"""Models retrained on a real, sparse market: the road from recordings to the gate's verdict, without a shortcut."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from data.models.registry import Registry
from data.models.served import BASELINE, ML
from data.recordings.readers import read_bars
from data.trades import Trades
from offline.candles import trades_of_candles
from offline.days.staging import ingest
from offline.lake.store import Lake
from offline.promotion.gate import Refused
from offline.promotion.inputs import lake_inputs
from offline.promotion.ledger import history
from offline.promotion.moves import promote
from offline.settings import DEFAULT_TRAIN_MB
from offline.training import Challenger, lake_training, train
from orchestration.assets.models import choose_days
from orchestration.assets.partitions import DayRange
from tests.days import recorded
from tests.mlflow_server import running_mlflow
from tests.models import SPEC
from tests.proofs import Proof
from tests.services.test_days import make_all

pytestmark = [pytest.mark.acceptance, pytest.mark.filterwarnings("default")]  # MLflow warns about its own code

PRODUCT = "BTC-USD"
DAYS = [dt.date(2016, 10, 7), dt.date(2016, 10, 8)]
TRAIN_END = dt.datetime.combine(DAYS[1], dt.time(), dt.UTC)


@pytest.fixture
def lake(shared: Path, tmp_path: Path) -> Lake:
    """Return a lake with the second bars of two days, as trades, feature rows and training sets."""
    lake = Lake.open(tmp_path / "lake")
    for day in DAYS:
        bars = [batch.bars for batch in read_bars(shared / f"lean/second/btcusd/{day:%Y%m%d}_trade.zip")]
        ingest(lake, recorded(tmp_path / f"{day}.csv", Trades.join([trades_of_candles(each) for each in bars])))
    make_all(lake, [PRODUCT], DAYS)
    return lake


def test_on_the_lean_days_the_gate_takes_the_baseline_and_refuses_an_ml_without_a_gain(
    lake: Lake, tmp_path: Path, proof: Proof
) -> None:
    """The first day trains both models, and the second day is the test."""
    proof.disturbs("a market with a trade in one second of twenty")
    days = choose_days(lake, DayRange())
    assert days.days == DAYS
    rows, made_from, spans, test = lake_training(lake, SPEC, days.partitions, DAYS[1], DEFAULT_TRAIN_MB)
    inputs = lake_inputs(str(tmp_path / "lake"), SPEC)
    with running_mlflow(tmp_path) as server:
        registry = Registry(server.uri)
        results = train(registry, rows, SPEC, TRAIN_END, made_from, spans=spans, test=test)
        found = {each.candidate.name: each for each in results if isinstance(each, Challenger)}
        coverages = {name: each.candidate.metrics["coverage"] for name, each in found.items()}
        proof.saw(**{f"{name} coverage": coverage for name, coverage in coverages.items()})
        assert set(coverages) == {BASELINE, ML}
        assert all(0.85 <= coverage <= 0.95 for coverage in coverages.values()), coverages

        promoted = promote(
            registry, BASELINE, objects=lake.objects, inputs=inputs, spec=SPEC, who="me", why="the first one"
        )
        with pytest.raises(Refused) as refused:
            promote(registry, ML, objects=lake.objects, inputs=inputs, spec=SPEC, who="me", why="a gain?")
        entries, champion = history(registry, ML), registry.champion(ML)
    gates = [float(each.evidence["coverage"]) for each in (promoted, *entries)]
    assert all(0.85 <= coverage <= 0.95 for coverage in gates), gates

    failed = {each.name: each for each in refused.value.conditions if not each.is_met}
    proof.saw(refused_for=", ".join(failed), gain=failed["gain over the baseline"].found)
    assert {"gain over the baseline", "significance of this gain"} <= set(failed)
    gain = failed["gain over the baseline"]
    assert float(gain.found.split(",")[0]) > 1
    assert gain.allowed == f"0.97 of {BASELINE} version {found[BASELINE].version} or less"
    listed = [f"{each.name}: found {each.found}, allowed is {each.allowed}" for each in failed.values()]
    assert str(refused.value).endswith(f" is refused. {'; '.join(listed)}")

    (entry,) = entries
    assert (entry.action, entry.to_version, entry.state) == ("refuse", found[ML].version, "done")
    assert all(entry.evidence[f"condition {each.name}"].startswith(each.found[:50]) for each in failed.values())
    assert champion is None
