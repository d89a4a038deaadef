"""A whole stack under attack: by pages of other origins, and by jobs launched on files that are no recordings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from data.stream.records import FIGURES, PARTITIONS, TOPICS
from orchestration.instance.home import LOCATION
from orchestration.local.dagster import client as dagster
from orchestration.local.dagster.client import REPOSITORY, open_local
from orchestration.settings import Login
from tests.browser import Errors, running_browser
from tests.faults.stacks import beyond_loopback, expected_ports, listening, running_stack
from tests.faults.test_offline_stack import op
from tests.other_origin import REBINDING, Socket, Target, Write, attack
from tests.pipeline import wait_until
from tests.proofs import Proof

UP_S = 900.0  # on two busy processors; a minute and a half on idle ones
MODEL, PLANTED = "volatility-baseline", "planted"
ATTACKED = "rollback"
"""A job that no schedule and no sensor launches."""


def launch_mutation() -> str:
    selector = f'{{repositoryLocationName: "{LOCATION}", repositoryName: "{REPOSITORY}", jobName: "{ATTACKED}"}}'
    return f"mutation {{ launchRun(executionParams: {{selector: {selector}, runConfigData: {{}}}}) {{ __typename }} }}"


def targets(settings: dict[str, str]) -> list[Target]:
    """Return every server of a stack, with what a page would like to read and to change."""

    def port(name: str) -> int:
        return int(settings[f"{name}_PORT"])

    launch = launch_mutation()
    subscribe: list[dict[str, Any]] = [
        {"type": "connection_init"},
        {"id": "1", "type": "start", "payload": {"query": launch}},
    ]
    alias = json.dumps({"name": MODEL, "alias": PLANTED, "version": "1"})
    silence = {"matchers": [{"name": "alertname", "value": ".+", "isRegex": True}], "startsAt": "2020-01-01T00:00:00Z",
               "endsAt": "2099-01-01T00:00:00Z", "createdBy": PLANTED, "comment": PLANTED}  # fmt: skip
    return [
        Target(
            "Dagster UI",
            port("DAGSTER"),
            ["/", "/graphql?query={version}", "/server_info"],
            [
                Write(f"/graphql?query={quote(launch)}", method="GET"),
                Write(f"/graphql%0A?query={quote(launch)}", method="GET"),
                Write(f"/graphql?query={quote(launch)}", json.dumps({"query": launch})),
                Write(f"/graphql?query={quote(launch)}"),
                Write(f"/report_asset_check/trades?check_name={PLANTED}&passed=true"),
                Write(f"/report_asset_materialization/{PLANTED}"),
                Write(f"/report_asset_observation/{PLANTED}"),
            ],
            [Socket("/graphql", "graphql-ws", subscribe)],
        ),
        Target(
            "MLflow",
            port("MLFLOW"),
            ["/", "/version", "/api/2.0/mlflow/registered-models/search?max_results=1"],
            [
                Write("/api/2.0/mlflow/registered-models/alias", alias),
                Write("/ajax-api/2.0/mlflow/registered-models/alias", alias),
                Write(f"/api/2.0/mlflow/registered-models/alias?name={MODEL}&alias=champion", method="DELETE"),
            ],
            [Socket("/", "any")],
        ),
        Target(
            "Prometheus",
            port("PROMETHEUS"),
            ["/graph", "/metrics", "/api/v1/query?query=up", "/api/v1/status/config"],
            [Write("/-/quit"), Write("/api/v1/admin/tsdb/delete_series?match[]=up")],
        ),
        Target(
            "Alertmanager",
            port("ALERTMANAGER"),
            ["/", "/metrics", "/api/v2/alerts", "/api/v2/status"],
            [Write("/api/v2/silences", json.dumps(silence))],
        ),
        Target("API", port("API"), ["/", "/version", "/metrics", "/predict/BTC-USD", "/live/events"], [Write("/")]),
        *(Target(name, port(name), ["/metrics"], [Write("/metrics")]) for name in ("FORECASTER", "EXPORTER")),
        *(Target(name, port(name), ["/"], [Write("/")]) for name in ("KAFKA", "KAFKA_CONTROLLER", "DAGSTER_CODE")),
    ]


def runs_of(ui: str, job: str) -> list[dict[str, Any]]:
    query = """query($job: String!) { runsOrError(filter: {pipelineName: $job}) {
        ... on Runs { results { runId status } } } }"""
    found: list[dict[str, Any]] = dagster.ask(ui, query, job=job)["runsOrError"]["results"]
    return found


def planted_in_dagster(ui: str) -> list[str]:
    """Return the names of the planted assets and checks that Dagster knows."""
    query = "{ assetsOrError { ... on AssetConnection { nodes { key { path } } } } }"
    assets = [node["key"]["path"][-1] for node in dagster.ask(ui, query)["assetsOrError"]["nodes"]]
    return [name for name in assets if name == PLANTED]


def aliases(mlflow: str) -> dict[str, str]:
    with open_local(f"{mlflow}/api/2.0/mlflow/registered-models/get?name={MODEL}", 10) as answer:
        listed = json.load(answer)["registered_model"].get("aliases", [])
    return {each["alias"]: each["version"] for each in listed}


def records_of(servers: str) -> Iterator[bytes]:
    """Yield every record of every topic up to now, committed or not."""
    config = {"group.id": "unused", "isolation.level": "read_uncommitted", "enable.partition.eof": True}
    consumer = Consumer(config | {"bootstrap.servers": servers})
    places = [TopicPartition(topic, n, OFFSET_BEGINNING) for topic in TOPICS for n in range(PARTITIONS)]
    open_places = {(place.topic, place.partition) for place in (*places, TopicPartition(FIGURES, 0))}
    consumer.assign([*places, TopicPartition(FIGURES, 0, OFFSET_BEGINNING)])
    try:
        while open_places:
            for message in consumer.consume(10_000, 1.0):
                error = message.error()
                if error is None:
                    yield message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_places.discard((str(message.topic()), int(message.partition() or 0)))
    finally:
        consumer.close()


@pytest.mark.acceptance
def test_a_page_of_another_origin_finds_every_door_shut(tmp_path: Path, jars: list[Path], proof: Proof) -> None:
    """From another port, from another site, and under a rebound name; then a person uses the Dagster UI."""
    var, log = tmp_path / "var", tmp_path / "stack.log"
    proof.disturbs("every server of a stack attacked from pages of another port, another site and a rebound name")
    with running_stack(var, log) as (process, settings), running_browser(*REBINDING) as browser:
        urls = {name: f"http://127.0.0.1:{settings[f'{name}_PORT']}" for name in ("DAGSTER", "MLFLOW", "ALERTMANAGER")}
        wait_until(lambda: "this process" in log.read_text(), "all parts are up", UP_S)
        login = Login("cryptovol", (var / "ui-password").read_text().strip())
        assert f"the password in {var / 'ui-password'}" in log.read_text()
        assert login.password not in log.read_text()
        before = aliases(urls["MLFLOW"])
        attacked = targets(settings)
        places = listening(process)
        assert beyond_loopback(places) == []
        ports = {port for _, port in places}
        assert {name: port for name, port in expected_ports(settings).items() if port not in ports} == {}, "not scanned"
        others = ports - {target.port for target in attacked}
        attacked += [Target(f"port {port}", port, ["/", "/metrics"], [Write("/")]) for port in sorted(others)]
        found = [each for target in attacked for each in attack(browser, target)]
        visitor = {"username": login.user, "password": login.password}
        for target in attacked:
            if target.name in ("Prometheus", "Alertmanager"):
                found += [f"with the visitor's login: {each}" for each in attack(browser, target, visitor)]
        assert found == []
        assert runs_of(urls["DAGSTER"], ATTACKED) == []
        assert planted_in_dagster(urls["DAGSTER"]) == []
        assert aliases(urls["MLFLOW"]) == before
        assert "champion" in before
        with open_local(login.in_url(f"{urls['ALERTMANAGER']}/api/v2/silences"), 10) as answer:
            assert json.load(answer) == []
        use_the_ui(browser, urls["DAGSTER"], tmp_path)
        proof.saw(servers=len(attacked), answers_read=len(found), ports_beyond_loopback=0)


def use_the_ui(browser: Any, ui: str, folder: Path) -> None:
    """Launch a job as a person does, and see its run end; the run waits for those of the first model."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = Errors(page)
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(f"{ui}/locations/{LOCATION}/jobs/backfill/playground")
    page.get_by_role("button", name="Launch run").click(timeout=30_000)
    page.wait_for_url("**/runs/*", timeout=30_000)
    wait_until(lambda: [run["status"] for run in runs_of(ui, "backfill")] == ["SUCCESS"], "the run ends", UP_S)
    page.get_by_text("Success").first.wait_for(timeout=60_000)
    page.screenshot(path=folder / "run.png")
    assert sockets, "the page follows the run by a WebSocket"
    assert errors == []
    page.close()


def _bytes(path: Path) -> bytes:
    """Return the bytes of a file of a running stack; a file that was removed meanwhile has none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


@pytest.mark.acceptance
def test_no_byte_of_a_file_that_is_no_recording_leaves_it(tmp_path: Path, jars: list[Path], proof: Proof) -> None:
    """`/etc/passwd`, a link to it and `..`, as recordings of `replay`, as inbox of `ingest`, and in the inbox."""
    var, log = tmp_path / "var", tmp_path / "stack.log"
    secret = tmp_path / "secret.txt"
    secret.write_text("swordfish,1,2\nswordfish,3,4\n")
    proof.disturbs("replay and ingest launched on /etc/passwd, on links to it and by '..'; links put into the inbox")
    with running_stack(var, log) as (_, settings):
        ui = f"http://127.0.0.1:{settings['DAGSTER_PORT']}"
        wait_until(lambda: "this process" in log.read_text(), "all parts are up", UP_S)
        link = var / "recordings" / "link.csv"
        link.symlink_to("/etc/passwd")
        inside = var / "recordings" / "letter.csv"
        inside.write_bytes(secret.read_bytes())
        refused = ["/etc/passwd", str(link), f"{var}/recordings/../../secret.txt", str(secret), f"{var}/recordings/.."]
        told = []
        for path in (*refused, str(inside)):
            run = dagster.launch(ui, "replay", op("replay_trades", recordings=[path]))
            assert dagster.wait(ui, run) == "FAILURE"
            told.append(dagster.failure_of(ui, run))
        assert all("RECORDINGS_DIRS" in text or "no part '..'" in text for text in told[: len(refused)]), told
        assert "holds no trades: it is a table of 3 columns without a header" in told[-1]
        for inbox in ("/etc", str(tmp_path), f"{var}/inbox/.."):
            run = dagster.launch(ui, "ingest", op("ingest_inbox", inbox=inbox))
            assert dagster.wait(ui, run) == "FAILURE"
            told.append(dagster.failure_of(ui, run))
        launched = len(runs_of(ui, "ingest"))
        (var / "inbox" / "passwd.csv").symlink_to("/etc/passwd")
        (var / "inbox" / "folder").symlink_to(tmp_path)
        (var / "inbox" / "letter.csv").write_bytes(secret.read_bytes())
        read = "the inbox is read by a run of the sensor"
        wait_until(lambda: [run["status"] for run in runs_of(ui, "ingest")[:-launched]] == ["FAILURE"], read, 120)
        needles = (b"swordfish", b"root:x:0")
        for text in told:
            assert not any(needle.decode() in text for needle in needles), text
        own = {secret, inside, link, var / "inbox" / "passwd.csv", var / "inbox" / "letter.csv"}
        files = [path for path in var.rglob("*") if path.is_file() and path not in own and "jars" not in path.parts]
        assert [path for path in files if any(needle in _bytes(path) for needle in needles)] == []
        records = list(records_of(f"127.0.0.1:{settings['KAFKA_PORT']}"))
        assert records
        assert not [record for record in records if any(needle in record for needle in needles)]
        proof.saw(refused=len(told), files=len(files), records=len(records))
