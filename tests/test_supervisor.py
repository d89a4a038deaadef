"""The supervisor: parts come up in order, are started again when they die, and never outlive it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestration.local.supervisor import Part, State, Supervisor

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
