"""Which models are shadows: the watch looks, step by step, at a stand-in for a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from data.models.kept import save_last_good
from data.models.registry import ModelFile
from data.models.served import BASELINE
from data.names import RegistryError
from online import shadow_watch
from online.metrics import ForecasterMetrics
from online.settings import ModelSettings
from online.shadow_watch import ShadowWatch
from tests.fakes import FakeRegistry
from tests.models import a_pickle, baseline, model_bytes, model_file
from tests.pipeline import wait_until

ML = "volatility-ml"


def ml(version: str, scale: float) -> ModelFile:
    return model_file(ML, version, model_bytes(baseline(scale=scale), variant="ml"))


def a_watch(uri: str, folder: Path, metrics: ForecasterMetrics | None = None) -> ShadowWatch:
    return ShadowWatch(ModelSettings(mlflow_tracking_uri=uri, models_dir=folder), metrics or ForecasterMetrics())


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def shadows(watch: ShadowWatch) -> list[tuple[str, str, str]]:
    return [(each.name, each.version, each.model.variant) for each in watch.shadows]


def test_champions_and_challengers_of_both_variants_are_kept_loaded(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    registry.files = {BASELINE: model_file(), ML: ml("1", 9.0)}
    registry.challengers = {
        BASELINE: model_file(version="4", content=model_bytes(baseline(scale=5.0))),
        ML: ml("2", 7.0),
    }
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    all_four = [(BASELINE, "3", "baseline"), (BASELINE, "4", "baseline"), (ML, "1", "ml"), (ML, "2", "ml")]
    assert shadows(watch) == all_four
    before = watch.shadows
    watch.look()
    assert watch.shadows is before
    assert registry.files_asked() == 4
    registry.files[ML] = registry.challengers[ML]  # promoted; the alias `challenger` stays where it was
    watch.look()
    assert shadows(watch) == [all_four[0], all_four[1], all_four[3]], "the same file is one shadow"
    assert watch.shadows[2] is before[3]
    del registry.challengers[BASELINE]
    watch.look()
    assert shadows(watch) == [all_four[0], all_four[3]]
    assert registry.files_asked() == 4
    assert [line["event"] for line in logged] == ["shadows"] * 3


def test_without_another_model_there_is_no_shadow(registry: FakeRegistry, tmp_path: Path) -> None:
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    assert watch.shadows == ()


def test_a_model_that_served_here_is_not_fetched(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.files = {BASELINE: model_file()}
    save_last_good(tmp_path, model_file())
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    assert shadows(watch) == [(BASELINE, "3", "baseline")]
    assert registry.files_asked() == 0


@pytest.mark.parametrize("content", [a_pickle(), model_bytes(spec_id="0123456789ab"), b""])
def test_a_refused_challenger_is_counted_and_logged_once_and_costs_no_other_shadow(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]], content: bytes
) -> None:
    metrics = ForecasterMetrics()
    registry.files = {BASELINE: model_file()}
    registry.challengers = {ML: model_file(ML, "2", content)}
    watch = a_watch(registry.uri, tmp_path, metrics)
    for _ in range(3):
        watch.look()
        assert shadows(watch) == [(BASELINE, "3", "baseline")]
    assert registry.files_asked() == 2
    labels = {"model_variant": "ml", "version": "2"}
    assert metrics.registry.get_sample_value("cryptovol_shadow_failures_total", labels) == 1
    assert [line["event"] for line in logged] == ["a shadow failed", "shadows"]
    registry.challengers = {ML: ml("3", 7.0)}
    watch.look()
    assert shadows(watch)[1:] == [(ML, "3", "ml")]


def test_a_file_that_does_not_come_is_tried_again(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    metrics = ForecasterMetrics()
    registry.challengers = {ML: ml("2", 7.0)}
    registry.broken_files = (503, b"busy")
    watch = a_watch(registry.uri, tmp_path, metrics)
    for _ in range(3):
        watch.look()
        assert watch.shadows == ()
    labels = {"model_variant": "ml", "version": "2"}
    assert metrics.registry.get_sample_value("cryptovol_shadow_failures_total", labels) == 3
    registry.broken_files = None
    watch.look()
    assert shadows(watch) == [(ML, "2", "ml")]
    assert [line["event"] for line in logged] == ["a shadow failed", "shadows"]


def test_a_slow_model_is_no_shadow(
    registry: FakeRegistry, tmp_path: Path, logged: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_watch, "MAX_CHUNK_S", 1e-9)
    registry.challengers = {ML: ml("2", 7.0)}
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    assert watch.shadows == ()
    [line] = logged
    assert "128 rows take" in str(line["reason"])


def test_without_the_registry_shadows_stay(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.files = {BASELINE: model_file()}
    watch = a_watch(registry.uri, tmp_path)
    watch.look()
    registry.broken = (500, b"")
    with pytest.raises(RegistryError):
        watch.look()
    assert shadows(watch) == [(BASELINE, "3", "baseline")]


def test_a_start_waits_for_the_first_look_alone(
    registry: FakeRegistry, nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a registry that is away too; a failure of ours ends no thread."""
    monkeypatch.setattr(shadow_watch, "FIRST_LOOK_S", 30.0)
    registry.files = {BASELINE: model_file()}
    for uri, expected in ((registry.uri, 1), (nobody, 0)):
        watch = a_watch(uri, tmp_path)
        watch.start()
        try:
            watch.await_first_look()
            assert len(watch.shadows) == expected
        finally:
            watch.stop()


def test_the_thread_goes_on_after_a_failure_of_ours(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_watch, "POLL_S", 0.01)
    metrics = ForecasterMetrics()
    registry.files = {BASELINE: model_file()}
    watch = a_watch(registry.uri, tmp_path, metrics)
    with monkeypatch.context() as patched:
        patched.setattr(watch, "look", lambda: 1 / 0)
        watch.start()
        failures = metrics.errors.labels("model_watch")
        wait_until(lambda: failures._value.get() >= 2, "two failures")
    try:
        wait_until(lambda: watch.shadows, "a shadow")
    finally:
        watch.stop()
