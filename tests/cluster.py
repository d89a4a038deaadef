"""Read the manifests of a cluster, build them by kustomize, and judge their pods by rules."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.files import CHECKOUT

FOLDER = CHECKOUT / "orchestration" / "deploy" / "cluster"
VALUES = FOLDER / "offline" / "dagster-values.yaml"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
PROGRAMS = CHECKOUT / ".tools" / "go"
BUILD_S = 900.0

Document = dict[str, Any]
Pod = dict[str, Any]


def files(folder: str) -> list[Document]:
    """Return the documents of a folder's manifests, before kustomize."""
    paths = sorted(
        path for path in (FOLDER / folder).glob("*.yaml") if path.name not in ("kustomization.yaml", VALUES.name)
    )
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def settings(folder: str) -> dict[str, str]:
    """Return the variables of a folder's `settings.env`; an empty value means the default."""
    lines = (FOLDER / folder / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def values() -> Document:
    """Return the values for Dagster's chart."""
    found: Document = yaml.safe_load(VALUES.read_text())
    return found


def of_kind(documents: Iterable[Document], kind: str) -> dict[str, Document]:
    """Return the documents of a kind by name."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def pods(documents: Iterable[Document]) -> Iterator[tuple[Document, Pod]]:
    """Yield each document that makes pods, with the spec of its pods."""
    for document in documents:
        template = document.get("spec", {}).get("template")
        if template and "spec" in template:
            yield document, template["spec"]


def container_of(pod: Pod) -> dict[str, Any]:
    """Return the one container of a pod."""
    (container,) = pod["containers"]
    return dict(container)


def faults(pod: Pod, *, ends: bool) -> list[str]:
    """Return the names of the rules that a pod breaks.

    Args:
        ends: whether the pod ends by itself, as in a Job. A pod that runs on needs probes.
    """
    security = pod.get("securityContext", {})
    container = container_of(pod)
    own, resources = container.get("securityContext", {}), container.get("resources", {})
    mounted = {mount["mountPath"] for mount in container.get("volumeMounts", ())}
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    rules = {
        "image with a whole version": tag.count(".") >= 1 and tag[0].isdigit(),
        "user other than root": security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0,
        "filter of system calls": security.get("seccompProfile") == {"type": "RuntimeDefault"},
        "no new privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
        "no capability": own.get("capabilities") == {"drop": ["ALL"]},
        "read-only root": own.get("readOnlyRootFilesystem") is True,
        "place for temporary files": "/tmp" in mounted,
        "requests": {"cpu", "memory"} <= set(resources.get("requests", ())),
        "limits": {"cpu", "memory"} <= set(resources.get("limits", ())),
        "probes": ends or {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container),
        "no variables of other Services": pod.get("enableServiceLinks") is False,
        "no token of the cluster": pod.get("automountServiceAccountToken") is False or "serviceAccountName" in pod,
        "nothing of the node": not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        and not any("hostPath" in volume for volume in pod.get("volumes", ())),
        "bounded volumes": all(
            volume["emptyDir"].get("sizeLimit") for volume in pod.get("volumes", ()) if "emptyDir" in volume
        ),
        "time to stop": 10 <= pod.get("terminationGracePeriodSeconds", 0) <= 60,
    }
    return [rule for rule, is_kept in rules.items() if not is_kept]


def instance_of(values: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return the `dagster.yaml` that Dagster's chart makes of values, as far as the values say something.

    Told from the chart's templates: the chart itself cannot be had here.
    """
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    postgres = values["postgresql"]
    storage = {
        "postgres_db": {
            "username": postgres["postgresqlUsername"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "hostname": postgres["postgresqlHost"],
            "db_name": postgres["postgresqlDatabase"],
            "port": postgres["service"]["port"],
            "params": {},
            "scheme": postgres["postgresqlScheme"],
        }
    }
    daemon = values["dagsterDaemon"]
    coordinator = daemon["runCoordinator"]["config"]["customRunCoordinator"]
    monitoring = daemon["runMonitoring"]
    run = given["runK8sConfig"]
    return {
        "scheduler": {"module": "dagster.core.scheduler", "class": "DagsterDaemonScheduler"},
        "run_storage": {"module": "dagster_postgres.run_storage", "class": "PostgresRunStorage", "config": storage},
        "schedule_storage": {
            "module": "dagster_postgres.schedule_storage", "class": "PostgresScheduleStorage", "config": storage
        },
        "event_log_storage": {
            "module": "dagster_postgres.event_log", "class": "PostgresEventLogStorage", "config": storage
        },
        "run_launcher": {
            "module": "dagster_k8s",
            "class": "K8sRunLauncher",
            "config": {
                "load_incluster_config": given["loadInclusterConfig"],
                "job_namespace": namespace,
                "image_pull_policy": given["imagePullPolicy"],
                "service_account_name": "dagster",
                "dagster_home": values["global"]["dagsterHome"],
                "instance_config_map": "dagster-instance",
                "postgres_password_secret": values["global"]["postgresqlSecretName"],
                "env_config_maps": [each["name"] for each in given["envConfigMaps"]],
                "volume_mounts": given["volumeMounts"],
                "volumes": given["volumes"],
                "labels": given["labels"],
                "resources": given["resources"],
                "security_context": given["securityContext"],
                "run_k8s_config": {
                    "pod_spec_config": run["podSpecConfig"],
                    "job_spec_config": run["jobSpecConfig"],
                },
            },
        },
        "run_coordinator": coordinator,
        "compute_logs": {"module": "dagster.core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"},
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "telemetry": values["telemetry"],
        **values["additionalInstanceConfig"],
    }  # fmt: skip


def kustomize() -> Path:
    """Return kustomize's program; the first call builds it with Go. A machine without Go skips the test."""
    if found := shutil.which("kustomize"):
        return Path(found)
    program = PROGRAMS / "kustomize"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            pytest.skip("no Go here, which builds kustomize")
        environ = os.environ | {"GOBIN": str(PROGRAMS)}
        done = subprocess.run(
            [go, "install", KUSTOMIZE], env=environ, capture_output=True, text=True, timeout=BUILD_S, check=False
        )
        if done.returncode:
            pytest.skip(f"kustomize cannot be built: {done.stderr.strip().splitlines()[-1:]}")
    return program


def built(folder: Path) -> list[Document]:
    """Return the documents that kustomize builds of a folder."""
    done = subprocess.run(
        [str(kustomize()), "build", str(folder)], capture_output=True, text=True, timeout=60.0, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
