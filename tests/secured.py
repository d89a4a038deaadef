"""A Kafka with TLS and logins, a PostgreSQL, and an MLflow behind a password, for tests of settings."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from orchestration.local.kafka.broker import BrokerConfig
from tests.broker import Broker, free_ports
from tests.mlflow_server import MlflowServer
from tests.pipeline import wait_until

KAFKA_USER, MLFLOW_USER, PG_USER = "volatility", "trainer", "dagster-owner"
ADMIN = "admin"


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """Write an authority's certificate, and a server's key and certificate for 127.0.0.1; return both paths."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("test authority", "broker")]
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = dt.datetime.now(dt.UTC)
    texts = []
    for is_server, (key, name) in enumerate(zip(keys, names, strict=True)):
        builder = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=not is_server, path_length=None), critical=True)
        )
        builder = builder.add_extension(address, critical=False) if is_server else builder
        texts.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM))
    authority, server = folder / "ca.pem", folder / "server.pem"
    authority.write_bytes(texts[0])
    server.write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + texts[1] + texts[0])
    return authority, server


@dataclass(frozen=True)
class SecuredConfig(BrokerConfig):
    """A broker with one listener for clients: TLS, and user name and password."""

    certificate: Path
    passwords: dict[str, str]

    def properties(self) -> str:
        users = " ".join(f'user_{name}="{password}"' for name, password in self.passwords.items())
        admin = f'username="{ADMIN}" password="{self.passwords[ADMIN]}"'
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        changed = {
            "listeners": f"SASL_SSL://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"SASL_SSL://127.0.0.1:{self.port}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{module} required {admin} {users};",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificate),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificate.with_name("ca.pem")),
        }
        lines = [line for line in super().properties().splitlines() if line.partition("=")[0] not in changed]
        return "".join(f"{line}\n" for line in (*lines, *(f"{key}={value}" for key, value in changed.items())))


class SecuredBroker(Broker):
    """A Kafka that answers over TLS to users with a password alone."""

    def __init__(self, folder: Path, jars: Sequence[Path], certificates: Path, passwords: dict[str, str]) -> None:
        super().__init__(folder, jars)
        self.authority, server = write_certificates(certificates)
        self.passwords = {ADMIN: "of-the-broker-alone"} | passwords
        config = self.config
        self.config = SecuredConfig(folder, config.port, config.controller_port, server, self.passwords)

    def is_ready(self) -> bool:
        login = {"sasl.mechanism": "PLAIN", "sasl.username": ADMIN, "sasl.password": self.passwords[ADMIN]}
        address: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": "SASL_SSL",
            "log_level": 0,
        }
        try:
            metadata = AdminClient(address | login | {"ssl.ca.location": str(self.authority)}).list_topics(timeout=1.0)
        except KafkaException:
            return False
        return metadata.cluster_id == self.config.cluster_id


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test if there is none."""
    found = [Path(path).resolve() for path in (shutil.which("pg_ctl"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("PostgreSQL is not here: no pg_ctl")
    return found[-1].parent


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL on a port of its own, for one user with a password."""

    port: int
    password: str

    def url(self, database: str, scheme: str = "postgresql") -> str:
        return f"{scheme}://{PG_USER}:{self.password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def running_postgres(password: str, databases: Sequence[str]) -> Iterator[Postgres]:
    """Run a PostgreSQL with empty databases; root runs it as the user `postgres`, as the server refuses root."""
    programs, (port,) = postgres_programs(), free_ports(1)
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: the group `server`")
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:  # a test's own folder is closed to other users
        folder = Path(name)
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        made: list[str | Path] = [
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            PG_USER,
            f"--pwfile={folder / 'password'}",
        ]
        quick = ["--auth=scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run([*made, *quick], check=True, capture_output=True, cwd=folder, **as_user)
        options = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            folder / "data",
            *(word for each in options for word in ("-c", each)),
        ]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **as_user)
        found = Postgres(port, password)
        try:
            wait_until(lambda: _takes_databases(found, databases), "PostgreSQL is ready")
            yield found
        finally:
            server.send_signal(signal.SIGINT)  # disconnects clients
            server.wait(30)


def _takes_databases(postgres: Postgres, databases: Sequence[str]) -> bool:
    import psycopg2

    try:
        connection = psycopg2.connect(postgres.url("postgres"))
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in databases:
            cursor.execute(f'CREATE DATABASE "{name}"')
    connection.close()
    return True


class GuardedMlflow(MlflowServer):
    """MLflow's server on PostgreSQL, behind user name and password, as behind a gateway."""

    def __init__(self, folder: Path, store: str, password: str) -> None:
        super().__init__(folder)
        self._store, self._password = store, password

    def command(self) -> list[str]:
        port = ["--host", "127.0.0.1", "--port", str(self.port)]
        return ["uvicorn", "--factory", "tests.secured:guarded_mlflow", *port]

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "_MLFLOW_SERVER_FILE_STORE": self._store,
            "_MLFLOW_SERVER_REGISTRY_STORE": self._store,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "GUARD_PASSWORD": self._password,
        }

    def question(self) -> urllib.request.Request:
        """Ask for models: the first such request makes the tables."""
        url = f"{self.uri}/api/2.0/mlflow/registered-models/search?max_results=1"
        return urllib.request.Request(url, headers={"authorization": login_header(self._password)})


def login_header(password: str) -> str:
    return f"Basic {base64.b64encode(f'{MLFLOW_USER}:{password}'.encode()).decode()}"


App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def guarded_mlflow() -> App:
    """Return MLflow's app behind a password; `/health` asks for none."""
    from mlflow.server.fastapi_app import app

    login = login_header(os.environ["GUARD_PASSWORD"]).encode()

    async def guarded(scope: dict[str, Any], receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization")
        if scope["type"] != "http" or scope["path"] == "/health" or given == login:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Basic")]})
        await send({"type": "http.response.body", "body": b"who are you?"})

    return guarded
