"""Which model serves: the watch looks, step by step, at a stand-in for a registry; the real one is in faults/."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from data.models.kept import load_last_good, save_last_good
from data.models.served import BASELINE
from online.metrics import ApiMetrics
from online.model_watch import ModelVersion, ModelWatch
from online.settings import ModelSettings
from tests.fakes import FakeRegistry
from tests.models import NAN, a_pickle, baseline, model_bytes, model_file
from tests.pipeline import wait_until

ML = "volatility-ml"
OTHER = model_bytes(baseline(scale=9.0), variant="ml")


def a_watch(uri: str, folder: Path, variant: str = "ml", metrics: ApiMetrics | None = None) -> ModelWatch:
    settings = ModelSettings(mlflow_tracking_uri=uri, models_dir=folder, model_variant=variant)
    return ModelWatch(settings, metrics or ApiMetrics())


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def serving(watch: ModelWatch) -> tuple[str, str, str]:
    assert watch.served is not None
    return watch.served.name, watch.served.version, watch.served.origin


def events(logged: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in logged]


def test_the_first_ml_champion_takes_over_from_the_baseline_and_gives_back(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    """Each model is logged once, with the reason for another variant; the disk keeps the serving model."""
    watch = a_watch(registry.uri, tmp_path)
    registry.files[BASELINE] = model_file()
    for _ in range(3):
        assert watch.look()
        assert serving(watch) == (BASELINE, "3", "registry")
    registry.files[ML] = model_file(ML, "1", OTHER)
    assert watch.look()
    assert serving(watch) == (ML, "1", "registry")
    assert load_last_good(tmp_path, ML) == registry.files[ML]
    del registry.files[ML]
    assert watch.look()
    assert serving(watch) == (BASELINE, "3", "registry")
    assert load_last_good(tmp_path, ML) is None, "a start without the registry goes on with the baseline"
    assert load_last_good(tmp_path, BASELINE) == registry.files[BASELINE]
    models = [line for line in logged if line["event"] == "model"]
    assert len(models) == len(logged) == 3
    assert models[0]["because"] == f"volatility-ml has no champion at {registry.uri}"
    assert models[1]["was"] == f"{BASELINE} 3"


def test_a_promotion_and_a_rollback_are_followed_and_kept(registry: FakeRegistry, tmp_path: Path) -> None:
    metrics = ApiMetrics()
    watch = a_watch(registry.uri, tmp_path, "baseline", metrics)
    old, new = model_file(version="1"), model_file(version="2", content=OTHER)
    for file in (old, new, old):
        registry.files[BASELINE] = file
        watch.look()
        assert serving(watch) == (BASELINE, file.version, "registry")
        assert load_last_good(tmp_path, BASELINE) == file
        [family] = [found for found in metrics.registry.collect() if found.name == "cryptovol_model"]
        assert [(sample.labels["version"], sample.labels["digest"], sample.value) for sample in family.samples] == [
            (file.version, file.digest, 1.0)
        ]
    assert metrics.registry.get_sample_value("cryptovol_model_swaps_total") == 2
    asked = len(registry.asked)
    watch.look()
    assert len(registry.asked) == asked + 1, "where nothing moved, one request"


def test_the_same_bytes_under_another_version_are_another_model(registry: FakeRegistry, tmp_path: Path) -> None:
    watch = a_watch(registry.uri, tmp_path, "baseline")
    for version in ("1", "2"):
        registry.files[BASELINE] = model_file(version=version)
        watch.look()
        assert serving(watch) == (BASELINE, version, "registry")


def test_a_version_that_served_before_is_not_fetched_again(registry: FakeRegistry, tmp_path: Path) -> None:
    """A rollback needs the registry's answer alone, unless the kept file differs from the registry's digest."""
    watch = a_watch(registry.uri, tmp_path, "baseline")
    old, new = model_file(version="1"), model_file(version="2", content=OTHER)
    for file, fetched in ((old, 1), (new, 2), (old, 2)):
        registry.files[BASELINE] = file
        watch.look()
        assert serving(watch) == (BASELINE, file.version, "registry")
        assert registry.files_asked() == fetched
    (tmp_path / BASELINE / f"{new.digest}.onnx").write_bytes(b"changed")
    registry.files[BASELINE] = new
    watch.look()
    assert serving(watch) == (BASELINE, "2", "registry")
    assert registry.files_asked() == 3
    assert load_last_good(tmp_path, BASELINE) == new


@pytest.mark.parametrize(
    ("content", "digest", "kind", "reason"),
    [
        (a_pickle(), "", "format", "no ONNX model"),
        (model_bytes(), "0" * 64, "digest", "the registry promised 000"),
        (model_bytes(spec_id="0123456789ab"), "", "spec", "spec 0123456789ab"),
        (model_bytes(baseline(scale=NAN)), "", "answers", "answers score nan"),
        (model_bytes(baseline("moon_phase")), "", "columns", "moon_phase"),
        (OTHER, "", "absent", "not at the registry"),
    ],
)
def test_a_champion_that_may_not_serve_leaves_the_old_one_and_is_said_once(
    registry: FakeRegistry,
    tmp_path: Path,
    logged: list[dict[str, object]],
    content: bytes,
    digest: str,
    kind: str,
    reason: str,
) -> None:
    metrics = ApiMetrics()
    watch = a_watch(registry.uri, tmp_path, "baseline", metrics)
    good = model_file(version="3")
    registry.files[BASELINE] = good
    watch.look()
    registry.files[BASELINE] = model_file(version="4", content=content, digest=digest)
    registry.broken_files = (404, b"{}") if kind == "absent" else None
    asked = registry.files_asked()
    for _ in range(5):
        assert watch.look()
    assert serving(watch) == (BASELINE, "3", "registry")
    assert load_last_good(tmp_path, BASELINE) == good
    assert registry.files_asked() == asked + 1, "a refused file is not fetched again"
    assert events(logged) == ["model", "model refused"]
    [refused] = watch.refused()
    assert (refused["name"], refused["version"], refused["kind"]) == (BASELINE, "4", kind)
    assert reason in refused["reason"]
    labels = {"name": BASELINE, "reason": kind}
    assert metrics.registry.get_sample_value("cryptovol_model_refused", labels) == 1

    registry.broken_files = None
    registry.files[BASELINE] = model_file(version="5", content=OTHER)
    watch.look()
    assert serving(watch) == (BASELINE, "5", "registry")
    assert watch.refused() == []
    assert metrics.registry.get_sample_value("cryptovol_model_refused", labels) is None


def test_a_refused_champion_that_gives_way_to_the_old_one_is_no_longer_said(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    watch = a_watch(registry.uri, tmp_path, "baseline")
    good = model_file()
    for file, refused in ((good, 0), (model_file(version="4", content=b"x"), 1), (good, 0)):
        registry.files[BASELINE] = file
        watch.look()
        assert len(watch.refused()) == refused
        assert serving(watch) == (BASELINE, "3", "registry")


def test_a_refused_ml_leaves_the_baseline_followed(registry: FakeRegistry, tmp_path: Path) -> None:
    """At a start too; the last good model of the wanted variant goes before the baseline."""
    registry.files[BASELINE] = model_file()
    registry.files[ML] = model_file(ML, "1", a_pickle())
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    assert serving(watch) == (BASELINE, "3", "registry")
    registry.files[BASELINE] = model_file(version="4", content=OTHER)
    watch.look()
    assert serving(watch) == (BASELINE, "4", "registry")
    assert [refused["name"] for refused in watch.refused()] == [ML]
    save_last_good(tmp_path, model_file(ML, "9", OTHER))
    watch = a_watch(registry.uri, tmp_path)
    for _ in range(2):
        watch.look()
        assert serving(watch) == (ML, "9", "disk")


def test_a_file_that_does_not_come_is_tried_again_and_said_once(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    watch = a_watch(registry.uri, tmp_path, "baseline")
    registry.files[BASELINE] = model_file()
    watch.look()
    registry.files[BASELINE] = model_file(version="4", content=OTHER)
    registry.broken_files = (503, b"busy")
    for _ in range(3):
        assert not watch.look()
        assert [refused["kind"] for refused in watch.refused()] == ["unfetched"]
    assert events(logged) == ["model", "model refused"]
    registry.broken_files = None
    assert watch.look()
    assert serving(watch) == (BASELINE, "4", "registry")
    assert watch.refused() == []


def test_a_registry_that_goes_and_comes_back_is_said_once_each_and_what_serves_goes_on(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that misses a single question is not yet reported as away."""
    metrics = ApiMetrics()
    watch = a_watch(registry.uri, tmp_path, "baseline", metrics)

    def age_s() -> float:
        age = metrics.registry.get_sample_value("cryptovol_registry_age_seconds")
        assert age is not None
        return age

    assert math.isnan(age_s())
    registry.files[BASELINE] = model_file()
    assert watch.look()
    registry.broken = (500, b"")
    before = age_s()
    assert not watch.look()
    assert events(logged) == ["model"]
    monkeypatch.setattr("online.model_watch.AWAY_S", 0.0)
    for _ in range(3):
        assert not watch.look()
    assert serving(watch) == (BASELINE, "3", "registry")
    assert 0 <= before < age_s()
    oldest = age_s()
    registry.broken = None
    assert watch.look()
    assert watch.look()
    assert age_s() < oldest
    assert events(logged) == ["model", "the registry is away", "the registry is back"]


def test_without_the_registry_the_last_good_model_serves_and_stays_when_it_is_back(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    """The model on disk is the champion of the registry: nothing is fetched."""
    registry.files[BASELINE] = model_file()
    registry.broken = (500, b"")
    save_last_good(tmp_path, registry.files[BASELINE])
    watch = a_watch(registry.uri, tmp_path, "baseline")
    assert not watch.look()
    assert serving(watch) == (BASELINE, "3", "disk")
    registry.broken = None
    assert watch.look()
    assert serving(watch) == (BASELINE, "3", "disk")
    assert registry.files_asked() == 0


def test_a_registry_that_says_nothing_is_asked_again_soon(tmp_path: Path) -> None:
    """The registry accepts connections and keeps silent; a model serves from disk, so a question waits 0.5 s, not 2."""
    save_last_good(tmp_path, model_file())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(10)
        watch = a_watch(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, "baseline")
        watch.start()
        try:
            asked = [silent.accept()[0]]
            wait_until(lambda: watch.served, "the last good model")
            asked.append(silent.accept()[0])
            began = time.monotonic()
            asked.append(silent.accept()[0])
            took_s = time.monotonic() - began
        finally:
            watch.stop()
        for connection in asked:
            connection.close()
    assert 0.5 < took_s < 1.8


def test_with_nothing_anywhere_all_reasons_are_told_once(
    nobody: str, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    watch = a_watch(nobody, tmp_path)
    for _ in range(3):
        assert not watch.look()
    assert watch.served is None
    [line] = [line for line in logged if line["event"] == "no model yet"]
    for part in (nobody, "volatility-ml holds no", "volatility-baseline holds no", "python -m offline.training"):
        assert part in str(line["reason"])


def test_a_registry_that_names_no_champion_leaves_what_serves(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.files[ML] = model_file(ML, "1", OTHER)
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    registry.files.clear()
    assert watch.look()
    assert serving(watch) == (ML, "1", "registry")
    assert load_last_good(tmp_path, ML) is not None


def test_a_disk_that_takes_nothing_does_not_stop_a_model(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    registry.files[BASELINE] = model_file()
    (tmp_path / "models").write_text("a file where the folder should be")
    watch = a_watch(registry.uri, tmp_path / "models")
    watch.look()
    assert serving(watch) == (BASELINE, "3", "registry")
    assert events(logged) == ["a model serves, but cannot be kept", "model"]


def test_a_model_is_prepared_before_it_serves(registry: FakeRegistry, tmp_path: Path) -> None:
    """A failed preparation leaves the old model; the thread lives on, and logs the failure once."""
    settings = ModelSettings(mlflow_tracking_uri=registry.uri, models_dir=tmp_path, model_variant="baseline")
    seen: list[tuple[str, str | None]] = []

    def prepare(version: ModelVersion) -> None:
        seen.append((version.version, watch.served.version if watch.served else None))
        if version.version == "2":
            raise RuntimeError("a bug")

    metrics = ApiMetrics()
    watch = ModelWatch(settings, metrics, prepare)
    with capture_logs() as lines:
        watch.start()
        try:
            for version, then in (("1", "1"), ("2", "1"), ("3", "3")):
                registry.files[BASELINE] = model_file(version=version)
                wait_until(lambda v=version: [one for one, _ in seen].count(v) >= (2 if v == "2" else 1), version)  # type: ignore[misc]
                wait_until(lambda t=then: watch.served and watch.served.version == t, then)  # type: ignore[misc]
        finally:
            watch.stop()
    assert {("1", None), ("2", "1"), ("3", "1")} == set(seen)
    assert events(lines).count("cannot take over a model; what serves goes on") == 1  # type: ignore[arg-type]
    failures = metrics.registry.get_sample_value("cryptovol_errors_total", {"kind": "model_watch"})
    assert failures is not None
    assert failures >= 2


def test_waiting_for_a_model_ends_when_told_to_stop(nobody: str, tmp_path: Path) -> None:
    watch = a_watch(nobody, tmp_path)
    watch.start()
    try:
        assert watch.await_model(iter([True, False]).__next__) is None
        save_last_good(tmp_path, model_file())
        found = watch.await_model(lambda: True)
    finally:
        watch.stop()
    assert found is not None
    assert found.version == "3"
