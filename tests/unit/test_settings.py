"""What the environment says reaches the clients."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from data.files import CHECKOUT
from data.models.registry import Registry
from data.models.settings import RegistrySettings
from data.settings import KafkaSettings, Settings, UnreadableSecret
from offline.lake.store import Lake
from offline.promotion.register import CLIENT, prepare_client
from offline.settings import OfflineSettings
from online.settings import ForecasterSettings, ModelSettings
from orchestration.local.observers.configs import prometheus_config
from orchestration.local.ports import next_free_port
from orchestration.local.settings import StackSettings
from orchestration.settings import DagsterSettings, Login, OrchestrationSettings


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


def test_any_setting_of_tls_and_sasl_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("KAFKA_SSL_CIPHER_SUITES=ECDHE\nKAFKA_SASL_KERBEROS_KEYTAB=/etc/keytab\nOTHER=1\n")
    monkeypatch.setenv("KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", "none")
    monkeypatch.setenv("KAFKA_SSL_CIPHER_SUITES", "AES")
    monkeypatch.setenv("KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", "sesame")
    monkeypatch.setenv("KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE", "/etc/assertion.pem")
    settings = StackSettings()
    assert settings.client_config() | {"bootstrap.servers": ""} == {
        "bootstrap.servers": "",
        "security.protocol": "PLAINTEXT",
        "ssl.endpoint.identification.algorithm": "none",
        "ssl.cipher.suites": "AES",
        "sasl.kerberos.keytab": "/etc/keytab",
        "sasl.oauthbearer.client.secret": "sesame",
        "sasl.oauthbearer.assertion.private.key.file": "/etc/assertion.pem",
    }
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("KAFKA_SASL_PASSWORD", KafkaSettings, "kafka_sasl_password"),
        ("KAFKA_SASL_USERNAME", KafkaSettings, "kafka_sasl_username"),
        ("KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", StackSettings, "kafka_sasl_oauthbearer_client_secret"),
        ("MLFLOW_TRACKING_TOKEN", ModelSettings, "mlflow_tracking_token"),
        ("DAGSTER_PG_PASSWORD", OrchestrationSettings, "dagster_pg_password"),
        ("ALERT_WEBHOOK_URL", StackSettings, "alert_webhook_url"),
    ],
)
def test_a_secret_comes_from_a_file(
    name: str, settings: type[Settings], field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the end of its line. The environment wins over `.env`, by whichever of both names."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("https://sesame #1 \n")
    monkeypatch.setenv(f"{name}_FILE", str(secret))
    (tmp_path / ".env").write_text(f"{name}=https://weaker\n")
    assert revealed(getattr(settings(), field)) == "https://sesame #1 "
    monkeypatch.setenv(name, "https://both")
    with pytest.raises(UnreadableSecret, match=f"{name} and {name}_FILE are both set"):
        settings()
    monkeypatch.delenv(f"{name}_FILE")
    (tmp_path / ".env").write_text(f"{name}_FILE={tmp_path}/missing\n")
    assert revealed(getattr(settings(), field)) == "https://both"
    monkeypatch.delenv(name)
    with pytest.raises(UnreadableSecret, match=f"{name}_FILE: .*/missing cannot be read: No such file"):
        settings()
    (tmp_path / ".env").write_text(f"{name}_FILE={secret}\n")
    secret.write_text("\n")
    with pytest.raises(UnreadableSecret, match="is empty"):
        settings()


def revealed(value: SecretStr | str) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def test_the_login_of_the_registry_reaches_mlflows_own_client_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty variable is none, as compose sets one for `${NAME:-}`."""
    monkeypatch.setattr(Registry, "call", lambda *_: {})
    for name in (*CLIENT, "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "1")  # all that the client's preparation sets is unset after the test
    (tmp_path / "password").write_text("sesame\n")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD_FILE", str(tmp_path / "password"))
    login = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "sesame"}
    assert RegistrySettings().login() == login
    for _ in range(2):  # as for two models of a training
        prepare_client(Registry("http://127.0.0.1:9"))
        assert {name: os.environ[name] for name in login} == RegistrySettings().login() == login


@pytest.mark.parametrize(
    ("uri", "variables"),
    [
        ("s3://KEY:sesame@bucket/lake", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3://sesame@bucket/lake", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket/lake?region=eu&secret_access_key=sesame", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("abfs://:sesame@account.dfs.core.windows.net/lake", "AZURE_TENANT_ID, AZURE_CLIENT_ID"),
        ("abfss://box@account.dfs.core.windows.net/lake?sas_token=sesame", "AZURE_TENANT_ID, AZURE_CLIENT_ID"),
        ("hdfs://me:sesame@namenode:8020/lake", "the environment of the filesystem"),
    ],
)
def test_a_lake_with_a_key_in_its_uri_is_refused_and_not_shown(uri: str, variables: str) -> None:
    """Dagster shows the configuration of its resources."""
    for settings in (OfflineSettings, StackSettings):
        with pytest.raises(ValidationError, match=variables) as said:
            settings(_env_file=None, lake_uri=uri)
        assert "sesame" not in str(said.value)
    with pytest.raises(ValueError, match=variables) as refused:
        Lake.open(uri)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    ["/srv/a@b:c/lake", "s3://bucket/lake?region=eu&scheme=http", "abfs://box@account.dfs.core.windows.net/lake",
     "gs://anonymous@bucket/lake", "file:///srv/lake"],
)  # fmt: skip
def test_a_lake_without_a_key_in_its_uri_is_taken(uri: str) -> None:
    assert OfflineSettings(_env_file=None, lake_uri=uri).lake_uri == uri


def test_links_lead_to_the_public_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_PUBLIC_URL", "MLFLOW_PUBLIC_URL", "GRAFANA_PUBLIC_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    usual = StackSettings(_env_file=None, dagster_port=3101, mlflow_tracking_uri="http://mlflow:5000")
    assert (usual.dagster_url, usual.mlflow_url) == ("http://127.0.0.1:3101", "http://mlflow:5000")
    assert usual.grafana_url == "http://127.0.0.1:3000"
    monkeypatch.setenv("DAGSTER_PUBLIC_URL", "https://vol.example/dagster/")
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", "https://vol.example/mlflow")
    monkeypatch.setenv("GRAFANA_PUBLIC_URL", "https://vol.example/grafana")
    public = StackSettings(_env_file=None, mlflow_tracking_uri="http://mlflow:5000")
    assert public.dagster_url == "https://vol.example/dagster"
    assert (usual.dagster_local_url, public.dagster_local_url) == (
        "http://127.0.0.1:3101",
        "http://127.0.0.1:3001/dagster",  # the webserver serves below the path of the public URL, too
    )
    assert (public.mlflow_url, public.grafana_url) == ("https://vol.example/mlflow", "https://vol.example/grafana")
    monkeypatch.setenv("GRAFANA_PUBLIC_URL", "https://me:sesame@vol.example/grafana")
    with pytest.raises(ValidationError) as said:
        StackSettings(_env_file=None)
    assert "sesame" not in str(said.value)


def test_the_address_of_dagsters_database_quotes_the_login() -> None:
    settings = DagsterSettings(
        _env_file=None, dagster_pg_host="pg", dagster_pg_user="a b", dagster_pg_password="p@ss/word:1"
    )
    assert settings.postgres_url() == "postgresql+psycopg2://a%20b:p%40ss%2Fword%3A1@pg:5432/dagster"
    assert "p@ss" not in repr(settings)


def test_prometheus_asks_no_port_of_another_part_for_the_metrics_of_an_ingestor() -> None:
    """A broker that gets a request of HTTP logs a warning; an ingestor passes over the port, too."""
    first = 18_500
    ours = StackSettings(_env_file=None, ingestor_port=first, kafka_port=first + 1, api_port=first + 3)
    jobs = {job["job_name"]: job for job in yaml.safe_load(prometheus_config(ours, Login("a", "b")))["scrape_configs"]}
    targets = [target for config in jobs["ingestor"]["static_configs"] for target in config["targets"]]
    assert targets == [f"127.0.0.1:{first + i}" for i in (0, 2, 4, 5, 6, 7)]
    assert jobs["api"]["static_configs"] == [{"targets": [f"127.0.0.1:{first + 3}"]}]
    assert next_free_port(first + 1, ours.ports_of_others) > first + 1
