"""How the online side finds its model: in the real registry, past a broken one, and on disk without it."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.serving import ModelRefused, ServedModel
from offline.registry import Candidate, register
from online.registry import (
    BASELINE,
    ModelFile,
    NoChampion,
    NoModel,
    RegistryError,
    await_model,
    champion,
    fetch_champion,
    load_last_good,
    resolve_model,
    save_last_good,
)
from online.settings import ModelSettings
from tests.models import SPEC, a_pickle, model_bytes

TIMEOUT_S = 5.0
CONTENT = model_bytes()


def _file(name: str = BASELINE, version: str = "3", content: bytes = CONTENT) -> ModelFile:
    return ModelFile(name, version, hashlib.sha256(content).hexdigest(), content)


class FakeRegistry:
    """A stand-in for MLflow on a real socket: what it answers to is in `files`, and it can be told to misbehave.

    The answers are shaped like those of MLflow 3.17; the test on the real server holds them to that.
    """

    def __init__(self) -> None:
        self.files: dict[str, ModelFile] = {}
        self.artifact_scheme = "mlflow-artifacts"
        self.broken: tuple[int, bytes] | None = None
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = registry.broken or registry.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes]:
        for name, file in self.files.items():
            if f"name={name}&alias=champion" in path:
                tags = [{"key": "digest", "value": file.digest}]
                return 200, json.dumps({"model_version": {"version": file.version, "tags": tags}}).encode()
            if f"get-download-uri?name={name}&version={file.version}" in path:
                return 200, json.dumps({"artifact_uri": f"{self.artifact_scheme}:/1/{name}/artifacts"}).encode()
            if path.endswith(f"/mlflow-artifacts/artifacts/1/{name}/artifacts/model.onnx"):
                return 200, file.model_bytes
        return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not found"}'

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.mark.filterwarnings("default")  # mlflow warns about its own code
def test_the_champion_comes_from_the_real_registry_byte_for_byte(mlflow_uri: str, tmp_path: Path) -> None:
    name = "volatility-ml"
    with pytest.raises(NoChampion, match="volatility-ml has no champion"):
        fetch_champion(mlflow_uri, name, TIMEOUT_S)

    content = model_bytes(variant="ml")
    model = ServedModel.load(content, spec_id=SPEC.spec_id)
    example = np.array([[50, 0, 1e-4, 1e-6]] * 2)
    version = register(mlflow_uri, Candidate(name, content, model, example, {}, {"qlike": 0.5}))

    found = fetch_champion(mlflow_uri, name, TIMEOUT_S)
    assert found == ModelFile(name, version, hashlib.sha256(content).hexdigest(), content)
    resolved = resolve_model(mlflow_uri, "ml", tmp_path, SPEC, TIMEOUT_S)
    assert (resolved.name, resolved.version, resolved.origin, resolved.remarks) == (name, version, "registry", ())
    assert load_last_good(tmp_path, name) == found

    import mlflow

    mlflow.MlflowClient(mlflow_uri).delete_registered_model_alias(name, "champion")
    with pytest.raises(NoChampion):
        champion(mlflow_uri, name, TIMEOUT_S)


def test_without_an_ml_champion_the_baseline_answers_and_says_so(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.files[BASELINE] = _file()
    save_last_good(tmp_path, _file("volatility-ml", "9"))  # it was champion once, and is none now
    found = resolve_model(registry.uri, "ml", tmp_path, SPEC, TIMEOUT_S)
    assert (found.name, found.version, found.origin) == (BASELINE, "3", "registry")
    assert found.remarks == (f"volatility-ml has no champion at {registry.uri}",)


def test_with_the_registry_away_the_last_good_model_answers(nobody: str, tmp_path: Path) -> None:
    save_last_good(tmp_path, _file())
    found = resolve_model(nobody, "baseline", tmp_path, SPEC, TIMEOUT_S)
    assert (found.name, found.version, found.origin) == (BASELINE, "3", "disk")
    assert len(found.remarks) == 1
    assert "does not answer" in found.remarks[0]


@pytest.mark.parametrize(
    ("content", "digest", "reason"),
    [
        (a_pickle(), None, "no ONNX model"),
        (CONTENT, "0" * 64, "the registry promised 000"),
        (model_bytes(spec_id="0123456789ab"), None, "spec 0123456789ab"),
    ],
)
def test_a_champion_that_is_refused_leaves_the_last_good_model_serving(
    registry: FakeRegistry, tmp_path: Path, content: bytes, digest: str | None, reason: str
) -> None:
    save_last_good(tmp_path, _file())
    bad = _file(version="4", content=content)
    registry.files[BASELINE] = replace(bad, digest=digest or bad.digest)
    found = resolve_model(registry.uri, "baseline", tmp_path, SPEC, TIMEOUT_S)
    assert (found.version, found.origin) == ("3", "disk")
    assert "version 4 from the registry is refused" in found.remarks[0]
    assert reason in found.remarks[0]
    kept = load_last_good(tmp_path, BASELINE)
    assert kept is not None
    assert kept.version == "3"


def test_with_nothing_anywhere_all_reasons_are_told(nobody: str, tmp_path: Path) -> None:
    with pytest.raises(NoModel) as found:
        resolve_model(nobody, "ml", tmp_path, SPEC, TIMEOUT_S)
    for part in (nobody, "volatility-ml holds no", "volatility-baseline holds no", "python -m offline.training"):
        assert part in str(found.value)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ((500, b"out of order"), "answers 500: out of order"),
        ((403, b"Invalid Host header"), "answers 403"),
        ((200, b"<html>"), "no JSON"),
        ((200, b"[]"), "no object"),
        ((200, b'{"model_version": {"version": "1", "tags": []}}'), "has no 'digest'"),
    ],
)
def test_a_registry_that_answers_nonsense_is_an_error(
    registry: FakeRegistry, broken: tuple[int, bytes], reason: str
) -> None:
    registry.broken = broken
    with pytest.raises(RegistryError, match=reason):
        champion(registry.uri, BASELINE, TIMEOUT_S)


def test_a_model_kept_elsewhere_than_at_the_registry_is_an_error(registry: FakeRegistry) -> None:
    registry.files[BASELINE] = _file()
    registry.artifact_scheme = "s3"
    with pytest.raises(RegistryError, match="must be mlflow-artifacts:"):
        fetch_champion(registry.uri, BASELINE, TIMEOUT_S)


def test_a_registry_that_accepts_and_says_nothing_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError, match="does not answer"):
            champion(uri, BASELINE, timeout_s=0.05)


def test_what_is_kept_on_disk_is_checked_when_it_is_read(tmp_path: Path) -> None:
    assert load_last_good(tmp_path, BASELINE) is None
    save_last_good(tmp_path, _file())
    save_last_good(tmp_path, _file())
    assert load_last_good(tmp_path, BASELINE) == _file()
    assert sorted(path.name for path in (tmp_path / BASELINE).iterdir()) == [f"{_file().digest}.onnx", "last_good.json"]
    model_path = tmp_path / BASELINE / f"{_file().digest}.onnx"
    model_path.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelRefused, match="SHA-256"):
        load_last_good(tmp_path, BASELINE)
    model_path.unlink()
    with pytest.raises(ModelRefused, match="points to a file that is gone"):
        load_last_good(tmp_path, BASELINE)
    (tmp_path / BASELINE / "last_good.json").write_text("{")
    with pytest.raises(ModelRefused, match="cannot be read"):
        load_last_good(tmp_path, BASELINE)


def test_a_disk_that_takes_nothing_does_not_stop_a_model(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.files[BASELINE] = _file()
    (tmp_path / "models").write_text("a file where the folder should be")
    found = resolve_model(registry.uri, "baseline", tmp_path / "models", SPEC, TIMEOUT_S)
    assert found.origin == "registry"
    assert "cannot be kept" in found.remarks[0]


def test_waiting_for_a_model_ends_when_told_to_stop(nobody: str, tmp_path: Path) -> None:
    settings = ModelSettings(mlflow_tracking_uri=nobody, models_dir=tmp_path)
    assert await_model(settings, iter([True, False]).__next__) is None
    save_last_good(tmp_path, _file())
    found = await_model(settings, iter([True]).__next__)
    assert found is not None
    assert found.version == "3"
