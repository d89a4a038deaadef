"""A real MLflow server for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.files import CHECKOUT
from tests.broker import free_ports
from tests.pipeline import wait_until


class MlflowServer:
    """MLflow on a port and a folder of its own; ten seconds to start."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._log = folder / "log"

    def command(self) -> list[str]:
        """Return module and arguments of the server."""
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "-w", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        return [*command, "--artifacts-destination", f"{self.folder}/artifacts"]

    def environment(self) -> dict[str, str]:
        return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def start(self) -> None:
        """Start the server and wait for an answer."""
        self.launch()
        wait_until(self._answers, "MLflow is ready", within_s=120)

    def launch(self) -> None:
        """Start the server, and do not wait for its first answer."""
        command, environment = [sys.executable, "-m", *self.command()], os.environ | self.environment()
        with self._log.open("a") as log:
            self._server = subprocess.Popen(
                command, env=environment, cwd=CHECKOUT, stdout=log, stderr=log, start_new_session=True
            )

    def question(self) -> urllib.request.Request:
        """Return the request whose answer tells that the server is ready."""
        return urllib.request.Request(f"{self.uri}/health")

    def stop(self) -> None:
        if self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGTERM)
            self._server.wait(20)

    def exit_code(self) -> int | None:
        """Return the code with which the server has ended; None while it runs."""
        return self._server.poll()

    def kill(self) -> None:
        """End the server as a power cut would, by SIGKILL."""
        if self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def _answers(self) -> bool:
        assert self._server.poll() is None, self._log.read_text()
        try:
            urllib.request.urlopen(self.question(), timeout=60).close()
        except OSError:
            return False
        return True


@contextmanager
def running_mlflow(folder: Path) -> Iterator[MlflowServer]:
    """Run a server while the block runs."""
    server = MlflowServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
