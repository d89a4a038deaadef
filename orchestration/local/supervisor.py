"""Starts parts in order, watches them, restarts those that die, and stops all of them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import psutil

from orchestration.local.lifeline import bound_to_parent

POLL_S = 0.1  # between two looks at whether a part is ready
TELL_S = 0.5  # between two looks at what a part that tells has written
QUICK_DEATH_S = 20.0  # a part that dies sooner after its start died quickly
QUICK_DEATHS = 3  # as many in a row, and it is given up
LOG_LINES = 12  # how much of a dead part's log is shown


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class Say(Protocol):
    """Tells a person one thing."""

    def __call__(self, text: str, style: str = "") -> None: ...


@dataclass(frozen=True)
class Part:
    """One process of the stack, or one step of its start.

    Attributes:
        command: what to run; its output goes to the part's log.
        action: a step that is done here, in a thread, instead of by a command; it raises if it fails.
        needs: parts that must be ready (or done) before it starts.
        is_ready: asked from a thread until it says yes; None: ready as soon as it runs.
        once: a step that runs to its end; parts that need it wait for exit code 0.
        exits: what an exit code means to a person, for those that are no reason to start it again.
        ports: the setting that names each port that it listens on, and the port.
        essential: the stack cannot come up without it.
        background: the stack is up before it is ready or done.
        tells: each line that it writes is told.
        before_stop: done in a thread before SIGTERM, within `stop_s`, if the part was ever ready; gets what tells a
            person.
        advice: what a person can do when it cannot start.
        nice: how far it stands back for the others where processors are few.
        stop_s: how long it may take to end after SIGTERM.
    """

    name: str
    command: Sequence[str] = ()
    action: Callable[[], object] | None = None
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] | None = None
    once: bool = False
    exits: Mapping[int, str] = field(default_factory=dict)
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


class Watched:
    """What is known about one part now."""

    def __init__(self, part: Part, log_path: Path) -> None:
        self.part = part
        self.log_path = log_path
        self.state = State.WAITING
        self.ready = asyncio.Event()
        self.ready_after_s: float | None = None
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._log_start = self._told = 0

    @property
    def is_settled(self) -> bool:
        """Whether its start is over, well or badly."""
        return self.state in (State.READY, State.DONE, State.FAILED)

    async def spawn(self, environment: Mapping[str, str], directory: Path) -> asyncio.subprocess.Process:
        with self.log_path.open("ab") as output:
            self._log_start = self._told = output.tell()
            self.process = await asyncio.create_subprocess_exec(
                *bound_to_parent(self.part.command, self.part.nice),
                env={**environment, **self.part.environment},
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.process

    def new_lines(self) -> list[str]:
        """The whole lines that were written since this was asked last."""
        with self.log_path.open("rb") as file:
            file.seek(self._told)
            whole = file.read().rpartition(b"\n")[0]
        self._told += len(whole) + bool(whole)
        return [line.decode(errors="replace") for line in whole.splitlines() if line]

    def log_tail(self) -> list[str]:
        """The last lines that its newest process wrote."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            lines = (line.decode(errors="replace").rstrip() for line in file)
            return list(deque((line for line in lines if line), LOG_LINES))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group, so also to what its process started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def memory(self) -> int | None:
        """Bytes of its whole process tree: the proportional share where the system tells it, else the resident set."""
        if self.process is None or self.process.returncode is not None:
            return None
        return tree_memory(self.process.pid)


def tree_memory(pid: int, with_children: bool = True) -> int | None:
    """Bytes of a process and its descendants; None if it is gone."""
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
    """Runs parts; all parts come up, or it says which did not and why.

    Args:
        parts: in an order in which each comes after those that it needs.
        log_dir: gets one `<part>.log` each; that of the last run is kept as `<part>.previous.log`.
        environment: of every part, besides its own.
        directory: where the parts run.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        log_dir: Path,
        say: Say,
        environment: Mapping[str, str] | None = None,
        directory: Path = Path(),
        backoff_s: float = 0.5,
    ) -> None:
        self.watched: dict[str, Watched] = {}
        for part in parts:
            if unknown := set(part.needs) - set(self.watched):
                raise ValueError(f"part {part.name} needs {', '.join(sorted(unknown))}, which does not come before it")
            self.watched[part.name] = Watched(part, log_dir / f"{part.name}.log")
        self._log_dir = log_dir
        self._say = say
        self._environment = dict(os.environ if environment is None else environment)
        self._directory = directory
        self._backoff_s = backoff_s
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """Start all parts, each when those that it needs are ready, and return at once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for watched in self.watched.values():
            if watched.log_path.exists():
                watched.log_path.replace(watched.log_path.with_suffix(".previous.log"))
            self._tasks.append(asyncio.create_task(self._keep(watched), name=watched.part.name))

    async def wait_until_up(self) -> bool:
        """Wait until every part is ready or done, in the background, or cannot start for one that has failed.

        Returns:
            False as soon as an essential part has failed.
        """

        def failed() -> bool:
            return any(w.state is State.FAILED and w.part.essential for w in self.watched.values())

        async with self._changed:
            await self._changed.wait_for(lambda: failed() or all(map(self._is_settled, self.watched.values())))
        return not failed()

    def _is_settled(self, watched: Watched) -> bool:
        return (
            watched.is_settled
            or watched.part.background
            or any(self._cannot_come(self.watched[name]) for name in watched.part.needs)
        )

    def _cannot_come(self, watched: Watched) -> bool:
        return watched.state is State.FAILED or any(
            self._cannot_come(self.watched[name]) for name in watched.part.needs if not watched.is_settled
        )

    async def stop(self) -> None:
        """Stop every part after those that need it: SIGTERM, and SIGKILL when its time is over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stops: dict[str, asyncio.Task[None]] = {}
        for name in reversed(self.watched):
            dependents = [stops[w.part.name] for w in self.watched.values() if name in w.part.needs]
            stops[name] = asyncio.create_task(self._stop(self.watched[name], dependents))
        await asyncio.gather(*stops.values())

    def kill(self) -> None:
        """End every part at once."""
        for watched in self.watched.values():
            watched.signal(signal.SIGKILL)

    async def _keep(self, watched: Watched) -> None:
        """Run one part, again and again, until it is done or given up."""
        part = watched.part
        quick_deaths = 0
        while True:
            for name in part.needs:
                await self.watched[name].ready.wait()
            began = time.monotonic()
            await self._enter(watched, State.STARTING)
            reason = await (self._act(watched, part.action) if part.action else self._run(watched, began))
            if reason is None:
                return
            lived_s = time.monotonic() - began
            quick_deaths = quick_deaths + 1 if lived_s < QUICK_DEATH_S or watched.ready_after_s is None else 1
            if part.once or part.action or quick_deaths >= QUICK_DEATHS:
                await self._give_up(watched, reason)
                return
            pause_s = self._backoff_s * 2 ** (quick_deaths - 1)
            last = watched.log_tail()[-1:] or ["(its log is empty)"]
            self._say(f"{part.name} {reason}; it starts again in {pause_s:.1f} s. Its last words: {last[0]}", "yellow")
            watched.restarts += 1
            await self._enter(watched, State.RESTARTING)
            await asyncio.sleep(pause_s)

    async def _act(self, watched: Watched, action: Callable[[], object]) -> str | None:
        """Do a step that has no process of its own; return why it failed, or None."""
        began = time.monotonic()
        watched.log_path.touch()
        try:
            await asyncio.to_thread(action)
        except Exception as error:  # whatever it is, a person is told, and the stack stops in good order
            return f"failed: {error}"
        await self._enter_done(watched, began)
        return None

    async def _run(self, watched: Watched, began: float) -> str | None:
        """Run one process of a part to its end; return why it should run again, or None if it should not."""
        part = watched.part
        process = await watched.spawn(self._environment, self._directory)
        exit_ = asyncio.create_task(process.wait())
        teller = asyncio.create_task(self._tell(watched)) if part.tells else None
        if not part.once:
            ready = asyncio.create_task(self._until_ready(part))
            try:
                await asyncio.wait({exit_, ready}, timeout=part.ready_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
            if not exit_.done() and ready.done() and not ready.cancelled():
                ready.result()
                watched.ready_after_s = time.monotonic() - began
                self._say(f"{part.name} ready after {watched.ready_after_s:.1f} s", "green")
                await self._enter(watched, State.READY)
            elif not exit_.done():
                watched.signal(signal.SIGKILL)
                await exit_
                return f"was not ready after {part.ready_s:.0f} s"
        try:
            code = await exit_
        finally:
            if teller is not None:
                teller.cancel()
        if part.tells:
            self._say_lines(watched)
        watched.signal(signal.SIGKILL)  # what it may have left behind
        if code == 0 and part.once:
            await self._enter_done(watched, began)
            return None
        if code in part.exits:
            if code == 0:
                self._say(part.exits[code], "bold green")
                await self._enter(watched, State.DONE)
            else:
                await self._give_up(watched, f"ended: {part.exits[code]}")
            return None
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    async def _tell(self, watched: Watched) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self._say_lines(watched)

    def _say_lines(self, watched: Watched) -> None:
        for line in watched.new_lines():
            self._say(f"{watched.part.name}: {line}")

    async def _enter_done(self, watched: Watched, began: float) -> None:
        watched.ready_after_s = time.monotonic() - began
        self._say(f"{watched.part.name} done after {watched.ready_after_s:.1f} s", "green")
        await self._enter(watched, State.DONE)

    async def _until_ready(self, part: Part) -> None:
        while part.is_ready is not None and not await asyncio.to_thread(part.is_ready):
            await asyncio.sleep(POLL_S)

    async def _give_up(self, watched: Watched, reason: str) -> None:
        part = watched.part
        attempts = f" (attempt {watched.restarts + 1})" if watched.restarts else ""
        tail = [] if part.tells else watched.log_tail()  # else it was heard already
        shown = f". The end of {watched.log_path}:" + "".join(f"\n  | {line}" for line in tail) if tail else ""
        advice = f"\n  {part.advice}" if part.advice else ""
        self._say(f"{part.name} {reason}{attempts}{shown}{advice}", "bold red")
        await self._enter(watched, State.FAILED)

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
        await self._enter(watched, State.STOPPED)

    async def _before_stop(self, part: Part) -> None:
        if part.before_stop is None:
            return
        try:
            await asyncio.wait_for(asyncio.to_thread(part.before_stop, self._say), part.stop_s)
        except Exception as error:  # whatever it is, the part is stopped
            self._say(f"{part.name} is stopped without what comes before it: {error or 'it took too long'}", "yellow")

    async def _enter(self, watched: Watched, state: State) -> None:
        async with self._changed:
            watched.state = state
            if state in (State.READY, State.DONE):
                watched.ready.set()
            else:
                watched.ready.clear()
            self._changed.notify_all()
