"""The registry seen from online, real and broken, and the last good models on disk."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from data.models.kept import KEPT_FILES, forget_last_good, load_last_good, save_last_good
from data.models.registry import ModelFile, Registry, Version
from data.models.served import ServedModel
from data.names import ModelRefused, RegistryError
from offline.models.candidate import Candidate
from offline.promotion.register import register
from tests.fakes import FakeRegistry
from tests.models import SPEC, model_bytes, model_file

TIMEOUT_S = 5.0
NAME = "volatility-baseline"


def fetch_champion(registry: FakeRegistry) -> ModelFile:
    wanted = Registry(registry.uri, TIMEOUT_S).champion(NAME)
    assert wanted is not None
    return Registry(registry.uri, TIMEOUT_S).fetch(wanted)


@pytest.mark.filterwarnings("default")  # mlflow warns about its own code
def test_the_champion_comes_from_the_real_registry_byte_for_byte(mlflow_uri: str) -> None:
    """A champion without its file is told apart from a silent registry."""
    import mlflow

    name = "read-online"
    registry = Registry(mlflow_uri, TIMEOUT_S)
    assert registry.champion(name) is None

    content = model_bytes(variant="ml")
    model = ServedModel.load(content, spec_id=SPEC.spec_id)
    example = np.array([[50, 0, 1e-4, 1e-6]] * 2)
    version = register(registry, Candidate(name, content, model, example, {}, {"qlike": 0.5}))
    assert registry.champion(name) is None  # it is challenger
    client = mlflow.MlflowClient(mlflow_uri)
    client.set_registered_model_alias(name, "champion", version)

    wanted = registry.champion(name)
    assert wanted is not None
    digest = hashlib.sha256(content).hexdigest()
    assert (wanted.name, wanted.version, wanted.digest) == (name, version, digest)
    assert registry.fetch(wanted) == ModelFile(name, version, digest, content)

    place = urllib.parse.urlsplit(client.get_model_version_download_uri(name, version)).path.strip("/")
    gone = f"{mlflow_uri}/api/2.0/mlflow-artifacts/artifacts/{place}/model.onnx"
    urllib.request.urlopen(urllib.request.Request(gone, method="DELETE"), timeout=TIMEOUT_S).close()
    with pytest.raises(ModelRefused, match="not at the registry") as refused:
        registry.fetch(wanted)
    assert refused.value.kind == "absent"

    client.delete_registered_model_alias(name, "champion")
    assert registry.champion(name) is None


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ((500, b"out of order"), "answers 500 to .*: out of order"),
        ((403, b"Invalid Host header"), "answers 403"),
        ((200, b"<html>"), "JSON is malformed.*: is it MLflow"),
        ((200, b"[]"), "Expected `object`, got `array`.*: is it MLflow"),
        ((200, b'{"model_version": {"tags": []}}'), "missing required field `version`"),
        ((200, b'{"model_version": null}'), "Expected `object`, got `null`"),
    ],
)
def test_a_registry_that_answers_nonsense_is_an_error(
    registry: FakeRegistry, broken: tuple[int, bytes], reason: str
) -> None:
    registry.broken = broken
    with pytest.raises(RegistryError, match=reason):
        Registry(registry.uri, TIMEOUT_S).champion(NAME)


def test_a_champion_without_a_digest_is_refused(registry: FakeRegistry) -> None:
    registry.broken = (200, b'{"model_version": {"version": "1"}}')
    wanted = Registry(registry.uri).champion(NAME)
    assert wanted == Version(NAME, "1", {}, "")
    with pytest.raises(ModelRefused, match="has no tag `digest`"):
        Registry(registry.uri).fetch(wanted)


def test_a_model_kept_elsewhere_than_at_the_registry_is_refused(registry: FakeRegistry) -> None:
    registry.files[NAME] = model_file()
    registry.artifact_scheme = "s3"
    with pytest.raises(ModelRefused, match="must be mlflow-artifacts:"):
        fetch_champion(registry)


@pytest.mark.parametrize(("status", "error"), [(404, ModelRefused), (500, RegistryError), (503, RegistryError)])
def test_a_file_that_is_not_there_is_told_from_a_failure(
    registry: FakeRegistry, status: int, error: type[Exception]
) -> None:
    registry.files[NAME] = model_file()
    registry.broken_files = (status, b"{}")
    with pytest.raises(error, match=f"answers {status}"):
        fetch_champion(registry)


def test_a_registry_that_accepts_and_says_nothing_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError, match="does not answer"):
            Registry(uri, timeout_s=0.05).champion(NAME)


def test_the_saved_model_stays_though_the_clock_was_set_back(tmp_path: Path) -> None:
    """All older files have times in the future: by time alone, the saved model would be the oldest one, and go."""
    file, place = model_file(), tmp_path / NAME
    place.mkdir()
    for number in range(2 * KEPT_FILES):
        older = place / f"{number:064}.onnx"
        older.touch()
        os.utime(older, (4e9 + number, 4e9 + number))
    save_last_good(tmp_path, file)
    assert load_last_good(tmp_path, NAME) == file
    newest = [f"{number:064}.onnx" for number in range(KEPT_FILES + 1, 2 * KEPT_FILES)]
    assert sorted(path.name for path in place.iterdir()) == sorted([*newest, f"{file.digest}.onnx", "last_good.json"])


def test_what_is_kept_on_disk_is_checked_when_it_is_read(tmp_path: Path) -> None:
    file = model_file()
    assert load_last_good(tmp_path, NAME) is None
    save_last_good(tmp_path, file)
    save_last_good(tmp_path, file)
    assert load_last_good(tmp_path, NAME) == file
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == [f"{file.digest}.onnx", "last_good.json"]
    model_path = tmp_path / NAME / f"{file.digest}.onnx"
    model_path.write_bytes(file.model_bytes[:-1])
    with pytest.raises(ModelRefused, match="SHA-256"):
        load_last_good(tmp_path, NAME)
    model_path.unlink()
    with pytest.raises(ModelRefused, match="points to a file that is gone"):
        load_last_good(tmp_path, NAME)
    (tmp_path / NAME / "last_good.json").write_text("{")
    with pytest.raises(ModelRefused, match="cannot be read"):
        load_last_good(tmp_path, NAME)
    forget_last_good(tmp_path, NAME)
    forget_last_good(tmp_path, NAME)
    assert load_last_good(tmp_path, NAME) is None


def test_old_files_go_and_the_last_good_one_stays_also_after_a_rollback(tmp_path: Path) -> None:
    """The torso of a process killed while writing goes too."""
    place = tmp_path / NAME
    place.mkdir()
    torso = place / "0123.onnxtorso"
    torso.write_bytes(b"half")
    os.utime(torso, (1, 1))
    files = [model_file(version=str(i), content=b"%d" % i) for i in range(1, 9)]
    for at, file in enumerate(files):
        save_last_good(tmp_path, file)
        os.utime(place / f"{file.digest}.onnx", (10 + at, 10 + at))
    kept = {path.name for path in place.iterdir()} - {"last_good.json"}
    assert kept == {f"{file.digest}.onnx" for file in files[-KEPT_FILES:]}
    save_last_good(tmp_path, files[3])
    save_last_good(tmp_path, files[0])
    assert load_last_good(tmp_path, NAME) == files[0]
    assert len(list(place.iterdir())) == KEPT_FILES + 1


def test_two_that_save_at_once_leave_a_whole_model(tmp_path: Path) -> None:
    files = [model_file(version=str(i), content=bytes([i]) * 10_000) for i in range(2)]
    failed: list[Exception] = []

    def save(file: ModelFile) -> None:
        try:
            for _ in range(200):
                save_last_good(tmp_path, file)
                assert load_last_good(tmp_path, NAME) in files
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
