"""The manifests of a cluster agree with the code: ports, variables, commands and limits; each pod is shut in."""

from __future__ import annotations

import errno
import os
import re
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.files import CHECKOUT
from data.process.metrics import project_version
from data.process.running import LAST_RESORT_S
from data.settings import KafkaSettings, Settings, TopicSettings
from data.stream.records import PARTITIONS, TRADES
from monitoring.settings import ExporterSettings
from offline.settings import OfflineSettings
from online.api import DRAIN_S
from online.exactly_once.offset_note import GROUP
from online.settings import ApiSettings, ForecasterSettings
from orchestration.instance.home import LOCATION, enter_home
from orchestration.settings import DagsterSettings, OrchestrationSettings, WebserverSettings
from tests import cluster
from tests.unit.test_compose_settings import LIBRARIES
from tests.unit.test_docs import is_module

ONLINE, OFFLINE, LAG = cluster.files("online"), cluster.files("offline"), cluster.files("lag")
PODS = {document["metadata"]["name"]: (document, pod) for document, pod in cluster.pods([*ONLINE, *OFFLINE])}
EACH = pytest.mark.parametrize("name", PODS)
SERVERS = ("forecaster", "api", "exporter", "dagster-ui")
JOBS = ("topics", "first-model")
PORTS = {
    "forecaster": ForecasterSettings.model_fields["forecaster_port"].default,
    "api": ApiSettings.model_fields["api_port"].default,
    "exporter": ExporterSettings.model_fields["exporter_port"].default,
    "dagster-ui": OrchestrationSettings.model_fields["dagster_port"].default,
}
RUNS = (OrchestrationSettings, DagsterSettings, OfflineSettings, KafkaSettings, ExporterSettings)
"""Settings that a run of Dagster may read."""
SETTINGS: dict[str, tuple[type[Settings], ...]] = {
    "online": (TopicSettings, ForecasterSettings, ApiSettings, ExporterSettings),
    "offline": (*RUNS, WebserverSettings),
}
OF_THE_STORE = {"AWS_SHARED_CREDENTIALS_FILE"}
"""Read by the client of the lake's object store."""
BY_A_PERSON = {"logins", "dagster-db"}
"""Secrets that docs/deploy.md tells a person to make."""
BY_THE_CHART = {"dagster-instance", "dagster-workspace-yaml"}
"""ConfigMaps of Dagster's chart in a release named `dagster`."""
GUIDE = (CHECKOUT / "docs" / "deploy.md").read_text()


def container(name: str) -> dict[str, Any]:
    return cluster.container_of(PODS[name][1])


def environment(name: str) -> dict[str, Any]:
    """Return the variables of a container besides those of the ConfigMap."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(name).get("env", ())}


def test_all_parts_are_there() -> None:
    assert set(PODS) == {*SERVERS, *JOBS}
    kinds = {name: document["kind"] for name, (document, _) in PODS.items()}
    assert kinds["forecaster"] == "StatefulSet"
    assert {kinds[name] for name in ("api", "exporter", "dagster-ui")} == {"Deployment"}
    assert {kinds[name] for name in JOBS} == {"Job"}


@EACH
def test_a_pod_is_shut_in_limited_and_watched(name: str) -> None:
    document, pod = PODS[name]
    assert cluster.faults(pod, ends=document["kind"] == "Job") == []


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("image with a whole version", "containers.0.image", "registry:5000/cryptovol-online:latest"),
        ("image with a whole version", "containers.0.image", "registry:5000/cryptovol-online"),
        ("user other than root", "securityContext.runAsUser", 0),
        ("user other than root", "securityContext.runAsNonRoot", None),
        ("filter of system calls", "securityContext.seccompProfile", {"type": "Unconfined"}),
        ("no new privileges", "containers.0.securityContext.allowPrivilegeEscalation", True),
        ("no capability", "containers.0.securityContext.capabilities", {"add": ["NET_ADMIN"]}),
        ("read-only root", "containers.0.securityContext.readOnlyRootFilesystem", False),
        ("place for temporary files", "containers.0.volumeMounts", []),
        ("requests", "containers.0.resources.requests", {"cpu": "1"}),
        ("limits", "containers.0.resources.limits", {"cpu": "1"}),
        ("no variables of other Services", "enableServiceLinks", None),
        ("no token of the cluster", "automountServiceAccountToken", None),
        ("nothing of the node", "hostNetwork", True),
        ("bounded volumes", "volumes.1.emptyDir", {}),
        ("time to stop", "terminationGracePeriodSeconds", 5),
    ],
)
def test_a_fault_is_found(rule: str, path: str, value: Any) -> None:
    pod = deepcopy(PODS["forecaster"][1])
    *way, last = path.split(".")
    place: Any = pod
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value
    assert cluster.faults(pod, ends=False) == [rule]


def test_a_missing_probe_is_found() -> None:
    pod = deepcopy(PODS["api"][1])
    del pod["containers"][0]["startupProbe"]
    assert cluster.faults(pod, ends=False) == ["probes"]
    assert cluster.faults(pod, ends=True) == []


@EACH
def test_an_image_is_ours_and_of_this_version(name: str) -> None:
    target = "offline" if name in ("first-model", "dagster-ui") else "online"
    assert container(name)["image"] == f"cryptovol-{target}:{project_version()}"


@EACH
def test_a_command_is_a_module_behind_the_image_s_first_process(name: str) -> None:
    """`command` would replace tini, which reaps orphans and ends a Python that still imports."""
    found = container(name)
    assert "command" not in found
    assert found["args"][:2] == ["python", "-m"]
    assert is_module(found["args"][2])


@pytest.mark.parametrize("name", SERVERS)
def test_a_port_is_the_default_of_its_process(name: str) -> None:
    (port,) = container(name)["ports"]
    assert port["containerPort"] == PORTS[name]
    (service,) = cluster.of_kind([*ONLINE, *OFFLINE], "Service")[name]["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (PORTS[name], port["name"])
    probes = [container(name)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["port"] for probe in probes} == {port["name"]}


def test_the_api_is_judged_by_its_process_alone() -> None:
    """A broker that is away must not take the API out: `/health` asks the broker."""
    probes = [container("api")[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    assert set(probes) == {"/health/live"}


def test_each_process_has_time_to_end() -> None:
    grace = {name: pod["terminationGracePeriodSeconds"] for name, (_, pod) in PODS.items()}
    assert min(grace["forecaster"], grace["exporter"]) > LAST_RESORT_S
    assert grace["api"] > float(environment("api")["API_LEAVE_S"]) + DRAIN_S


def test_a_forecaster_keeps_its_slot() -> None:
    label = "metadata.labels['apps.kubernetes.io/pod-index']"
    assert environment("forecaster")["SLOT"] == {"fieldRef": {"fieldPath": label}}


@pytest.mark.parametrize("folder", SETTINGS)
def test_each_variable_is_a_setting_of_a_process(folder: str) -> None:
    names = [name for name in PODS if name in ("first-model", "dagster-ui")]
    names = names if folder == "offline" else [name for name in PODS if name not in names]
    given = set(cluster.settings(folder)).union(*map(environment, names))
    known = {field.upper() for settings in SETTINGS[folder] for field in settings.model_fields}
    secrets = {f"{secret.upper()}_FILE" for settings in SETTINGS[folder] for secret in settings.secrets()}
    assert given - known - secrets - LIBRARIES - OF_THE_STORE == set()


@pytest.mark.parametrize("folder", SETTINGS)
def test_each_process_takes_the_values(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # without the .env of the checkout
    for variable, value in cluster.settings(folder).items():
        monkeypatch.setenv(variable, value)
    for settings in SETTINGS[folder]:
        settings()


@pytest.mark.parametrize("folder", SETTINGS)
def test_passwords_are_files(folder: str) -> None:
    secret = re.compile("PASSWORD|TOKEN|SECRET|KEY")
    assert [name for name in cluster.settings(folder) if secret.search(name) and not name.endswith("_FILE")] == []
    for name in PODS:
        for variable, value in environment(name).items():
            if secret.search(variable) and not variable.endswith("_FILE"):
                assert (variable, value["secretKeyRef"]["name"]) == ("DAGSTER_PG_PASSWORD", "dagster-db")


@pytest.mark.parametrize(("folder", "documents"), [("online", ONLINE), ("offline", OFFLINE)])
def test_the_way_to_each_store_is_open(folder: str, documents: list[dict[str, Any]]) -> None:
    found = cluster.settings(folder)
    ports = {int(re.findall(r":(\d+)$", found[name])[0]) for name in ("KAFKA_BOOTSTRAP_SERVERS", "MLFLOW_TRACKING_URI")}
    if folder == "offline":
        ports |= {cluster.values()["postgresql"]["service"]["port"], 443}
    policies = cluster.of_kind(documents, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert ports <= {port["port"] for port in policies["stores"]["spec"]["egress"][0]["ports"]}


@pytest.mark.parametrize("documents", [ONLINE, OFFLINE])
def test_each_policy_and_budget_chooses_a_pod(documents: list[dict[str, Any]]) -> None:
    labels = [document["spec"]["template"]["metadata"]["labels"] for document, _ in cluster.pods(documents)]
    labels += [{"component": "user-deployments"}, {"component": "dagster-daemon"}]  # of the chart
    chosen = [
        *cluster.of_kind(documents, "NetworkPolicy").values(),
        *cluster.of_kind(documents, "PodDisruptionBudget").values(),
    ]
    for document in chosen:
        selector = document["spec"].get("podSelector") or document["spec"].get("selector") or {}
        assert any(_matches(selector, each) for each in labels), document["metadata"]["name"]


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    named = selector.get("matchLabels", {}).items() <= labels.items()
    return named and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))


def test_each_volume_and_name_that_a_pod_asks_for_is_made_by_somebody() -> None:
    claims = set(cluster.of_kind(OFFLINE, "PersistentVolumeClaim"))
    for document, pod in PODS.values():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        own = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", ())}
        mounted = {mount["name"] for mount in cluster.container_of(pod)["volumeMounts"]}
        assert mounted == set(volumes) | own
        text = str(pod)
        assert set(re.findall(r"'secretName': '([\w-]+)'", text)) <= BY_A_PERSON
        assert set(re.findall(r"'secretKeyRef': {'name': '([\w-]+)'", text)) <= BY_A_PERSON
        assert set(re.findall(r"'configMap': {'name': '([\w-]+)'", text)) <= BY_THE_CHART
        assert set(re.findall(r"'claimName': '([\w-]+)'", text)) <= claims
    assert [name for name in BY_A_PERSON if f"create secret generic {name}" not in GUIDE] == []


def test_an_autoscaler_decides_alone_and_a_budget_keeps_the_others() -> None:
    scalers = cluster.of_kind(ONLINE, "HorizontalPodAutoscaler")
    scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers.values()}
    assert scaled == {"forecaster", "api"} == set(cluster.of_kind(ONLINE, "PodDisruptionBudget"))
    assert all("replicas" not in PODS[name][0]["spec"] for name in scaled)
    assert PODS["exporter"][0]["spec"]["replicas"] == 1
    assert scalers["forecaster"]["spec"]["maxReplicas"] == PARTITIONS
    for name, scaler in scalers.items():
        target = scaler["spec"]["scaleTargetRef"]
        document = PODS[target["name"]][0]
        assert (target["kind"], target["apiVersion"]) == (document["kind"], document["apiVersion"])
        (metric,) = scaler["spec"]["metrics"]
        request = _processors(container(name)["resources"]["requests"]["cpu"])
        assert metric["resource"]["target"]["averageUtilization"] / 100 * request == pytest.approx(0.7)


def test_the_guide_has_the_numbers_of_the_autoscalers() -> None:
    told = dict(re.findall(r"^\| (forecaster|API) \| (\d+ to \d+), by processor time", GUIDE, re.MULTILINE))
    specs = {name: each["spec"] for name, each in cluster.of_kind(ONLINE, "HorizontalPodAutoscaler").items()}
    bounds = {name: f"{spec['minReplicas']} to {spec['maxReplicas']}" for name, spec in specs.items()}
    assert told == {"forecaster": bounds["forecaster"], "API": bounds["api"]}


def _processors(text: str) -> float:
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def test_the_scaler_by_lag_asks_for_the_forecasters_group() -> None:
    (scaled,) = LAG
    by_processor = cluster.of_kind(ONLINE, "HorizontalPodAutoscaler")["forecaster"]["spec"]
    spec = scaled["spec"]
    assert spec["scaleTargetRef"] == by_processor["scaleTargetRef"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (
        by_processor["minReplicas"],
        by_processor["maxReplicas"],
    )
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == by_processor["behavior"]
    lag, processor = spec["triggers"]
    assert (lag["metadata"]["consumerGroup"], lag["metadata"]["topic"]) == (GROUP, TRADES)
    assert lag["metadata"]["bootstrapServers"] == cluster.settings("online")["KAFKA_BOOTSTRAP_SERVERS"]
    assert int(processor["metadata"]["value"]) == by_processor["metrics"][0]["resource"]["target"]["averageUtilization"]


def test_dagsters_chart_gets_our_code_and_our_limits() -> None:
    values = cluster.values()
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["name"] == LOCATION
    assert deployment["port"] == DagsterSettings.model_fields["dagster_code_port"].default
    assert is_module(deployment["dagsterApiGrpcArgs"][1])
    images = [deployment["image"], values["dagsterDaemon"]["image"], values["dagsterWebserver"]["image"]]
    assert all(image == images[0] for image in images)
    assert f"{images[0]['repository']}:{images[0]['tag']}" == container("dagster-ui")["image"]
    assert values["dagsterWebserver"]["replicaCount"] == 0, "its UI has no door"
    assert re.findall(r"dagster/dagster --version (\S+)", GUIDE) == [version("dagster")]
    assert values["global"]["dagsterHome"] == environment("dagster-ui")["DAGSTER_HOME"]
    assert values["global"]["postgresqlSecretName"] in BY_A_PERSON
    policy = cluster.of_kind(OFFLINE, "NetworkPolicy")["code-server"]["spec"]["ingress"][0]
    assert policy["ports"] == [{"protocol": "TCP", "port": deployment["port"]}]


def test_the_chart_s_instance_is_that_of_one_machine_with_more_runs() -> None:
    own = yaml.safe_load((CHECKOUT / "orchestration" / "dagster.yaml").read_text())
    given = cluster.values()["additionalInstanceConfig"]
    same = own.keys() & given.keys() - {"concurrency"}
    assert {name: given[name] for name in same} == {name: own[name] for name in same}
    assert "retention" in same, "looks of schedules and sensors have an end, too"
    assert given["concurrency"]["pools"] == own["concurrency"]["pools"]
    runs = given["concurrency"]["runs"]
    limits = {(limit["key"], str(limit["value"])): limit["limit"] for limit in runs["tag_concurrency_limits"]}
    for limit in own["concurrency"]["runs"]["tag_concurrency_limits"]:
        found = limits[limit["key"], str(limit["value"])]
        assert found == limit["limit"] or not isinstance(limit["limit"], int)
    others = sum(limit for (key, kind), limit in limits.items() if key == "cryptovol/kind" and kind != "product_month")
    product_months = limits["cryptovol/kind", "product_month"]
    assert runs["max_concurrent_runs"] > product_months + others, "a rollback waits for nobody"
    assert re.search(rf"^\| runs of Dagster \| up to {product_months},", GUIDE, re.MULTILINE)


def test_a_mounted_configuration_of_dagster_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux replaces no mount point: EBUSY."""

    def is_busy(path: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("nux: {enabled: false}\n")
    monkeypatch.setattr(Path, "replace", is_busy)
    assert enter_home() == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["dagster.yaml"]
    assert (tmp_path / "dagster.yaml").read_text() == "nux: {enabled: false}\n"
    monkeypatch.undo()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    enter_home()
    assert (tmp_path / "dagster.yaml").read_text().startswith("# What Dagster keeps")
