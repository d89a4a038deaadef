"""Serve Dagster without the rest of the stack: `python -m orchestration.dev`.

Code server, UI behind its door, and daemon run as under `make run`, with the same home, until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import asyncio
import sys
import time

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from data.files import CHECKOUT
from data.settings import UnreadableSecret
from orchestration.local.parts import dagster_parts
from orchestration.local.ports import port_conflicts
from orchestration.local.settings import StackSettings
from orchestration.local.stack import (
    StartRefused,
    child_environment,
    only_stack,
    prepare_inbox,
    stop_on_signals,
    unless_stopped,
    wrong_settings,
)
from orchestration.local.supervisor import Supervisor


async def serve(settings: StackSettings, console: Console) -> int:
    """Run the parts of Dagster until a signal; return the exit code: 1 if a part could not start."""
    parts = dagster_parts(settings)
    if conflicts := port_conflicts(parts):
        raise StartRefused("\n".join(conflicts))
    began = time.monotonic()

    def say(text: str, style: str = "") -> None:
        console.print(Text(f"{time.monotonic() - began:6.1f} s  {text}", style), soft_wrap=True)

    supervisor = Supervisor(parts, settings.var_dir / "logs", say, child_environment(settings), CHECKOUT)
    stopping = stop_on_signals(supervisor.kill)
    say(f"starting {', '.join(part.name for part in parts)}; logs in {settings.var_dir / 'logs'}")
    await supervisor.start()
    try:
        is_up = await unless_stopped(stopping, supervisor.wait_until_up())
        if is_up:
            say(f"Dagster: {settings.dagster_local_url}", "bold green")
            await stopping.wait()
        return 1 if is_up is False else 0
    finally:
        say("stopping")
        await supervisor.stop()


def main() -> int:
    console = Console(highlight=False)
    try:
        settings = StackSettings()
        with only_stack(settings.var_dir):
            prepare_inbox(settings)
            return asyncio.run(serve(settings, console))
    except ValidationError as error:
        console.print(Text("\n".join(wrong_settings(error)), "bold red"), soft_wrap=True)
    except (StartRefused, UnreadableSecret) as refusal:
        console.print(Text(str(refusal), "bold red"), soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
