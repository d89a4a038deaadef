"""Settings that several processes read: the broker's address and login."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class KafkaSettings(BaseSettings):
    """Address and login of the brokers."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: Path | None = None
    kafka_ssl_certificate_location: Path | None = None
    kafka_ssl_key_location: Path | None = None
    kafka_ssl_key_password: SecretStr | None = None

    def client_config(self) -> dict[str, Any]:
        """Return all settings that have a value, under the Kafka client's own names."""
        config = {}
        for field in KafkaSettings.model_fields:
            value = getattr(self, field)
            if value is not None:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                config[field.removeprefix("kafka_").replace("_", ".")] = text
        return config
