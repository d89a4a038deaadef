"""A run of Dagster on a cluster: the Job that the launcher asks for does the run, as a process of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import LaunchRunContext

from data.files import CHECKOUT
from tests import cluster
from tests.pipeline import wait_until
from tests.secured import PG_USER, running_postgres

PASSWORD = "sesame of the database"
RUN_S = 120.0


@contextmanager
def jobs_as_processes(environ: Mapping[str, str], log: Path) -> Iterator[tuple[str, list[cluster.Document]]]:
    """Take Jobs as the API of a cluster does, and run each Job's words as a process.

    Yields:
        Address of the API, and the Jobs that have come.
    """
    jobs: list[cluster.Document] = []
    processes: list[subprocess.Popen[bytes]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            job = json.loads(body)
            container = cluster.container_of(job["spec"]["template"]["spec"])
            own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
            with log.open("ab") as file:
                command = [sys.executable, "-m", *container["args"]]
                processes.append(
                    subprocess.Popen(command, env={**environ, **own}, cwd=CHECKOUT, stdout=file, stderr=file)
                )
            jobs.append(job)
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", jobs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.filterwarnings("ignore:Parameter `owners`:dagster.BetaWarning")  # Dagster's own use
def test_a_job_does_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pod of a run has an empty home: instance, storage and code come with the words of the Job."""
    pytest.importorskip("dagster_k8s", reason="the group `server` is not installed")
    pytest.importorskip("dagster_postgres", reason="the group `server` is not installed")
    for name in ("home", "recordings/inbox", "var", "instance"):
        (tmp_path / name).mkdir(parents=True)
    given = {
        name: value.replace("/recordings", str(tmp_path / "recordings"))
        for name, value in cluster.settings("offline").items()
    }
    given |= {"VAR_DIR": str(tmp_path / "var"), "LAKE_URI": str(tmp_path / "lake"), "DAGSTER_PG_PASSWORD": PASSWORD}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    log = tmp_path / "log"
    with (
        running_postgres(PASSWORD, ["dagster"]) as postgres,
        jobs_as_processes(dict(os.environ), log) as (api, jobs),
    ):
        (tmp_path / "kubeconfig").write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "here", "cluster": {"server": api}}],
                    "users": [{"name": "nobody", "user": {}}],
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
                    "current-context": "here",
                }
            )
        )
        values = cluster.values()
        values["postgresql"] |= {"postgresqlHost": "127.0.0.1", "postgresqlUsername": PG_USER}
        values["postgresql"]["service"]["port"] = postgres.port
        values["global"]["dagsterHome"] = str(tmp_path / "home")
        described = cluster.instance_of(values, "cryptovol-offline")
        described["run_launcher"]["config"] |= {
            "load_incluster_config": False,
            "kubeconfig_file": str(tmp_path / "kubeconfig"),
        }
        (tmp_path / "instance" / "dagster.yaml").write_text(yaml.safe_dump(described))
        (deployment,) = values["dagster-user-deployments"]["deployments"]
        image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
        code = ReconstructableRepository.for_module(
            deployment["dagsterApiGrpcArgs"][1], "definitions", str(CHECKOUT), container_image=image
        ).get_reconstructable_job("backfill")
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path / "instance"))) as instance:
            run = instance.create_run_for_job(code.get_definition(), job_code_origin=code.get_python_origin())
            instance.run_launcher.launch_run(LaunchRunContext(run, None))

            def is_finished() -> bool:
                found = instance.get_run_by_id(run.run_id)
                return found is not None and found.is_finished

            wait_until(is_finished, "the run has ended", RUN_S)
            ended = instance.get_run_by_id(run.run_id)
            assert ended is not None
            assert ended.status is dg.DagsterRunStatus.SUCCESS, log.read_text()
    (job,) = jobs
    container = cluster.container_of(job["spec"]["template"]["spec"])
    assert container["image"] == image
    assert PASSWORD not in str(job)
    assert list((tmp_path / "home").glob("*.db")) == [], "no storage of its own"
