"""Set up a process: exit codes, signals, and a clock that is set back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()

REFUSED = 2
"""Exit code: no restart helps before a person has acted; the log says how."""
AGAIN = 75
"""Exit code: the cause lies outside, and a new process can continue. EX_TEMPFAIL of sysexits.h."""

LAST_RESORT_S = 7
"""Time from a stop signal to the forced end of a process that hangs; a supervisor would kill the process after 10 s."""

SET_BACK_S = 3.0
"""A wall clock that is set back by more ends a process with a Kafka client."""
LOOK_S = 0.5
"""Seconds between two looks at the clock."""


def until_stopped() -> Callable[[], bool]:
    """Return a callable that is true until SIGTERM or SIGINT."""
    stopped = False

    def stop(_signum: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    # A thread logs the signal: a handler would wait forever for a log's lock that the interrupted code holds. And the
    # client can hang for minutes in one call while the broker is away: no handler runs meanwhile, but a thread does. A
    # forced end loses nothing: the next start continues from the broker's records.
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)

    def report_and_force_end() -> None:
        (number,) = os.read(asked, 1)
        log.info("stopping", signal=signal.Signals(number).name)
        time.sleep(LAST_RESORT_S)
        os._exit(1)

    threading.Thread(target=report_and_force_end, name="stop", daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return lambda: not stopped


def end_if_set_back(end: Callable[[], object] = lambda: os._exit(AGAIN)) -> None:
    """Watch the wall clock in a thread, and end the process when the clock is set back.

    The Kafka client waits until times of the wall clock (librdkafka #2145): its threads would sleep for as long as the
    clock was set back, without a heartbeat. A new process goes on from the broker's records.

    Args:
        end: ends the process.
    """

    def watch() -> None:
        ahead = time.time() - time.monotonic()
        while True:
            time.sleep(LOOK_S)
            ahead, before = time.time() - time.monotonic(), ahead
            if before - ahead > SET_BACK_S:
                log.error(
                    "the clock was set back, and the Kafka client would sleep for as long: the next start goes on",
                    seconds=round(before - ahead, 1),
                )
                end()
                return

    threading.Thread(target=watch, name="clock", daemon=True).start()


def stop_this_process() -> None:
    """Send this process the signal of an operator's stop."""
    os.kill(os.getpid(), signal.SIGTERM)
