"""Batch figures have a writer each: parity, the end of a retrain, promotions and rollbacks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from data.files import CHECKOUT
from data.models.registry import Registry
from data.names import RegistryAway
from data.process import catalog
from data.settings import KafkaSettings
from data.stream.records import Figure
from data.times import NS
from monitoring.batch_figures import BatchFigures
from offline import training
from offline.checks.parity import Certificate
from offline.promotion import __main__ as command
from offline.promotion import ledger, moves
from offline.promotion.ledger import Action, Entry, move_figures
from online.live.facts import SlowFacts
from orchestration.assets import checks
from orchestration.automation import sensors
from orchestration.automation.sensors import retrain_outcome
from orchestration.definitions import definitions

pytestmark = [  # Dagster's own: it uses what it calls beta, and what pydantic calls old
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
NOON = dt.datetime(2025, 1, 6, 12, tzinfo=dt.UTC)
NOON_S = NOON.timestamp()


def entry(minute: int, version: str, action: Action = "promote", model: str = "volatility-ml") -> Entry:
    at = None if action == "refuse" else NOON + dt.timedelta(minutes=minute)
    return Entry(action=action, model=model, to_version=version, digest="0" * 64, begun=NOON, at=at, state="done")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("INBOX_DIR", str(tmp_path / "inbox"))
    with dg.instance_for_test() as instance:
        yield instance


def test_every_declared_figure_has_a_writer() -> None:
    files = [path for room in ("offline", "orchestration") for path in (CHECKOUT / room).rglob("*.py")]
    text = "".join(path.read_text() for path in files)
    for metric in catalog.FIGURES:
        name = metric.name.removeprefix(catalog.PREFIX)
        assert f'Figure("{name}"' in text or f'Figure(\n        "{name}"' in text, name


# Promotions and rollbacks


def test_the_newest_move_of_each_version_is_a_figure() -> None:
    """Version 1 was promoted twice; a refusal moves nothing; a model that is not ours has no variant."""
    entries = [
        entry(0, "1"),
        entry(1, "2"),
        entry(2, "1", "rollback"),
        entry(3, "3", "refuse"),
        entry(4, "1"),
        entry(5, "7", model="volatility-baseline"),
        entry(6, "8", model="other"),
    ]
    figures = move_figures(entries)
    found = {(*figure.labels.values(), (figure.value - NOON_S) / 60) for figure in figures}
    assert found == {
        ("ml", "1", "promote", 4.0),
        ("ml", "2", "promote", 1.0),
        ("ml", "1", "rollback", 2.0),
        ("baseline", "7", "promote", 5.0),
    }
    kept = BatchFigures()
    for figure in figures:
        assert figure.at == int(figure.value) * NS
        kept.take(figure)


def test_without_a_broker_or_registry_a_move_is_a_warning(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    away, warnings = KafkaSettings(kafka_bootstrap_servers=nobody.removeprefix("http://")), list[str]()
    monkeypatch.setattr(moves, "FIGURES_S", 0.5)
    monkeypatch.setattr(ledger, "history", lambda *_: [entry(0, "1")])
    moves.publish_moves(Registry("http://unused"), "volatility-ml", away, warnings.append)

    def no_answer(*_: object) -> list[Entry]:
        raise RegistryAway("MLflow does not answer")

    monkeypatch.setattr(ledger, "history", no_answer)
    moves.publish_moves(Registry("http://unused"), "volatility-ml", away, warnings.append)
    assert warnings[0].startswith("1 of 1 figures were not written")
    assert warnings[1] == "the moves of volatility-ml were not published: MLflow does not answer"


def test_the_commands_publish_their_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(command, "publish_moves", lambda _, model, *__: told.append(model))
    monkeypatch.setattr(command, "roll_back", lambda *_, **__: entry(0, "1", "rollback"))
    monkeypatch.setattr(command, "promote", lambda *_, **__: entry(0, "1"))
    monkeypatch.setattr(command, "finish_pending", lambda *_: [entry(0, "1", model="finished")])
    command.main(["rollback", "rolled-back", "--why", "a test"])
    command.main(["promote", "promoted", "--why", "a test"])
    assert told == ["rolled-back", "finished", "promoted"]
    assert "publish_moves" in training.main.__code__.co_names


def test_the_jobs_publish_their_moves(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(moves, "publish_moves", lambda _, model, *__: told.append(model))
    monkeypatch.setattr(moves, "roll_back", lambda *_, **__: entry(0, "1", "rollback"))
    monkeypatch.setattr(moves, "promote", lambda *_, **__: entry(0, "1"))
    for job, op in (("promote", "promote_model"), ("rollback", "roll_back_model")):
        config = {"ops": {op: {"config": {"model": f"of {job}"}}}}
        assert definitions().resolve_job_def(job).execute_in_process(config, instance).success
    assert told == ["of promote", "of rollback"]


# Reports of drift


def test_a_column_that_the_newest_report_leaves_out_is_shown_no_more() -> None:
    """The report of another product, and figures without a product, stay."""

    def ratio(column: str, at: int, product_id: str = "BTC-USD") -> Figure:
        return Figure("drift_ratio", {"product_id": product_id, "column": column, "view": "change"}, 2.0, at)

    figures = [
        ratio("n", 1),
        ratio("ret_std", 1),
        ratio("n", 1, "ETH-USD"),
        Figure("sink_offsets_behind", {"topic": "features"}, 0.0, 1),
        ratio("ret_std", 2),
        Figure("drift_alarm", {"product_id": "BTC-USD"}, 1.0, 2),
    ]
    kept = BatchFigures()
    for figure in figures:
        kept.take(figure)
    shown = [sample for sample in kept.samples(3) if sample.metric is not catalog.FIGURE_AGE]
    assert {sample.labels[:2] for sample in shown} == {
        ("BTC-USD", "ret_std"),
        ("ETH-USD", "n"),
        ("features",),
        ("BTC-USD",),
    }
    facts = SlowFacts.__new__(SlowFacts)
    facts._figures = {figure.key: figure for figure in figures}
    drift = facts.drift()
    assert drift is not None
    named = [(row["product_id"], row["name"], row.get("column")) for row in drift["figures"]]
    assert sorted(named, key=str) == [
        ("BTC-USD", "drift_alarm", None),
        ("BTC-USD", "drift_ratio", "ret_std"),
        ("ETH-USD", "drift_ratio", "n"),
    ]


# Retrain


def test_the_end_of_the_newest_retrain_is_published_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is away is asked again at the next look; a cancelled run is no end."""
    figures: list[Figure] = []
    is_away, cursor = True, None
    retrain = definitions().resolve_job_def("retrain")

    def publish(_: KafkaSettings, given: list[Figure], warn: Any) -> bool:
        if is_away:
            warn("no answer")
        else:
            figures.extend(given)
        return not is_away

    def look() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        tick = retrain_outcome.evaluate_tick(context)
        cursor = context.cursor
        return tick.skip_message or ""

    monkeypatch.setattr(sensors, "publish_or_warn", publish)
    assert look() == "no retrain has ended"
    failed = instance.create_run_for_job(retrain, status=dg.DagsterRunStatus.FAILURE)
    assert look() == f"run {failed.run_id} failed; no answer"
    is_away = False
    assert look() == f"published: run {failed.run_id} failed"
    assert look() == f"run {failed.run_id} failed, as published"
    good = instance.create_run_for_job(retrain, status=dg.DagsterRunStatus.SUCCESS)
    instance.create_run_for_job(retrain, status=dg.DagsterRunStatus.CANCELED)
    assert look() == f"published: run {good.run_id} succeeded"
    assert [(each.key, each.value) for each in figures] == [("retrain_failed{}", 1.0), ("retrain_failed{}", 0.0)]
    assert retrain_outcome in list(definitions().sensors or [])


# Parity


@pytest.mark.parametrize(("same_order", "different", "expected"), [(True, 0, 0.0), (True, 3, 6.0), (False, 0, 1.0)])
def test_a_parity_check_publishes_its_differing_rows(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, same_order: bool, different: int, expected: float
) -> None:
    """Missing, extra and different rows all differ; rows in another order count as one."""
    figures: list[Figure] = []
    missing, extra = (1, 2) if different else (0, 0)
    found = Certificate(
        "a",
        "BTC-USD",
        NOON.date(),
        9,
        missing,
        extra,
        different,
        0,
        "x",
        "x" if same_order else "y",
        "",
        True,
        "",
        "",
        9,
    )
    monkeypatch.setattr("offline.checks.parity.certify", lambda *_: found)
    monkeypatch.setattr("offline.checks.certificates.keep_certificate", lambda *_: None)
    monkeypatch.setattr(checks, "publish_or_warn", lambda _, given, __: figures.extend(given))
    config = {"ops": {"feature_rows_parity": {"config": {"product_id": "BTC-USD", "day": "2025-01-06"}}}}
    job = dg.Definitions(
        asset_checks=[checks.parity],
        jobs=[dg.define_asset_job("check", selection=dg.AssetSelection.checks(checks.parity))],
        resources=definitions().resources,
    ).resolve_job_def("check")
    assert job.execute_in_process(config, instance).success
    assert [(each.key, each.value) for each in figures] == [("parity_different_rows{product_id=BTC-USD}", expected)]
