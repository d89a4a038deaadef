"""Dagster's side: the jobs' results, stale assets shown as stale, refusals with their reasons."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from logging import WARNING
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import yaml
from confluent_kafka import Producer
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from data.features.spec import FeatureSpec
from data.files import CHECKOUT
from data.models.registry import Registry
from data.models.served import Scores, ServedModel
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.codec import encode, encode_trades
from data.stream.figures import FiguresReader
from data.stream.records import TRADES as TRADES_TOPIC
from data.stream.records import End, partition_of
from data.times import DAY_S, NS
from data.trades import Floats, StreamKey
from offline.cards.pictures import POINTS
from offline.cards.version_texts import CARD, REPORT
from offline.days.feature_rows import FeatureFacts, make_feature_rows
from offline.days.staging import RECORDINGS, ingest
from offline.days.staleness import stale
from offline.days.steps import FEATURE_ROWS, TRADES, TRAINING_SET
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
from offline.evaluation.plots import label_plainly
from offline.lake.objects import ANY, Objects
from offline.lake.state import Change, ProductState
from offline.lake.store import Lake, manifest_path
from offline.leaks.rows import check_rows
from offline.models.candidate import Candidate, Recipe
from offline.models.recipes import RECIPES
from offline.promotion.ledger import history
from offline.promotion.register import find_experiment
from offline.recordings.prefixes import RecordingPrefix
from offline.samples import CHECKED_HOURS, Sample
from offline.served.manifest import read_manifest
from offline.settings import DEFAULT_TRAIN_MB
from offline.training import lake_training, train
from orchestration import code_server
from orchestration.assets import models, plots
from orchestration.assets.models import choose_days
from orchestration.assets.partitions import INPUTS, DayRange, ReportedVersion, key_of, product_days, report_of
from orchestration.assets.product_days import product_day_assets
from orchestration.automation import sensors
from orchestration.automation.schedules import schedules
from orchestration.automation.sensors import failure_sensor, inbox_files
from orchestration.definitions import definitions
from orchestration.instance.home import CODE_SERVER_TAG, configuration, installation_in
from orchestration.jobs import lake as lake_jobs
from orchestration.jobs import product_month
from orchestration.jobs.cleaning import forget_ended
from orchestration.jobs.ingestor_process import Ended, ProgressLine, ingest_online, last_words
from orchestration.resources import LakeResource
from orchestration.settings import OrchestrationSettings
from orchestration.ui.pictures import picture_route
from tests.broker import Broker
from tests.days import DAY, DAY_NS, MIDNIGHT, recorded, trades_at
from tests.mlflow_server import running_mlflow
from tests.models import model_bytes, put_version
from tests.pipeline import read_topic
from tests.seaweed import Seaweed
from tests.services.test_days import HOUR, days_from, make_all

pytestmark = [  # Dagster's own: it uses what it calls beta, and what pydantic calls old
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
DAYS = [dt.date(2010, 1, day) for day in (4, 5, 6, 7)]
PRODUCT = "BTC-USD"
SPEC = FeatureSpec()
ONE_MONTH = {"ops": {"make_month": {"config": {"product_id": PRODUCT, "month": "2010-01"}}}}


@dataclass
class Side:
    """Offline side of a test: a lake, an inbox, and a Dagster without history."""

    folder: Path
    instance: dg.DagsterInstance
    definitions: dg.Definitions

    @property
    def lake(self) -> Lake:
        return Lake.open(self.folder / "lake")

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    def run(self, job: str, op: str = "", **config: Any) -> dg.ExecuteInProcessResult:
        run_config = {"ops": {op: {"config": config}}} if config else {}
        return self.definitions.resolve_job_def(job).execute_in_process(run_config, self.instance, raise_on_error=False)

    def stale(self) -> set[tuple[str, str]]:
        """Return the stale assets and partitions in Dagster's view."""
        resolver = CachingStaleStatusResolver(
            self.instance, self.definitions.resolve_asset_graph(), LoadingContextForTest(self.instance)
        )
        return {
            (asset, key)
            for asset in INPUTS
            for key in self.instance.get_materialized_partitions(dg.AssetKey(asset))
            if resolver.get_status(dg.AssetKey(asset), key).value == "STALE"
        }


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    (tmp_path / "inbox").mkdir()
    monkeypatch.setenv("LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("INBOX_DIR", str(tmp_path / "inbox"))
    monkeypatch.setenv("RECORDINGS_DIRS", str(tmp_path))
    with dg.instance_for_test() as instance:
        yield Side(tmp_path, instance, definitions())


def record(path: Path, day: dt.date, minutes: tuple[float, float], seed: int = 0) -> Path:
    """Write some minutes of a simulated day; all recordings of one seed have the same trades at the same times."""
    trades = simulate_day(PRODUCT, day, seed, (0, 1) if minutes[0] < 60 else (23, 24))
    begin = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp() * 1e9)
    first, last = (begin + int(each * 60e9) for each in minutes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, [trades.take((trades.event_time >= first) & (trades.event_time < last))])
    return path


def materializations(side: Side, result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    """Return what a run reported to Dagster, in order."""
    logs = side.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return [log.asset_materialization for log in logs if log.asset_materialization]


def made(side: Side, result: dg.ExecuteInProcessResult) -> list[tuple[str, str]]:
    """Return the assets and partitions reported by a run, in order."""
    return [(each.asset_key.to_user_string(), str(each.partition)) for each in materializations(side, result)]


def reason(result: dg.ExecuteInProcessResult) -> str:
    """Return the failure description of the only step of a job."""
    (failure,) = (event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def test_every_job_can_be_launched_as_it_stands() -> None:
    """The launchpad's empty config is enough, but for one product and month; each job has a description."""
    defs = definitions()
    dg.Definitions.validate_loadable(defs)
    names = {"replay", "ingest", "simulate", "backfill", "retrain", "promote", "rollback", "sink", "product_month"}
    names |= {"clean_lake", "forget_runs"}
    for name in names:
        job = defs.resolve_job_def(name)
        dg.validate_run_config(job, ONE_MONTH if name == "product_month" else {})
        assert job.description
    assert names <= {job.name for job in defs.resolve_all_job_defs()}


def test_a_wrong_type_is_refused_before_anything_runs() -> None:
    job = definitions().resolve_job_def("replay")
    with pytest.raises(dg.DagsterInvalidConfigError, match="purpose"):
        dg.validate_run_config(job, {"ops": {"replay_trades": {"config": {"purpose": "fun"}}}})


def test_nothing_heavy_is_imported_to_serve_the_definitions() -> None:
    """In a process of its own: mlflow alone is 3 s and 225 MB."""
    import subprocess
    import sys

    code = (
        "import sys; from orchestration.definitions import definitions; definitions()\n"
        "print([name for name in ('mlflow', 'dagster_mlflow', 'sklearn', 'onnx', 'pandas', 'matplotlib') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=CHECKOUT, capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"


def test_the_inbox_is_taken_once_and_what_is_no_recording_is_said(side: Side) -> None:
    record(side.inbox / "monday" / "first.csv", DAYS[0], (0, 20))
    (side.inbox / "notes.txt").write_text("buy milk\n")
    (side.inbox / ".half.csv").write_text("source_id")
    result = side.run("ingest")
    assert reason(result).startswith("1 file is not taken, the rest is: notes.txt: ")
    key = f"2010-01-04|{PRODUCT}"
    assert [asset for asset, partition in made(side, result) if partition == key] == list(INPUTS)
    assert side.lake.tables(RECORDINGS) == ["recordings/monday%2Ffirst.csv"]
    (side.inbox / "notes.txt").unlink()
    again = side.run("ingest")
    assert again.success
    assert made(side, again) == []


def test_a_file_whose_name_the_lake_cannot_take_stops_no_other(side: Side) -> None:
    """60 letters of 3 bytes: the folder takes 255 bytes, the lake, which quotes letters, would need 540."""
    record(side.inbox / ("記" * 60), DAYS[0], (0, 2))
    record(side.inbox / "simulated", DAYS[0], (2, 4))
    record(side.inbox / "記.csv", DAYS[0], (4, 6))
    result = side.run("ingest", "ingest_inbox", then_backfill=False)
    assert reason(result).startswith("2 files are not taken, the rest is: simulated: the name 'simulated' is")
    assert side.lake.tables(RECORDINGS) == ["recordings/%E8%A8%98.csv"]


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, from the header; the PNG must be small."""
    assert data.startswith(b"\x89PNG\r\n")
    assert len(data) < 100_000
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_day_whose_rows_are_new_is_shown_as_a_picture(side: Side) -> None:
    """The picture is a file of the lake, which the UI serves."""
    path = record(side.folder / "one.csv", DAYS[0], (0, 20))
    ingest(side.lake, path, PRODUCT)
    result = side.run("backfill")
    pictures = {
        each.asset_key.to_user_string(): each.metadata[plots.PICTURE]
        for each in materializations(side, result)
        if plots.PICTURE in each.metadata
    }
    assert list(pictures) == ["feature_rows"]
    shown = f"/pictures/{PRODUCT}/{DAYS[0]}.png"
    assert pictures["feature_rows"] == dg.MetadataValue.md(f"![picture]({shown})")
    with TestClient(Starlette(routes=[picture_route("/pictures", str(side.folder / "lake"))])) as ui:
        answer = ui.get(shown)
        assert answer.headers["content-type"] == "image/png"
        assert size_of(answer.content) == (640, 280)
        for wrong in ("BTC-USD/2010-01-05", "BTC-USD/today", "bitcoin/2010-01-04"):
            assert ui.get(f"/pictures/{wrong}.png").status_code == 404
    place, old = (PRODUCT, DAYS[0]), make_feature_rows(side.lake, PRODUCT, DAYS[0], SPEC)
    resource = LakeResource(uri=str(side.folder / "lake"))
    assert plots.of_day(resource, side.lake, *place, old) == {}


def test_a_test_is_shown_as_a_picture_of_one_product(tmp_path: Path) -> None:
    """A thousand rows, with no trades for a while. The picture is a file of the lake, which the UI serves."""
    time = np.arange(1_000, dtype=np.int64) * 5_000_000_000
    values = np.full((1_000, len(SPEC.columns)), 1e-7)
    sample = Sample(values, np.full(1_000, 3e-4), time, int(time[-1]), np.full(1_000, PRODUCT))
    sample.targets[100:200] = 0.0
    asked: list[int] = []

    class Model(ServedModel):
        def score(self, values: Floats, product_ids: Sequence[str] | None = None) -> Scores:
            asked.append(len(values))
            return super().score(values, product_ids)

    model = Model.load(model_bytes(), spec_id=SPEC.spec_id, known_columns=SPEC.columns)
    asked.clear()
    uri, run_id = str(tmp_path / "lake"), "5d0c8b1e-0c0a-4f4e-9f57-0a8f3c1e2b7d"
    resource, models = LakeResource(uri=uri, pictures_path="/dagster/pictures"), {"volatility-baseline": model}
    shown = plots.of_test(resource, resource.open(), run_id, models, PRODUCT, sample)
    address = f"/dagster/pictures/tests/{run_id}.png"
    assert shown == {plots.PICTURE: dg.MetadataValue.md(f"![picture]({address})")}
    assert asked == [POINTS]
    with TestClient(Starlette(routes=[picture_route("/dagster/pictures", uri)])) as ui:
        assert size_of(ui.get(address).content) == (640, 280)
        for wrong in ("tests/latest", "tests/2010-01-04", "tests/5d0c8b1e-0c0a-4f4e-9f57-000000000000"):
            assert ui.get(f"/dagster/pictures/{wrong}.png").status_code == 404


def test_a_logarithmic_axis_is_labelled_in_plain_numbers() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.set_ylim(5.5, 25)
    label_plainly(axes.yaxis)
    figure.draw_without_rendering()
    ticks = axes.yaxis.get_major_ticks() + axes.yaxis.get_minor_ticks()
    labels = {tick.label1.get_text() for tick in ticks if tick.label1.get_text()}
    assert {"6", "10", "20"} <= labels
    assert all(label == f"{float(label):g}" for label in labels)


def test_dagster_sees_as_stale_what_a_late_recording_reaches_and_nothing_else(side: Side) -> None:
    """Dagster's view by data versions equals the lake's view by content hashes, before, between and after the steps."""
    for day in DAYS:
        record(side.inbox / f"{day}-begin.csv", day, (0, 10))
        record(side.inbox / f"{day}-end.csv", day, (1430, 1440))
    assert side.run("ingest").success
    assert side.stale() == set()
    record(side.inbox / "late.csv", DAYS[1], (1420, 1430))  # reaches into the tail of that day
    assert side.run("ingest", "ingest_inbox", then_backfill=False).success

    def agreed() -> set[tuple[str, str]]:
        found = side.stale()
        assert found == {(each.table, str(key_of(each.product_id, each.day))) for each in stale(side.lake, SPEC)}
        return found

    one, two = (f"{day}|{PRODUCT}" for day in DAYS[1:3])
    assert agreed() == {("trades", one)}
    trades, *_ = product_day_assets(product_days(dt.date(2010, 1, 1)))
    materialize(side, trades, DAYS[1])
    assert agreed() == {("feature_rows", one), ("feature_rows", two)}
    result = side.run("backfill")
    assert result.success
    assert agreed() == set()
    touched = {partition for _, partition in made(side, result)}
    assert touched <= {one, two}


def materialize(side: Side, asset: dg.AssetsDefinition, day: dt.date) -> None:
    """Materialize an asset as the button in the UI does."""
    resources = {name: value for name, value in (side.definitions.resources or {}).items() if name != "mlflow"}
    result = dg.materialize([asset], instance=side.instance, partition_key=key_of(PRODUCT, day), resources=resources)
    assert result.success


class Killed(BaseException):
    pass


def killed_backfill(side: Side) -> None:
    with pytest.raises(Killed):
        side.definitions.resolve_job_def("backfill").execute_in_process(instance=side.instance)


def keys_of(days: Sequence[dt.date]) -> set[str]:
    return {f"{day}|{PRODUCT}" for day in days}


@pytest.fixture
def three_days(side: Side) -> Sequence[dt.date]:
    """Three of four days are ingested, and not made."""
    for day in DAYS[:3]:
        record(side.inbox / f"{day}.csv", day, (0, 10))
    assert side.run("ingest", "ingest_inbox", then_backfill=False).success
    return DAYS[:3]


def test_a_backfill_goes_on_where_it_was_killed_before_a_put(
    side: Side, three_days: Sequence[dt.date], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with the feature rows of all days made: no manifest names them, and Dagster knows the trades alone."""
    put = Lake.put

    def dies(lake: Lake, product_id: str, changes: Sequence[Change]) -> ProductState:
        if type(lake) is Lake and changes[0].table == FEATURE_ROWS:
            raise Killed
        return put(lake, product_id, changes)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "put", dies)
        killed_backfill(side)
    assert side.lake.partition_keys(FEATURE_ROWS) == []
    assert side.instance.get_materialized_partitions(dg.AssetKey("feature_rows")) == set()
    assert side.instance.get_materialized_partitions(dg.AssetKey("trades")) == keys_of(three_days)
    result = side.run("backfill")
    assert {key for asset, key in made(side, result) if asset == "feature_rows"} == keys_of(three_days)
    assert not [asset for asset, _ in made(side, result) if asset.startswith("trades")]
    assert side.stale() == set()
    assert not stale(side.lake, SPEC)


def test_a_backfill_killed_between_put_and_report_reports_and_makes_nothing_again(
    side: Side, three_days: Sequence[dt.date], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(lake: LakeResource, store: Lake, table: str, *rest: Any) -> list[ReportedVersion]:
        if table == FEATURE_ROWS:
            raise Killed
        return report_of(lake, store, table, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(product_month, "report_of", dies)
        killed_backfill(side)
    assert [key.day for key in side.lake.partition_keys(FEATURE_ROWS)] == three_days
    assert side.instance.get_materialized_partitions(dg.AssetKey("feature_rows")) == set()
    with monkeypatch.context() as patch:
        not_again: Any = None
        steps = (make_trades, replace(make_feature_rows, make=not_again), make_training_set)
        patch.setattr(product_month, "STEPS", steps)
        result = side.run("backfill")
    assert result.success
    assert {key for asset, key in made(side, result) if asset == "feature_rows"} == keys_of(three_days)
    assert side.stale() == set()


def test_days_before_one_that_cannot_be_made_stay_made(
    side: Side, three_days: Sequence[dt.date], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(lake: Lake, product_id: str, day: dt.date, spec: FeatureSpec, write: Callable[..., None]) -> FeatureFacts:
        if day == three_days[1]:
            raise ValueError("damaged")
        return make_feature_rows.make(lake, product_id, day, spec, write)

    with monkeypatch.context() as patch:
        patch.setattr(product_month, "STEPS", (make_trades, replace(make_feature_rows, make=fails)))
        assert reason(side.run("backfill")) == "damaged"
    assert [key.day for key in side.lake.partition_keys(FEATURE_ROWS)] == three_days[:1]
    result = side.run("backfill")
    assert {key for asset, key in made(side, result) if asset == "feature_rows"} == keys_of(three_days)
    assert side.stale() == set()


def test_a_run_of_a_month_puts_the_manifest_once_for_each_table(
    side: Side, three_days: Sequence[dt.date], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No report comes before the put: at each put, Dagster knows the tables before alone."""
    objects, known = type(side.lake.objects), []
    put = objects.put

    def counted(own: Objects, path: str, *rest: Any) -> str:
        if path == manifest_path(PRODUCT):
            tables = (TRADES, FEATURE_ROWS, TRAINING_SET)
            known.append([name for name in tables if side.instance.get_materialized_partitions(dg.AssetKey(name))])
        return put(own, path, *rest)

    monkeypatch.setattr(objects, "put", counted)
    assert side.run("product_month", "make_month", product_id=PRODUCT, month="2010-01").success
    assert known == [[], [TRADES], [TRADES, FEATURE_ROWS]]
    assert len(side.lake.partition_keys(TRAINING_SET)) == len(three_days)
    known.clear()
    assert side.run("product_month", "make_month", product_id=PRODUCT, month="2010-01").success
    assert known == []


def test_simulated_days_are_put_once_a_month(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four days over the end of a month: two puts, and then the reports."""
    objects, puts = type(side.lake.objects), []
    put = objects.put

    def counted(own: Objects, path: str, *rest: Any) -> str:
        puts.append(path)
        return put(own, path, *rest)

    monkeypatch.setattr(objects, "put", counted)
    config = {"products": [PRODUCT], "first_day": "2010-01-30", "days": 4, "hours": [0, 1], "then_backfill": False}
    result = side.run("simulate", "simulate_days", **config)
    assert result.success
    assert puts == [manifest_path(PRODUCT)] * 2
    assert len(made(side, result)) == len(side.lake.partition_keys(RECORDINGS)) == 4


def test_the_lake_is_cleaned_up_each_day_unless_a_clean_up_is_at_work(side: Side) -> None:
    (daily,) = (each for each in schedules(OrchestrationSettings(_env_file=None)) if each.name == "daily_clean")
    assert daily.default_status is dg.DefaultScheduleStatus.RUNNING
    resources = {"lake": (side.definitions.resources or {})["lake"]}

    def tick() -> Any:
        with dg.build_schedule_context(instance=side.instance, resources=resources) as context:
            return daily.evaluate_tick(context)

    assert tick().skip_message == "the lake has no manifests"
    ingest(side.lake, record(side.folder / "one.csv", DAYS[0], (0, 1)), PRODUCT)
    assert len(tick().run_requests) == 1
    job = side.definitions.resolve_job_def("clean_lake")
    run = side.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert tick().skip_message == f"run {run.run_id} is at work"
    side.instance.report_run_failed(run)
    assert len(tick().run_requests) == 1


def test_the_replay_schedule_waits_for_its_own_replay_and_has_its_own_speed(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLAY_RECORDINGS", "/a/one.csv")
    monkeypatch.setenv("REPLAY_SCHEDULE_SPEED", "max")
    (replays,) = (each for each in schedules(OrchestrationSettings(_env_file=None)) if each.name == "replay_recordings")

    def tick() -> Any:
        with dg.build_schedule_context(instance=side.instance) as context:
            return replays.evaluate_tick(context)

    (request,) = tick().run_requests
    assert request.run_config["ops"]["replay_trades"]["config"] == {"recordings": ["/a/one.csv"], "speed": "max"}
    job = side.definitions.resolve_job_def("replay")
    side.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)  # by hand: it holds nothing back
    assert len(tick().run_requests) == 1
    tags = {"dagster/schedule_name": replays.name}
    own = side.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTING, tags=tags)
    assert tick().skip_message == f"run {own.run_id} of this schedule goes on"
    side.instance.report_run_failed(own)
    assert len(tick().run_requests) == 1


def test_ended_runs_are_forgotten_but_for_newest_results_and_moves(tmp_path: Path) -> None:
    """Of three runs that made an asset, the last one stays; so do a promotion, and what goes on or is young."""

    @dg.asset
    def number() -> None:
        pass

    job = dg.Definitions(assets=[number], jobs=[dg.define_asset_job("make", "*")]).resolve_job_def("make")
    moves = definitions().resolve_job_def("promote")
    ended = dg.DagsterRunStatus.FAILURE
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        made = [job.execute_in_process(instance=instance).run_id for _ in range(3)]
        failed = instance.create_run_for_job(job, status=ended).run_id
        promoted = instance.create_run_for_job(moves, status=ended).run_id
        open_one = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED).run_id
        log = tmp_path / "storage" / made[0] / "compute_logs" / "number.out"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("a line\n")
        assert forget_ended(instance, time.time_ns() - DAY_S * NS) == 0
        assert forget_ended(instance, time.time_ns() + 5 * NS) == 3
        assert {run.run_id for run in instance.get_runs()} == {made[2], promoted, open_one}
        assert not log.parent.parent.exists()
        newest = instance.get_latest_materialization_event(dg.AssetKey("number"))
        assert newest is not None
        assert newest.run_id == made[2]
        assert failed not in {run.run_id for run in instance.get_runs()}


def test_what_was_made_without_dagster_is_told_and_not_made_again(side: Side) -> None:
    """As after a kill between the file and the event, or with a new DAGSTER_HOME."""
    path = record(side.folder / "one.csv", DAYS[0], (0, 10))
    ingest(side.lake, path, PRODUCT)
    make_trades(side.lake, PRODUCT, DAYS[0])
    before = side.lake.partition("trades", PRODUCT, DAYS[0])
    assert before is not None
    written = Path(before.path).stat().st_mtime_ns
    result = side.run("backfill")
    assert {asset for asset, _ in made(side, result)} == set(INPUTS)
    assert Path(before.path).stat().st_mtime_ns == written
    assert side.instance.get_dynamic_partitions("product") == [PRODUCT]


def test_a_range_is_kept_to(side: Side) -> None:
    for day in DAYS[:3]:
        record(side.inbox / f"{day}.csv", day, (0, 10))
    assert side.run("ingest", "ingest_inbox", then_backfill=False).success
    result = side.run("backfill", "make_days", products=[PRODUCT], first_day="2010-01-05", last_day="2010-01-05")
    assert result.success
    assert [place.day for place in side.lake.partition_keys(TRAINING_SET)] == [DAYS[1]]
    assert {key for _, key in made(side, result)} == {f"2010-01-05|{PRODUCT}"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"first_day": "yesterday"}, "first_day is written as 2025-01-06, was 'yesterday'"),
        ({"last_day": "2010-13-01"}, "last_day is written as 2025-01-06, was '2010-13-01'"),
        ({"first_day": "2010-01-05", "last_day": "2010-01-04"}, "first_day must not come after last_day, were 2010-01"),
        ({"products": ["bitcoin"]}, "a product "),
        (
            {"products": ["ETH-USD", PRODUCT, "XRP-USD"]},
            "the lake has no recordings of ETH-USD, XRP-USD; it has some of BTC-USD",
        ),
    ],
)
def test_a_backfill_of_nonsense_says_what_is_allowed(side: Side, config: dict[str, Any], said: str) -> None:
    ingest(side.lake, record(side.folder / "one.csv", DAYS[0], (0, 1)), PRODUCT)
    result = side.run("backfill", "make_days", **config)
    assert reason(result).startswith(said)
    assert made(side, result) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"first_day": "2010-13-01"}, "first_day is written as 2025-01-06, was '2010-13-01'"),
        ({"hours": [24]}, "hours are two, as [0, 24]: the first, and the one to end before; were [24]"),
        ({"hours": [5, 5]}, "hours must rise within 0 to 24, were 5 to 5"),
    ],
)
def test_a_simulation_of_nonsense_says_what_is_allowed(side: Side, config: dict[str, Any], said: str) -> None:
    assert reason(side.run("simulate", "simulate_days", **config)) == said


def test_days_before_the_first_day_are_refused(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording, a simulation and a backfill name the setting; days that the lake holds already are left alone."""
    record(side.inbox / "early.csv", DAYS[0], (0, 5))
    assert side.run("ingest", "ingest_inbox", then_backfill=False).success
    monkeypatch.setenv("LAKE_FIRST_DAY", str(DAYS[1]))
    late = Side(side.folder, side.instance, definitions())
    record(side.inbox / "earlier.csv", DAYS[0], (5, 10))
    record(side.inbox / "later.csv", DAYS[1], (0, 5))
    said = "2010-01-04 (UTC) comes before the first day of the lake, 2010-01-05: LAKE_FIRST_DAY sets an earlier day"
    result = late.run("ingest")
    assert reason(result) == f"1 file is not taken, the rest is: earlier.csv: {said}"
    assert {key.day for key in side.lake.partition_keys(TRAINING_SET)} == {DAYS[1]}
    assert {partition for _, partition in made(side, result)} == {f"{DAYS[1]}|{PRODUCT}"}
    assert reason(late.run("simulate", "simulate_days", first_day=str(DAYS[0]))) == said
    assert reason(late.run("backfill", "make_days", first_day=str(DAYS[0]))) == said
    assert made(late, late.run("backfill")) == []


@pytest.mark.parametrize("month", ["2010-01", "2010-02"])
def test_the_run_of_a_month_makes_what_the_days_around_need(side: Side, month: str) -> None:
    """Minutes before and after midnight between two months: the run of either month makes both days, once."""
    around = [dt.date(2010, 1, 31), dt.date(2010, 2, 1)]
    recordings = [
        record(side.folder / "end.csv", around[0], (1430, 1440)),
        record(side.folder / "begin.csv", around[1], (0, 10)),
    ]
    other = Lake.open(side.folder / "other")
    for lake in (side.lake, other):
        for path in recordings:
            ingest(lake, path, PRODUCT)
    assert side.run("product_month", "make_month", product_id=PRODUCT, month=month).success
    assert stale(side.lake, SPEC) == []
    make_all(other, [PRODUCT], around)
    tables = (TRADES, FEATURE_ROWS, TRAINING_SET)
    mine, theirs = (
        {key: each.content_hash for table in tables for each in lake.partitions(table) if (key := (table, each.day))}
        for lake in (side.lake, other)
    )
    assert mine == theirs


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"product_id": "bitcoin", "month": "2010-01"}, "a product must be named like BTC-USD"),
        ({"product_id": PRODUCT, "month": "January"}, "month is written as 2025-01, was 'January'"),
    ],
)
def test_a_month_of_nonsense_says_what_is_allowed(side: Side, config: dict[str, str], said: str) -> None:
    assert reason(side.run("product_month", "make_month", **config)).startswith(said)


def test_holes_are_warned_of_and_order_is_checked(side: Side) -> None:
    """Twenty minutes with a hole of ten in between: more than the 300 s of a segment."""
    record(side.inbox / "begin.csv", DAYS[0], (0, 5))
    record(side.inbox / "end.csv", DAYS[0], (15, 20))
    result = side.run("ingest")
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert found["order"].passed
    assert not found["holes"].passed
    assert found["holes"].severity is dg.AssetCheckSeverity.WARN
    assert found["holes"].metadata["holes"].value == 1
    assert 600 <= float(found["holes"].metadata["longest_hole_s"].value) < 615  # type: ignore[arg-type] # a number


def test_recordings_that_number_their_trades_differently_are_warned_of(side: Side) -> None:
    """Two simulations of a day: the same ids at other times. The later simulation counts for its last ten minutes."""
    record(side.inbox / "a.csv", DAYS[0], (0, 10))
    record(side.inbox / "b.csv", DAYS[0], (0, 20), seed=1)
    result = side.run("ingest")
    order = next(each for each in result.get_asset_check_evaluations() if each.check_name == "order")
    assert (order.passed, order.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "recordings number their trades in 2 ways, so each counts only for times" in str(order.description)
    minutes = side.lake.read(TRADES, PRODUCT, DAYS[0])["event_time"].to_numpy().astype("datetime64[m]")
    assert len(np.unique(minutes)) == 20


def look(side: Side, cursor: str | None = None) -> tuple[list[dg.RunRequest], str | None]:
    """Run one tick of the sensor of the inbox; return what it requests, and its cursor."""
    resources = {name: (side.definitions.resources or {})[name] for name in ("inbox", "recording_places")}
    with dg.build_sensor_context(instance=side.instance, resources=resources, cursor=cursor) as context:
        found = inbox_files.evaluate_tick(context)
        return list(found.run_requests or []), found.cursor


def look_twice(side: Side) -> list[dg.RunRequest]:
    """Run two ticks on the same state of the inbox; return what the second one requests."""
    first, cursor = look(side)
    assert not first
    return look(side, cursor)[0]


def take(side: Side, request: dg.RunRequest) -> dg.DagsterRun:
    """Run the sensor's request, as Dagster's daemon does."""
    tags = {**request.tags, "dagster/sensor_name": inbox_files.name}
    job = side.definitions.resolve_job_def("ingest")
    return job.execute_in_process(instance=side.instance, tags=tags, raise_on_error=False).dagster_run


def test_the_inbox_is_looked_at_until_it_is_quiet_and_taken_once(side: Side) -> None:
    assert not look_twice(side)
    path = record(side.inbox / "one.csv", DAYS[0], (0, 1))
    _, cursor = look(side)
    with path.open("a") as file:  # the copy goes on
        file.write("\n")
    requests, cursor = look(side, cursor)
    assert not requests
    os.utime(path, (1e10, 1e10))  # a clock that is wrong keeps nothing back
    _, cursor = look(side, cursor)
    (request,), cursor = look(side, cursor)
    assert take(side, request).is_success
    assert not look_twice(side)
    os.utime(path, (2, 2))  # its content may be another
    assert look_twice(side)


def test_another_content_of_the_same_size_and_time_is_taken(side: Side) -> None:
    """As after `cp -p` of a corrected file: size and time of change are those of before, and one price is another."""
    path = record(side.inbox / "one.csv", DAYS[0], (0, 1))
    (request,) = look_twice(side)
    assert take(side, request).is_success
    before, found = path.stat(), path.read_text()
    price = found.splitlines()[1].split(",")[5]
    other = price[:-1] + str((int(price[-1]) + 1) % 10)
    path.write_text(found.replace(price, other, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    (request,) = look_twice(side)
    assert take(side, request).is_success
    assert side.lake.read(TRADES, PRODUCT, DAYS[0])["price"][0].as_py() == float(other)


def test_the_default_inbox_is_made_and_one_that_a_person_names_must_be_there(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = side.folder / "named"
    monkeypatch.setenv("INBOX_DIR", str(named))
    elsewhere = Side(side.folder, side.instance, definitions())
    with pytest.raises(dg.Failure, match=f"there is no folder {named}"):
        look_twice(elsewhere)
    assert f"there is no folder {named}" in reason(elsewhere.run("ingest"))
    assert not named.exists()
    monkeypatch.delenv("INBOX_DIR")
    monkeypatch.setenv("VAR_DIR", str(side.folder / "var"))
    assert not look_twice(Side(side.folder, side.instance, definitions()))
    assert (side.folder / "var" / "inbox").is_dir()


def test_a_run_of_ingest_may_name_the_columns_of_its_recordings(side: Side) -> None:
    """A column map of the run config stands in for RECORDING_COLUMNS, and a wrong one is refused before any file."""
    (side.inbox / "a.csv").write_text("wann,preis\n2010-01-04T00:00:01Z,100\n2010-01-04T00:00:02Z,101\n")
    assert "a column map names them" in reason(side.run("ingest", "ingest_inbox", then_backfill=False))
    said = reason(side.run("ingest", "ingest_inbox", then_backfill=False, columns="price=preis"))
    assert said == "a column map must name the column of time: 'price=preis' does not"
    assert side.run("ingest", "ingest_inbox", then_backfill=False, columns="time=wann,price=preis").success
    rows = side.lake.read(f"{RECORDINGS}/a.csv", PRODUCT, dt.date(2010, 1, 4))
    assert rows["price"].to_pylist() == [100.0, 101.0]


def test_a_replay_hands_its_column_map_to_the_ingestor(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def ended(_: Any, settings: dict[str, str], __: Any) -> Ended:
        given.append(settings)
        return Ended(0, 2, "")

    monkeypatch.setattr("orchestration.jobs.replay.ingest_online", ended)
    path = str(record(side.folder / "a.csv", DAYS[0], (0, 5)))
    for columns in ("time=wann,price=preis", ""):
        assert side.run("replay", "replay_trades", recordings=[path], columns=columns).success
    assert [settings.get("RECORDING_COLUMNS") for settings in given] == ["time=wann,price=preis", None]


def test_a_recording_of_the_inbox_that_loses_many_rows_is_a_warning(side: Side) -> None:
    """2 of 102 rows are 2.0 %; 1 of 101 is below the limit of 1 % and is told in the line of the file alone."""
    good = [f"2010-01-04T00:{i // 60:02}:{i % 60:02}Z,{100 + i},1" for i in range(100)]
    for name, bad in (("many.csv", 2), ("few.csv", 1)):
        lines = ["timestamp,price,volume", *good, *["2010-01-04T00:03:00Z,-1,1"] * bad]
        (side.inbox / name).write_text("\n".join(lines) + "\n")
    result = side.run("ingest", "ingest_inbox", then_backfill=False)
    assert result.success
    logs = side.instance.all_logs(result.run_id)
    warnings = [log.user_message for log in logs if log.level == WARNING]
    said = "many.csv: 2.0% of the rows are lost, mostly: price must be a finite number above 0"
    assert [text for text in warnings if "rows are lost" in text] == [said]


def test_an_inbox_in_an_object_store_is_taken_once(
    side: Side, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor sees new objects and new versions; an object in the lake is not copied again."""
    inbox = seaweed.uri(f"inbox-of-{tmp_path.name}")
    objects = Objects.open(inbox)
    monkeypatch.setenv("INBOX_DIR", inbox)
    monkeypatch.setenv("RECORDINGS_DIRS", f"{inbox}:{tmp_path}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    there = Side(side.folder, side.instance, definitions())
    assert not look_twice(there)
    content = record(tmp_path / "one.csv", DAYS[0], (0, 5)).read_bytes()
    objects.put("monday/one.csv", content, ANY)
    objects.put("notes.txt", b"buy milk\n", ANY)
    objects.put(".half.csv", content[:100], ANY)
    (request,) = look_twice(there)
    result = there.run("ingest")
    where = inbox.partition("?")[0]
    said = reason(result)
    assert said.startswith(f"1 file is not taken, the rest is: notes.txt: {where}/notes.txt: holds no trades"), said
    assert there.lake.tables(RECORDINGS) == ["recordings/monday%2Fone.csv"]
    assert not list(tmp_path.glob("cryptovol-*")), "the copies are gone"
    objects.delete("notes.txt")
    copied: list[str] = []
    real = RecordingPrefix.local

    def counted(prefix: RecordingPrefix, below: str) -> AbstractContextManager[Path]:
        copied.append(below)
        return real(prefix, below)

    monkeypatch.setattr(RecordingPrefix, "local", counted)
    again = there.run("ingest")
    assert (again.success, made(there, again), copied) == (True, [], [])
    objects.put("monday/one.csv", record(tmp_path / "one.csv", DAYS[0], (0, 7)).read_bytes(), ANY)
    assert look_twice(there)[0].tags != request.tags
    assert there.run("ingest").success
    assert copied == ["monday/one.csv"]
    assert len(there.lake.read(TRADES, PRODUCT, DAYS[0])) > content.count(b"\n")
    said = reason(there.run("replay", "replay_trades", recordings=[f"{where}/monday/one.csv"]))
    assert said.startswith(f"{where}/monday/one.csv lies in an object store, and a replay reads files of this machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    locked = Side(side.folder, side.instance, definitions())
    assert f"{where} cannot be listed (" in reason(locked.run("ingest"))


def test_what_an_ingest_did_not_take_is_asked_for_again_after_a_pause(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(side.inbox / "one.csv", DAYS[0], (0, 1))

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lake_jobs, "stage_inbox", full)
        assert take(side, look_twice(side)[0]).is_failure
    assert not look_twice(side)
    monkeypatch.setattr(sensors, "AGAIN_S", 0.0)
    (again,) = look_twice(side)
    tags = {**again.tags, "dagster/sensor_name": inbox_files.name}
    cancelled = dg.DagsterRunStatus.CANCELED
    side.instance.create_run_for_job(side.definitions.resolve_job_def("ingest"), tags=tags, status=cancelled)
    (again,) = look_twice(side)
    assert take(side, again).is_success
    assert not look_twice(side)


def test_an_ingest_that_left_out_only_what_is_no_recording_is_not_repeated(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "AGAIN_S", 0.0)
    notes = side.inbox / "notes.txt"
    notes.write_text("buy milk\n")
    assert take(side, look_twice(side)[0]).is_failure
    assert not look_twice(side)
    notes.chmod(0o600)  # whoever made the file readable wants another try
    assert look_twice(side)


def tell_of(side: Side, run: dg.DagsterRun, url: str) -> None:
    """Send a failed run to a webhook, as the sensor's daemon does."""
    (record,) = side.instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
    context = dg.build_run_status_sensor_context(
        sensor_name="failed_runs",
        dagster_instance=side.instance,
        dagster_run=run,
        dagster_event=record.event_log_entry.get_dagster_event(),
        resources={"pages": (side.definitions.resources or {})["pages"]},
    ).for_run_failure()
    failure_sensor(OrchestrationSettings(_env_file=None, alert_webhook_url=url))(context)


def alert_of(side: Side, run: dg.DagsterRun) -> dict[str, Any]:
    """Return the webhook's document for a failed run."""
    told: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tell_of(side, run, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()
    (alert,) = told
    return alert


def test_a_failed_run_is_told_to_the_webhook_and_nobody_there_stops_nothing(side: Side) -> None:
    result = side.run("backfill", "make_days", first_day="yesterday")
    alert = alert_of(side, result.dagster_run)
    assert alert["job"] == "backfill"
    assert alert["error"].startswith("first_day is written as 2025-01-06, was 'yesterday'")
    assert alert["url"].endswith(f"/runs/{result.run_id}")
    tell_of(side, result.dagster_run, "http://127.0.0.1:9/")


def test_a_run_that_no_process_began_is_told_too(side: Side) -> None:
    """Dagster gives up a run that it cannot launch, without an error of a step or of the run."""
    run = side.instance.create_run_for_job(side.definitions.resolve_job_def("backfill"))
    side.instance.report_run_failed(run)
    assert alert_of(side, run)["error"].startswith("This run has been marked as failed")


def test_a_training_without_mlflow_is_told_with_what_to_do(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails before its first step; Dagster says `Error executing resource_fn`, the net `Connection refused`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = Side(side.folder, side.instance, definitions())
    said = alert_of(away, away.run("retrain").dagster_run)["error"]
    assert said.startswith("data.names.RegistryAway: MLflow does not answer at http://127.0.0.1:9 ")
    assert "start it, or set MLFLOW_TRACKING_URI" in said


def test_models_are_trained_at_night_only_on_rows_that_are_new(side: Side) -> None:
    nightly = schedules(OrchestrationSettings(_env_file=None))[1]
    resources = {"lake": (side.definitions.resources or {})["lake"]}

    def tick() -> Any:
        with dg.build_schedule_context(instance=side.instance, resources=resources) as context:
            return nightly.evaluate_tick(context)

    assert tick().skip_message == "the lake has no training rows"
    record(side.inbox / "one.csv", DAYS[0], (0, 10))
    assert side.run("ingest").success
    assert tick().skip_message == "the lake has training rows of 1 day, and needs 2"
    record(side.inbox / "other.csv", DAYS[2], (0, 10))
    assert side.run("ingest").success
    first = tick().run_requests[0].tags
    retrain = side.definitions.resolve_job_def("retrain")
    side.instance.create_run_for_job(retrain, tags=first, status=dg.DagsterRunStatus.FAILURE)
    assert tick().run_requests[0].tags == first  # nothing came of it
    side.instance.create_run_for_job(retrain, tags=first, status=dg.DagsterRunStatus.SUCCESS)
    assert tick().skip_message.startswith("no training row is new since run ")
    record(side.inbox / "two.csv", DAYS[1], (0, 10))
    assert side.run("ingest").success
    assert tick().run_requests[0].tags != first


def test_finished_days_of_a_source_become_training_rows(
    side: Side, own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay of two days ends the first day; its end ends the second. A tick without new records launches nothing."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", own_broker.bootstrap_servers)
    *_, sinking = schedules(OrchestrationSettings(_env_file=None))
    resources = {"lake": (side.definitions.resources or {})["lake"]}
    producer = Producer({"bootstrap.servers": own_broker.bootstrap_servers})

    def tick() -> Any:
        with dg.build_schedule_context(instance=side.instance, resources=resources) as context:
            return sinking.evaluate_tick(context)

    def publish(*values: bytes) -> None:
        for value in values:
            producer.produce(TRADES_TOPIC, value, PRODUCT, partition=partition_of(PRODUCT))
        producer.flush(10)

    def days_made(result: dg.ExecuteInProcessResult) -> set[str]:
        return {partition.partition("|")[0] for asset, partition in made(side, result) if asset == "training_set"}

    day = simulate_day(PRODUCT, DAYS[0], 0, (0, 1)).take(slice(0, 3_000))
    rows = replace(day, keys=(StreamKey("served-once", PRODUCT),))
    first = encode_trades(rows, "replay")
    after = encode_trades(replace(rows, event_time=rows.event_time + DAY_NS, trade_id=rows.trade_id + 10**6), "replay")
    publish(*first, *after)
    assert tick().run_requests[0].run_config == {"ops": {"sink_records": {"config": {"feeds_trades": True}}}}
    result = side.run("sink")
    assert result.success
    assert {"served_trades", "served_features", "served_predictions"} <= {asset for asset, _ in made(side, result)}
    assert days_made(result) == {str(DAYS[0])}
    assert side.lake.read(TRADES, PRODUCT, DAYS[0])["trade_id"].to_pylist() == rows.trade_id.tolist()
    assert tick().skip_message == "the lake holds all records of the topics"
    with FiguresReader(KafkaSettings(kafka_bootstrap_servers=own_broker.bootstrap_servers)) as figures:
        behind = {each.labels["topic"]: each.value for each in figures.read().records}
    assert behind == {"coinbase-trades": 0.0, "features": 0.0, "predictions": 0.0}
    publish(encode(End("served-once", PRODUCT, "replay", NS, end=True)))
    assert tick().run_requests
    assert days_made(side.run("sink")) == {str(DAYS[0]), str(DAYS[1])}  # targets of the first see the second
    assert side.stale() == set()
    publish(encode(End("other", PRODUCT, "replay", NS, end=True)))
    assert days_made(side.run("sink", "sink_records", feeds_trades=False)) == set()
    before = read_manifest(side.lake, TRADES_TOPIC)
    *_, keeping = schedules(OrchestrationSettings(_env_file=None), 1)
    with dg.build_schedule_context(instance=side.instance, resources=resources) as context:
        assert isinstance(keeping.evaluate_tick(context).skip_message, str)
    assert side.run("sink", "sink_records", keep_days=1).success
    assert read_manifest(side.lake, TRADES_TOPIC).files == before.files, "a drift report may read these days"


def test_a_tick_of_the_sink_without_a_broker_launches_nothing(
    side: Side, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.stream.reader.PATIENCE_S", 0.5)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", nobody.removeprefix("http://"))
    *_, sinking = schedules(OrchestrationSettings(_env_file=None))
    resources = {"lake": (side.definitions.resources or {})["lake"]}
    with dg.build_schedule_context(instance=side.instance, resources=resources) as context:
        skipped: Any = sinking.evaluate_tick(context)
    assert skipped.skip_message.startswith("no broker answers at ")
    assert reason(side.run("sink")).startswith("no broker answers at ")


@pytest.mark.parametrize("backfill_runs", [1, 64])
def test_a_rollback_waits_for_no_training_no_replays_and_no_backfill(backfill_runs: int) -> None:
    """A run waits for its pools and for a place: all other concurrent runs leave a place."""
    defs = definitions()
    limits: Any = yaml.safe_load(configuration(backfill_runs))["concurrency"]
    *kinds, products = limits["runs"]["tag_concurrency_limits"]
    at_once = {each["value"]: each["limit"] for each in kinds}
    assert {each["key"] for each in kinds} == {"cryptovol/kind"}
    assert {defs.resolve_job_def(name).tags["cryptovol/kind"] for name in at_once} == set(at_once)
    assert at_once["product_month"] == backfill_runs
    assert products == {"key": "cryptovol/product", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    pools = {
        job.name: set().union(*(node.definition.pools for node in job.nodes_in_topological_order))
        for job in defs.resolve_all_job_defs()
    }
    assert pools["rollback"] == pools["replay"] == pools["backfill"] == pools["product_month"] == set()
    assert pools["retrain"] == pools["promote"] == {"registry"}
    in_pools = limits["pools"]["default_limit"] * len(set().union(*pools.values()))
    assert sum(at_once.values()) + in_pools < limits["runs"]["max_concurrent_runs"]


def test_a_forced_promotion_needs_a_reason_of_its_own(side: Side) -> None:
    result = side.run("promote", "promote_model", force=True)
    assert reason(result) == "a forced promotion needs a reason of its own: write it into `why`"


def test_runs_that_promote_and_roll_back_and_their_entries_in_the_ledger_link_to_each_other(
    side: Side, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "linked"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    there = Side(side.folder, side.instance, definitions())
    runs = []
    for version in "12":
        put_version(mlflow_uri, name, model_bytes())
        asked = {"model": name, "version": version, "force": True, "why": "a drill"}
        runs.append(there.run("promote", "promote_model", **asked))
    runs.append(there.run("rollback", "roll_back_model", model=name))
    assert all(run.success for run in runs)
    registry = Registry(mlflow_uri)
    entries = history(registry, name)
    assert [entry.dagster_run_url.rpartition("/runs/")[2] for entry in entries] == [run.run_id for run in runs]
    experiment = find_experiment(registry, "promotions")
    shown = []
    for run in runs:
        (output,) = (event.step_output_data for event in run.all_events if event.is_successful_output)
        shown.append(output.metadata["ledger entry"].value)
    assert shown == [f"{mlflow_uri}/#/experiments/{experiment}/runs/{entry.entry_id}" for entry in entries]


def test_with_mlflow_away_a_promotion_says_so_within_seconds(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = Side(side.folder, side.instance, definitions())
    for job in ("promote", "rollback"):
        result = away.run(job)
        assert "MLflow does not answer at http://127.0.0.1:9" in reason(result)


@pytest.mark.filterwarnings("ignore:InitResourceContext:DeprecationWarning")  # dagster-mlflow asks it in old ways
def test_a_training_that_fails_says_why_and_its_mlflow_run_has_failed_too(
    side: Side, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training has no rows; both runs name each other."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    there = Side(side.folder, side.instance, definitions())
    job = there.definitions.resolve_job_def("retrain")
    config = {"ops": {"models": {"config": {"first_day": "2010-13-01"}}}}
    result = job.execute_in_process(config, there.instance, raise_on_error=False)
    assert reason(result) == "first_day is written as 2025-01-06, was '2010-13-01'"
    result = there.run("retrain")
    assert reason(result).startswith("0 days of no product have training rows; training needs one at least besides 1")
    client = mlflow.MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("training")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.dagster_run_id = '{result.run_id}'")
    assert run.info.status == "FAILED"
    assert run.data.tags["dagster_run_url"].endswith(f"/runs/{result.run_id}")
    assert mlflow.active_run() is None


@pytest.fixture
def start_code_server(side: Side, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that starts the code server up to its last step, and returns the command of the last step."""
    monkeypatch.setenv("DAGSTER_HOME", str(side.folder / "home"))
    monkeypatch.setattr(dg.DagsterInstance, "get", lambda: contextlib.nullcontext(side.instance))
    monkeypatch.setattr(side.instance, "upgrade", lambda _: None)
    monkeypatch.setattr("sys.argv", ["code_server", "--port", "4000"])
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, command: became.append(command))

    def start() -> list[str]:
        code_server.main()
        return became[-1]

    return start


def test_each_start_of_the_code_server_tells_the_runs_of_the_one_before_as_failed(
    side: Side, start_code_server: Callable[[], list[str]]
) -> None:
    """The old runs were children of the server before: none goes on, and as running they would hold their pool."""
    job = side.definitions.resolve_job_def("backfill")
    begun = side.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    ended = side.instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
    command = start_code_server()
    found = {run.run_id: run.status.name for run in side.instance.get_runs()}
    assert found == {begun.run_id: "FAILURE", ended.run_id: "SUCCESS"}
    assert (side.folder / "home" / "dagster.yaml").exists()
    _, _, dagster, api, grpc, _, host, _, port, _, module, *_ = command
    assert (dagster, api, grpc, port, module) == ("dagster", "api", "grpc", "4000", "orchestration.definitions")
    assert host == "127.0.0.1"


def test_on_a_shared_database_a_code_server_ends_the_runs_of_its_own_installation_alone(
    side: Side, start_code_server: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PG_HOST", "postgres.example")
    first, second = start_code_server()[-1], start_code_server()[-1]  # ids of two starts
    assert first != second
    job = side.definitions.resolve_job_def("backfill")
    runs = {
        name: side.instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.STARTED, tags={CODE_SERVER_TAG: installation_in(server_id)}
        )
        for name, server_id in (("own", first), ("another's", "5f0c:8e21"))
    }
    start_code_server()
    found = {name: side.instance.get_run_by_id(run.run_id) for name, run in runs.items()}
    assert {name: run.status.name for name, run in found.items() if run} == {"own": "FAILURE", "another's": "STARTED"}


@pytest.mark.filterwarnings("ignore:InitResourceContext:DeprecationWarning")
def test_a_training_whose_mlflow_goes_away_says_what_to_do(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends for good just before the first write, so the MLflow run cannot be closed either."""
    import mlflow

    for day in DAYS[:2]:
        record(side.inbox / f"{day}.csv", day, (0, 10))
    assert side.run("ingest").success
    with running_mlflow(tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        there = Side(side.folder, side.instance, definitions())
        log_params = mlflow.log_params

        def end_and_log(params: dict[str, Any]) -> None:
            server.stop()
            log_params(params)

        monkeypatch.setattr(mlflow, "log_params", end_and_log)
        result = there.run("retrain")
        assert reason(result).startswith(f"MLflow went away at {server.uri} during the training: ")
        assert reason(result).endswith("start MLflow, then launch retrain again")
    assert mlflow.active_run() is None


@pytest.mark.filterwarnings("ignore:InitResourceContext:DeprecationWarning")
@pytest.mark.filterwarnings("default")  # mlflow warns about its own code
def test_a_training_links_to_report_and_card_of_each_version(
    side: Side, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three days of two hours. The links are pages of MLflow, the text of the card is that of the artifact."""
    import mlflow

    names = {"volatility-baseline": "linked-baseline", "volatility-ml": "linked-ml"}
    own = {name: renamed(recipe, names) for name, recipe in RECIPES.items()}
    monkeypatch.setattr("offline.training.train", partial(train, recipes=own))
    monkeypatch.setattr(models, "ASSETS", {names[name]: asset for name, asset in models.ASSETS.items()})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    there = Side(side.folder, side.instance, definitions())
    assert there.run("simulate", "simulate_days", first_day="2010-01-04", days=3, hours=[0, 2]).success
    result = there.run("retrain")
    assert result.success, reason(result)
    (shown,) = (
        event.step_materialization_data.materialization.metadata
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION
        and event.asset_key == dg.AssetKey("challenger")
    )
    client = mlflow.MlflowClient(mlflow_uri)
    for name in names.values():
        version = Registry(mlflow_uri).version(name, "challenger")
        run = client.get_run(version.run_id)
        page = f"{mlflow_uri}/#/experiments/{run.info.experiment_id}/runs/{version.run_id}/artifacts"
        assert {each.path for each in client.list_artifacts(version.run_id, "evaluation")} == {REPORT, CARD}
        assert shown[f"report of {name}"] == dg.MetadataValue.url(f"{page}/evaluation/report.html")
        assert shown[f"card of {name}"] == dg.MetadataValue.url(f"{page}/evaluation/card.md")
        card = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{CARD}")
        assert shown[f"text of the card of {name}"] == dg.MetadataValue.md(card)
        report = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{REPORT}")
        assert re.findall("<h2>(.*?)</h2><figure>", report) == [
            "Band against realized volatility",
            "Cumulated loss difference",
            "By tercile of volatility",
            "Calibration",
            "Fitted weights",
        ]
        metrics = {tag: value for tag, value in version.tags.items() if tag.startswith("metric.")}
        assert {"metric.qlike", "metric.coverage", "metric.test_horizons"} <= set(metrics)
        for tag, value in metrics.items():
            assert f"| `{tag.removeprefix('metric.')}` | {value} |" in card
        assert f"| `{name}` | {float(metrics['metric.qlike']):.4f} |" in card
        assert f"Digest `{version.digest}`" in card
        sentinels = [param for param in run.data.params if param.startswith("sentinel ")]
        assert f"| leak sentinels | {len(sentinels)} of {len(sentinels)} passed |" in card


def renamed(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """Return the recipe with another name of the registered model."""

    def made(*arguments: Any) -> Candidate:
        candidate = recipe(*arguments)
        return replace(candidate, name=names[candidate.name])

    return made


class Cancelled(BaseException):
    """As Dagster's own interrupt, no Exception."""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return record(tmp_path / "recording.csv", DAYS[0], (0, 20))


def test_a_cancelled_replay_delivers_what_was_read_and_ends_its_source(broker: Any, recording: Path) -> None:
    """At 20 times the recorded pace 20 minutes take a minute; the replay is cancelled at its first progress line."""
    lines: list[ProgressLine] = []

    def tell(line: ProgressLine) -> None:
        lines.append(line)
        if line.text.startswith("replaying: "):
            raise Cancelled

    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "REPLAY_ID": "cancelled-replay",
        "REPLAY_SPEED": "20",
        "REPLAY_END_ON_STOP": "true",
        "INGESTOR_PORT": "0",
    }
    with pytest.raises(Cancelled):
        ingest_online([str(recording)], settings, tell)
    (stopped,) = (line.text for line in lines if line.text.startswith("replay stopped: "))
    records = read_topic(broker.bootstrap_servers, "coinbase-trades", "cancelled-replay")
    delivered = int(stopped.rpartition("trades ")[2])
    assert [record.get("end", False) for record in records].count(False) == delivered
    assert delivered > 0
    assert records[-1]["end"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"max_wait_s": -1.0}, "max_wait_s must be 0 or more seconds, was -1.0"),
        ({"max_wait_s": math.nan}, "max_wait_s must be 0 or more seconds, was nan"),
        ({"replay_id": "a b/c"}, "source_id must match ^[A-Za-z0-9._:-]{1,100}$, was 'a b/c'"),
        ({"columns": "price=px"}, "a column map must name the column of time: 'price=px' does not"),
        ({"product_id": "bitcoin"}, "product_id must match ^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$, was 'bitcoin'"),
    ],
)
def test_a_replay_that_no_ingestor_takes_is_refused_before_one_starts(
    side: Side, config: dict[str, Any], said: str
) -> None:
    assert reason(side.run("replay", "replay_trades", **config)) == said


def test_an_ingestor_that_ends_without_a_log_is_told_by_its_last_words() -> None:
    """The settings are refused before the first log line: Python's message lies below the stack of calls."""
    ended = ingest_online(["none.csv"], {"MAX_WAIT_S": "-1"}, lambda _: None)
    assert ended.code == 1
    assert "1 validation error for IngestorSettings\nmax_wait_s\n" in ended.reason
    assert "Traceback" not in ended.reason
    assert last_words(["a", "b"]) == "a\nb"


def test_a_replay_without_a_broker_says_what_it_waits_for(recording: Path, nobody: str) -> None:
    """The client is silent by itself; the replay is cancelled after its waiting line, and stops."""
    address = nobody.removeprefix("http://")
    lines: list[ProgressLine] = []

    def tell(line: ProgressLine) -> None:
        lines.append(line)
        if line.text.startswith("waiting for the broker: "):
            raise Cancelled

    with pytest.raises(Cancelled):
        ingest_online([str(recording)], {"KAFKA_BOOTSTRAP_SERVERS": address, "INGESTOR_PORT": "0"}, tell)
    (waiting,) = (line for line in lines if line.text.startswith("waiting"))
    assert waiting.level == "warning"
    assert f"address {address}, " in waiting.text
    assert "reason " in waiting.text


def test_a_replay_of_what_is_no_recording_says_why(broker: Any, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    monkeypatch.setenv("INGESTOR_PORT", "0")
    notes = side.folder / "notes.txt"
    notes.write_text("buy milk\n")
    result = side.run("replay", "replay_trades", recordings=[str(notes)])
    assert reason(result).startswith(
        f"this cannot be replayed: this recording cannot be read: {notes}: holds no trades"
    )


def texts_of(side: Side) -> str:
    """Return every message and error in Dagster's log of all runs."""
    logs = (side.instance.all_logs(run.run_id) for run in side.instance.get_runs())
    return "\n".join(str(entry) for run_log in logs for entry in run_log)


def test_other_files_than_recordings_in_the_folders_are_refused_and_not_shown(
    side: Side, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By path, by a link, by `..`, by another inbox, also by the config of the resource; and a letter in the inbox."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.csv").write_text("swordfish,1\nswordfish,2\n")
    link = side.folder / "link.csv"
    link.symlink_to("/etc/passwd")
    for path in ("/etc/passwd", str(outside / "secret.csv"), str(link)):
        assert "RECORDINGS_DIRS" in reason(side.run("replay", "replay_trades", recordings=[path]))
    by_parent = f"{side.folder}/../{outside.name}/secret.csv"
    assert "no part '..'" in reason(side.run("replay", "replay_trades", recordings=[by_parent]))
    assert "RECORDINGS_DIRS" in reason(side.run("ingest", "ingest_inbox", inbox=str(outside)))
    job, config = (
        side.definitions.resolve_job_def("ingest"),
        {"resources": {"inbox": {"config": {"path": str(outside)}}}},
    )
    assert "RECORDINGS_DIRS" in reason(job.execute_in_process(config, side.instance, raise_on_error=False))
    (side.inbox / "link.csv").symlink_to(outside / "secret.csv")
    (side.inbox / "passwd").symlink_to("/etc/passwd")
    (side.inbox / "letter.txt").write_bytes((outside / "secret.csv").read_bytes())
    assert reason(side.run("ingest")).startswith("3 files are not taken, the rest is: letter.txt: ")
    said = texts_of(side)
    assert "is a text without a known header or message" in said
    assert not re.search("swordfish|root:x", said)
    assert side.lake.tables(RECORDINGS) == []


def test_a_training_checks_rows_of_the_last_day_before_the_test_and_of_the_first_day_of_the_test(
    tmp_path: Path,
) -> None:
    """Three days of two products; the test is the last day. Each span begins with its day, after the day before."""
    days = days_from(DAY, 3)
    lake = Lake.open(tmp_path / "lake")
    times = np.arange(MIDNIGHT + 20 * HOUR, MIDNIGHT + 54 * HOUR, 10 * NS) + 1
    for seed, product in enumerate(("BTC-USD", "ETH-USD")):
        ingest(lake, recorded(tmp_path / f"{product}.csv", trades_at(times, product, seed)))
    make_all(lake, ["BTC-USD", "ETH-USD"], days)
    chosen = choose_days(lake, DayRange())
    rows, _, (before, test), _ = lake_training(lake, SPEC, chosen.partitions, days[2], DEFAULT_TRAIN_MB)
    assert (before.trades.keys[0].product_id, test.trades.keys[0].product_id) == ("ETH-USD", "BTC-USD")
    assert (before.since, test.since) == (MIDNIGHT + DAY_NS + 1, MIDNIGHT + 2 * DAY_NS + 1)
    assert before.trades.event_time.min() < before.since
    assert before.trades.event_time.max() < before.since + CHECKED_HOURS * HOUR < test.since
    end = dt.datetime.combine(days[2], dt.time(), dt.UTC)
    assert all(each.passed for each in check_rows(rows, SPEC, end, [before, test]))
