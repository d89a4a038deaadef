"""What kustomize and dagster-k8s make of the manifests passes the schemas of Kubernetes and the rules for pods."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config

from data.process.metrics import project_version
from tests import cluster

KUBERNETES = "1.37"
UNKNOWN = {"ScaledObject"}
"""Kinds of KEDA, which is no part of Kubernetes."""


def validate(document: cluster.Document) -> None:
    """Fail if a document is none of Kubernetes; a field that Kubernetes does not know is a fault, too."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    service = cluster.of_kind(cluster.files("online"), "Service")["api"]
    validate(service)
    with pytest.raises(Exception, match="prots"):
        validate(service | {"spec": {"prots": service["spec"]["ports"]}})


@pytest.mark.parametrize("folder", ["online", "offline", "example"])
def test_what_kustomize_builds_is_valid(folder: str) -> None:
    documents = cluster.built(cluster.FOLDER / folder)
    for document in documents:
        validate(document)
    for document, pod in cluster.pods(documents):
        assert cluster.faults(pod, ends=document["kind"] == "Job") == [], document["metadata"]["name"]
    namespaces = cluster.of_kind(documents, "Namespace")
    (namespace,) = namespaces
    assert namespaces[namespace]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"]["namespace"] for each in documents if each["kind"] != "Namespace"} == {namespace}
    (settings,) = cluster.of_kind(documents, "ConfigMap")
    assert set(re.findall(r"'configMapRef': {'name': '([\w-]+)'}", str(documents))) == {settings}


def test_a_name_of_the_chart_is_not_changed() -> None:
    """The chart asks for the ConfigMap `settings`, and the UI for two ConfigMaps and the account of the chart."""
    documents = cluster.built(cluster.FOLDER / "offline")
    assert set(cluster.of_kind(documents, "ConfigMap")) == {"settings"}
    ui = cluster.of_kind(documents, "Deployment")["dagster-ui"]["spec"]["template"]["spec"]
    assert ui["serviceAccountName"] == "dagster"
    volumes = [volume["configMap"]["name"] for volume in ui["volumes"] if "configMap" in volume]
    assert volumes == ["dagster-instance", "dagster-workspace-yaml"]


def test_the_example_changes_images_settings_and_ports() -> None:
    documents = cluster.built(cluster.FOLDER / "example")
    images = {cluster.container_of(pod)["image"] for _, pod in cluster.pods(documents)}
    assert images == {f"images.example.org/cryptovol-online:{project_version()}"}
    (settings,) = cluster.of_kind(documents, "ConfigMap").values()
    own = cluster.settings("online")
    assert set(settings["data"]) == set(own)
    changed = {name: value for name, value in settings["data"].items() if value != own[name]}
    assert changed["KAFKA_BOOTSTRAP_SERVERS"] == "kafka.example.org:9093"
    assert settings["data"]["HOST"] == own["HOST"] == "0.0.0.0"
    policy = cluster.of_kind(documents, "NetworkPolicy")["stores"]
    assert [port["port"] for port in policy["spec"]["egress"][0]["ports"]] == [9093, 443]


def test_the_scaler_by_lag_takes_the_place_of_the_autoscaler(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({
            "namespace": "cryptovol",
            "resources": [_way(tmp_path, "online")],
            "components": [_way(tmp_path, "lag")],
        })
    )  # fmt: skip
    documents = cluster.built(tmp_path)
    assert set(cluster.of_kind(documents, "HorizontalPodAutoscaler")) == {"api"}
    assert set(cluster.of_kind(documents, "ScaledObject")) == {"forecaster"}
    for document in documents:
        if document["kind"] not in UNKNOWN:
            validate(document)


def _way(start: Path, folder: str) -> str:
    """Return the relative path of a folder, as kustomize wants it."""
    return os.path.relpath(cluster.FOLDER / folder, start)


@pytest.fixture
def instance() -> dict[str, Any]:
    return cluster.instance_of(cluster.values(), "cryptovol-offline")


def test_dagster_takes_the_instance_of_the_chart(instance: dict[str, Any], tmp_path: Path) -> None:
    """Limits of a coordinator beside `concurrency` would be refused here."""
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    found, _ = dagster_instance_config(str(tmp_path))
    runs = found["concurrency"]["runs"]
    assert {"key": "cryptovol/product", "value": {"applyLimitPerUniqueValue": True}, "limit": 1} in runs[
        "tag_concurrency_limits"
    ]


def test_a_run_is_a_job_that_is_shut_in(instance: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = pytest.importorskip("dagster_k8s.launcher", reason="the group `server` is not installed")
    jobs = pytest.importorskip("dagster_k8s.job")
    client = pytest.importorskip("kubernetes.client")
    monkeypatch.setattr(launchers, "load_kubernetes_config", lambda **_: None)  # no cluster is here
    config = instance["run_launcher"]["config"]
    processed = process_config(launchers.K8sRunLauncher.config_type(), config)
    assert processed.success, processed.errors
    launcher = launchers.K8sRunLauncher.from_config_value(None, processed.value)
    context = launcher.get_container_context_for_run(dg.DagsterRun(job_name="backfill"))
    image = cluster.values()["dagsterDaemon"]["image"]
    job = jobs.construct_dagster_k8s_job(
        context.get_k8s_job_config(f"{image['repository']}:{image['tag']}", launcher),
        ["dagster", "api", "execute_run"],
        "dagster-run-1",
        user_defined_k8s_config=context.run_k8s_config,
    )
    document = client.ApiClient().sanitize_for_serialization(job)
    validate(document)
    ((_, pod),) = cluster.pods([document])
    assert cluster.faults(pod, ends=True) == []
    assert pod["serviceAccountName"] == "dagster"
    container = cluster.container_of(pod)
    assert "command" not in container, "tini is the image's first process"
    assert [each["configMapRef"]["name"] for each in container["envFrom"]] == ["settings"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/dagster", "/var/lib/cryptovol", "/recordings", "/tmp"} <= mounted
    assert document["spec"]["ttlSecondsAfterFinished"] == 3600
