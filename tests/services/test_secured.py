"""The system on a Kafka with TLS and logins, an MLflow behind a password, and PostgreSQL: by settings alone."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from data.files import CHECKOUT
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import TOPICS
from offline.explain.findings import OUTCOMES
from orchestration.code_server import end_lost_runs
from orchestration.instance.home import CODE_SERVER_TAG, LOCATION, enter_home, installation_of
from orchestration.local.dagster import client as dagster
from tests.broker import free_ports, started
from tests.dagster_stack import STARTS_S, DagsterStack
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof
from tests.secured import (
    KAFKA_USER,
    MLFLOW_USER,
    PG_USER,
    GuardedMlflow,
    Postgres,
    SecuredBroker,
    postgres_programs,
    running_postgres,
)

SECRETS = {
    "KAFKA_SASL_PASSWORD": "sesame-of-kafka",
    "MLFLOW_TRACKING_PASSWORD": "sesame-of-mlflow",
    "DAGSTER_PG_PASSWORD": "sesame-of-postgres",
}
SOURCE, PRODUCT = "secured-1", "ETH-USD"
DAY = dt.date(2025, 3, 5)
TRADES = 6_000
PUBLIC = "https://vol.example"


@dataclass
class Site:
    """Stores that ask for logins, and the environment of a deployment: secrets in files, no `.env`."""

    folder: Path
    broker: SecuredBroker
    mlflow: GuardedMlflow
    postgres: Postgres
    ports: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        names = ("API_PORT", "FORECASTER_PORT", "EXPORTER_PORT", "INGESTOR_PORT", "DAGSTER_PORT", "DAGSTER_CODE_PORT")
        self.ports = {name: str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
        for name, secret in SECRETS.items():
            (self.folder / name).write_text(f"{secret}\n")

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPYCACHEPREFIX") if name in os.environ}
        return inherited | self.ports | {
            "VAR_DIR": str(self.folder / "var"),
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR") or str(CHECKOUT / "var" / "numba"),
            "LOG_FORMAT": "json",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": KAFKA_USER,
            "KAFKA_SSL_CA_LOCATION": str(self.broker.authority),
            "KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM": "https",
            "MLFLOW_TRACKING_URI": self.mlflow.uri,
            "MLFLOW_TRACKING_USERNAME": MLFLOW_USER,
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.postgres.port),
            "DAGSTER_PG_USER": PG_USER,
            "DAGSTER_PUBLIC_URL": f"{PUBLIC}/dagster",
            "MLFLOW_PUBLIC_URL": f"{PUBLIC}/mlflow",
            "GRAFANA_PUBLIC_URL": f"{PUBLIC}/grafana",
            **{f"{name}_FILE": str(self.folder / name) for name in SECRETS},
        }  # fmt: skip

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the project to its end."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            env=self.environment | settings,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=1_200,
            check=False,
        )

    def said(self, *command: str) -> str:
        """Return the output of a command that succeeds."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def process(self, module: str, *arguments: str, **settings: str) -> Process:
        return Process(module, self.environment | settings, self.folder / f"{module}.log", arguments)

    @property
    def dagster(self) -> DagsterStack:
        return DagsterStack(self.environment, self.folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Site]:
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed: the group `server`")
    folder = tmp_path_factory.mktemp("site")
    with running_postgres(SECRETS["DAGSTER_PG_PASSWORD"], ["dagster", "mlflow"]) as postgres:
        mlflow = GuardedMlflow(
            folder, postgres.url("mlflow", "postgresql+psycopg2"), SECRETS["MLFLOW_TRACKING_PASSWORD"]
        )
        passwords = {KAFKA_USER: SECRETS["KAFKA_SASL_PASSWORD"]}
        with started(SecuredBroker(folder / "kafka", jars, folder, passwords)) as broker:
            yield Site(folder, broker, mlflow, postgres)


def test_topics_are_made_once_and_a_wrong_setting_names_its_variable(site: Site) -> None:
    made = [f"{name}: made, 12 partitions" for name in TOPICS] + ["figures: made, 1 partition"]
    assert site.said("data.stream.topics").splitlines() == made
    again = site.run("data.stream.topics")
    assert (again.stdout, again.stderr) == ("\n".join(made).replace("made", "found") + "\n", "")
    refused = site.run("data.stream.topics", KAFKA_SSL_ENDPOINT="https")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: KAFKA_SSL_ENDPOINT: the Kafka client refuses this: No such")
    both = site.run("data.stream.topics", KAFKA_SASL_PASSWORD="sesame")
    assert "KAFKA_SASL_PASSWORD and KAFKA_SASL_PASSWORD_FILE are both set" in both.stderr
    exported = site.run("data.stream.export", "trades", "--source", "nobody", "--out", str(site.folder / "no.csv"))
    assert exported.stderr == (
        "error: coinbase-trades holds no rows at all: replay a recording first, as `make run RECORDING=trades.csv`\n"
    )


def test_on_postgresql_a_code_server_ends_the_runs_of_its_own_installation_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    homes = {name: site.folder / name for name in ("ours", "another's")}

    @dg.job
    def nothing() -> None: ...

    def enter(home: Path) -> str:
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        return installation_of(enter_home())

    runs = {}
    for name, home in homes.items():
        tags = {CODE_SERVER_TAG: enter(home)}
        with dg.DagsterInstance.get() as instance:
            assert "postgres" in type(instance.run_storage).__module__
            assert SECRETS["DAGSTER_PG_PASSWORD"] not in instance.info_str() + str(instance.get_ref().to_dict())
            runs[name] = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=tags).run_id
    enter(homes["ours"])
    assert end_lost_runs(homes["ours"]) == 1
    with dg.DagsterInstance.get() as instance:
        found = {name: instance.get_run_by_id(run_id) for name, run_id in runs.items()}
    assert {name: run.status.name for name, run in found.items() if run} == {"ours": "FAILURE", "another's": "STARTED"}
    enter(homes["another's"])
    assert end_lost_runs(homes["another's"]) == 1


@pytest.mark.acceptance
def test_everything_works_by_settings_alone(site: Site, proof: Proof) -> None:  # noqa: PLR0915 - one deployment
    """Commands and jobs of a deployment, one after the other; then no secret is found anywhere."""
    proof.disturbs("Kafka: TLS and password; MLflow: password; Dagster and MLflow on PostgreSQL; secrets in files")
    api = f"http://127.0.0.1:{site.ports['API_PORT']}"
    recording = site.folder / "var" / "recordings" / "recording.csv"
    recording.parent.mkdir(parents=True, exist_ok=True)
    trades = simulate_day(PRODUCT, DAY, hours=(14, 16)).take(slice(0, TRADES))
    write_csv(recording, [trades])
    last = int(trades.trade_id[-1])
    services = [site.process(name) for name in ("online.forecaster", "online.api", "monitoring.exporter")]
    try:
        site.mlflow.start()
        site.said("data.stream.topics")
        assert "is champion: QLIKE" in site.said("offline.training", "--if-missing")
        with running(*services), site.dagster.running():
            wait_until(lambda: text_at(f"{api}/health/live"), "the API is up", STARTS_S)
            began = time.monotonic()
            site.dagster.launch("simulate", {"simulate_days": {"products": ["BTC-USD"], "days": 3, "hours": [0, 6]}})
            days = {"products": ["BTC-USD"], "first_day": "2010-01-04", "last_day": "2010-01-06"}
            site.dagster.launch("retrain", {"models": days})
            why = "two short days of training are no reason for the gate"
            site.dagster.launch("promote", {"promote_model": {"model": "volatility-ml", "why": why, "force": True}})
            proof.saw(simulate_retrain_promote_s=time.monotonic() - began)

            began = time.monotonic()
            replayed = {"recordings": [str(recording)], "speed": "max", "replay_id": SOURCE}
            site.dagster.launch("replay", {"replay_trades": replayed})
            wait_until(
                lambda: (forecast := latest(api)) and forecast["trade_id"] == last, "the last forecast", STARTS_S
            )
            assert latest(api)["model_variant"] == "ml"
            proof.saw(replay_s=time.monotonic() - began)
            body = json.dumps({"rows": [{"n": 50, "ret_mean": 1e-5, "ret_std": 2e-4}]}).encode()
            answer = json.loads(text_at(f"{api}/predict", body) or "null")
            assert (answer["model_variant"], answer["version"]) == ("ml", "1")
            assert pages_of_live_page(api) == {
                "Dagster": f"{PUBLIC}/dagster",
                "MLflow": f"{PUBLIC}/mlflow",
                "Grafana": f"{PUBLIC}/grafana",
            }

            site.dagster.launch("ingest", {"ingest_inbox": {"inbox": str(recording.parent), "then_backfill": False}})
            site.dagster.launch("backfill")
            site.dagster.launch("sink")
            verdict = parity(site)
            assert verdict["status"] == "SUCCEEDED", verdict
            assert f"source {SOURCE}: {TRADES:,} rows equal, 0 missing, 0 extra, 0 different" in str(verdict)
            metric = f'cryptovol_parity_different_rows{{product_id="{PRODUCT}"}} 0.0'
            exporter = f"http://127.0.0.1:{site.ports['EXPORTER_PORT']}/metrics"
            wait_until(
                lambda: metric in (text_at(exporter) or ""), "the exporter has the figure of the check", STARTS_S
            )

            out = site.folder / "predictions.csv"
            site.said("data.stream.export", "predictions", "--source", SOURCE, "--out", str(out))
            with out.open() as file:
                assert len(list(csv.DictReader(file))) == TRADES
            explained = json.loads(site.said("offline.explain", SOURCE, PRODUCT, str(last), "--json"))
            assert explained["outcome"] == OUTCOMES[0]
            assert "volatility-ml" in site.said("offline.promotion", "history")

            info = dagster.ask(site.dagster.url, "{ instance { info } }")["instance"]["info"]
            assert "PostgresRunStorage" in info
            lines = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
            shown = [*lines, info, *map(dump, (site.postgres.url("dagster"), site.postgres.url("mlflow")))]
        tags = run_tags(site)
        assert tags
        assert all(each.startswith(f"{PUBLIC}/dagster/runs/") for each in tags)
        assert " 401 " not in (site.mlflow.folder / "log").read_text()
        refused = site.run("offline.promotion", "history", MLFLOW_TRACKING_PASSWORD_FILE=str(recording))
        assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in refused.stderr
    finally:
        site.mlflow.stop()
    logs = [path for path in site.folder.rglob("*") if path.is_file() and "kafka" not in path.parts]
    shown += [path.read_bytes().decode(errors="replace") for path in logs if path.name not in SECRETS]
    assert not [secret for secret in SECRETS.values() for text in shown if secret in text]
    proof.saw(trades=TRADES, files_without_secret=len(logs), dagster_runs_on_postgresql=runs_on(site.postgres))


def text_at(url: str, body: bytes | None = None) -> str | None:
    """Return the text of an answer; None without an answer."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"} if body else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def latest(api: str) -> dict[str, Any]:
    """Return the newest live forecast of the product; empty without one."""
    found: dict[str, Any] = json.loads(text_at(f"{api}/predict/{PRODUCT}") or "{}")
    return found


def pages_of_live_page(api: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{api}/live/events", timeout=10) as answer:
        data = next(line for line in answer if line.startswith(b"data: "))
    pages: dict[str, str] = json.loads(data.removeprefix(b"data: "))["pages"]
    return pages


def parity(site: Site) -> dict[str, Any]:
    """Run the check as the UI does, and return its evaluation."""
    query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
        ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
    check = {"assetKey": {"path": ["feature_rows"]}, "name": "parity"}
    selector = {"repositoryLocationName": LOCATION, "repositoryName": dagster.REPOSITORY, "jobName": "__ASSET_JOB"}
    params = {"selector": selector | {"assetSelection": [], "assetCheckSelection": [check]}, "runConfigData": {}}
    launched = dagster.ask(site.dagster.url, query, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    assert dagster.wait(site.dagster.url, run_id) == "SUCCESS", dagster.failure_of(site.dagster.url, run_id)
    query = """query($key: AssetKeyInput!) { assetCheckExecutions(assetKey: $key, checkName: "parity", limit: 1) {
        status evaluation { success description } } }"""
    (found,) = dagster.ask(site.dagster.url, query, key=check["assetKey"])["assetCheckExecutions"]
    return dict(found)


def run_tags(site: Site) -> list[str]:
    """Return the tag `dagster_run_url` of all runs in MLflow."""
    code = (
        "import json; from data.models.registry import Registry; from data.models.settings import RegistrySettings;"
        "found = Registry(RegistrySettings().mlflow_tracking_uri);"
        "ids = [each['experiment_id'] for each in found.call('POST', 'experiments/search', {'max_results': 99}, dict)"
        "['experiments']];"
        "runs = found.call('POST', 'runs/search', {'experiment_ids': ids, 'max_results': 999}, dict)['runs'];"
        "tags = [tag for run in runs for tag in run['data'].get('tags', ())];"
        "print(json.dumps([tag['value'] for tag in tags if tag['key'] == 'dagster_run_url']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=site.environment, cwd=CHECKOUT, capture_output=True,
                          check=True)  # fmt: skip
    found: list[str] = json.loads(done.stdout)
    return found


def dump(url: str) -> str:
    """Return all content of a database as text."""
    done = subprocess.run([postgres_programs() / "pg_dump", url], capture_output=True, text=True, check=True)
    return done.stdout


def runs_on(postgres: Postgres) -> int:
    import psycopg2

    with psycopg2.connect(postgres.url("dagster")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM runs")
        return int(cursor.fetchone()[0])
