"""`make run`: bring up every part of cryptovol on this machine, replay a recording, and show the live forecasts.

Run `python -m orchestration.local.stack` from the root. Ctrl-C or SIGTERM stops all parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from data.files import CHECKOUT
from data.names import NotRead, new_replay_id, spare_loopback
from data.settings import SECRET_IN_URI, UnreadableSecret
from data.stream.clients import client_config
from online.replay.pace import parse_speed
from online.settings import STRANGERS
from orchestration.local.live_lines import LiveForecast, LiveLines
from orchestration.local.observers.configs import write_configs
from orchestration.local.observers.login import where_the_login_is
from orchestration.local.observers.parts import observer_parts
from orchestration.local.observers.scrape_key import key_file
from orchestration.local.parts import stack_parts
from orchestration.local.ports import port_conflicts
from orchestration.local.settings import STACK_LOCK, UNFINISHED_RESTORE, StackSettings, given_settings, retired_settings
from orchestration.local.supervisor import PartState, Supervisor, Watched, tree_memory

STATE_FORMAT = "4"
"""Format of the state under VAR_DIR; raised whenever an older state cannot be read on."""
UNREADABLE = re.compile("[?\x00-\x1f\x7f\U00010000-\U0010ffff]|%[0-9a-fA-F]{2}")
"""Dagster's database is a URI, in which `?` begins options and `%41` is a letter; Java finds no jars below an emoji."""
PLAIN_WIDTH = 120
PLAIN_LINES_S = 5.0  # between live lines without a terminal, which would update the lines in place
STYLES = {
    PartState.READY: "green",
    PartState.DONE: "green",
    PartState.FAILED: "bold red",
    PartState.RESTARTING: "yellow",
}
# A small machine runs all parts at once: one thread each for numbers, and no minutes lost on a missing registry.
SMALL_MACHINE_LIMITS = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",  # names of files and texts are UTF-8, whatever the locale is
}
STRAY = ("UVICORN_", "WEB_CONCURRENCY", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI", "_MLFLOW_SERVER_", "_JAVA_OPTIONS")
"""Beginnings of variables that no part of the stack may inherit: another program's, with effects on our servers."""


class StartRefused(Exception):
    """The stack cannot start; the text gives a person the reason and the remedy."""


def child_environment(settings: StackSettings) -> dict[str, str]:
    """Return the environment of every part."""
    replay_id = settings.replay_id or new_replay_id(datetime.now(UTC))
    # A replay without a given id is over when the stack stops; a replay with a given id can be resumed.
    ends = {} if settings.replay_id else {"REPLAY_END_ON_STOP": "true"}
    # Without a folder for compiled Python, each process would compile all imports: 2 to 5 s.
    compiled = {"PYTHONPYCACHEPREFIX": str(settings.var_dir / "pycache"), "PYTHONDONTWRITEBYTECODE": ""}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(STRAY)}
    found = {**inherited, **SMALL_MACHINE_LIMITS, **compiled, **ends, **settings.environment(replay_id)}
    spare_loopback(found)
    return found


def check_recordings(settings: StackSettings) -> None:
    """Refuse unreadable recordings."""
    for path in settings.recordings:
        if not path.exists():
            raise StartRefused(
                f"RECORDING: there is no file {path}. Name an existing one, or none for a simulated day."
            )
        if not path.is_file() or not os.access(path, os.R_OK):
            raise StartRefused(f"RECORDING: {path} cannot be read: it must be a file that this user may read.")


def prepare_inbox(settings: StackSettings) -> None:
    """Make the stack's own inbox, and refuse a missing inbox of a person."""
    settings.make_inbox()
    if isinstance(settings.inbox_dir, Path) and not settings.inbox_dir.is_dir():
        raise StartRefused(
            f"INBOX_DIR: there is no folder {settings.inbox_dir}. Make it, or name none for one of the stack."
        )


def check_state(settings: StackSettings) -> None:
    """Refuse topics of another release, and note the format of new topics.

    Raises:
        StartRefused: the broker's data is of another format, or a restore was not finished.
    """
    var_dir = settings.var_dir
    if (unfinished := var_dir / UNFINISHED_RESTORE).exists():
        raise StartRefused(
            f"a restore of {unfinished.read_text().strip()} was not finished, so registry and lake may be of different "
            "backups: run `make restore` with the same BACKUP again"
        )
    note = var_dir / "format"
    found = note.read_text().strip() if note.exists() else "none"
    if (var_dir / "broker" / "kafka" / "data").exists() and found != STATE_FORMAT:
        raise StartRefused(
            f"{var_dir} was left by another release (its format is {found}, this one's is {STATE_FORMAT}): "
            f"{settings.how_to_forget} forgets it, with all topics, models and recordings in it."
        )
    note.write_text(f"{STATE_FORMAT}\n")


def check_speed(settings: StackSettings) -> None:
    """Refuse an invalid speed."""
    try:
        parse_speed(settings.replay_speed)
    except ValueError as error:
        raise StartRefused(str(error)) from None


def check_folder(var_dir: Path) -> None:
    """Refuse a state folder whose name another program would not read as it stands."""
    if found := UNREADABLE.search(str(var_dir)):
        raise StartRefused(
            f"VAR_DIR: {var_dir} has {found[0]!r} in its name, which Dagster's database or Java would not read as it "
            "stands: name a folder without question marks, control characters, emoji, and a % before two digits"
        )


def check_access(settings: StackSettings) -> None:
    """Refuse an API that would serve other machines without keys."""
    if settings.api_lets_strangers_in:
        raise StartRefused(STRANGERS.format(host=settings.host))


@contextlib.contextmanager
def only_stack(var_dir: Path) -> Iterator[None]:
    """Hold the lock of the state folder; refuse a second stack on the same state, and a folder that cannot serve."""
    check_folder(var_dir)
    with contextlib.ExitStack() as stack:
        try:
            var_dir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((var_dir / STACK_LOCK).open("a+"))
        except OSError as error:
            raise StartRefused(
                f"VAR_DIR: {var_dir} is no folder that this user can write to ({error.strerror}): name another one"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise StartRefused(
                f"another stack (process {lock.read().strip() or 'unknown'}) runs on {var_dir}. "
                f"Stop it, or let VAR_DIR name another folder and the *_PORT settings other ports."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def parts_table(watched: list[Watched], own_memory: int) -> Table:
    """Return a table of the parts: address, state, memory and start time."""
    table = Table("part", title="cryptovol", title_justify="left")
    table.add_column("address", overflow="fold")
    table.add_column("state")
    table.add_column("memory", justify="right")
    table.add_column("ready after", justify="right")
    total = own_memory
    for each in watched:
        memory = each.memory()
        total += memory or 0
        table.add_row(
            each.part.name,
            each.part.address or "–",
            Text(each.state, STYLES.get(each.state, "")),
            f"{memory / 2**20:.0f} MiB" if memory is not None else "–",
            f"{each.ready_after_s:.1f} s" if each.ready_after_s is not None else "–",
        )
    table.add_row("this process", "–", "", f"{own_memory / 2**20:.0f} MiB", "–", end_section=True)
    table.add_row("all", "", "", f"{total / 2**20:.0f} MiB", "", style="bold")
    return table


async def run_stack(settings: StackSettings, console: Console, began: float) -> int:
    """Bring all parts up, show the live lines until a signal comes, and stop all parts.

    Args:
        began: `time.monotonic` when the stack was asked for.

    Returns:
        The exit code: 0 after a signal, 1 if a part could not start.
    """
    kafka = {"bootstrap.servers": settings.local_kafka} if settings.starts_kafka else client_config(settings)
    observers, notes = observer_parts(settings)
    parts = [*stack_parts(settings, kafka), *observers]
    if conflicts := port_conflicts(parts):
        raise StartRefused("\n".join(conflicts))

    def say(text: str, style: str = "") -> None:
        console.print(Text(f"{time.monotonic() - began:6.1f} s  {text}", style), soft_wrap=True)

    def first(_: LiveForecast) -> None:
        say(f"first forecast {time.monotonic() - began:.1f} s after start", "bold green")

    environment = child_environment(settings)
    supervisor = Supervisor(
        parts, settings.var_dir / "logs", say, environment, CHECKOUT, log_max_bytes=settings.log_max_mb * 10**6
    )
    forecaster = next(part for part in parts if part.name == "forecaster")
    live_lines = LiveLines(kafka, forecaster.address, environment["REPLAY_ID"], first)
    stopping = stop_on_signals(supervisor.kill)
    say(f"replay {environment['REPLAY_ID']} at speed {settings.replay_speed}")
    say(f"starting {', '.join(part.name for part in parts)}; logs in {settings.var_dir / 'logs'}")
    for note in notes:
        say(note, "yellow")
    if observers:
        say(where_the_login_is(settings))
    if settings.api_keys:
        say(f"the API asks for a key; the stack's own is in {key_file(settings)}")
    await supervisor.start()
    live_lines.start()
    try:
        is_up = await unless_stopped(stopping, supervisor.wait_until_up())
        if is_up is None:
            return 0
        if not is_up:
            say("the stack cannot come up without that part", "bold red")
            return 1
        own_memory = tree_memory(os.getpid(), with_children=False) or 0
        console.print(parts_table(list(supervisor.watched.values()), own_memory))
        await _show(live_lines, console, stopping)
        return 0
    finally:
        say("stopping")
        live_lines.close()
        await supervisor.stop()
        say("all parts have ended")


def stop_on_signals(kill: Callable[[], None]) -> asyncio.Event:
    """Return an event set by Ctrl-C, SIGTERM and a closed terminal; a second Ctrl-C kills the parts still running."""
    stopping = asyncio.Event()
    asked: list[float] = []

    def ask(number: signal.Signals) -> None:
        # One Ctrl-C can arrive twice: from the terminal, and passed on by the parent process.
        if asked and number is signal.SIGINT and time.monotonic() - asked[0] > 1.0:
            kill()
        asked.append(time.monotonic())
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ask, number)
    return stopping


async def unless_stopped(stopping: asyncio.Event, work: Coroutine[None, None, bool]) -> bool | None:
    """Return the result of the work, or None as soon as a stop is asked for."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if stopping.is_set():
        working.cancel()
        return None
    return working.result()


async def _show(live_lines: LiveLines, console: Console, stopping: asyncio.Event) -> None:
    """Show the live lines until a stop is asked for: in place in a terminal, else one after the other."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not await _is_set_within(stopping, 1.0):
                live.update(Text("\n".join(live_lines.lines() or ["waiting for the first forecast"])), refresh=True)
        return
    shown: list[str] = []
    while not await _is_set_within(stopping, PLAIN_LINES_S):
        lines = live_lines.lines()
        if lines != shown:
            console.print(Text("\n".join(lines)), soft_wrap=True)
        shown = lines


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def main() -> int:
    began = time.monotonic()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    try:
        settings = StackSettings()
        if settings.run_started is not None and 0 <= time.time() - settings.run_started < 3600:
            began -= time.time() - settings.run_started
        check_recordings(settings)
        check_speed(settings)
        check_access(settings)
        for sentence in retired_settings(given_settings()):
            console.print(Text(sentence, "yellow"), soft_wrap=True)
        with only_stack(settings.var_dir):
            check_state(settings)
            prepare_inbox(settings)
            write_configs(settings)
            return asyncio.run(run_stack(settings, console, began))
    except ValidationError as error:
        console.print(Text("\n".join(wrong_settings(error)), "bold red"), soft_wrap=True)
    except (StartRefused, NotRead, UnreadableSecret) as refusal:
        console.print(Text(str(refusal), "bold red"), soft_wrap=True)
    return 1


def wrong_settings(error: ValidationError) -> Iterator[str]:
    """Yield a sentence for each wrong setting, with its value unless the value holds a login or key."""
    for each in error.errors():
        is_secret = each["type"] == SECRET_IN_URI or each["loc"][0] in StackSettings.secrets()
        was = "" if is_secret else f", was {each['input']!r}"
        yield f"{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}{was}"


if __name__ == "__main__":
    sys.exit(main())
