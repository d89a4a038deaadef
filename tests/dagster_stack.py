"""Dagster's processes on ports of their own, for tests that launch jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from orchestration.local.dagster import client
from orchestration.local.parts import listens
from tests.pipeline import Process, running, wait_until

STARTS_S = 600.0  # on two busy processors; seconds on idle ones


@dataclass(frozen=True)
class DagsterStack:
    """Code server, UI and daemon.

    Attributes:
        environment: of the processes, with DAGSTER_PORT and DAGSTER_CODE_PORT.
        folder: of the logs.
    """

    environment: Mapping[str, str]
    folder: Path

    @property
    def url(self) -> str:
        path = urlsplit(self.environment.get("DAGSTER_PUBLIC_URL", "")).path
        return f"http://127.0.0.1:{self.environment['DAGSTER_PORT']}{path}"

    @contextmanager
    def running(self) -> Iterator[dict[str, psutil.Process]]:
        """Run the processes in the block, from when a job can be launched; yield the processes by name."""
        names = ("code_server", "webserver", "daemon")
        code, ui, daemon = parts = [
            Process(f"orchestration.{name}", dict(self.environment), self.folder / f"{name}.log") for name in names
        ]
        with running(code):
            wait_until(listens(int(self.environment["DAGSTER_CODE_PORT"])), "the code server listens", STARTS_S)
            with running(ui, daemon):
                wait_until(lambda: client.is_loaded(self.url), "Dagster has the definitions", STARTS_S)
                pids = {name: part.process.pid for name, part in zip(names, parts, strict=True)}
                yield {name: psutil.Process(pid) for name, pid in pids.items()}

    def launch(self, job: str, ops: Mapping[str, Any] | None = None) -> str:
        """Run a job to its success, and return the id of the run.

        Args:
            ops: config of each op.
        """
        run_id = client.launch(self.url, job, {"ops": {name: {"config": each} for name, each in (ops or {}).items()}})
        ended = client.wait(self.url, run_id)
        assert ended == "SUCCESS", f"{job}: {ended}: {client.failure_of(self.url, run_id)}"
        return run_id
