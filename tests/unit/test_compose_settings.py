"""Each variable that compose.yaml gives to a process is a setting of that process, and has a value that it takes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.files import CHECKOUT
from data.settings import KafkaSettings, Settings, TopicSettings
from monitoring.settings import ExporterSettings
from offline.settings import OfflineSettings
from online.settings import ApiSettings, ForecasterSettings, IngestorSettings
from orchestration.settings import DagsterSettings, OrchestrationSettings, WebserverSettings
from tests import compose
from tests.unit.test_docs import is_module

SERVICES = compose.services()
DAGSTER = (OrchestrationSettings, DagsterSettings, OfflineSettings, KafkaSettings, ExporterSettings)
"""Runs are children of the code server, and a replay's child is an ingestor."""
SETTINGS: dict[str, tuple[type[Settings], ...]] = {
    "topics": (TopicSettings,),
    "first-model": (OfflineSettings,),
    "recording": (),
    "ingestor": (IngestorSettings, OrchestrationSettings),
    "forecaster": (ForecasterSettings,),
    "api": (ApiSettings,),
    "exporter": (ExporterSettings,),
    "dagster-code": DAGSTER,
    "dagster-webserver": (*DAGSTER, WebserverSettings),
    "dagster-daemon": DAGSTER,
    "first-ml": (OfflineSettings, OrchestrationSettings, WebserverSettings),
}
OWN_STORES: dict[str, Any] = yaml.safe_load((compose.DEPLOY / "own-stores.yaml").read_text())["services"]
LIBRARIES = {
    "DAGSTER_HOME",
    "FORWARDED_ALLOW_IPS",
    "DAGSTER_DISABLE_TELEMETRY",
    "OMP_NUM_THREADS",
    "MALLOC_ARENA_MAX",
    "TINI_KILL_PROCESS_GROUP",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
}
"""Read by libraries of the processes, as in `make run`."""
FOREIGN = {
    "postgres": r"POSTGRES_PASSWORD_FILE",
    "grafana": r"GF_(SERVER|SECURITY|AUTH|USERS|ANALYTICS|NEWS|METRICS)_[A-Z_]+",
}
"""Names that the makers of the images document."""


@pytest.mark.parametrize("name", SETTINGS)
def test_each_variable_is_a_setting_of_its_process(name: str) -> None:
    known = {field.upper() for settings in SETTINGS[name] for field in settings.model_fields}
    secrets = {secret.upper() for settings in SETTINGS[name] for secret in settings.secrets()}
    given = set(compose.environment(SERVICES[name])) | set(OWN_STORES.get(name, {}).get("environment", ()))
    assert given - known - {f"{secret}_FILE" for secret in secrets} - LIBRARIES == set()


def test_own_stores_change_services_that_are_there() -> None:
    """Each process that knows a broker or a registry gets a way out of the server and a login."""
    assert OWN_STORES.keys() <= SERVICES.keys()
    for store, variable in (("redpanda", "KAFKA_BOOTSTRAP_SERVERS"), ("mlflow", "MLFLOW_TRACKING_URI")):
        assert OWN_STORES[store] == {"profiles": ["replaced"]}
        clients = {name for name, service in SERVICES.items() if variable in compose.environment(service)}
        prefix = variable.partition("_")[0]
        logins = {
            name for name, each in OWN_STORES.items() if any(v.startswith(prefix) for v in each.get("environment", ()))
        }
        assert logins == clients
    assert all(each["networks"] == ["outward"] for each in OWN_STORES.values() if "environment" in each)


@pytest.mark.parametrize("public_host", ["", "forecasts.example.org"])
@pytest.mark.parametrize("name", SETTINGS)
def test_each_process_takes_the_values(
    name: str, public_host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for secret in compose.compose()["secrets"]:
        (tmp_path / secret).write_text(compose.SECRETS.get(secret, "secret\n"))
    service = compose.services(PUBLIC_HOST=public_host, ALERT_WEBHOOK_URL_FILE="")[name]
    monkeypatch.chdir(tmp_path)  # without the .env of the checkout
    for variable, value in compose.environment(service).items():
        monkeypatch.setenv(variable, value.replace("/run/secrets", str(tmp_path)))
    for settings in SETTINGS[name]:
        settings()


def test_every_process_of_ours_has_its_settings_here() -> None:
    ours = {name for name, service in SERVICES.items() if compose.is_ours(service)}
    assert ours - set(SETTINGS) == {"mlflow"}


@pytest.mark.parametrize("name", FOREIGN)
def test_each_variable_of_a_foreign_image_is_documented_there(name: str) -> None:
    provisioning = "\n".join(
        path.read_text() for path in sorted((CHECKOUT / "monitoring" / "grafana" / "provisioning").rglob("*.yml"))
    )
    for variable in compose.environment(SERVICES[name]):
        assert re.fullmatch(FOREIGN[name], variable) or f"${{{variable}}}" in provisioning, variable


def test_each_variable_of_mlflow_is_in_its_code() -> None:
    spec = find_spec("mlflow")
    assert spec and spec.origin
    code = (Path(spec.origin).parent / "environment_variables.py").read_text()
    for variable in compose.environment(SERVICES["mlflow"]):
        assert variable in code or variable in ("MLFLOW_DISABLE_TELEMETRY", "FORWARDED_ALLOW_IPS")


def test_each_variable_of_the_gateway_is_read_by_its_files() -> None:
    files = "\n".join((compose.DEPLOY / name).read_text() for name in ("gateway.sh", "Caddyfile"))
    given = set(compose.environment(SERVICES["gateway"]))
    read = set(re.findall(r"\$\{?([A-Z_]+)", files))
    assert given <= read
    set_by_the_script = {
        "LISTEN_PORT",
        "HEALTH_PORT",
        "CADDYFILE",
        "SITE_ADDRESS",
        "OTHER_ADDRESS",
        "HTTPS_PORT",
        "UI_PASSWORD_HASH",
    }
    assert read - given == set_by_the_script


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if compose.is_ours(service)])
def test_each_module_of_a_command_exists(name: str) -> None:
    service = SERVICES[name]
    modules = list(compose.modules(service))
    assert modules or name == "mlflow"
    ours = [module for module in modules if not module.startswith("dagster.")]  # whose import starts a process
    assert [module for module in ours if not is_module(module)] == []
