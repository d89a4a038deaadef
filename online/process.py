"""A process of the online path: exit codes, signals, garbage collector."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable

from data.stream.clients import log

REFUSED = 2
"""No restart helps before a person has acted; the log says how."""
AGAIN = 75
"""The cause lies outside, and a new process goes on. EX_TEMPFAIL of sysexits.h."""

RESTARTED = {"INGESTOR_RESTARTED": "true"}
"""Environment of an ingestor in the place of a dead one: where that one had ended its source, nothing has failed."""

LAST_RESORT_S = 7
"""After a stop was asked for, the process ends whatever it hangs in; a supervisor would kill it after 10 s."""


def tune_garbage_collector() -> None:
    """Let the garbage collector look less often: a batch makes tens of thousands of tuples, all gone with it, and
    looking through them would take as long as making them."""
    gc.freeze()
    gc.set_threshold(100_000)


def until_stopped() -> Callable[[], bool]:
    """Return what says whether to go on: true until SIGTERM or SIGINT."""
    stopped = False

    def stop(signum: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        log.info("stopping", signal=signal.Signals(signum).name)

    # The client can hang for minutes in one call on a broker that is away: no handler runs meanwhile. A thread does,
    # and nothing is lost by it: the next start goes on from what the broker has.
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)

    def last_resort() -> None:
        os.read(asked, 1)
        time.sleep(LAST_RESORT_S)
        os._exit(1)

    threading.Thread(target=last_resort, name="last resort", daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return lambda: not stopped
