"""Bind child processes to their parent: a child ends however the parent ends.

`bound_to_parent` puts this file in front of a command: this file asks the kernel to kill the process with the parent,
and then becomes the command. A separate program is needed: code between fork and exec is unsafe with threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def bound_to_parent(command: Sequence[str], nice: int = 0) -> list[str]:
    """Return a command that runs `command` with more nice than this process, killed when the starting thread ends.

    The signal is SIGKILL: a hung or paused process ends too, and frees all ports at once. Without `prctl` (all
    systems but Linux) the process lives on.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(nice), *command]


def _become(parent: int, nice: int, command: Sequence[str]) -> None:
    import ctypes  # noqa: PLC0415 - late, as `signal`: whoever only wraps a command does not need them
    import signal  # noqa: PLC0415

    # A shell's background job ignores SIGINT, and a child would inherit the setting. A SIGTERM that was held back by
    # the parent takes effect now.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl
            sys.exit(1)
    os.nice(nice)
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        sys.exit(f"{command[0]} could not be run: {error}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
