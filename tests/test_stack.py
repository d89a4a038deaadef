"""The local stack: its parts come up in order, are watched, and never outlive it."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from orchestration.local import dagster_client
from orchestration.local.broker import free_ports
from orchestration.local.parts import stack_parts
from orchestration.local.ports import port_conflicts
from orchestration.local.settings import StackSettings
from orchestration.local.stack import (
    Refusal,
    check_recordings,
    child_environment,
    new_replay_id,
    only_stack,
    prepare_inbox,
)
from orchestration.local.supervisor import Part, State, Supervisor
from orchestration.local.watch import MinuteVolatility, epoch_seconds
from tests.pipeline import wait_until

ROOT = Path(__file__).resolve().parents[1]
SLEEP = "import signal; signal.pause()"


class Said(list[str]):
    """What the supervisor told."""

    def __call__(self, text: str, style: str = "") -> None:  # noqa: ARG002 - a list has no colors
        self.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(code))


def supervise(
    parts: list[Part],
    folder: Path,
    until: Callable[[Supervisor], bool] | None = None,
    said: Said | None = None,
) -> tuple[Said, Supervisor]:
    """Run parts until all are up or `until` holds, and stop them."""
    said = Said() if said is None else said

    async def run() -> Supervisor:
        supervisor = Supervisor(parts, folder, said, backoff_s=0.01)
        await supervisor.start()
        try:
            async with asyncio.timeout(30):
                if until is None:
                    await supervisor.wait_until_up()
                else:
                    while not until(supervisor):
                        await asyncio.sleep(0.01)
        finally:
            await supervisor.stop()
        return supervisor

    return said, asyncio.run(run())


def started_pids(folder: Path) -> list[int]:
    return [int(line) for path in folder.glob("*.pid") for line in path.read_text().split()]


def test_parts_start_when_those_they_need_are_ready(tmp_path: Path) -> None:
    """`second` writes whether the mark of `first` was there when it started."""
    mark = tmp_path / "mark"
    first = Part(
        "first",
        python(f"import time, pathlib; time.sleep(0.2); pathlib.Path({str(mark)!r}).touch(); {SLEEP}"),
        is_ready=mark.exists,
    )
    second = Part(
        "second", python(f"import pathlib; print(pathlib.Path({str(mark)!r}).exists())"), needs=("first",), once=True
    )
    said, supervisor = supervise([first, second], tmp_path)
    assert (tmp_path / "second.log").read_text() == "True\n"
    assert said[0].startswith("first ready after")
    assert supervisor.watched["first"].state is State.STOPPED


def test_a_part_that_dies_is_restarted_and_said(tmp_path: Path) -> None:
    """It dies once, with its last words, and lives from then on."""
    mark = tmp_path / "mark"
    code = f"""
        import pathlib, signal, sys
        mark = pathlib.Path({str(mark)!r})
        if not mark.exists():
            mark.touch()
            sys.exit("something broke")
        signal.pause()
    """
    said, _ = supervise(
        [Part("fragile", python(code), is_ready=lambda: False)],
        tmp_path,
        until=lambda s: s.watched["fragile"].restarts == 1,
    )
    assert "fragile ended with exit code 1; it starts again in 0.0 s. Its last words: something broke" in said


def test_a_killed_part_is_restarted(tmp_path: Path) -> None:
    part = Part("steady", python(SLEEP))

    def killed_and_back(supervisor: Supervisor) -> bool:
        watched = supervisor.watched["steady"]
        if watched.restarts == 0 and watched.state is State.READY:
            watched.signal(signal.SIGKILL)
        return watched.restarts == 1 and watched.state is State.READY

    said, _ = supervise([part], tmp_path, until=killed_and_back)
    assert "steady ended by SIGKILL" in said.text


def test_a_part_that_cannot_start_shows_the_end_of_its_log_and_what_to_do(tmp_path: Path) -> None:
    code = "import sys; [print('line', i, flush=True) for i in range(100)]; sys.exit('no such model')"
    part = Part("scorer", python(code), is_ready=lambda: False, advice="Look at the registry.")
    other = Part("api", python(SLEEP), needs=("scorer",))
    said, supervisor = supervise([part, other], tmp_path)
    assert supervisor.watched["scorer"].restarts == 2
    last = said[-1].splitlines()
    assert last[0].startswith("scorer ended with exit code 1 (attempt 3). The end of ")
    assert last[-2:] == ["  | no such model", "  Look at the registry."]
    assert "  | line 89" in last
    assert "  | line 80" not in last
    assert not (tmp_path / "api.log").exists()


def test_an_exit_code_with_a_meaning_is_said_and_not_repeated(tmp_path: Path) -> None:
    part = Part(
        "ingestor",
        python("import sys; sys.exit(2)"),
        exits={2: "bad recording"},
        essential=False,
    )
    said, supervisor = supervise([part], tmp_path, until=lambda s: s.watched["ingestor"].state is State.FAILED)
    assert supervisor.watched["ingestor"].restarts == 0
    assert "ingestor ended: bad recording" in said.text


def test_a_replay_that_ends_is_done(tmp_path: Path) -> None:
    part = Part("ingestor", python(""), exits={0: "replay ended"})
    said, _ = supervise([part], tmp_path, until=lambda s: s.watched["ingestor"].state is State.DONE)
    assert "replay ended" in said


def test_a_failing_step_stops_the_start(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("topic features has 3 partitions")

    said, supervisor = supervise(
        [Part("topics", action=fail), Part("later", python(SLEEP), needs=("topics",))], tmp_path
    )
    assert said == ["topics failed: topic features has 3 partitions"]
    assert supervisor.watched["later"].process is None


def test_what_needs_a_failed_part_is_not_waited_for_and_nothing_waits_for_the_background(tmp_path: Path) -> None:
    """`ui` can never start, `later` takes as long as it likes: the stack is up with `api` alone."""
    broken = Part("code", python("import sys; sys.exit('no module')"), once=True, essential=False)
    parts = [
        broken,
        Part("ui", python(SLEEP), needs=("code",)),
        Part("daemon", python(SLEEP), needs=("ui",)),
        Part("later", python(SLEEP), once=True, background=True),
        Part("api", python(SLEEP)),
    ]
    said, supervisor = supervise(parts, tmp_path)
    assert "code ended with exit code 1" in said.text
    assert not (tmp_path / "ui.log").exists()
    assert supervisor.watched["later"].state is State.STOPPED


def test_a_part_that_tells_is_heard_line_by_line_and_to_its_end(tmp_path: Path) -> None:
    """The second line comes only after the first was heard, which makes the mark; the third as it ends."""
    mark = tmp_path / "mark"
    code = f"""
        import pathlib, time
        print("first", flush=True)
        while not pathlib.Path({str(mark)!r}).exists(): time.sleep(0.01)
        print("second", flush=True)
        print("third", end="\\n")
    """

    def done(supervisor: Supervisor) -> bool:
        if "teller: first" in said:
            mark.touch()
        return supervisor.watched["teller"].state is State.DONE

    said = Said()
    supervise([Part("teller", python(code), once=True, tells=True)], tmp_path, until=done, said=said)
    assert said[:3] == ["teller: first", "teller: second", "teller: third"]


def test_what_comes_before_a_stop_is_done_while_the_part_still_lives(tmp_path: Path) -> None:
    """And a part whose preparation fails is stopped all the same."""
    alive: list[bool] = []

    def look(say: object) -> None:
        alive.extend(is_alive(pid) for pid in started_pids(tmp_path))
        raise RuntimeError("no answer")

    code = f"import os, pathlib, signal; pathlib.Path({str(tmp_path)!r}, 'part.pid').write_text(str(os.getpid()));"
    part = Part("part", python(code + "signal.pause()"), is_ready=(tmp_path / "part.pid").exists, before_stop=look)
    said, _ = supervise([part], tmp_path)
    assert alive == [True]
    assert said[-1] == "part is stopped without what comes before it: no answer"
    assert not is_alive(started_pids(tmp_path)[0])


def test_nothing_comes_before_the_stop_of_a_part_that_was_never_ready(tmp_path: Path) -> None:
    asked: list[object] = []
    part = Part("part", python(SLEEP), is_ready=lambda: False, before_stop=asked.append)
    said, supervisor = supervise([part], tmp_path, until=lambda s: s.watched["part"].process is not None)
    assert supervisor.watched["part"].state is State.STOPPED
    assert not asked
    assert not said


def test_stop_is_in_reverse_order_and_leaves_no_process(tmp_path: Path) -> None:
    """Each part notes when it was told to stop; `stubborn` ignores that and its child too, and both are killed."""
    order = tmp_path / "order"

    def noting(name: str) -> tuple[str, ...]:
        return python(f"""
            import os, pathlib, signal, sys
            def stop(*_):
                with open({str(order)!r}, "a") as file: file.write("{name}\\n")
                sys.exit(0)
            signal.signal(signal.SIGTERM, stop)
            pathlib.Path({str(tmp_path)!r}, "{name}.pid").write_text(str(os.getpid()))
            signal.pause()
        """)

    stubborn = python(f"""
        import os, pathlib, signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        pathlib.Path({str(tmp_path)!r}, "stubborn.pid").write_text(f"{{os.getpid()}} {{child.pid}}")
        signal.pause()
    """)
    parts = [
        Part(name, command, needs=needs, is_ready=(tmp_path / f"{name}.pid").exists, stop_s=1.0)
        for name, command, needs in (
            ("broker", noting("broker"), ()),
            ("service", noting("service"), ("broker",)),
            ("stubborn", stubborn, ("service",)),
        )
    ]
    said, _ = supervise(parts, tmp_path)
    assert order.read_text().split() == ["service", "broker"]
    assert said[-1] == "stubborn did not end within 1 s and was killed"
    pids = started_pids(tmp_path)
    assert len(pids) == 4
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_supervisor_takes_its_parts_along(tmp_path: Path) -> None:
    program = f"""
        import asyncio, pathlib, sys
        from orchestration.local.supervisor import Part, Supervisor
        code = "import os, pathlib, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" \\
               "pathlib.Path({str(tmp_path)!r}, 'part.pid').write_text(str(os.getpid())); signal.pause()"
        async def main():
            part = Part("part", (sys.executable, "-c", code))
            supervisor = Supervisor([part], pathlib.Path({str(tmp_path)!r}), print)
            await supervisor.start()
            await asyncio.Event().wait()
        asyncio.run(main())
    """
    supervisor = subprocess.Popen(python(program), cwd=ROOT)
    wait_for(lambda: bool(started_pids(tmp_path)))
    (part,) = started_pids(tmp_path)
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not is_alive(part))


def wait_for(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


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
    """Of a run that is in the history and that nobody executes."""


@pytest.fixture
def dagster_page(tmp_path: Path) -> Iterator[tuple[str, dg.DagsterInstance]]:
    """Dagster's webserver over a history of its own, without code."""
    shutil.copyfile(ROOT / "orchestration" / "dagster.yaml", tmp_path / "dagster.yaml")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "dagster_webserver", "--empty-workspace", "-h", "127.0.0.1", "-p", str(port)]
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance, (tmp_path / "page.log").open("w") as log:
        instance.get_runs()  # makes the history: two processes that make it at once crash
        page = subprocess.Popen(command, env=os.environ | {"DAGSTER_HOME": str(tmp_path)}, stdout=log, stderr=log)
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


@dg.resource
def away() -> None:
    """Of a run that fails before its first step."""
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
    """Not in Dagster's, which wrap them, nor in the network's, which lie beneath."""
    url, instance = dagster_page
    run = trains.execute_in_process(instance=instance, raise_on_error=False)
    assert dagster_client.failure_of(url, run.run_id) == "RuntimeError: MLflow is away: start it"


def test_the_simulated_day_is_made_once(tmp_path: Path) -> None:
    assert "recording" in needs(stack_parts(settings(tmp_path), KAFKA))["ingestor"]
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "simulated-BTC-USD-2025-01-06.csv").touch()
    assert "recording" not in needs(stack_parts(settings(tmp_path), KAFKA))


def test_a_recording_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"there is no file .*/absent\.csv"):
        check_recordings(settings(tmp_path, recording=str(tmp_path / "absent.csv")))
    with pytest.raises(Refusal, match="cannot be read"):
        check_recordings(settings(tmp_path, recording=str(tmp_path)))


def test_the_stack_makes_its_own_inbox_and_refuses_another_that_is_not_there(tmp_path: Path) -> None:
    prepare_inbox(settings(tmp_path))
    assert (tmp_path / "inbox").is_dir()
    named = tmp_path / "named"
    with pytest.raises(Refusal, match=f"INBOX_DIR: there is no folder {named}"):
        prepare_inbox(settings(tmp_path, inbox_dir=named))
    named.mkdir()
    prepare_inbox(settings(tmp_path, inbox_dir=named))


def test_recordings_are_named_as_in_a_shell(tmp_path: Path) -> None:
    two = settings(tmp_path, recording="'/a b.csv' /c.csv")
    assert [str(path) for path in two.recordings] == ["/a b.csv", "/c.csv"]
    (ingestor,) = (part for part in stack_parts(two, KAFKA) if part.name == "ingestor")
    assert ingestor.command[-2:] == ("/a b.csv", "/c.csv")


def test_a_replay_id_of_our_own_ends_with_the_stack_and_a_given_one_can_be_resumed(tmp_path: Path) -> None:
    own = child_environment(settings(tmp_path))
    assert own["REPLAY_END_ON_STOP"] == "true"
    given = child_environment(settings(tmp_path, replay_id="mine"))
    assert given["REPLAY_ID"] == "mine"
    assert "REPLAY_END_ON_STOP" not in given
    assert new_replay_id(datetime(2026, 11, 23, 10, 15, tzinfo=UTC)).startswith("replay-20261123T101500Z-")


def test_a_second_stack_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with only_stack(tmp_path), pytest.raises(Refusal, match=f"process {os.getpid()}"), only_stack(tmp_path):
        pass


def test_realized_volatility_of_the_last_minute_of_event_time() -> None:
    """A price that doubles once a minute ago and halves again at the end: two steps of ln 2, the other 58 are 0."""
    minute = MinuteVolatility()
    for second in range(61):
        minute.add(second, False, 200.0 if 1 <= second < 60 else 100.0)
        assert minute.value is None
    minute.add(61, False, 100.0)  # only now is P(60) known
    assert minute.value == pytest.approx(math.sqrt(2) * math.log(2), rel=1e-12)


def test_seconds_without_trades_keep_their_price_and_a_hole_starts_anew() -> None:
    minute = MinuteVolatility()
    minute.add(0, False, 100.0)
    minute.add(61, True, 300.0)  # P(0) to P(61) are 100
    assert minute.value == 0.0
    minute.add(500, False, 300.0)
    assert minute.value is None


def test_event_times_become_seconds() -> None:
    assert epoch_seconds("1970-01-02T00:00:01.5Z") == (86401, True)
    assert epoch_seconds("1970-01-02T00:00:01.000Z") == (86401, False)
    assert epoch_seconds("1970-01-02T00:00:01Z") == (86401, False)


def test_the_example_names_every_setting() -> None:
    from offline.settings import OfflineSettings
    from online.settings import ApiSettings, ForecasterSettings, IngestorSettings
    from orchestration.settings import OrchestrationSettings

    classes = (
        StackSettings,
        OfflineSettings,
        OrchestrationSettings,
        IngestorSettings,
        ForecasterSettings,
        ApiSettings,
    )
    settable = {name.upper() for each in classes for name in each.model_fields} - {"RUN_STARTED"}
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert {line.partition("=")[0] for line in lines if line and not line.startswith("#")} == settable
