"""Settings of several processes: each variable of the environment has a single name, default and check.

The settings of a process inherit from the classes here, and add the variables of the process alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from data.files import CHECKOUT

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Read the environment and `.env`, once in each `main`. The environment wins; an empty value means the default."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, protected_namespaces=()
    )


class StateSettings(Settings):
    """Folder of the state of all processes."""

    var_dir: Folder = Field(CHECKOUT / "var", description="folder of all state")


class HostSettings(Settings):
    """Hold the host names that a request to a server of ours may carry, besides addresses and `localhost`."""

    allowed_hosts: str = Field("", description="further host names that every server answers to; by commas or spaces")

    @property
    def host_names(self) -> frozenset[str]:
        """Return the names of `ALLOWED_HOSTS` and of the public URLs, without port, in lower case."""
        public = (getattr(self, name) for name in type(self).model_fields if name.endswith("_public_url"))
        hosts = (urlsplit(url).hostname for url in public if url)
        named = self.allowed_hosts.lower().replace(",", " ").split()
        return frozenset((*named, *(host for host in hosts if host)))


class ProcessSettings(HostSettings):
    """Hold the settings of a process that runs on: its address and its logs."""

    host: str = Field("127.0.0.1", description="address that the processes listen on")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class PageSettings(Settings):
    """Ports of the pages for people, for links."""

    dagster_port: Port = Field(3001, description="of the Dagster UI, for links")
    grafana_port: Port = Field(3000, description="of Grafana, for links")


class KafkaSettings(Settings):
    """Address and login of the brokers."""

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
        """Return all settings with a value, under the names of the Kafka client."""
        config = {}
        for field in KafkaSettings.model_fields:
            value = getattr(self, field)
            if value is not None:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                config[field.removeprefix("kafka_").replace("_", ".")] = text
        return config
