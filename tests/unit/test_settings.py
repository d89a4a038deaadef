"""What the environment says reaches the clients."""

from __future__ import annotations

import pytest

from data.settings import KafkaSettings
from online.settings import ForecasterSettings, ModelSettings


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


def test_another_window_is_another_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ForecasterSettings().spec().spec_id
    monkeypatch.setenv("WINDOW_SIZE", "20")
    assert ForecasterSettings().spec().spec_id == ModelSettings().spec().spec_id != usual
