"""The exporter without a broker: the bound on its series, the work of a scrape, versions, figures of batch jobs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from data.features.spec import FeatureSpec
from data.models.kept import save_last_good
from data.process import catalog
from data.process.metrics import ProcessMetrics
from data.stream.records import Figure, Shadow
from data.times import NS
from monitoring import versions as versions_module
from monitoring.batch_figures import BatchFigures
from monitoring.exporter import MOST_SERIES, Exporter
from monitoring.live_truth import Sample
from monitoring.settings import ExporterSettings
from monitoring.versions import UNKNOWN, VersionKey, Versions
from monitoring.window_sums import WindowSums
from tests.exported import series_of
from tests.fakes import FakeRegistry
from tests.models import SPEC, model_bytes, model_file
from tests.unit.test_live_truth import record

MODEL = model_file(content=model_bytes(variance_floor="2e-9", tercile_bounds="0.0002,0.0004"))
KEY = VersionKey("baseline", "3", MODEL.digest, SPEC.spec_id)


def settings(folder: Path, uri: str = "http://127.0.0.1:9") -> ExporterSettings:
    return ExporterSettings(_env_file=None, mlflow_tracking_uri=uri, models_dir=folder)


def filled(folder: Path, products: int, shadows: int, minutes: int) -> Exporter:
    """Return an exporter that has read a forecast a second of each product, with shadows and the baseline of it."""
    save_last_good(folder, MODEL)
    exporter = Exporter(settings(folder), ProcessMetrics("exporter"), lambda: True)
    rng = np.random.default_rng(1)
    with capture_logs():
        for product in range(products):
            price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, 60 * minutes)))
            models = [Shadow("baseline", "3", 4e-4, (1e-4, 9e-4), digest=MODEL.digest)]
            models += [Shadow("ml", str(8 + i), 5e-4, (1e-4, 9e-4)) for i in range(shadows - 1)]
            first = 1_700_000_000
            exporter._truth.follow(
                [
                    record(
                        (first + second) * NS,
                        price[second],
                        4e-4 * (1 + second % 7 / 10),
                        product_id=f"P{product}-USD",
                        source_id=f"s{product}",
                        model_variant="baseline" if shadows == 0 else "ml",
                        shadow=models if shadows else [],
                    )
                    for second in range(60 * minutes)
                ]
            )
    exporter._shown = exporter._truth
    return exporter


def test_a_scrape_has_at_most_5000_series(tmp_path: Path) -> None:
    """80 products with two shadows would have more; the log says that models are left out, once in a minute."""
    exporter = filled(tmp_path, products=80, shadows=2, minutes=3)
    for number in range(100):
        exporter._figures.take(Figure("drift_alarm", {"product_id": f"P{number}-USD"}, 0.0, NS))
    with capture_logs() as logs:
        assert MOST_SERIES - 50 < series_of(exporter) <= MOST_SERIES
        series_of(exporter)
    assert len(logs) == 1
    assert "too many series" in logs[0]["event"]


def test_a_scrape_of_12_products_and_two_models_reads_sums_and_no_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sums over minutes for each product and model, however many forecasts there were; 50 ms of work."""
    exporter = filled(tmp_path, products=12, shadows=1, minutes=20)
    registry = CollectorRegistry()
    registry.register(exporter)
    asked: list[int] = []
    original = WindowSums.over

    def counted(self: WindowSums, minutes: int, now: int) -> dict[str, float]:
        asked.append(minutes)
        return original(self, minutes, now)

    monkeypatch.setattr(WindowSums, "over", counted)
    began = time.thread_time()  # of this thread: a busy machine changes no result
    assert len(generate_latest(registry)) > 50_000
    assert time.thread_time() - began <= 0.05
    assert sorted(asked) == sorted([15, 60, 1_440] * 24)


def test_each_family_is_declared_and_has_its_labels(tmp_path: Path) -> None:
    metrics = ProcessMetrics("exporter")
    exporter = Exporter(settings(tmp_path), metrics, lambda: True)
    shown = filled(tmp_path, products=2, shadows=1, minutes=3)
    exporter._shown = shown._truth
    exporter._figures.take(Figure("retrain_failed", {}, 1.0, NS))
    declared = {metric.name: metric for metric in catalog.METRICS if "exporter" in metric.processes}
    for family in metrics.registry.collect():
        if family.name.startswith("cryptovol_"):
            labels = {name for sample in family.samples for name in sample.labels}
            assert labels <= set(declared[family.name].labels), family.name
    text = generate_latest(metrics.registry).decode()
    assert 'cryptovol_judged_forecasts_total{in_sample="false",model_variant="baseline",product_id="P0-USD"' in text
    assert "cryptovol_retrain_failed 1.0" in text


def test_no_figure_of_forecasts_is_exported_before_the_history_is_read(tmp_path: Path) -> None:
    exporter = filled(tmp_path, products=1, shadows=1, minutes=3)
    exporter._shown = None
    assert series_of(exporter) == 0


# Versions


def test_the_registry_is_asked_once_for_each_version(tmp_path: Path, registry: FakeRegistry) -> None:
    registry.files["volatility-baseline"] = MODEL
    registry.tags["volatility-baseline"] = {
        "promised_qlike_95": "0.31",
        "promised_coverage_05": "0.83",
        "promised_coverage_50": "much",
    }
    versions = Versions(settings(tmp_path, registry.uri))
    facts = versions.facts(KEY)
    assert (facts.floor, facts.reference, facts.tercile_bounds) == (2e-9, "ewma_variance_300", (2e-4, 4e-4))
    assert facts.promises == {("qlike", "0.95"): 0.31, ("coverage", "0.05"): 0.83}
    asked = len(registry.asked)
    assert versions.facts(KEY) == facts
    versions.ask_again()
    assert len(registry.asked) == asked
    assert not versions.are_late


def test_a_kept_file_tells_the_floor_while_the_registry_is_away(tmp_path: Path) -> None:
    save_last_good(tmp_path, MODEL)
    facts = Versions(settings(tmp_path)).facts(KEY)
    assert (facts.floor, facts.promises) == (2e-9, {})


def test_a_version_is_asked_for_again_when_the_registry_was_away(
    tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.broken = (503, b"")
    versions = Versions(settings(tmp_path, registry.uri))
    with capture_logs() as logs:
        assert versions.facts(KEY) == UNKNOWN
        assert versions.facts(KEY) == UNKNOWN
        versions.ask_again()  # too soon
    assert len(registry.asked) == 1
    assert [each["event"] for each in logs] == ["the registry is away: a version is judged without floor"]
    registry.broken = None
    registry.files["volatility-baseline"] = MODEL
    monkeypatch.setattr(versions_module, "AGAIN_S", 0.0)
    versions.ask_again()
    assert versions.are_late
    assert versions.facts(KEY).floor == 2e-9


@pytest.mark.parametrize("fault", ["unknown version", "another file", "no floor", "another spec"])
def test_a_version_without_a_floor_is_said_once(tmp_path: Path, registry: FakeRegistry, fault: str) -> None:
    key = KEY
    if fault != "unknown version":
        registry.files["volatility-baseline"] = MODEL
    if fault == "another file":
        key = KEY._replace(digest="00" * 32)
    if fault == "no floor":
        registry.files["volatility-baseline"] = model_file()
        key = KEY._replace(digest=model_file().digest)
    if fault == "another spec":
        key = KEY._replace(spec_id=FeatureSpec(window_size=7).spec_id)
    versions = Versions(settings(tmp_path, registry.uri))
    with capture_logs() as logs:
        assert versions.facts(key).floor is None
        assert versions.facts(key).floor is None
    assert len(logs) == 1
    assert "no QLIKE is exported for it" in logs[0]["event"]


# Figures of batch jobs


def test_the_newest_figure_of_a_key_is_exported_with_the_age_of_the_newest_of_its_product() -> None:
    figures = BatchFigures()
    for view, found, at in (("change", 0.5, 10), ("change", 1.5, 20), ("spread", 0.7, 20)):
        figures.take(Figure("drift_ratio", {"product_id": "BTC-USD", "view": view, "column": "n"}, found, at * NS))
    assert set(figures.samples(50 * NS)) == {
        Sample(catalog.DRIFT_RATIO, ("BTC-USD", "n", "change"), 1.5),
        Sample(catalog.DRIFT_RATIO, ("BTC-USD", "n", "spread"), 0.7),
        Sample(catalog.FIGURE_AGE, ("drift_ratio", "BTC-USD"), 30.0),
    }


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        (Figure("forecast_qlike", {}, 1.0, 1), "the catalog has no figure 'forecast_qlike'"),
        (Figure("drift_alarm", {"product": "BTC-USD"}, 1.0, 1), r"drift_alarm has the labels \('product_id',\)"),
    ],
)
def test_a_figure_that_the_catalog_does_not_declare_is_refused(figure: Figure, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BatchFigures().take(figure)
