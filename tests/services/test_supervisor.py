"""The supervisor starts parts in order, restarts dead parts, and leaves no part behind."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data.files import CHECKOUT
from data.process.running import AGAIN
from orchestration.local import supervisor as supervisor_module
from orchestration.local.supervisor import Part, PartState, RestartPolicy, RunFailure, Supervisor, Watched

SLEEP = "import signal; signal.pause()"


class Said(list[str]):
    """Lines told by the supervisor."""

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
    backoff_s: float = 0.01,
    directory: Path = CHECKOUT,
) -> tuple[Said, Supervisor]:
    """Run parts until all are up or `until` holds, and stop them."""
    said = Said() if said is None else said

    async def run() -> Supervisor:
        supervisor = Supervisor(parts, folder, said, directory=directory, backoff_s=backoff_s)
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
    """`second` writes whether the mark of `first` existed at its start."""
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
    assert supervisor.watched["first"].state is PartState.STOPPED


def test_a_part_that_dies_is_restarted_and_said(tmp_path: Path) -> None:
    """The part dies once, with last words, and lives from then on."""
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


def test_a_part_that_is_killed_six_times_in_a_row_is_back_each_time_within_the_longest_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a longest pause the first restart alone would take a minute."""
    monkeypatch.setattr(supervisor_module, "LONGEST_PAUSE_S", 0.02)
    killed: set[int] = set()

    def killed_and_back(supervisor: Supervisor) -> bool:
        watched = supervisor.watched["steady"]
        if watched.state is PartState.READY and watched.process is not None and len(killed) < 6:
            killed.add(watched.process.pid)
            watched.signal(signal.SIGKILL)
        return watched.restarts == 6 and watched.state is PartState.READY

    said, _ = supervise([Part("steady", python(SLEEP))], tmp_path, until=killed_and_back, backoff_s=60.0)
    assert len(killed) == 6
    assert said.text.count("steady ended by SIGKILL; it starts again in 0.0 s") == 6


def scripted(folder: Path, *runs: str) -> tuple[str, ...]:
    """Return a command: its first run does the first code, and so on; the last code is repeated."""
    starts = folder / "starts"
    return python(f"""
        import os, pathlib, signal, sys
        with open({str(starts)!r}, "a") as file: file.write("x")
        exec({runs!r}[min(os.stat({str(starts)!r}).st_size, {len(runs)}) - 1])
    """)


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
FAIL = "sys.exit('no such model')"


def restarted(times: int) -> Callable[[Supervisor], bool]:
    """Return a check: the first part was started again `times` times, or was given up."""

    def holds(supervisor: Supervisor) -> bool:
        first = next(iter(supervisor.watched.values()))
        return first.restarts >= times or first.state is PartState.FAILED

    return holds


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (f"sys.exit({AGAIN})", "exit code 75"),
        ("sys.exit(0)", "exit code 0"),  # a service that got SIGTERM
        ("sys.exit(143)", "SIGTERM"),  # a JVM that got SIGTERM
        ("signal.raise_signal(signal.SIGTERM)", "SIGTERM"),
        ("signal.raise_signal(50)", "signal 50"),
    ],
)
def test_a_part_that_ends_for_a_cause_outside_is_never_given_up(tmp_path: Path, code: str, told: str) -> None:
    said, supervisor = supervise([Part("part", scripted(tmp_path, code))], tmp_path, until=restarted(5))
    assert supervisor.watched["part"].restarts == 5
    assert f"{told}; it starts again" in said.text


def test_an_essential_part_that_is_killed_before_it_is_ready_does_not_end_the_start(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = scripted(tmp_path, KILL, KILL, KILL, f"pathlib.Path({str(mark)!r}).touch(); signal.pause()")
    said, supervisor = supervise([Part("kafka", command, is_ready=mark.exists)], tmp_path)
    assert supervisor.watched["kafka"].restarts == 3
    assert said[-1].startswith("kafka ready after ")


def test_a_step_that_is_killed_is_run_again(tmp_path: Path) -> None:
    training = Part("training", scripted(tmp_path, KILL, KILL, KILL, "print('trained')"), once=True)
    later = Part("later", python(SLEEP), needs=("training",))
    _, supervisor = supervise([training, later], tmp_path)
    assert supervisor.watched["training"].restarts == 3
    assert supervisor.watched["later"].ready_after_s is not None


def test_errors_that_differ_in_numbers_only_are_the_same_error(tmp_path: Path) -> None:
    """Each run logs the time, its process id and another duration."""
    code = "import time; sys.exit(f'{time.time_ns()} [{os.getpid()}] port 8001 is taken since {time.monotonic()} s')"
    said, supervisor = supervise([Part("api", scripted(tmp_path, code))], tmp_path, until=restarted(4))
    assert supervisor.watched["api"].restarts == 2
    assert "api ended with exit code 1 (attempt 3)" in said.text
    assert said[-1].endswith(" s")


@pytest.mark.parametrize(
    "other", ["sys.exit('no such file')", "print('no such model', file=sys.stderr); sys.exit(3)"], ids=["words", "code"]
)
def test_errors_that_differ_do_not_add_up(tmp_path: Path, other: str) -> None:
    runs = [FAIL, FAIL, other, other, FAIL, FAIL, other, SLEEP]
    _, supervisor = supervise([Part("part", scripted(tmp_path, *runs))], tmp_path, until=restarted(7))
    assert supervisor.watched["part"].restarts == 7


def test_a_kill_between_equal_errors_does_not_save_a_part_that_cannot_run(tmp_path: Path) -> None:
    runs = [FAIL, KILL, FAIL, KILL, f"sys.exit({AGAIN})", FAIL, SLEEP]
    said, supervisor = supervise([Part("part", scripted(tmp_path, *runs))], tmp_path, until=restarted(6))
    assert supervisor.watched["part"].restarts == 5
    assert said[-1].splitlines()[-1] == "  | no such model"


def test_a_part_that_is_not_ready_in_time_has_failed_by_itself_though_it_is_killed(tmp_path: Path) -> None:
    part = Part("part", python(SLEEP), is_ready=lambda: False, ready_s=0.05)
    said, supervisor = supervise([part], tmp_path, until=restarted(3))
    assert supervisor.watched["part"].restarts == 2
    assert said[-1].startswith("part was not ready after 0 s (attempt 3)")


def test_pauses_double_up_to_the_longest_and_a_long_life_starts_them_anew() -> None:
    policy = RestartPolicy(backoff_s=0.5)
    kill = RunFailure("ended by SIGKILL")
    assert [policy.pause_after(kill) for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert all(policy.pause_after(kill) == 5 for _ in range(2_000))
    assert policy.pause_after(kill._replace(is_quick=False)) == 0.5
    assert policy.pause_after(kill) == 1


def test_an_error_after_a_long_life_is_not_counted_and_ends_the_row() -> None:
    policy = RestartPolicy()
    error = RunFailure("ended with exit code 1", (1, "no such model"))
    lives = ["short", "short", "long", "short", "short"]
    assert None not in [policy.pause_after(error._replace(is_quick=life == "short")) for life in lives]
    assert policy.pause_after(error) is None


def test_a_part_for_which_a_person_must_act_is_tried_until_it_starts_while_the_rest_stays_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part refuses more often than any error is borne, reports why once, and starts once the person has acted."""
    monkeypatch.setattr(supervisor_module, "ACT_S", 0.01)
    mark = tmp_path / "mark"
    broker = Part("broker", python(SLEEP))
    refuse = "sys.exit(print(f'{os.getpid()}: a place is lost', file=sys.stderr) or 2)"
    forecaster = Part(
        "forecaster",
        scripted(tmp_path, *[refuse] * 5, f"pathlib.Path({str(mark)!r}).touch(); signal.pause()"),
        is_ready=mark.exists,
        needs=("broker",),
        waits=frozenset({2}),
        advice="Find it: find-place",
    )
    said, supervisor = supervise([broker, forecaster], tmp_path)
    assert supervisor.watched["forecaster"].restarts == 5
    assert supervisor.watched["broker"].restarts == 0
    assert said.text.count("a place is lost") == 1
    assert "  Find it: find-place\n  The rest stays up, and forecaster is tried again every " in said.text
    assert said[-1].startswith("forecaster ready after ")


def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    """A process can be killed while answering; a probe that never works is reported."""
    answers: list[Exception] = [http.client.IncompleteRead(b"cryptovol_re"), http.client.BadStatusLine("")]

    def probe() -> bool:
        if answers:
            raise answers.pop()
        return True

    def broken() -> bool:
        raise KeyError("leader")

    parts = [
        Part("api", python(SLEEP), is_ready=probe),
        Part("kafka", python(SLEEP), is_ready=broken, ready_s=0.05),
    ]
    said, supervisor = supervise(parts, tmp_path, until=lambda s: all(w.is_settled for w in s.watched.values()))
    assert supervisor.watched["api"].restarts == 0
    assert "kafka was not ready after 0 s: KeyError('leader')" in said.text


def test_a_process_that_the_machine_cannot_start_is_tried_again(tmp_path: Path) -> None:
    """Here the directory is missing for a while; memory and processes can be, too."""
    directory = tmp_path / "directory"

    def until(supervisor: Supervisor) -> bool:
        if supervisor.watched["part"].restarts >= 4:
            directory.mkdir(exist_ok=True)
        return supervisor.watched["part"].is_settled

    said, supervisor = supervise([Part("part", python(SLEEP))], tmp_path, until=until, directory=directory)
    assert supervisor.watched["part"].ready_after_s is not None
    assert said[0].startswith("part could not be run: [Errno 2] No such file or directory")


class Need:
    """Part needed by others: ready while its process lives and `answers` holds."""

    def __init__(self, folder: Path) -> None:
        self.answers = True
        self._pid = folder / "need.pid"
        code = f"import os, pathlib, signal; pathlib.Path({str(self._pid)!r}).write_text(f'{{os.getpid()}} ')"
        self.part = Part("need", python(f"{code}; signal.pause()"), is_ready=self.is_ready)

    def is_ready(self) -> bool:
        return self.answers and self._pid.exists() and self._pid.read_text().endswith(" ") and is_alive(self.pid)

    @property
    def pid(self) -> int:
        return int(self._pid.read_text())

    def kill(self) -> None:
        """Kill the process and wait for its death: only then do others feel the death."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid))


@pytest.mark.parametrize("is_back", [False, True], ids=["need is dead", "need is back"])
def test_an_action_that_fails_with_what_it_needs_is_tried_again(tmp_path: Path, is_back: bool) -> None:
    """The maker of the topics feels the death of the broker before the supervisor does, or long after."""
    need = Need(tmp_path)
    needs: list[Watched] = []
    tries: list[bool] = []

    def make_topics() -> None:
        tries.append(need.is_ready())
        if len(tries) < 5:
            need.kill()
            wait_for(lambda: not is_back or (bool(needs) and needs[0].restarts == len(tries) and needs[0].is_available))
            raise ConnectionError("the broker does not answer")

    def until(supervisor: Supervisor) -> bool:
        needs.append(supervisor.watched["need"])
        return supervisor.watched["topics"].is_settled

    parts = [need.part, Part("topics", action=make_topics, needs=("need",))]
    said, supervisor = supervise(parts, tmp_path, until=until)
    assert tries == [True] * 5
    assert supervisor.watched["need"].restarts == 4
    assert "topics failed: the broker does not answer while need was away; it starts again in 0.0 s" in said
    assert said[-1].startswith("topics done after ")


def test_an_action_that_fails_by_itself_is_given_up_at_once(tmp_path: Path) -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise ValueError("topic features has 3 partitions")

    parts = [Need(tmp_path).part, Part("topics", action=fail, needs=("need",))]
    said, _ = supervise(parts, tmp_path)
    assert said[-1] == "topics failed: topic features has 3 partitions"
    assert tries == [1]


@pytest.mark.parametrize("needed", ["need", "between"], ids=["need", "need of a need"])
def test_a_step_that_fails_with_what_it_needs_is_run_again_and_its_own_errors_count(
    tmp_path: Path, needed: str
) -> None:
    """Four runs kill the need and fail; later the same error comes three times with all needs ready."""
    need = Need(tmp_path)
    kill_need = f"""
import contextlib, time
with contextlib.suppress(ProcessLookupError):
    pid = int(open({str(tmp_path / "need.pid")!r}).read())
    os.kill(pid, signal.SIGKILL)
    while True:
        os.kill(pid, 0)
        time.sleep(0.01)
{FAIL}"""
    between = Part("between", python(SLEEP), needs=("need",))
    training = Part("training", scripted(tmp_path, *[kill_need] * 4, FAIL), once=True, needs=(needed,))
    said, _ = supervise([need.part, between, training], tmp_path)
    excused = said.text.count("training ended with exit code 1 while need was away; it starts again")
    assert excused >= 4
    assert f"training ended with exit code 1 (attempt {excused + 3})" in said.text


def test_a_part_that_fails_while_what_it_needs_hangs_is_not_given_up(tmp_path: Path) -> None:
    """The need's process lives, as a frozen process does, and does not answer."""
    need = Need(tmp_path)

    def until(supervisor: Supervisor) -> bool:
        need.answers = supervisor.watched["api"].restarts not in range(1, 5)
        return supervisor.watched["api"].state is PartState.FAILED

    parts = [need.part, Part("api", scripted(tmp_path, FAIL), needs=("need",), is_ready=lambda: False)]
    _, supervisor = supervise(parts, tmp_path, until=until)
    assert supervisor.watched["need"].restarts == 0
    assert supervisor.watched["api"].restarts > 4


def test_a_part_starts_when_all_that_it_needs_is_ready_at_the_same_time(tmp_path: Path) -> None:
    """The first need dies as the second becomes ready, and stays away until the test has seen the loss."""
    need = Need(tmp_path)
    seen: list[PartState] = []
    supervisors: list[Supervisor] = []

    def second_is_ready() -> bool:
        if not need.is_ready() or not need.answers:
            return not need.answers and supervisors[0].watched["need"].state is PartState.STARTING
        need.answers = False
        need.kill()
        return False

    def until(supervisor: Supervisor) -> bool:
        supervisors.append(supervisor)
        need.answers = need.answers or supervisor.watched["second"].state is PartState.READY
        return bool(seen)

    parts = [
        need.part,
        Part("second", python(SLEEP), is_ready=second_is_ready),
        Part("step", action=lambda: seen.append(supervisors[0].watched["need"].state), needs=("need", "second")),
    ]
    supervise(parts, tmp_path, until=until)
    assert seen == [PartState.READY]


def test_a_part_that_cannot_start_shows_the_end_of_its_log_and_what_to_do(tmp_path: Path) -> None:
    code = "import sys; [print('line', i, flush=True) for i in range(100)]; sys.exit('no such model')"
    part = Part("forecaster", python(code), is_ready=lambda: False, advice="Look at the registry.")
    other = Part("api", python(SLEEP), needs=("forecaster",))
    said, supervisor = supervise([part, other], tmp_path)
    assert supervisor.watched["forecaster"].restarts == 2
    last = said[-1].splitlines()
    assert last[0].startswith("forecaster ended with exit code 1 (attempt 3). The end of ")
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
    said, supervisor = supervise([part], tmp_path, until=lambda s: s.watched["ingestor"].state is PartState.FAILED)
    assert supervisor.watched["ingestor"].restarts == 0
    assert "ingestor ended: bad recording" in said.text


def test_a_process_that_is_started_again_can_know_it(tmp_path: Path) -> None:
    code = "import os, sys; sys.exit(0 if os.environ.get('AGAIN') == 'yes' and os.environ['ALWAYS'] == '1' else 7)"
    environment, again = {"ALWAYS": "1"}, {"AGAIN": "yes"}
    part = Part("step", python(code), environment=environment, restart_environment=again, once=True)
    said, supervisor = supervise([part], tmp_path)
    assert supervisor.watched["step"].restarts == 1
    assert "step done after" in said.text


def test_a_replay_that_ends_is_done(tmp_path: Path) -> None:
    part = Part("ingestor", python(""), exits={0: "replay ended"})
    said, _ = supervise([part], tmp_path, until=lambda s: s.watched["ingestor"].state is PartState.DONE)
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
    """`ui` can never start, `later` takes any time: the stack is up with `api` alone."""
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
    assert supervisor.watched["later"].state is PartState.STOPPED


def test_a_part_that_tells_is_heard_line_by_line_and_to_its_end(tmp_path: Path) -> None:
    """The second line comes only after the first was heard, which makes the mark; the third comes at the end."""
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
        return supervisor.watched["teller"].state is PartState.DONE

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
    assert supervisor.watched["part"].state is PartState.STOPPED
    assert not asked
    assert not said


def test_a_part_whose_parent_ignores_sigterm_ends_by_a_sigterm_right_after_its_start(tmp_path: Path) -> None:
    """The part ignores SIGTERM too until `lifeline` runs; the signal must wait until then."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        said, _ = supervise([Part("part", python(SLEEP))], tmp_path, until=lambda s: s.watched["part"].is_available)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert said == [said[0]]
    assert said[0].startswith("part ready after ")
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_stop_is_in_reverse_order_and_leaves_no_process(tmp_path: Path) -> None:
    """Each part notes the time of its stop; `stubborn` and its child ignore the stop, and both are killed."""
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
    supervisor = subprocess.Popen(python(program), cwd=CHECKOUT)
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
