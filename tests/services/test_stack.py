"""The local stack: needs of the parts, refusals, and output."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from data.features.spec import FeatureSpec
from data.files import CHECKOUT
from data.names import new_replay_id
from online.settings import RESTARTED
from orchestration.instance.home import CODE_SERVER_TAG, enter_home
from orchestration.local.dagster import client as dagster_client
from orchestration.local.live_lines import LiveForecast, LiveLine
from orchestration.local.observers.parts import observer_parts
from orchestration.local.parts import stack_parts
from orchestration.local.ports import port_conflicts
from orchestration.local.settings import StackSettings, retired_settings
from orchestration.local.stack import (
    StartRefused,
    check_recordings,
    check_state,
    child_environment,
    only_stack,
    prepare_inbox,
)
from orchestration.local.supervisor import Part
from tests.broker import free_ports
from tests.pipeline import wait_until
from tests.services.test_supervisor import Said


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_said_with_part_holder_and_setting(taken_port: int) -> None:
    (conflict,) = port_conflicts([Part("api", ("true",), ports={"API_PORT": taken_port})])
    assert conflict.startswith(f"port {taken_port}, wanted by api, is taken by process {os.getpid()} (")
    assert conflict.endswith(f"choose another port: make run API_PORT={taken_port + 100}")


def settings(folder: Path, **values: object) -> StackSettings:
    return StackSettings(_env_file=None, var_dir=folder, **values)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in StackSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


KAFKA = {"bootstrap.servers": "127.0.0.1:9092"}


def needs(parts: list[Part]) -> dict[str, tuple[str, ...]]:
    return {part.name: part.needs for part in parts}


def test_a_cold_start_waits_for_the_first_model_and_a_warm_one_does_not(tmp_path: Path) -> None:
    cold = needs(stack_parts(settings(tmp_path), KAFKA))
    assert cold["api"] == ("topics", "training")
    assert cold["forecaster"] == ("topics",), "it waits for the model by itself, and compiles meanwhile"
    (tmp_path / "models" / "baseline").mkdir(parents=True)
    (tmp_path / "models" / "baseline" / "model.onnx").touch()
    warm = needs(stack_parts(settings(tmp_path), KAFKA))
    assert warm["api"] == ("topics",)


def test_a_broker_and_a_registry_elsewhere_are_used_and_none_is_started(tmp_path: Path) -> None:
    elsewhere = settings(
        tmp_path, kafka_bootstrap_servers="kafka.example:9092", mlflow_tracking_uri="http://ml.example"
    )
    parts = needs(stack_parts(elsewhere, {"bootstrap.servers": "kafka.example:9092"}))
    assert "kafka" not in parts
    assert "mlflow" not in parts
    assert parts["topics"] == ()
    environment = child_environment(elsewhere)
    assert environment["KAFKA_BOOTSTRAP_SERVERS"] == "kafka.example:9092"
    assert environment["MLFLOW_TRACKING_URI"] == "http://ml.example"


def test_the_command_that_finds_a_place_reaches_the_broker_of_this_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advice(**values: object) -> str:
        servers = settings(tmp_path, **values).local_kafka
        parts = stack_parts(settings(tmp_path, **values), {"bootstrap.servers": servers})
        return next(part.advice for part in parts if part.name == "forecaster")

    monkeypatch.delenv("WINDOW_SIZE", raising=False)
    monkeypatch.setattr(sys, "executable", str(CHECKOUT / ".venv" / "bin" / "python"))
    assert advice().endswith("terminal: .venv/bin/python -m online.forecaster --find-place")
    monkeypatch.setenv("WINDOW_SIZE", "100")
    given = "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9192 WINDOW_SIZE=100"
    assert advice(kafka_port=9192).endswith(f"terminal: {given} .venv/bin/python -m online.forecaster --find-place")


def test_dagster_runs_are_ended_through_the_ui_whether_or_not_the_daemon_lives(tmp_path: Path) -> None:
    parts = {part.name: part for part in stack_parts(settings(tmp_path), KAFKA)}
    assert [name for name, part in parts.items() if part.before_stop] == ["dagster_ui"]
    assert "dagster_ui" in parts["dagster_daemon"].needs  # so it ends first, and begins nothing more


def test_a_webserver_that_is_slow_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | OSError] = ["STARTED", TimeoutError("timed out"), ConnectionRefusedError(), "SUCCESS"]

    def status(*_: str) -> str:
        found = answers.pop(0) if answers else TimeoutError("timed out")
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(dagster_client, "status", status)
    monkeypatch.setattr(dagster_client, "POLL_S", 0.01)
    assert dagster_client.wait("http://127.0.0.1:9", "a-run", patience_s=60) == "SUCCESS"
    with pytest.raises(TimeoutError):
        dagster_client.wait("http://127.0.0.1:9", "a-run", patience_s=0.05)


@dg.job
def waits() -> None:
    """Job of a run in the history, never executed."""


@pytest.fixture
def dagster_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dg.DagsterInstance]]:
    """Run Dagster's webserver over a history of its own, without code."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    enter_home()
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "dagster_webserver", "--empty-workspace", "-h", "127.0.0.1", "-p", str(port)]
    with dg.DagsterInstance.get() as instance, (tmp_path / "page.log").open("w") as log:
        instance.get_runs()  # makes the history: two processes that make it at once crash
        page = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: page.poll() is not None or answers(url), "Dagster's page", 60)
            yield url, instance
        finally:
            page.terminate()
            page.wait(30)


def answers(url: str) -> bool:
    try:
        return not dagster_client.active_runs(url)
    except OSError:
        return False


def test_a_run_that_is_just_being_launched_is_cancelled_once_it_can_be(
    dagster_page: tuple[str, dg.DagsterInstance],
) -> None:
    url, instance = dagster_page
    code = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", port=9), "nobody")
    # Not queued yet: Dagster refuses to cancel it, and forgets the wish.
    run = instance.create_run_for_job(waits, remote_job_origin=RemoteJobOrigin(code, waits.name))
    said = Said()

    def tell(text: str) -> None:
        said(text)
        queued = DagsterEvent(DagsterEventType.PIPELINE_ENQUEUED.value, job_name=waits.name)
        threading.Timer(1.0, instance.report_dagster_event, (queued, run.run_id)).start()

    dagster_client.end_runs(url, 30.0, tell)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELED
    assert said == ["cancelling 1 Dagster run"]
    dagster_client.end_runs(url, 30.0, tell)
    assert len(said) == 1  # nothing is left to be cancelled


def test_a_run_of_another_stack_on_the_same_database_is_not_cancelled(
    dagster_page: tuple[str, dg.DagsterInstance],
) -> None:
    url, instance = dagster_page
    instance.create_run_for_job(waits, status=dg.DagsterRunStatus.STARTED, tags={CODE_SERVER_TAG: "another's"})
    said = Said()
    dagster_client.end_runs(url, 30.0, said, {CODE_SERVER_TAG: "ours"})
    assert not said
    assert len(dagster_client.active_runs(url, {CODE_SERVER_TAG: "another's"})) == 1


@dg.resource
def away() -> None:
    """Resource of a run that fails before the first step."""
    try:
        raise ConnectionRefusedError("refused")
    except OSError as error:
        raise RuntimeError("MLflow is away: start it") from error


@dg.op(required_resource_keys={"mlflow"})
def learn() -> None: ...


@dg.job(resource_defs={"mlflow": away})
def trains() -> None:
    learn()


def test_why_a_run_failed_before_its_first_step_is_said_in_our_own_words(
    dagster_page: tuple[str, dg.DagsterInstance],
) -> None:
    """Dagster's words wrap ours, and the network's lie beneath."""
    url, instance = dagster_page
    run = trains.execute_in_process(instance=instance, raise_on_error=False)
    assert dagster_client.failure_of(url, run.run_id) == "RuntimeError: MLflow is away: start it"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose programs are the only ones on the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str) -> str:
    path = folder / name
    path.touch(0o755)
    return str(path)


def test_observers_that_are_not_here_are_told_with_the_way_to_get_them(tmp_path: Path, programs: Path) -> None:
    free = dict(zip(("prometheus_port", "alertmanager_port", "grafana_port"), free_ports(3), strict=True))
    parts, notes = observer_parts(settings(tmp_path, **free))
    assert parts == []
    install = "so nobody is alerted: apt-get install prometheus prometheus-alertmanager"
    grafana = "no grafana here, so there are no dashboards: grafana.com/grafana/download has its program"
    assert notes == [f"no prometheus and alertmanager here, {install}", grafana]
    program(programs, "prometheus")
    assert observer_parts(settings(tmp_path, **free))[1] == [f"no alertmanager here, {install}", grafana]


def test_observers_start_after_the_forecasts_and_yield_to_them(tmp_path: Path, programs: Path) -> None:
    """Debian calls Alertmanager `prometheus-alertmanager`, its makers call it `alertmanager`."""
    found = [program(programs, name) for name in ("prometheus", "alertmanager", "grafana-server")]
    free = dict(zip(("prometheus_port", "alertmanager_port", "grafana_port"), free_ports(3), strict=True))
    parts, notes = observer_parts(settings(tmp_path, **free))
    assert notes == []
    assert [part.command[0] for part in parts] == found
    for part in parts:
        assert part.needs == ("forecaster", "api")
        assert part.nice > 0
        assert not part.essential
    debian = program(programs, "prometheus-alertmanager")
    assert observer_parts(settings(tmp_path, **free))[0][1].command[0] == debian
    assert program(programs, "grafana") == observer_parts(settings(tmp_path, **free))[0][2].command[0]
    assert observer_parts(settings(tmp_path, **free))[0][2].command[1] == "server"


def test_an_observer_whose_port_is_taken_is_told_and_stops_nothing(
    tmp_path: Path, programs: Path, taken_port: int
) -> None:
    """Debian's package starts a Prometheus as a service."""
    program(programs, "prometheus")
    parts, notes = observer_parts(settings(tmp_path, prometheus_port=taken_port))
    assert parts == []
    assert f"prometheus does not start: port {taken_port}, wanted by prometheus, is taken by process" in notes[-1]
    assert notes[-1].endswith(f"make run PROMETHEUS_PORT={taken_port + 100}")


def test_the_simulated_day_is_made_once(tmp_path: Path) -> None:
    assert "recording" in needs(stack_parts(settings(tmp_path), KAFKA))["ingestor"]
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "simulated-BTC-USD-2025-01-06.csv").touch()
    assert "recording" not in needs(stack_parts(settings(tmp_path), KAFKA))


def test_a_recording_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"there is no file .*/absent\.csv"):
        check_recordings(settings(tmp_path, recording=str(tmp_path / "absent.csv")))
    with pytest.raises(StartRefused, match="cannot be read"):
        check_recordings(settings(tmp_path, recording=str(tmp_path)))


def test_the_stack_makes_its_own_inbox_and_refuses_another_that_is_not_there(tmp_path: Path) -> None:
    prepare_inbox(settings(tmp_path))
    assert (tmp_path / "inbox").is_dir()
    named = tmp_path / "named"
    with pytest.raises(StartRefused, match=f"INBOX_DIR: there is no folder {named}"):
        prepare_inbox(settings(tmp_path, inbox_dir=named))
    named.mkdir()
    prepare_inbox(settings(tmp_path, inbox_dir=named))


def test_recordings_are_named_as_in_a_shell(tmp_path: Path) -> None:
    two = settings(tmp_path, recording="'/a b.csv' /c.csv")
    assert [str(path) for path in two.recordings] == ["/a b.csv", "/c.csv"]
    (ingestor,) = (part for part in stack_parts(two, KAFKA) if part.name == "ingestor")
    assert ingestor.command[-2:] == ("/a b.csv", "/c.csv")


def test_an_ingestor_is_told_by_the_stack_that_it_is_started_again(tmp_path: Path) -> None:
    (ingestor,) = (part for part in stack_parts(settings(tmp_path), KAFKA) if part.name == "ingestor")
    assert ingestor.restart_environment == RESTARTED
    assert RESTARTED.keys().isdisjoint({*ingestor.environment, *child_environment(settings(tmp_path))})


def test_a_replay_that_cannot_go_on_is_told_by_its_id_if_it_was_given_one(tmp_path: Path) -> None:
    """Another recording under the same id would be refused too."""

    def advice(**values: object) -> str:
        (ingestor,) = (each for each in stack_parts(settings(tmp_path, **values), KAFKA) if each.name == "ingestor")
        assert "recording" not in ingestor.exits[2], "the reason may be the source"
        return ingestor.advice

    assert advice().endswith("`make run` with another RECORDING.")
    assert advice(replay_id="mine").endswith(
        "`make run` with another REPLAY_ID than mine, or the RECORDING that it was begun with."
    )


def test_a_replay_id_of_our_own_ends_with_the_stack_and_a_given_one_can_be_resumed(tmp_path: Path) -> None:
    own = child_environment(settings(tmp_path))
    assert own["REPLAY_END_ON_STOP"] == "true"
    given = child_environment(settings(tmp_path, replay_id="mine"))
    assert given["REPLAY_ID"] == "mine"
    assert "REPLAY_END_ON_STOP" not in given
    assert new_replay_id(datetime(2026, 11, 23, 10, 15, tzinfo=UTC)).startswith("replay-20261123T101500Z-")


def test_a_second_stack_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with only_stack(tmp_path), pytest.raises(StartRefused, match=f"process {os.getpid()}"), only_stack(tmp_path):
        pass


def test_a_live_line_shows_forecast_and_features_in_basis_points_per_minute() -> None:
    """A variance of 9e-8 per minute is a volatility of 3e-4: 3 basis points."""
    newest = LiveForecast("s", "BTC-USD", 1_736_121_995_500_000_000, 100_176.98, 4.08e-4, (2.09e-4, 6.29e-4), 9e-8)
    assert LiveLine(newest, rows_per_s=57).text(lag=0) == (
        "BTC-USD  2025-01-06 00:06:35  price 100,176.98  forecast 4.08 [2.09, 6.29] bp/min  realized 3.00  lag 0  "
        "57 rows/s"
    )
    assert "ewma_variance_60" in FeatureSpec().columns
    newest.ewma_variance_60 = None
    assert LiveLine(newest, ended=True).text(lag=None).endswith("realized –  lag –  0 rows/s  ended")


def test_what_another_release_left_is_refused_with_what_forgets_it(tmp_path: Path) -> None:
    ours = settings(tmp_path)
    check_state(ours)  # new: its format is noted
    (tmp_path / "broker" / "kafka" / "data").mkdir(parents=True)
    check_state(ours)
    (tmp_path / "format").write_text("1\n")
    with pytest.raises(StartRefused, match=rf"its format is 1, this one's is \d+\): removing {tmp_path} forgets it"):
        check_state(ours)
    (tmp_path / "format").unlink()  # as releases before the first format did
    with pytest.raises(StartRefused, match="its format is none"):
        check_state(ours)


def test_make_reset_is_named_for_the_folder_that_it_removes_alone(tmp_path: Path) -> None:
    """`make reset` removes `var`, whatever VAR_DIR says."""
    assert settings(CHECKOUT / "var").how_to_forget == "`make reset`"
    assert settings(tmp_path).how_to_forget == f"removing {tmp_path}"
    (kafka,) = (part for part in stack_parts(settings(tmp_path), KAFKA) if part.name == "kafka")
    assert f"removing {tmp_path} forgets it" in kafka.advice


def test_a_setting_that_has_no_effect_any_more_is_told_with_its_successor() -> None:
    given = {"SCORER_PORT": "8002", "FEATURE_SERVICE_PORT": "", "API_PORT": "8000"}
    assert retired_settings(given) == [
        "SCORER_PORT has no effect any more: feature rows and forecasts come from one process now, whose port is "
        "FORECASTER_PORT"
    ]


@pytest.mark.parametrize(("kafka", "slot"), [({}, "0"), ({"kafka_bootstrap_servers": "kafka.example:9092"}, "")])
def test_the_forecaster_of_a_broker_of_its_own_has_a_slot(tmp_path: Path, kafka: dict[str, str], slot: str) -> None:
    """On a foreign broker another stack may have a forecaster too."""
    assert settings(tmp_path, **kafka).environment("r")["SLOT"] == slot
    assert settings(tmp_path, **kafka, slot="3").environment("r")["SLOT"] == "3"


def test_the_example_names_every_setting() -> None:
    from data.compiled import CompilerSettings
    from offline.settings import OfflineSettings
    from online.settings import ApiSettings, ForecasterSettings, IngestorSettings
    from orchestration.settings import OrchestrationSettings

    classes = (
        CompilerSettings,
        StackSettings,
        OfflineSettings,
        OrchestrationSettings,
        IngestorSettings,
        ForecasterSettings,
        ApiSettings,
    )
    settable = {name.upper() for each in classes for name in each.model_fields} - {"RUN_STARTED", "INGESTOR_RESTARTED"}
    lines = (CHECKOUT / ".env.example").read_text().splitlines()
    assert {line.partition("=")[0] for line in lines if line and not line.startswith("#")} == settable
