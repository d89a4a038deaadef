"""Models that somebody planted in a real registry: refused before a byte of them runs, and the old model serves on."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
from onnx import TensorProto, helper

from data.models.registry import Registry
from data.names import ModelRefused
from offline.evaluation.served import champions
from offline.promotion.gate import Refused
from offline.promotion.register import set_alias
from orchestration.local.parts import fetch_text
from tests.broker import Broker, free_ports
from tests.mlflow_server import MlflowServer, running_mlflow
from tests.models import SPEC, forced, model_bytes, put_version
from tests.pipeline import Process, environment, running, wait_until
from tests.proofs import Proof
from tests.services.test_api import CONTRACT_ROW, Api, running_api

NAME = "volatility-baseline"
GOOD = model_bytes()
LARGE = 2 * 10**9
MORE_MB = 150
"""Memory that a process may need for a file of `LARGE`: MODEL_MAX_MB, and as much again for its copy."""


class Canary:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


class Plant(NamedTuple):
    """A planted version.

    Attributes:
        files: among the artifacts of the version, by path.
        kind: of the refusal.
        digest: SHA-256 that the registry promises; empty: that of the model file.
        size: the model file grows to so many bytes, without content.
    """

    files: dict[str, bytes]
    kind: str
    digest: str = ""
    size: int = 0


def external(location: str) -> bytes:
    """Return a model that answers with the values of another file."""
    model = onnx.load_from_string(GOOD)
    tensor = model.graph.initializer.add(
        name="planted", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    model.graph.output.append(helper.make_tensor_value_info("planted", TensorProto.FLOAT, [1]))
    return bytes(model.SerializeToString())


def custom() -> bytes:
    """Return a model with an operator that a library of its own would bring."""
    model = onnx.load_from_string(GOOD)
    model.graph.node.append(helper.make_node("Planted", ["X"], ["planted"], domain="evil"))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    return bytes(model.SerializeToString())


def plants(canary: Path) -> dict[str, Plant]:
    """Return the planted versions; what is executed of them writes the canary file."""
    evil = pickle.dumps(Canary(canary))
    code = f"open({str(canary)!r}, 'w')\n".encode()
    flavor = b"flavors:\n  python_function:\n    loader_module: evil\n    code: code\n    data: model.pkl\n"
    other = model_bytes(coverage="0.8")  # not the digest of GOOD: the processes have kept that file, and would take it
    promised, tampered = hashlib.sha256(other).hexdigest(), bytearray(other)
    tampered[len(other) // 2] ^= 1
    relative = os.path.relpath(canary)
    return {
        "pickle": Plant({"model.onnx": evil}, "format"),
        "another flavor": Plant({"MLmodel": flavor, "model.pkl": evil, "code/evil.py": code}, "absent"),
        "another flavor, with a pickle named as a model": Plant(
            {"MLmodel": flavor, "model.onnx": evil, "model.pkl": evil, "code/evil.py": code}, "format"
        ),
        "tampered": Plant({"model.onnx": bytes(tampered)}, "digest", promised),
        "digest of another file": Plant({"model.onnx": model_bytes(coverage="0.95")}, "digest", promised),
        "external data, beside the process": Plant({"model.onnx": external(canary.name)}, "external"),
        "external data, climbing": Plant({"model.onnx": external(relative)}, "external"),
        "external data, a whole path": Plant({"model.onnx": external(str(canary))}, "external"),
        "external data, a URL": Plant({"model.onnx": external(canary.as_uri())}, "external"),
        "custom operator": Plant({"model.onnx": custom()}, "operators"),
        "2 GB": Plant({"model.onnx": model_bytes(coverage="0.7")}, "size", size=LARGE),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Run a registry whose folder the test can reach, as an attacker with access to its disk."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


def put(server: MlflowServer, plant: Plant) -> str:
    """Plant a version past all checks of ours, and return its number."""
    version = put_version(server.uri, NAME, plant.files.get("model.onnx", b""), plant.digest)
    fields = {"name": NAME, "version": version}
    found = Registry(server.uri).call("GET", "model-versions/get-download-uri", fields, dict[str, str])
    place = urllib.parse.urlsplit(found["artifact_uri"]).path.strip("/")
    for path, content in plant.files.items():
        url = f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{place}/{path}"
        urllib.request.urlopen(urllib.request.Request(url, content, method="PUT"), timeout=30).close()
    file = server.folder / "artifacts" / place / "model.onnx"
    if plant.size:
        os.truncate(file, plant.size)
    if "model.onnx" not in plant.files:
        file.unlink()
    return version


def peak_mb(api: Api) -> float:
    status = Path(f"/proc/{api.process.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1_024 / 10**6


def running_forecaster(broker: Broker, server: MlflowServer, folder: Path) -> Process:
    """Return a forecaster with the registry, not yet started."""
    (port,) = free_ports(1)
    more = {"MLFLOW_TRACKING_URI": server.uri, "FORECASTER_PORT": str(port)}
    environ = environment(broker.bootstrap_servers, folder / "forecaster-models", **more)
    return Process("online.forecaster", environ, folder / "forecaster.log")


def shows(metrics: str, sample: str) -> bool:
    return sample in (fetch_text(metrics) or "")


def forecast(api: Api) -> dict[str, Any]:
    """Return the answer about a row, without the time of the answer."""
    return {name: value for name, value in api.predict(CONTRACT_ROW).items() if name != "ts"}


def refusals(api: Api, version: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = api.get("/version").json()["refused"]
    return [each for each in found if each["version"] == version]


@pytest.mark.filterwarnings("default")  # mlflow warns about its own code
def test_planted_models_are_refused_unseen_and_the_old_model_serves_on(
    server: MlflowServer, own_broker: Broker, tmp_path: Path, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API, the forecaster, a promotion (forced, too) and an evaluation meet each planted version."""
    canary = tmp_path / "canary"
    planted = plants(canary)
    proof.disturbs(f"{len(planted)} planted versions as champion: {', '.join(planted)}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    registry = Registry(server.uri)
    good = put_version(server.uri, NAME, GOOD)
    set_alias(registry, NAME, "champion", good)
    environ = environment("127.0.0.1:9", tmp_path / "models") | {"MLFLOW_TRACKING_URI": server.uri}
    forecaster = running_forecaster(own_broker, server, tmp_path)
    with running(forecaster), running_api(environ, tmp_path / "api.log", "online.api") as api:
        metrics = f"http://127.0.0.1:{forecaster.environment['FORECASTER_PORT']}/metrics"
        forecaster.await_log(rf'"version": "{good}".*"event": "model"')
        wait_until(lambda: (api.get("/version").json()["model"] or {}).get("version") == good, "the good model serves")
        answer, before_mb = forecast(api), peak_mb(api)
        for name, plant in planted.items():
            version = put(server, plant)
            set_alias(registry, NAME, "champion", version)
            [refused] = wait_until(partial(refusals, api, version), f"{name} is refused")
            assert refused["kind"] == plant.kind, (name, refused)
            assert forecast(api) == answer, name
            gauge = f'cryptovol_model_refused{{name="{NAME}",reason="{plant.kind}"}} 1.0'
            assert gauge in api.get("/metrics").text, name
            told_of = rf'"version": "{version}", "kind": "{plant.kind}".*"model refused"'
            assert re.search(told_of, api.process.log.read_text())
            forecaster.await_log(told_of)
            wait_until(partial(shows, metrics, gauge), f"{name} is refused by the forecaster")
            with pytest.raises(ModelRefused) as told:
                champions(server.uri, SPEC)
            assert told.value.kind == plant.kind, name
            with pytest.raises(Refused, match=r"(loads|digest|file): found"):
                forced(registry, NAME, version)
            assert not canary.exists(), name
        more_mb = peak_mb(api) - before_mb
        assert more_mb < MORE_MB

        set_alias(registry, NAME, "champion", good)
        wait_until(lambda: not api.get("/version").json()["refused"], "the good model is champion again")
        assert "cryptovol_model_swaps_total 0.0" in api.get("/metrics").text
        assert "Traceback" not in api.process.log.read_text() + forecaster.log.read_text()
        assert shows(metrics, "cryptovol_model_swaps_total 0.0")
        assert forecaster.process.poll() is None
    pickle.loads(planted["pickle"].files["model.onnx"]).close()
    assert canary.exists(), "the canary would have told"
    proof.saw(planted=len(planted), refused=len(planted), more_memory_mb=more_mb)
