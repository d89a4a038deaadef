"""What the environment says reaches the clients."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from data.files import CHECKOUT
from data.models.settings import RegistrySettings
from data.settings import KafkaSettings
from offline.settings import OfflineSettings
from online.settings import ForecasterSettings, ModelSettings
from orchestration.local.settings import StackSettings
from orchestration.settings import OrchestrationSettings


def test_sasl_and_tls_reach_the_client_under_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker.example:9093")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "reader")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", "/etc/ca.pem")
    settings = KafkaSettings()
    assert settings.client_config() == {
        "bootstrap.servers": "broker.example:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "reader",
        "sasl.password": "secret",
        "ssl.ca.location": "/etc/ca.pem",
    }
    assert "secret" not in repr(settings)


def test_a_client_gets_no_setting_of_the_stack_and_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KafkaSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("KAFKA_PORT", "1")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", "")
    plain = {"bootstrap.servers": "127.0.0.1:9092", "security.protocol": "PLAINTEXT"}
    assert KafkaSettings(_env_file=None).client_config() == plain | {"sasl.username": "me"}


def test_another_window_is_another_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ForecasterSettings().spec().spec_id
    monkeypatch.setenv("WINDOW_SIZE", "20")
    assert ForecasterSettings().spec().spec_id == ModelSettings().spec().spec_id != usual


def test_each_variable_is_defined_once() -> None:
    """The settings of the stack are composed from all others."""
    defined = Counter(name for each in StackSettings.__mro__ for name in each.__dict__.get("__annotations__", {}))
    assert {name: count for name, count in defined.items() if count > 1 and name in StackSettings.model_fields} == {}


def test_folders_lie_below_the_folder_of_all_state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VAR_DIR", "MODELS_DIR", "LAKE_URI", "INBOX_DIR"):
        monkeypatch.setenv(name, "")
    assert OfflineSettings(_env_file=None).models_dir == CHECKOUT / "var" / "models"
    monkeypatch.setenv("VAR_DIR", "/srv/state")
    offline, orchestration = OfflineSettings(_env_file=None), OrchestrationSettings(_env_file=None)
    assert (offline.models_dir, offline.lake_uri) == (Path("/srv/state/models"), "/srv/state/lake")
    assert orchestration.inbox_dir == Path("/srv/state/inbox")
    monkeypatch.setenv("MODELS_DIR", "/srv/models")
    assert OfflineSettings(_env_file=None).models_dir == Path("/srv/models")


@pytest.mark.parametrize("settings", [ModelSettings, OfflineSettings, StackSettings])
def test_a_login_in_the_uri_of_the_registry_is_refused_and_not_shown(settings: type[RegistrySettings]) -> None:
    """Logs, /health and the live page show the URI."""
    with pytest.raises(
        ValidationError, match="belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    ) as said:
        settings(_env_file=None, mlflow_tracking_uri="https://me:sesame@ml.example/x")
    assert "sesame" not in str(said.value)
    assert settings(_env_file=None, mlflow_tracking_uri="https://ml.example/@x/").mlflow_tracking_uri[-2:] == "@x"


def test_any_free_port_is_no_port_of_a_stack() -> None:
    with pytest.raises(ValidationError, match="the parts of a stack need fixed ports, above 0"):
        StackSettings(_env_file=None, api_port=0)
