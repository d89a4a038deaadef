"""Disturbances of a running stack, and the search for the disturbed process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import psutil

from orchestration.local.settings import STACK_LOCK


class NotHere(ValueError):
    """No process of a drill is within reach; the text has the cause and another way."""


class Disturbance(NamedTuple):
    """One kind of disturbance.

    Attributes:
        part: disturbed process of `make run`; empty: the drill's own ingestor.
        signal: sent to the process; after SIGSTOP the process goes on some seconds later.
        stops_forecasts: whether forecasts stop meanwhile: recovery ends with the next forecast, and else with the next
            answer of the part.
        done: the disturbance in words, for the report.
        harm: effect on sources of other purposes, in words.
    """

    part: str
    signal: signal.Signals
    stops_forecasts: bool
    done: str
    harm: str


_WAITS = "Forecasts of all sources wait for the end of the drill, as at a restart; no forecast is lost."
DRILLS: Mapping[str, Disturbance] = MappingProxyType(
    {
        "kill_forecaster": Disturbance("forecaster", signal.SIGKILL, True, "forecaster killed", _WAITS),
        "kill_ingestor": Disturbance(
            "", signal.SIGKILL, True, "the drill's ingestor killed", "Other sources notice nothing."
        ),
        "kill_broker": Disturbance("kafka", signal.SIGKILL, True, "broker killed", _WAITS),
        "pause_broker": Disturbance("kafka", signal.SIGSTOP, True, "broker paused", _WAITS),
        "restart_api": Disturbance(
            "api",
            signal.SIGTERM,
            False,
            "API ended with SIGTERM",
            "The API answers nobody until the new process is ready; forecasts go on on the topic.",
        ),
        "kill_registry": Disturbance(
            "mlflow",
            signal.SIGKILL,
            False,
            "MLflow killed",
            "A training or a promotion fails meanwhile; the loaded model serves on.",
        ),
    }
)
"""The drills by name, in the order of the list in the Dagster UI."""
MARKS: Mapping[str, str] = MappingProxyType(
    {
        "forecaster": "online.forecaster",
        "kafka": "kafka.Kafka",
        "api": "online.api",
        "mlflow": "orchestration.local.registry_app:create_app",
    }
)
"""Argument in the command of each part."""
_PAUSE = 'kill -STOP "$1" && sleep "$2"; kill -CONT "$1"'


def stack_of(var_dir: Path) -> psutil.Process:
    """Return the process of `make run`, the holder of the lock of a state folder.

    Raises:
        NotHere: no such process runs.
    """
    try:
        with (var_dir / STACK_LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return psutil.Process(int(lock.read()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        pass
    raise NotHere(
        f"no `make run` runs here on {var_dir}, so nothing would start the part again: this drill is for `make run`. "
        "On compose or Kubernetes, end the container or the pod yourself, and compare by the drill kill_ingestor"
    )


def find_part(var_dir: Path, part: str) -> psutil.Process:
    """Return the running process of a part of `make run`.

    Raises:
        NotHere: no `make run` runs here, or no such part of `make run`.
    """
    if (found := _child(stack_of(var_dir), MARKS[part])) is not None:
        return found
    raise NotHere(
        f"`make run` runs no {part} of its own: the settings name another {part}, which a drill does not disturb, or "
        "the part has just ended; the log of `make run` has the cause"
    )


def find_ingestor() -> psutil.Process:
    """Return the ingestor, a child of the calling process.

    Raises:
        NotHere: no ingestor runs.
    """
    if (found := _child(psutil.Process(), "online.ingestor")) is not None:
        return found
    raise NotHere("the drill's own ingestor has ended before the kill; give the drill more trades")


def _child(parent: psutil.Process, argument: str) -> psutil.Process | None:
    """Return the first child with an argument in its command."""
    for process in parent.children():
        with suppress(psutil.Error):
            if argument in process.cmdline():
                return process
    return None


def disturb(process: psutil.Process, number: signal.Signals, pause_s: float) -> None:
    """Send a signal to a process; a stopped process goes on after a pause, even if the caller ends before.

    Args:
        pause_s: length of the pause behind SIGSTOP, in seconds.
    """
    if number is not signal.SIGSTOP:
        os.kill(process.pid, number)
        return
    subprocess.Popen(
        ["/bin/sh", "-c", _PAUSE, "pause", str(process.pid), str(pause_s)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
