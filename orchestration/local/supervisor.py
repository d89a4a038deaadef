"""Start parts in order, watch them, restart dead parts, and stop all parts in reverse order.

A killed part is always started again, and so is a part for which a person must act first. A part is given up only if
its process exits with the same error again and again while all needs of the part are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from data.process.running import AGAIN
from orchestration.local.lifeline import bound_to_parent

POLL_S = 0.1  # between two looks at whether a part is ready
TELL_S = 0.5  # between two looks at the new lines of a part with `tells`
QUICK_DEATH_S = 20.0  # a part that dies sooner after its start died quickly
QUICK_DEATHS = 3  # after so many equal errors in a row, each a quick death, a part is given up
BACKOFF_S = 0.5  # the first pause before a restart; each quick death doubles the pause
LONGEST_PAUSE_S = 5.0
ACT_S = 10.0  # between two tries of a part for which a person must act
LOG_MAX_BYTES = 20_000_000
LOGS_S = 10.0
"""Seconds between two looks at the sizes of the logs."""
LOG_LINES = 12  # how much of a dead part's log is shown
_WORD = re.compile(r"[\w.:+-]+")


class PartState(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class Say(Protocol):
    """Print one line for a person."""

    def __call__(self, text: str, style: str = "") -> None: ...


@dataclass(frozen=True)
class Part:
    """One process of the stack, or one step of its start.

    Attributes:
        command: program and arguments; the output goes to the part's log.
        action: a step done in a thread of this process instead of by a command; raises if the step fails.
        needs: parts that must be ready (or done) before this part starts.
        environment: of each process of the part.
        restart_environment: added for each process but the first.
        is_ready: asked from a thread until the answer is yes; None: ready as soon as the process runs.
        once: a step that runs to its end; parts that need the step wait for exit code 0.
        exits: exit codes without another start, and their meaning for a person.
        waits: exit codes after which a person must act first; the part is tried again every `ACT_S`, and the reason
            is told once.
        ports: the setting of each port on which the part listens, and the port.
        essential: the stack cannot come up without the part.
        background: the stack is up before the part is ready or done.
        tells: a person sees each line of the part's output.
        before_stop: done in a thread before SIGTERM, within `stop_s`, if the part was ever ready; gets a `Say`.
        advice: told to a person when the part cannot start, or a person must act.
        nice: nice value of the part, for machines with few processors.
        ready_s: how long a process may take until it is ready, in seconds.
        stop_s: how long a process may take to end after SIGTERM, in seconds.
    """

    name: str
    command: Sequence[str] = ()
    action: Callable[[], object] | None = None
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    restart_environment: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] | None = None
    once: bool = False
    exits: Mapping[int, str] = field(default_factory=dict)
    waits: frozenset[int] = frozenset()
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = ""
    essential: bool = True
    background: bool = False
    tells: bool = False
    before_stop: Callable[[Say], object] | None = None
    advice: str = ""
    nice: int = 0
    ready_s: float = 120.0
    stop_s: float = 12.0


def signal_of(code: int) -> int | None:
    """Return the number of the signal that ended a process, or None if the process exited by itself.

    A process that handles a signal in good order exits with 128 + its number: the JVM does, as shells do.

    >>> signal_of(-9), signal_of(143), signal_of(1)
    (9, 15, None)
    """
    number = -code if code < 0 else code - 128
    return number if number in signal.valid_signals() else None


def is_from_outside(code: int) -> bool:
    """Return whether the cause of an exit code lies outside the process.

    Besides kills and `AGAIN`: 0, since a service exits without an error only after a SIGTERM.
    """
    return code in (0, AGAIN) or signal_of(code) is not None


def describe_exit(code: int) -> str:
    """Return an exit code in words.

    >>> describe_exit(-9), describe_exit(-50), describe_exit(1)
    ('ended by SIGKILL', 'ended by signal 50', 'ended with exit code 1')
    """
    number = signal_of(code)
    if number is None:
        return f"ended with exit code {code}"
    names = {each.value: each.name for each in signal.Signals}  # most real-time signals have no name
    return f"ended by {names.get(number, f'signal {number}')}"


def without_numbers(line: str) -> str:
    """Return a line with "#" for each word with a digit: times, ports, process ids, durations, other ids.

    >>> without_numbers("2026-11-23T10:15:00Z port 8001 is taken by process 4711 since 0.5 s")
    '# port # is taken by process # since # s'
    """
    return _WORD.sub(lambda match: "#" if any(map(str.isdigit, match[0])) else match[0], line)


class RunFailure(NamedTuple):
    """How a run of a part failed.

    Attributes:
        reason: told to a person.
        error: exit code (None: there is no exit code) and last words, without numbers; None: the cause lies outside.
        is_quick: whether the run failed soon after its start, or before the part was ready.
        must_act: whether a person must act before the next run can do better.
    """

    reason: str
    error: tuple[int | None, str] | None = None
    is_quick: bool = True
    must_act: bool = False

    @classmethod
    def of_exit(cls, code: int, last_words: str, is_quick: bool) -> RunFailure:
        """Return the failure of a run that ended with an exit code."""
        error = None if is_from_outside(code) else (code, without_numbers(last_words))
        return cls(describe_exit(code), error, is_quick)


class RestartPolicy:
    """Decides how long to wait before the next run of one part, and when to give the part up.

    Args:
        backoff_s: the first pause.
        tries: the part is given up after so many equal errors in a row.
    """

    def __init__(self, backoff_s: float = BACKOFF_S, tries: int = QUICK_DEATHS) -> None:
        self._backoff_s = self._next_pause_s = backoff_s
        self._tries = tries
        self._error: tuple[int | None, str] | None = None
        self._equal_errors = 0

    def pause_after(self, failure: RunFailure) -> float | None:
        """Return the seconds to wait before the next run; None: the part is to be given up.

        A cause outside lengthens the pause, and leaves the count of equal errors as it is. A run that lived long
        starts both anew.
        """
        if not failure.is_quick:
            self._next_pause_s, self._equal_errors = self._backoff_s, 0
        elif failure.error is not None:
            self._equal_errors = self._equal_errors + 1 if failure.error == self._error else 1
            self._error = failure.error
            if self._equal_errors >= self._tries:
                return None
        pause_s = min(self._next_pause_s, LONGEST_PAUSE_S)
        self._next_pause_s = 2 * pause_s
        return pause_s


class Watched:
    """One part and its present state.

    Attributes:
        direct: the parts in `Part.needs`.
        needs: the parts needed by this part, their needs, and so on.
        restarts: how often the part was started again.
        probe_error: the exception of the last call of `Part.is_ready`; None: the call returned.
    """

    def __init__(self, part: Part, log_path: Path, direct: Sequence[Watched]) -> None:
        self.part = part
        self.log_path = log_path
        self.direct = direct
        self.needs: list[Watched] = list(
            dict.fromkeys([*direct, *(further for need in direct for further in need.needs)])
        )
        self.state = PartState.WAITING
        self.probe_error: Exception | None = None
        self.ready_after_s: float | None = None
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._log_start = self._told = 0

    @property
    def is_available(self) -> bool:
        """Whether parts that need this part may start."""
        return self.state in (PartState.READY, PartState.DONE)

    @property
    def is_settled(self) -> bool:
        """Whether the start of the part is over, well or badly; badly too if a need can never be ready."""
        return self.is_available or self.cannot_come

    @property
    def cannot_come(self) -> bool:
        """Whether the part has failed, or waits for a part that cannot come."""
        is_waiting = not self.is_available
        return self.state is PartState.FAILED or (is_waiting and any(need.cannot_come for need in self.direct))

    async def answers(self) -> bool:
        """Ask whether the part is ready. An answer that breaks off, as when a process is killed, is a no."""
        if self.part.is_ready is None:
            return True
        try:
            answer = await asyncio.to_thread(self.part.is_ready)
        except Exception as error:  # of any kind: the part is asked again, or started again
            self.probe_error = error
            return False
        self.probe_error = None
        return answer

    async def was_away_since(self, restarts: int) -> bool:
        """Return whether the part is not ready now, or was started again since `restarts` was noted.

        A part that counts as ready is asked: dependents feel a death before the supervisor sees the death, and a
        process that hangs does not end.
        """
        answers = self.state is not PartState.READY or await self.answers()
        return not (answers and self.is_available and self.restarts == restarts)

    async def spawn(self, environment: Mapping[str, str], directory: Path) -> asyncio.subprocess.Process:
        again = self.part.restart_environment if self.restarts else {}
        with self.log_path.open("ab") as output, _held_back(signal.SIGTERM):
            self._log_start = self._told = output.tell()
            self.process = await asyncio.create_subprocess_exec(
                *bound_to_parent(self.part.command, self.part.nice),
                env={**environment, **self.part.environment, **again},
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.process

    def new_lines(self) -> list[str]:
        """Return the whole lines written since the last call."""
        with self.log_path.open("rb") as file:
            file.seek(self._told)
            whole = file.read().rpartition(b"\n")[0]
        self._told += len(whole) + bool(whole)
        return [line.decode(errors="replace") for line in whole.splitlines() if line]

    def bound_log(self, max_bytes: int) -> None:
        """Move the lines of a log that is too large to `.previous.log`, and begin the log anew.

        The process appends to the same file, and goes on at its new end. Lines that are written just between the copy
        and the cut are lost.
        """
        with contextlib.suppress(OSError):  # a full disk, or no log yet
            if self.log_path.stat().st_size > max_bytes:
                shutil.copyfile(self.log_path, self.log_path.with_suffix(".previous.log"))
                os.truncate(self.log_path, 0)
                self._log_start = self._told = 0

    def last_words(self) -> str:
        """Return the last line of the newest process."""
        return (self.log_tail() or ["(its log is empty)"])[-1]

    def log_tail(self) -> list[str]:
        """Return the last lines of the newest process."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as file:  # no log must not stop a restart
            file.seek(self._log_start)
            lines = (line.decode(errors="replace").rstrip() for line in file)
            return list(deque((line for line in lines if line), LOG_LINES))
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group of the part, so also to the children of its process."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def memory(self) -> int | None:
        """Return the bytes of the whole process tree: the proportional share if the system has a share, else resident.

        None: no process runs.
        """
        if self.process is None or self.process.returncode is not None:
            return None
        return tree_memory(self.process.pid)


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Block a signal: a process that is started in the block gets the signal once the process unblocks the signal.

    If this process ignores SIGTERM, a new process ignores SIGTERM until `lifeline` runs: a SIGTERM in these first
    milliseconds would be lost. A blocked signal waits instead.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def tree_memory(pid: int, with_children: bool = True) -> int | None:
    """Return the bytes of a process and its descendants; None: the process is gone."""
    try:
        root = psutil.Process(pid)
        processes = [root, *(root.children(recursive=True) if with_children else ())]
    except psutil.NoSuchProcess:
        return None
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                total += int(process.memory_full_info().pss)
            except (psutil.AccessDenied, AttributeError):
                total += int(process.memory_info().rss)
    return total


class Supervisor:
    """Run parts, and tell a person the name and the error of each part that did not come up.

    Args:
        parts: each part after its needs.
        log_dir: gets a `<part>.log` for each part; the log of the last run is kept as `<part>.previous.log`.
        environment: of every part, besides the part's own.
        directory: where the parts run.
        backoff_s: the first pause before a part is started again.
        log_max_bytes: of a log; the log of before has as many at most.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        log_dir: Path,
        say: Say,
        environment: Mapping[str, str] | None = None,
        directory: Path = Path(),
        backoff_s: float = BACKOFF_S,
        log_max_bytes: int = LOG_MAX_BYTES,
    ) -> None:
        self.watched: dict[str, Watched] = {}
        for part in parts:
            if unknown := set(part.needs) - set(self.watched):
                raise ValueError(f"part {part.name} needs {', '.join(sorted(unknown))}, which does not come before it")
            direct = [self.watched[name] for name in part.needs]
            self.watched[part.name] = Watched(part, log_dir / f"{part.name}.log", direct)
        self._log_dir = log_dir
        self._say = say
        self._environment = dict(os.environ if environment is None else environment)
        self._directory = directory
        self._backoff_s = backoff_s
        self._log_max_bytes = log_max_bytes
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """Start all parts, each when its needs are ready, and return at once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for watched in self.watched.values():
            if watched.log_path.exists():
                watched.log_path.replace(watched.log_path.with_suffix(".previous.log"))
            self._tasks.append(asyncio.create_task(self._keep(watched), name=watched.part.name))
        self._tasks.append(asyncio.create_task(self._bound_logs(), name="logs"))

    async def wait_until_up(self) -> bool:
        """Wait until every part is ready or done, in the background, or cannot start because a need has failed.

        Returns:
            False as soon as an essential part has failed.
        """

        every = self.watched.values()

        def failed() -> bool:
            return any(w.state is PartState.FAILED and w.part.essential for w in every)

        async with self._changed:
            await self._changed.wait_for(lambda: failed() or all(w.is_settled or w.part.background for w in every))
        return not failed()

    async def stop(self) -> None:
        """Stop every part after its dependents: SIGTERM, and SIGKILL when the part's time is over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stops: dict[str, asyncio.Task[None]] = {}
        for name in reversed(self.watched):
            dependents = [stops[other] for other, w in self.watched.items() if name in w.part.needs]
            stops[name] = asyncio.create_task(self._stop(self.watched[name], dependents))
        await asyncio.gather(*stops.values())

    def kill(self) -> None:
        """End every part at once."""
        for watched in self.watched.values():
            watched.signal(signal.SIGKILL)

    async def _bound_logs(self) -> None:
        """Keep the logs within their size, again and again."""
        while True:
            await asyncio.sleep(LOGS_S)
            for watched in self.watched.values():
                watched.bound_log(self._log_max_bytes)

    async def _keep(self, watched: Watched) -> None:
        """Run one part, again and again, until the part is done or given up."""
        part = watched.part
        policy = RestartPolicy(self._backoff_s, tries=1 if part.action else QUICK_DEATHS)
        told: tuple[int | None, str] | None = None
        while True:
            async with self._changed:  # a need may die while another need starts: all are ready at the same time
                await self._changed.wait_for(lambda: all(need.is_available for need in watched.direct))
            restarts_of_needs = [need.restarts for need in watched.needs]
            began = time.monotonic()
            await self._enter(watched, PartState.STARTING)
            failure = await (self._act(watched, part.action) if part.action else self._run(watched, began))
            if failure is None:
                return
            await self._enter(watched, PartState.RESTARTING)
            pause_s: float | None
            if failure.must_act:
                if failure.error != told:
                    self._say_what_to_do(watched, failure.reason)
                told, pause_s = failure.error, ACT_S
            else:
                told = None
                if failure.error is not None and (away := await self._away_since(watched.needs, restarts_of_needs)):
                    failure = failure._replace(reason=f"{failure.reason} while {', '.join(away)} was away", error=None)
                pause_s = policy.pause_after(failure)
                if pause_s is None:
                    await self._give_up(watched, failure.reason)
                    return
                words = "" if part.action else f". Its last words: {watched.last_words()}"
                self._say(f"{part.name} {failure.reason}; it starts again in {pause_s:.1f} s{words}", "yellow")
            watched.restarts += 1
            await asyncio.sleep(pause_s)

    async def _act(self, watched: Watched, action: Callable[[], object]) -> RunFailure | None:
        """Do a step without a process; return how the step failed, or None."""
        began = time.monotonic()
        watched.log_path.touch()
        try:
            await asyncio.to_thread(action)
        except Exception as error:  # of any kind: a person is told, and the stack stops in good order
            return RunFailure(f"failed: {error}", (None, str(error)))
        await self._enter_available(watched, PartState.DONE, began)
        return None

    async def _run(self, watched: Watched, began: float) -> RunFailure | None:
        """Run one process of a part to its end; return how the run failed, or None if the part is done or given up."""
        part = watched.part
        try:
            process = await watched.spawn(self._environment, self._directory)
        except OSError as error:  # the machine has no memory, process or file left
            return RunFailure(f"could not be run: {error}")
        exit_ = asyncio.create_task(process.wait())
        teller = asyncio.create_task(self._tell(watched))
        try:
            was_ready = not part.once and await self._becomes_ready(watched, exit_, began)
            is_late = not (part.once or was_ready or exit_.done())
            if is_late:
                watched.signal(signal.SIGKILL)
            code = await exit_
        finally:
            teller.cancel()
        self._say_lines(watched)
        watched.signal(signal.SIGKILL)  # children left behind
        if is_late:
            why = "" if watched.probe_error is None else f": {watched.probe_error!r}"
            words = without_numbers(watched.last_words())
            return RunFailure(f"was not ready after {part.ready_s:.0f} s{why}", (None, words))
        if await self._finish(watched, code, began):
            return None
        if code in part.waits:
            return RunFailure(describe_exit(code), (code, without_numbers(watched.last_words())), must_act=True)
        is_quick = not was_ready or time.monotonic() - began < QUICK_DEATH_S
        return RunFailure.of_exit(code, watched.last_words(), is_quick)

    async def _finish(self, watched: Watched, code: int, began: float) -> bool:
        """Mark a part as done or failed if its exit code is final; return whether the code is final."""
        part = watched.part
        if code == 0 and part.once:
            await self._enter_available(watched, PartState.DONE, began)
        elif code not in part.exits:
            return False
        elif code == 0:
            self._say(part.exits[code], "bold green")
            await self._enter(watched, PartState.DONE)
        else:
            await self._give_up(watched, f"ended: {part.exits[code]}")
        return True

    async def _becomes_ready(self, watched: Watched, exit_: asyncio.Task[int], began: float) -> bool:
        """Wait until a part is ready; False if its process ended before, or the part's time is over."""
        ready = asyncio.create_task(self._until_ready(watched))
        try:
            await asyncio.wait({exit_, ready}, timeout=watched.part.ready_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if exit_.done() or not ready.done():
            return False
        await self._enter_available(watched, PartState.READY, began)
        return True

    async def _away_since(self, needs: Sequence[Watched], restarts: Sequence[int]) -> list[str]:
        """Return the names of needs that are not ready now, or were started again since `restarts` was noted."""
        were_away = await asyncio.gather(*map(Watched.was_away_since, needs, restarts))
        return [need.part.name for need, was_away in zip(needs, were_away, strict=True) if was_away]

    async def _tell(self, watched: Watched) -> None:
        while watched.part.tells:
            await asyncio.sleep(TELL_S)
            self._say_lines(watched)

    def _say_lines(self, watched: Watched) -> None:
        for line in watched.new_lines() if watched.part.tells else ():
            self._say(f"{watched.part.name}: {line}")

    async def _enter_available(self, watched: Watched, state: PartState, began: float) -> None:
        watched.ready_after_s = time.monotonic() - began
        self._say(f"{watched.part.name} {state} after {watched.ready_after_s:.1f} s", "green")
        await self._enter(watched, state)

    async def _until_ready(self, watched: Watched) -> None:
        while not await watched.answers():
            await asyncio.sleep(POLL_S)

    def _say_what_to_do(self, watched: Watched, reason: str) -> None:
        advice = f"\n  {watched.part.advice}" if watched.part.advice else ""
        self._say(
            f"{watched.part.name} {reason}, and needs you. Its last words: {watched.last_words()}{advice}\n"
            f"  The rest stays up, and {watched.part.name} is tried again every {ACT_S:.0f} s.",
            "bold red",
        )

    async def _give_up(self, watched: Watched, reason: str) -> None:
        part = watched.part
        attempts = f" (attempt {watched.restarts + 1})" if watched.restarts else ""
        tail = [] if part.tells else watched.log_tail()  # a person has already seen the lines of a part with `tells`
        shown = f". The end of {watched.log_path}:" + "".join(f"\n  | {line}" for line in tail) if tail else ""
        advice = f"\n  {part.advice}" if part.advice else ""
        self._say(f"{part.name} {reason}{attempts}{shown}{advice}", "bold red")
        await self._enter(watched, PartState.FAILED)

    async def _stop(self, watched: Watched, dependents: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*dependents)
        process = watched.process
        if process is not None and process.returncode is None:
            if watched.ready_after_s is not None:
                await self._before_stop(watched.part)
            watched.signal(signal.SIGCONT)
            watched.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), watched.part.stop_s)
            except TimeoutError:
                self._say(
                    f"{watched.part.name} did not end within {watched.part.stop_s:.0f} s and was killed", "yellow"
                )
                watched.signal(signal.SIGKILL)
                await process.wait()
        watched.signal(signal.SIGKILL)
        await self._enter(watched, PartState.STOPPED)

    async def _before_stop(self, part: Part) -> None:
        if part.before_stop is None:
            return
        try:
            await asyncio.wait_for(asyncio.to_thread(part.before_stop, self._say), part.stop_s)
        except Exception as error:  # of any kind: the part is stopped
            self._say(f"{part.name} is stopped without what comes before it: {error or 'it took too long'}", "yellow")

    async def _enter(self, watched: Watched, state: PartState) -> None:
        async with self._changed:
            watched.state = state
            self._changed.notify_all()
