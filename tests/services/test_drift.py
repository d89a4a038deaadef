"""Drift in Dagster, by real Evidently; and on simulated days, how often it is wrong and what it finds."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import numpy as np
import pandas as pd
import pytest

from data.features.spec import FeatureSpec
from data.models.registry import Registry, Version
from data.models.served import ServedModel
from data.simulator.day import simulate_day
from data.simulator.state import SCALE_SD, MarketShift
from data.stream.records import Figure
from data.times import DAY_S, NS, start_ns, to_datetime
from data.trades import Floats, Int64s, Trades
from data.truth.targets import variance_floor
from monitoring.drift.calibration import Calibration, calibrate
from monitoring.drift.hours import HOUR_NS, Hours, hours_of
from monitoring.drift.verdict import Findings, Ratio, Verdict
from monitoring.drift.verdict import judge as judge_hours
from offline.evaluation.served import trained_on_simulated_days
from offline.evaluation.walk_forward import adapted_forecasts
from offline.frames.serving import NewestForecasts
from offline.history import history_of
from offline.models.cascade import Forecasts
from orchestration.assets import drift as asset
from orchestration.assets.partitions import PRODUCTS
from orchestration.automation.schedules import schedules
from orchestration.automation.sensors import REASON_TAG, drift_retrain
from orchestration.definitions import definitions
from orchestration.resources import RegistryResource
from orchestration.settings import OrchestrationSettings
from tests.drifting import market
from tests.proofs import Proof

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
PRODUCT = "BTC-USD"
SPEC = FeatureSpec()


def frame_of(event_time: Int64s, columns: dict[str, Floats]) -> pd.DataFrame:
    return pd.DataFrame(columns, pd.DatetimeIndex(event_time, tz="UTC", name="event_time"))


def test_evidently_computes_the_ratios_and_shows_them(tmp_path: Path) -> None:
    """One process of its own: the numbers are those of the rule, and the page has each signal."""
    reference, current = market(4, seed=1), market(2, seed=9, double_from=30)
    frame_of(*reference).to_parquet(tmp_path / "champion.parquet")
    frame_of(*current).to_parquet(tmp_path / "current.parquet")
    found = asset.judge(tmp_path, tmp_path / "champion.parquet", after=28 * HOUR_NS)
    assert isinstance(found, Findings)
    floor = variance_floor(reference[1]["target"] ** 2)
    calibration = calibrate(hours_of(*reference, floor), floor)
    verdict = judge_hours(hours_of(*current, floor), calibration)
    assert (found.shown, found.drift, found.with_loss) == (30 * HOUR_NS, True, True)
    assert found.newest == 46 * HOUR_NS  # the last hour has not ended
    assert (found.largest, found.named) == verdict.largest(30)
    ratios = {f"{each.view} {each.column}": each.ratio for each in found.ratios}
    assert ratios == pytest.approx({str(signal): each[30] for signal, each in verdict.ratios.items()})
    page = (tmp_path / "drift.html").read_text()
    assert all(name in page for name in ratios)
    assert "evidently" not in sys.modules
    assert asset.judge(tmp_path, tmp_path / "champion.parquet", after=46 * HOUR_NS) == "no full hour of rows is new"


FOUND = Findings(
    hours=3,
    newest=7 * HOUR_NS,
    shown=6 * HOUR_NS,
    largest=2.5,
    named="change ret_std",
    ratios=(Ratio("change", "ret_std", 2.5), Ratio("level", "ret_std", 9.0), Ratio("loss", "qlike", 1.5)),
    drift=True,
    loss=True,
    with_loss=True,
)


def test_a_report_and_its_ratios_are_kept_in_mlflow(mlflow_uri: str, tmp_path: Path) -> None:
    """Both reports of a product are in one run; the link opens the newest."""
    (tmp_path / "drift.html").write_text("<html>newest</html>")
    registry = RegistryResource(uri=mlflow_uri, public_url=mlflow_uri)
    first = asset._log_to_mlflow(registry, PRODUCT, tmp_path / "drift.html", FOUND)
    assert asset._log_to_mlflow(registry, PRODUCT, tmp_path / "drift.html", FOUND) == first
    run_id = first.split("/runs/")[1].split("/")[0]
    listed = httpx.get(f"{mlflow_uri}/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}).json()
    assert sorted(each["path"] for each in listed["files"]) == ["1970-01-01T06.html", "drift.html"]
    kept = httpx.get(f"{mlflow_uri}/get-artifact", params={"run_id": run_id, "path": "drift.html"})
    assert kept.text == "<html>newest</html>"
    run = httpx.get(f"{mlflow_uri}/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
    assert {each["key"]: each["value"] for each in run["data"]["metrics"]}["change/ret_std"] == 2.5


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("INBOX_DIR", str(tmp_path / "inbox"))
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    (tmp_path / "inbox").mkdir()
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(str(PRODUCTS.name), [PRODUCT])
        yield instance


def made_drift(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the asset on rows that have been judged elsewhere; return its metadata, and the published figures."""
    figures: list[Figure] = []
    after: list[int] = []
    frame = frame_of(*market(1, seed=0))
    served = NewestForecasts(frame, 77, "replay-1", "ml", "3")
    monkeypatch.setattr(asset, "newest_forecasts", lambda *_: served)
    monkeypatch.setattr(Registry, "version", lambda _, name, version: Version(name, version, {}, ""))

    def reference(*given: Any) -> Path:
        given[-1].mkdir(parents=True, exist_ok=True)
        return Path("unused")

    def judge(_: Path, __: Path, last: int) -> Findings:
        after.append(last)
        return FOUND

    monkeypatch.setattr(asset, "_reference", reference)
    monkeypatch.setattr(asset, "judge", judge)
    monkeypatch.setattr(asset, "_log_to_mlflow", lambda *_: "http://127.0.0.1:5000/#/report")
    monkeypatch.setattr(asset, "publish_or_warn", lambda _, given, __: figures.extend(given))
    resources = definitions().resources
    done = dg.materialize([asset.drift], partition_key=PRODUCT, instance=instance, resources=resources)
    assert done.success
    (event,) = done.asset_materializations_for_node("drift")
    return {name: value.value for name, value in event.metadata.items()} | {"figures": figures, "after": after}


def test_a_report_is_an_asset_with_a_link_and_its_figures_are_published(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_drift(instance, monkeypatch)
    assert made["report"] == "http://127.0.0.1:5000/#/report"
    assert made["champion"] == "volatility-ml version 3"
    assert (made["largest"], made["largest ratio"], made["drift with loss"]) == ("change ret_std", 2.5, True)
    figures = {each.key: each.value for each in made["figures"]}
    assert figures["drift_ratio{column=ret_std,product_id=BTC-USD,view=change}"] == 2.5
    assert figures["drift_ratio{column=qlike,product_id=BTC-USD,view=loss}"] == 1.5
    assert {name: figures[f"{name}{{product_id=BTC-USD}}"] for name in ("drift_alarm", "drift_with_loss")} == {
        "drift_alarm": 1.0,
        "drift_with_loss": 1.0,
    }
    assert made["after"] == [0]
    assert made_drift(instance, monkeypatch)["after"] == [FOUND.newest]


def test_without_new_rows_no_report_is_made(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    hourly = next(each for each in schedules(OrchestrationSettings(_env_file=None)) if each.name == "hourly_drift")
    newest = 0

    def tick() -> Any:
        monkeypatch.setattr("orchestration.automation.schedules.newest_ingest_time", lambda *_: newest)
        resources = {"lake": (definitions().resources or {})["lake"]}
        repository = definitions().get_repository_def()
        with dg.build_schedule_context(instance=instance, resources=resources, repository_def=repository) as context:
            return hourly.evaluate_tick(context)

    assert tick().skip_message == "no served row is new since the last reports"
    newest = 77
    assert [request.partition_key for request in tick().run_requests] == [PRODUCT]
    made_drift(instance, monkeypatch)
    assert tick().skip_message == "no served row is new since the last reports"


def test_drift_with_loss_asks_for_one_training_a_day(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: dg.RunRequest | dg.SkipReason = dg.SkipReason("no training row is new since run 1")
    monkeypatch.setattr("orchestration.automation.sensors.retrain_request", lambda *_: answer)
    resources = {"lake": (definitions().resources or {})["lake"]}

    def look() -> Any:
        context = dg.build_sensor_context(instance=instance, resources=resources)
        return drift_retrain.evaluate_tick(context)

    assert look().skip_message == "no report of the last day shows drift with loss"
    made_drift(instance, monkeypatch)
    assert look().skip_message == "no training row is new since run 1"
    answer = dg.RunRequest(tags={"rows": "new"})
    (asked,) = look().run_requests
    assert asked.tags[REASON_TAG] == "BTC-USD: drift of change ret_std with loss"
    retrain = definitions().resolve_job_def("retrain")
    tags = asked.tags | {"dagster/sensor_name": drift_retrain.name}
    run = instance.create_run_for_job(retrain, tags=tags, status=dg.DagsterRunStatus.FAILURE)
    assert look().skip_message == f"run {run.run_id} was asked for within a day"


def test_drift_alone_asks_for_nothing(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    monkeypatch.setitem(globals(), "FOUND", msgspec.structs.replace(FOUND, with_loss=False))
    made_drift(instance, monkeypatch)
    context = dg.build_sensor_context(instance=instance, resources={"lake": (definitions().resources or {})["lake"]})
    assert drift_retrain.evaluate_tick(context).skip_message == "no report of the last day shows drift with loss"


# Simulated days: minutes of simulation.

FIRST, LATER = dt.date(2011, 3, 7), dt.date(2012, 5, 7)
REFERENCE_DAYS, CALM_DAYS = 10, 10
PRODUCTS_JUDGED = ("SOL-USD", "LINK-USD", "ETH-USD", "BTC-USD")
SEED = 1


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return trained_on_simulated_days(SPEC)["ml"]


def rows_of(trades: Trades, model: ServedModel) -> tuple[Int64s, dict[str, Floats]]:
    """Return the counted rows of one stream with adapted forecasts, as `drift` sees them."""
    history = history_of([trades], SPEC)
    values = history.values[:, SPEC.places(model.columns)]
    raw = model.score(values, [history.products[0]] * len(history))
    adapted = adapted_forecasts(history, Forecasts(raw.score, raw.lower, raw.upper))
    counted = ~np.isnan(history.targets)
    columns = dict(zip(SPEC.columns, history.values[counted].T, strict=True))
    columns |= {"score": adapted.score[counted], "lower": adapted.lower[counted], "upper": adapted.upper[counted]}
    return history.event_time[counted], columns | {"target": history.targets[counted]}


def days_of(product_id: str, first: dt.date, days: int) -> Trades:
    return Trades.join([simulate_day(product_id, first + dt.timedelta(days=day), SEED) for day in range(days)])


def learnt(product_id: str, model: ServedModel) -> tuple[Calibration, tuple[Int64s, dict[str, Floats]]]:
    event_time, columns = rows_of(days_of(product_id, FIRST, REFERENCE_DAYS), model)
    floor = variance_floor(columns["target"] ** 2)
    return calibrate(hours_of(event_time, columns, floor), floor), (event_time, columns)


def verdict_of(rows: tuple[Int64s, dict[str, Floats]], calibration: Calibration) -> Verdict:
    return judge_hours(hours_of(*rows, calibration.variance_floor), calibration)


def evidently_alarms(reference: pd.DataFrame, current: pd.DataFrame) -> bool:
    """Return whether Evidently's own rules find any column that drifts."""
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    done = Report([DataDriftPreset()]).run(Dataset.from_pandas(current), Dataset.from_pandas(reference))
    drifted = next(each for each in done.dict()["metrics"] if each["config"]["type"].endswith("DriftedColumnsCount"))
    return bool(drifted["value"]["count"] > 0)


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore")  # of Evidently
def test_calm_hours_rarely_drift_and_a_doubled_market_always_does(proof: Proof, model: ServedModel) -> None:
    proof.disturbs("4 calm products; price moves doubled; whole market doubled")
    false: list[float] = []
    theirs: list[bool] = []
    found: dict[str, list[bool]] = {"moves": [], "market": []}
    named: list[bool] = []
    alerts: list[bool] = []
    for product_id in PRODUCTS_JUDGED:
        calibration, reference = learnt(product_id, model)
        calm = rows_of(days_of(product_id, LATER, CALM_DAYS), model)
        verdict = verdict_of(calm, calibration)
        false.append(float(verdict.drift.mean()))
        alerts += verdict.with_loss.tolist()
        expected = frame_of(*reference)[["ret_std", "trade_rate_60", "score"]].apply(np.log)
        shown = frame_of(*calm)[["ret_std", "trade_rate_60", "score"]].apply(np.log)
        for hour in verdict.start[5::60]:
            mine = calm[0] // HOUR_NS == hour // HOUR_NS
            theirs.append(evidently_alarms(expected, shown[mine]))
        for number in range(6):
            day, second = LATER + dt.timedelta(days=number), 3_600 * (6 + 2 * number)
            for kind, hits in found.items():
                trades = _doubled(kind, product_id, day, second)
                doubled = verdict_of(rows_of(trades, model), calibration)
                hour = int(np.searchsorted(doubled.start, start_ns(day) + second * NS))
                hits.append(bool(doubled.drift[hour : hour + 3].any()))
                if kind == "moves":
                    named.append(doubled.largest(hour)[1] == "change ret_std")
                else:
                    alerts += doubled.with_loss[hour : hour + 3].tolist()
    proof.saw(
        false_alarms=round(float(np.mean(false)), 3),
        by_product=" ".join(f"{each:.3f}" for each in false),
        evidently_alarms=round(float(np.mean(theirs)), 3),
        moves_found=round(float(np.mean(found["moves"])), 3),
        ret_std_named=round(float(np.mean(named)), 3),
        market_found=round(float(np.mean(found["market"])), 3),
        alerts=round(float(np.mean(alerts)), 3),
    )
    assert 0.02 <= np.mean(false) <= 0.08
    assert np.mean(theirs) > 0.9
    assert np.mean(found["moves"]) >= 0.95
    assert np.mean(named) >= 0.95
    assert np.mean(found["market"]) >= 0.95
    assert np.mean(alerts) < 0.01


def _doubled(kind: str, product_id: str, day: dt.date, second: int) -> Trades:
    """Return a day whose price moves, or whose volatility and trades, are doubled from a second on."""
    begin, end = second // 3_600 - 6, second // 3_600 + 3
    if kind == "market":
        shift = MarketShift(second, SCALE_SD, float(np.log(2)))
        return simulate_day(product_id, day, SEED, (begin, end), shift)
    trades = simulate_day(product_id, day, SEED, (begin, end))
    at = int(np.searchsorted(trades.event_time, start_ns(day) + second * NS))
    price = trades.price.copy()
    price[at:] = price[at] * (price[at:] / price[at]) ** 2
    return replace(trades, price=price)


@pytest.mark.acceptance
def test_planted_harm_is_drift_with_loss_within_three_hours(proof: Proof, model: ServedModel) -> None:
    """The simulator's `--harm-from 12:00`, on the second of three days."""
    proof.disturbs("SCALE_SD[0] .15 -> .6 from noon on")
    calibration, _ = learnt(PRODUCT, model)
    shifts = (None, MarketShift(12 * 3_600), MarketShift(0))
    days = [LATER + dt.timedelta(days=number) for number in range(3)]
    harmed = Trades.join(
        [simulate_day(PRODUCT, day, SEED, shift=shift) for day, shift in zip(days, shifts, strict=True)]
    )
    event_time, columns = rows_of(harmed, model)
    verdict = verdict_of((event_time, columns), calibration)
    noon = start_ns(days[1]) + DAY_S // 2 * NS
    before = verdict.start < noon
    first = verdict.start[~before & verdict.with_loss]
    hours_of_loss = Hours(verdict.start, hours_of(event_time, columns, calibration.variance_floor).values)
    coverage = 1 - next(each for signal, each in hours_of_loss.values.items() if signal.column == "outside")
    proof.saw(
        hours_to_alert=float((first[0] - noon) / HOUR_NS + 1) if len(first) else -1.0,
        alerts_before=int(verdict.with_loss[before].sum()),
        coverage_before=round(float(coverage[before].mean()), 3),
        coverage_first_hour=round(float(coverage[~before][0]), 3),
        coverage_after=round(float(coverage[~before].mean()), 3),
        from_hour=str(to_datetime(int(first[0]))),
    )
    assert not verdict.with_loss[before].any()
    assert first[0] < noon + 3 * HOUR_NS
