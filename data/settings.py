"""Settings of several processes: each variable of the environment has a single name, default and check.

The settings of a process inherit from the classes here, and add the variables of the process alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from data.files import CHECKOUT

SECRET_IN_URI = "secret_in_uri"
"""Type of the error of a URI with a login or key in it. The text of the URI must not be shown."""
FILE_OPTIONS = frozenset(
    {"kafka_sasl_oauthbearer_assertion_private_key_file", "kafka_sasl_oauthbearer_assertion_jwt_template_file"}
)
"""Settings of the Kafka client that name a file for the client, which reads the file itself."""
_FILE = "_file"


class UnreadableSecret(ValueError):
    """A secret cannot be taken from its file. The message names the variable."""


def address_without_login(uri: str) -> str:
    """Return an http address without a slash at the end; refuse a login in it, as pages and logs show the address."""
    if "@" in urlsplit(uri).netloc:
        raise PydanticCustomError(SECRET_IN_URI, "an address takes no user name and no password: pages show it")
    return uri.rstrip("/")


Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
Port = Annotated[int, Field(ge=0, le=65535)]
PublicUrl = Annotated[str, Field(pattern="^https?://"), AfterValidator(address_without_login)]


class Settings(BaseSettings):
    """Read the environment and `.env`, once in each `main`. The environment wins; an empty value means the default.

    A secret, a field of type `SecretStr`, may also come from a file: `<NAME>_FILE` has the path.

    Attributes:
        passed_on: beginnings of the names of further variables that are read, as secrets, without fields of their own.

    Raises:
        UnreadableSecret: a `<NAME>_FILE` cannot be read or is empty, or the secret is given twice.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        dotenv_filtering="only_existing",
        extra="allow",
        frozen=True,
        protected_namespaces=(),
    )
    __pydantic_extra__: dict[str, SecretStr]
    passed_on: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in their order: arguments, environment, `.env`."""
        sources = [init_settings]
        given: set[str] = set()
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            found = cls._with_secrets_of_files(source.env_vars, given)
            fields = settings_cls.model_fields
            further = {name: value for name, value in found.items() if cls._is_passed_on(name) and name not in fields}
            source.env_vars = found
            sources += [source, InitSettingsSource(settings_cls, further)]
            given |= found.keys()
        return tuple(sources)

    @classmethod
    def secrets(cls) -> frozenset[str]:
        """Return the names of the fields that must not be shown."""
        return frozenset(name for name, field in cls.model_fields.items() if _is_secret(field.annotation))

    @classmethod
    def _is_passed_on(cls, name: str) -> bool:
        return name.startswith(cls.passed_on)

    @classmethod
    def _with_secrets_of_files(cls, variables: Mapping[str, str | None], given: Iterable[str]) -> dict[str, str | None]:
        """Return variables with each `<NAME>_FILE` of a secret replaced by the secret.

        Args:
            variables: by names in small letters, without empty values.
            given: names with a value of a stronger source; their files are not read.
        """
        found, secrets = dict(variables), cls.secrets()
        for variable, path in variables.items():
            name = variable.removesuffix(_FILE)
            is_secret = name in secrets or cls._is_passed_on(name)
            if path is None or name == variable or variable in FILE_OPTIONS or not is_secret:
                continue
            del found[variable]
            if name in variables:
                raise UnreadableSecret(f"{name.upper()} and {variable.upper()} are both set: one of them must go")
            if name not in given:
                found[name] = _secret_of(Path(path).expanduser(), variable.upper())
        return found


def _is_secret(annotation: Any) -> bool:
    """Return whether a type is `SecretStr`, or has `SecretStr` as a part."""
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def _secret_of(path: Path, variable: str) -> str:
    """Return the content of a file without the end of its line."""
    try:
        secret = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UnreadableSecret(f"{variable}: {path} cannot be read: {reason}") from None
    if not secret:
        raise UnreadableSecret(f"{variable}: {path} is empty")
    return secret


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


class RecordingSettings(Settings):
    """How recordings are read that no dialect knows, and how much a recording may hold."""

    recording_columns: str = Field(
        "",
        pattern="^([a-z_]+=[^,=]+(,[a-z_]+=[^,=]+)*)?$",
        description="names of columns, as time=ts,price=px,size=qty; empty: none",
    )
    recording_max_line_mb: int = Field(16, ge=1, le=64, description="10 ** 6 bytes of a line or of a JSON value")
    recording_max_rows: int = Field(2 * 10**9, ge=1, description="lines of a text, rows of a Parquet file")
    recording_max_gb: int = Field(200, ge=1, description="10 ** 9 bytes that a gzip or zip may unpack to")
    recording_max_products: int = Field(5_000, ge=1, description="different products of a recording")
    recording_max_ratio: int = Field(
        200, ge=10, description="unpacked bytes for each byte of a packed file or Parquet file, from 64 MB on"
    )


class PageSettings(Settings):
    """Addresses of the pages for people, for links."""

    dagster_port: Port = Field(3001, description="of the Dagster UI")
    grafana_port: Port = Field(3000, description="of Grafana")
    dagster_public_url: PublicUrl | None = Field(None, description="of the Dagster UI in links; none: on loopback")
    grafana_public_url: PublicUrl | None = Field(None, description="of Grafana in links; none: on loopback")

    @property
    def dagster_url(self) -> str:
        """The Dagster UI in links."""
        return self.dagster_public_url or f"http://127.0.0.1:{self.dagster_port}"

    @property
    def dagster_path(self) -> str:
        """Return the path below which the Dagster UI serves: of the public URL; empty: at the root."""
        return urlsplit(self.dagster_public_url or "").path.rstrip("/")

    @property
    def grafana_url(self) -> str:
        """Grafana in links."""
        return self.grafana_public_url or f"http://127.0.0.1:{self.grafana_port}"


class KafkaSettings(Settings):
    """Address and login of the brokers.

    Any other variable `KAFKA_SSL_*` or `KAFKA_SASL_*` is passed on to the client: `KAFKA_SSL_CIPHER_SUITES` becomes
    `ssl.cipher.suites`. The usual variables are fields.
    """

    model_config = SettingsConfigDict(hide_input_in_errors=True)
    passed_on: ClassVar[tuple[str, ...]] = ("kafka_ssl_", "kafka_sasl_")

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
        named = {field: getattr(self, field) for field in KafkaSettings.model_fields} | (self.model_extra or {})
        config = {}
        for field, value in named.items():
            if value is not None:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                config[field.removeprefix("kafka_").replace("_", ".")] = text
        return config


class TopicSettings(KafkaSettings):
    """Hold the settings of new topics."""

    topic_retention_days: float = Field(7.0, gt=0)
    topic_max_mb: int = Field(
        2_000, ge=4, description="disk of one partition of a topic, 10^6 bytes; oldest records go first"
    )
    kafka_replication_factor: int = Field(1, ge=1, description="brokers that keep a copy of each record")
