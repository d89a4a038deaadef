"""Plant harm in a stack of its own, and show what each part sees: `make harm`.

The stack has free ports and a folder under `var/harm`; a stack of `make run` may run beside. Everything is ended at the
end, or with `--keep` at Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from data.files import CHECKOUT
from orchestration.local.kafka.broker import jars_folder
from orchestration.local.kafka.jars import JarsMissing, fetch_jars
from orchestration.local.stack import StartRefused, only_stack
from tests.faults.stacks import running_stack
from tests.harm.chain import Chain, Outcome, Say
from tests.harm.day import HARM_HOUR, PRODUCT, simulate
from tests.harm.pages import Pages
from tests.harm.report import WIDTH, show

STOP_S = 60.0
NEVER = "0 0 29 2 *"
"""Schedule of sink and drift: the drill runs both after each hour of event time, as at the recorded pace."""


@contextlib.contextmanager
def harmed_stack(folder: Path, say: Say) -> Iterator[tuple[Outcome, Pages]]:
    """Run the chain on a stack of its own, and keep the stack up in the block.

    Args:
        folder: new; for all state.
    """
    folder.mkdir(parents=True)
    warm_up, recording = folder / "warm-up.csv", folder / "harmed-day.csv"
    say("simulating the day")
    simulate(recording, PRODUCT, "--harm-from", f"{HARM_HOUR}:00")
    simulate(warm_up, "ETH-USD", "--hours", "0", "1")
    # The stack replays at once, before its first model: an hour of another
    # product as a drill, which feeds no day, no drift and no page.
    first = {"RECORDING": str(warm_up), "REPLAY_SPEED": "max", "PURPOSE": "drill"}
    log = folder / "stack.log"
    say(f"starting a stack; its log is {log}")
    with running_stack(folder / "var", log, SINK_CRON=NEVER, DRIFT_CRON=NEVER, CLEAN_CRON=NEVER, **first) as (
        process,
        settings,
    ):
        chain = Chain(process, settings, log, folder, say)
        pages = Pages(chain.api, chain.dagster, chain.mlflow, chain.prometheus)
        say(f"live page {pages.live}  Dagster {pages.dagster}  MLflow {pages.mlflow}")
        yield chain.run(recording), pages
        process.send_signal(signal.SIGINT)
        process.wait(STOP_S)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harm", description=__doc__)
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "var" / "harm", help="for all state; emptied first")
    parser.add_argument("--keep", action="store_true", help="leave the stack up, to look around, until Ctrl-C")
    arguments = parser.parse_args()
    began, console = time.monotonic(), Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {text}", markup=False, soft_wrap=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        fetch_jars(jars_folder(CHECKOUT / "var"))
        with only_stack(arguments.folder):
            state = arguments.folder / "state"
            shutil.rmtree(state, ignore_errors=True)
            with harmed_stack(state, say) as (seen, pages):
                show(seen, pages, console)
                if arguments.keep:
                    say("the stack stays up: Ctrl-C ends it")
                    with contextlib.suppress(KeyboardInterrupt):
                        signal.pause()
            say("all processes have ended")
    except (JarsMissing, StartRefused, AssertionError) as error:
        console.print(str(error), style="bold red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        say("stopped; all processes have ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
