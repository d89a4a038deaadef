"""The exporter, a real process: the figures of a replayed recording, after kills and faults too."""

from __future__ import annotations

import datetime as dt
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from data.models.kept import save_last_good
from data.models.served import ServedModel
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.codec import Records, decode_records
from data.stream.figures import publish_figures
from data.stream.reader import TopicReader
from data.stream.records import PREDICTIONS, Figure, partition_of, prediction_type
from data.stream.topics.creation import create_topics
from data.trades import Floats, Int64s
from monitoring.live_truth import LiveTruth, Subject
from monitoring.versions import VersionFacts
from monitoring.window_sums import Judgements, Losses
from offline.evaluation.scoring import Scores, score
from offline.evaluation.served import score_served
from offline.evaluation.walk_forward import Run
from offline.history import read_history
from tests.broker import Broker, running_broker
from tests.fakes import FakeRegistry
from tests.models import SPEC, baseline, model_bytes, model_file
from tests.pipeline import Process, await_end, environment, replay, running, wait_until
from tests.proofs import Proof

FLOOR = 2.5e-9
MODEL = model_bytes(variance_floor=str(FLOOR), tercile_bounds="0.0002,0.0004")
SOURCE = "replayed"
LABELS = {
    "product_id": "BTC-USD",
    "model_variant": "baseline",
    "version": "3",
    "role": "champion",
    "purpose": "replay",
    "in_sample": "false",
}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Stack:
    """A broker with the forecasts of a replayed recording, whose source has ended."""

    broker: Broker
    environ: dict[str, str]
    recording: Path

    def read(self, newest: int | None = None) -> Iterator[Records]:
        """Yield the records of the replayed source's partition, block by block; `newest`: of the last offsets alone."""
        settings = KafkaSettings(kafka_bootstrap_servers=self.broker.bootstrap_servers)
        decode = msgspec.json.Decoder(prediction_type(SPEC)).decode
        with TopicReader(settings) as reader:
            partition = partition_of("BTC-USD")
            first, end = reader.span(PREDICTIONS, partition)
            start = first if newest is None else max(first, end - newest)
            for block in reader.read(PREDICTIONS, partition, start, end):
                yield decode_records(block.values, decode)

    def has_ended(self) -> bool:
        return any(found.ends for found in self.read(newest=10))


@contextmanager
def replayed(folder: Path, jars: list[Path], hours: int) -> Iterator[Stack]:
    """Replay the first hours of a simulated day through a forecaster, at full speed."""
    models, recording = folder / "models", folder / "trades.csv"
    save_last_good(models, model_file(content=MODEL))
    write_csv(recording, [simulate_day("BTC-USD", dt.date(2025, 3, 7), hours=(0, hours))])
    with running_broker(folder / "kafka", jars) as broker:
        servers = broker.bootstrap_servers
        create_topics({"bootstrap.servers": servers})
        environ = environment(servers, models, EXPORTER_PORT="0")
        stack = Stack(broker, environ, recording)
        with running(
            Process("online.forecaster", environ, folder / "forecaster.log"),
            replay(environ, folder, SOURCE, recording),
        ):
            wait_until(stack.has_ended, "the source has ended", within_s=300 + 60 * hours)
        yield stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Stack]:
    with replayed(tmp_path_factory.mktemp("stack"), jars, hours=1) as stack:
        yield stack


class Exporter(Process):
    """A process of the exporter, and its answers."""

    @property
    def port(self) -> str:
        return self.await_log(r'"metrics_port": ?(\d+)').group(1)

    def scrape(self) -> Series:
        """Return the value of each series by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}

    def value(self, metric: str, **labels: str) -> float | None:
        return self.scrape().get((f"cryptovol_{metric}", frozenset(labels.items())))

    def await_ready(self) -> None:
        wait_until(lambda: self.value("ready") == 1, "the exporter is ready", within_s=300)  # it may read a whole day


@contextmanager
def exporter(stack: Stack, log: Path, **settings: str) -> Iterator[Exporter]:
    process = Exporter("monitoring.exporter", stack.environ | settings, log)
    with running(process):
        process.await_ready()
        yield process


def offline(stack: Stack) -> tuple[Run, Scores]:
    """Return the evaluation of the recording with the same model."""
    models = {"baseline": ServedModel.load(MODEL, spec_id=SPEC.spec_id)}
    run = score_served(read_history([stack.recording]), models, stated_floors=True)
    return run, score(run)


def figures(series: Series) -> Series:
    """Return the series that follow from the topics alone."""
    ages = (
        "cryptovol_ready",
        "cryptovol_messages",
        "cryptovol_rejects",
        "cryptovol_errors",
        "cryptovol_newest_forecast",
        "cryptovol_broker_age",
    )
    return {
        key: value
        for key, value in series.items()
        if key[0].startswith("cryptovol_") and not key[0].startswith(ages) and "figure_age" not in key[0]
    }


def check_equal(stack: Stack, log: Path) -> dict[str, float]:
    """Compare live and offline figures; return the largest difference by figure."""
    run, scores = offline(stack)
    facts = VersionFacts(FLOOR, "ewma_variance_300", (2e-4, 4e-4), None, {})
    rows: list[tuple[Int64s, Floats, Floats, Floats, Floats]] = []

    def keep(_: Subject, judged: Judgements, losses: Losses) -> None:
        rows.append((judged.event_time, judged.score, judged.lower, judged.upper, losses.qlike))

    truth = LiveTruth(SPEC, lambda _: facts, keep)
    for block in stack.read():
        truth.follow(block.records)
        for _, end in block.ends:
            truth.end(end)
    event_time, *live = (np.concatenate(column) for column in zip(*rows, strict=True))
    assert event_time.tolist() == run.rows.event_time.tolist()
    served = run.forecasts["baseline"]
    wanted = (served.score, served.lower, served.upper, scores.losses["baseline"])
    names = ("score", "lower", "upper", "qlike")
    found = {name: float(np.abs(a - b).max()) for name, a, b in zip(names, live, wanted, strict=True)}
    overall = scores.overall("baseline")
    with exporter(stack, log) as process:
        series = process.scrape()

    def live_figure(name: str, **more: str) -> float:
        return series[f"cryptovol_forecast_{name}", frozenset((LABELS | {"window": "1d"} | more).items())]

    found["mean QLIKE"] = abs(live_figure("qlike") - overall.qlike)
    found["bias"] = abs(live_figure("bias") - overall.bias)
    found["coverage"] = abs(live_figure("share", side="inside") - overall.coverage)
    found["width"] = abs(live_figure("interval_log_width") - overall.width)
    found["slope"] = abs(live_figure("mincer_zarnowitz_slope") - scores.mincer_zarnowitz["baseline"].slope)
    assert live_figure("horizons") == pytest.approx(scores.forecasts / 12)
    return found


def test_live_figures_equal_the_evaluation_of_the_replayed_recording(stack: Stack, tmp_path: Path) -> None:
    found = check_equal(stack, tmp_path / "exporter.log")
    assert max(found.values()) <= 1e-9, found


@pytest.mark.acceptance
def test_live_figures_of_a_day_equal_its_evaluation(tmp_path: Path, jars: list[Path], proof: Proof) -> None:
    with replayed(tmp_path, jars, hours=24) as stack:
        found = check_equal(stack, tmp_path / "exporter.log")
    proof.saw(**found)
    assert max(found.values()) <= 1e-9, found


def test_a_killed_exporter_exports_the_same_figures_again(stack: Stack, tmp_path: Path) -> None:
    with exporter(stack, tmp_path / "first.log") as process:
        before = figures(process.scrape())
        process.kill()
    with exporter(stack, tmp_path / "second.log") as process:
        assert figures(process.scrape()) == before
        assert process.stop() == 0
    assert len(before) > 30


def test_shadows_of_a_forecaster_have_figures_and_promises_of_their_own(
    stack: Stack, registry: FakeRegistry, tmp_path: Path
) -> None:
    """`ml` answers, and the champion of the baseline is asked as a shadow, on the same rows."""
    ml = model_bytes(baseline(scale=3.0), variant="ml", variance_floor=str(FLOOR))
    registry.files = {
        "volatility-ml": model_file("volatility-ml", "7", ml),
        "volatility-baseline": model_file(content=MODEL),
    }
    registry.tags["volatility-ml"] = {"promised_coverage_05": "0.84"}
    recording = tmp_path / "ether.csv"
    write_csv(recording, [simulate_day("ETH-USD", dt.date(2025, 3, 7), hours=(0, 1)).take(slice(0, 8_000))])
    environ = stack.environ | {"MLFLOW_TRACKING_URI": registry.uri, "MODELS_DIR": str(tmp_path / "models")}
    with running(
        Process("online.forecaster", environ, tmp_path / "forecaster.log"),
        replay(environ, tmp_path, "shadowed", recording),
    ):
        await_end(stack.broker.bootstrap_servers, "shadowed")
    with exporter(stack, tmp_path / "exporter.log", **environ) as process:
        series = process.scrape()
    champion = {"product_id": "ETH-USD", "model_variant": "ml", "version": "7", "role": "champion"}
    shadow = champion | {"model_variant": "baseline", "version": "3", "role": "shadow"}
    day = {"purpose": "replay", "in_sample": "false", "window": "1d"}

    def figure(name: str, labels: dict[str, str]) -> float | None:
        return series.get((f"cryptovol_{name}", frozenset(labels.items())))

    ours, theirs = (figure("forecast_qlike", labels | day) for labels in (champion, shadow))
    assert ours is not None and theirs is not None and ours != theirs
    assert figure("forecast_qlike_difference", champion | day) == pytest.approx(ours - theirs, abs=1e-9)
    assert figure("forecast_horizons", champion | day) == figure("forecast_horizons", shadow | day)
    assert figure("promised_coverage", {"model_variant": "ml", "version": "7", "quantile": "0.05"}) == 0.84


def test_malformed_records_are_counted_and_change_no_figure(stack: Stack, tmp_path: Path) -> None:
    good = msgspec.to_builtins(next(stack.read()).records[0])
    bad: list[bytes] = [b"", b"{", b"\xff", b"[" * 100_000]
    changes: list[dict[str, Any]] = [
        {"score": -1.0},
        {"horizon_s": 3_600},
        {"product_id": "?"},
        {"interval": None},
        {"ts": 2**63},
    ]
    bad += [msgspec.json.encode(good | change) for change in changes]
    producer = Producer({"bootstrap.servers": stack.broker.bootstrap_servers})
    with exporter(stack, tmp_path / "exporter.log") as process:
        before = figures(process.scrape())
        counted = process.value("rejects_total", reason="unreadable", purpose="unknown") or 0.0
        for value in bad:
            producer.produce(PREDICTIONS, value, partition=partition_of("BTC-USD"))
        producer.produce("figures", b'{"name":"forecast_qlike","labels":{},"value":1,"at":1}', b"a", partition=0)
        producer.produce("figures", b'{"name":"drift_alarm","labels":{"a":"b"},"value":1,"at":1}', b"b", partition=0)
        producer.flush(10)
        wait_until(
            lambda: process.value("rejects_total", reason="unreadable", purpose="unknown") == counted + len(bad) + 2,
            "all malformed records are counted",
        )
        assert figures(process.scrape()) == before


def test_figures_of_batch_jobs_are_exported_with_their_age(stack: Stack, tmp_path: Path) -> None:
    settings = KafkaSettings(kafka_bootstrap_servers=stack.broker.bootstrap_servers)
    now = time.time_ns()
    with exporter(stack, tmp_path / "exporter.log") as process:
        publish_figures(
            settings,
            [
                Figure("drift_ratio", {"product_id": "BTC-USD", "column": "ret_std", "view": "change"}, 1.25, now),
                Figure("retrain_failed", {}, 0.0, now - 60 * 10**9),
            ],
        )
        wait_until(lambda: process.value("retrain_failed") == 0, "the figure is exported", within_s=5)
        assert process.value("drift_ratio", product_id="BTC-USD", column="ret_std", view="change") == 1.25
        age = process.value("figure_age_seconds", name="retrain_failed", product_id="")
        assert age is not None and 60 <= age <= 120


def test_a_broker_that_is_away_is_told_and_the_exporter_recovers(stack: Stack, tmp_path: Path) -> None:
    log = tmp_path / "exporter.log"
    with exporter(stack, log) as process:
        before = figures(process.scrape())
        stack.broker.pause()
        try:
            wait_until(lambda: process.value("ready") == 0, "the exporter is not ready", within_s=20)
            process.await_log("waiting for the broker")
            assert figures(process.scrape()) == before, "old figures stay, and the newest forecast's age grows"
        finally:
            stack.broker.resume()
        process.await_ready()
        process.await_log("the broker answers")
        settings = KafkaSettings(kafka_bootstrap_servers=stack.broker.bootstrap_servers)
        publish_figures(settings, [Figure("sink_offsets_behind", {"topic": "features"}, 7.0, 1)])
        wait_until(lambda: process.value("sink_offsets_behind", topic="features") == 7, "figures are followed again")


def test_an_exporter_starts_before_the_broker_and_ends_at_a_signal(tmp_path: Path) -> None:
    environ = environment("127.0.0.1:9", tmp_path, EXPORTER_PORT="0")
    process = Exporter("monitoring.exporter", environ, tmp_path / "exporter.log")
    with running(process):
        process.await_log("waiting for the broker")
        assert process.value("ready") == 0
        assert process.stop() == 0


def test_a_taken_port_is_said(stack: Stack, tmp_path: Path) -> None:
    with exporter(stack, tmp_path / "exporter.log") as process:
        second = Exporter(
            "monitoring.exporter", stack.environ | {"EXPORTER_PORT": process.port}, tmp_path / "second.log"
        )
        with running(second):
            assert second.process.wait(30) == 2
    assert re.search("EXPORTER_PORT names another port", second.log.read_text())
