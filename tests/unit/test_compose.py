"""compose.yaml agrees with the code: ports, variables and commands; each service is limited and shut in."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from data.files import CHECKOUT
from data.process.metrics import project_version
from monitoring.settings import ExporterSettings
from online.settings import ApiSettings, ForecasterSettings, IngestorSettings
from orchestration.local.observers.parts import RETENTION
from orchestration.local.settings import StackSettings
from tests import compose
from tests.unit.test_docs import first_cells, section

SERVICES = compose.services()
EACH = pytest.mark.parametrize("name", SERVICES)
STORES = {"redpanda", "postgres"}
WHY_NOT_READ_ONLY = {"redpanda"}
"""`rpk` writes the broker's configuration at each start."""
CAPABILITIES = {"gateway": ["NET_BIND_SERVICE"]}
"""What a service gets back: Caddy's program has this capability in its file."""
GRACE = {**dict.fromkeys(("ingestor", "forecaster", "api", "exporter", "topics", "recording"), "10s"),
         **dict.fromkeys(("dagster-code", "dagster-webserver", "dagster-daemon"), "40s"),
         **dict.fromkeys(("redpanda", "postgres", "mlflow", "prometheus", "grafana"), "30s")}  # fmt: skip
PORTS = {
    "api": ApiSettings.model_fields["api_port"].default,
    "forecaster": ForecasterSettings.model_fields["forecaster_port"].default,
    "exporter": ExporterSettings.model_fields["exporter_port"].default,
    "ingestor": IngestorSettings.model_fields["ingestor_port"].default,
    "dagster-webserver": StackSettings.model_fields["dagster_port"].default,
    "dagster-code": StackSettings.model_fields["dagster_code_port"].default,
    "mlflow": StackSettings.model_fields["mlflow_port"].default,
    "prometheus": StackSettings.model_fields["prometheus_port"].default,
    "grafana": StackSettings.model_fields["grafana_port"].default,
    "redpanda": 9092,
    "postgres": 5432,
    "alertmanager": 9093,  # of the image; 9095 on a laptop, where Kafka's controller has 9093
}
"""Port of each service in its own container, the default of the code."""


def limits(service: compose.Service) -> dict[str, Any]:
    found: dict[str, Any] = service["deploy"]["resources"]["limits"]
    return found


def networks(name: str) -> set[str]:
    return set(SERVICES[name].get("networks", ()))


def test_all_parts_are_there() -> None:
    assert set(SERVICES) == {
        *("redpanda", "topics", "postgres", "mlflow", "first-model"),
        *("recording", "ingestor", "forecaster", "api"),
        *("dagster-code", "dagster-webserver", "dagster-daemon", "first-ml"),
        *("exporter", "prometheus", "alertmanager", "grafana", "gateway"),
    }
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"ingestor", "recording"}


@EACH
def test_a_service_is_shut_in(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == CAPABILITIES.get(name, [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name not in WHY_NOT_READ_ONLY)
    assert "privileged" not in service
    assert "/var/run/docker.sock" not in str(service)


@EACH
def test_a_service_is_limited(name: str) -> None:
    found = limits(SERVICES[name])
    assert 0 < float(found["cpus"]) <= 2
    assert re.fullmatch(r"\d+[MG]", found["memory"])
    assert 0 < found["pids"] <= 512
    assert SERVICES[name]["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


@EACH
def test_a_service_is_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    if compose.runs_once(service):
        assert service["restart"] == "on-failure:10"
    else:
        assert service["restart"] == ("on-failure:10" if name == "ingestor" else "unless-stopped")
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert service.get("stop_grace_period") == GRACE.get(name, service.get("stop_grace_period"))
    assert "stop_grace_period" in service


@EACH
def test_an_image_has_a_whole_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    if compose.is_ours(SERVICES[name]):
        assert tag == project_version()
        assert image == f"cryptovol-{SERVICES[name]['build']['target']}"
    else:
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z]+)?", tag)
        assert "build" not in SERVICES[name]


def test_one_port_is_published_on_loopback_until_a_person_decides_otherwise() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"gateway"}
    (port,) = SERVICES["gateway"]["ports"]
    assert port == {"host_ip": "127.0.0.1", "published": "8080", "target": 8080, "protocol": "tcp"}


def test_the_gateway_cannot_reach_a_store() -> None:
    """Nor the processes that ask nobody for a password: metrics, Prometheus, Dagster's code server."""
    reached = {name for name in SERVICES if networks(name) & networks("gateway")} - {"gateway"}
    assert reached == {"api", "dagster-webserver", "mlflow", "grafana"}
    assert STORES & reached == set()


def test_only_the_gateway_and_the_senders_of_alerts_have_a_way_out() -> None:
    declared = compose.compose()["networks"]
    outside = {name for name, network in declared.items() if not network.get("internal")}
    assert outside == {"edge", "outward"}
    assert {name for name in SERVICES if networks(name) & outside} == {"gateway", "alertmanager", "dagster-code"}
    assert set().union(*map(networks, SERVICES)) == set(declared)


@EACH
def test_a_service_reaches_whom_it_waits_for(name: str) -> None:
    service = SERVICES[name]
    for other, wait in service.get("depends_on", {}).items():
        done = compose.runs_once(SERVICES[other])
        allowed = ("service_completed_successfully",) if done else ("service_healthy", "service_started")
        assert wait["condition"] in allowed
        if not done and other != "dagster-daemon":
            assert networks(name) & networks(other), other


@EACH
def test_a_health_check_asks_the_port_of_its_process(name: str) -> None:
    asked = re.findall(r"127\.0\.0\.1:(\d+)", str(SERVICES[name].get("healthcheck")))
    assert asked in ([], [str(PORTS.get(name, 8081))])


def test_the_api_is_judged_by_its_process_alone() -> None:
    """A broker that is away must not take the API out: `/health` asks the broker."""
    assert "/health/live" in str(SERVICES["api"]["healthcheck"])
    caddyfile = (compose.DEPLOY / "Caddyfile").read_text()
    assert re.findall(r"health_uri (\S+)", caddyfile) == ["/health/live"]


def test_each_address_of_a_service_has_its_port() -> None:
    """In the environments, Prometheus' targets and Dagster's workspace."""
    texts = [compose.FILE.read_text(), *(path.read_text() for path in sorted(compose.DEPLOY.glob("*.yml")))]
    text = re.sub(r"image: .*", "", "\n".join(texts))
    found = re.findall(rf"(?<![\w-])({'|'.join(SERVICES)}):(\d+)", text)
    others = {("redpanda", "33145"), ("redpanda", "9644")}  # the broker's RPC, and its metrics
    assert {(name, int(port)) for name, port in found if (name, port) not in others} <= set(PORTS.items())
    prometheus = yaml.safe_load((compose.DEPLOY / "prometheus.yml").read_text())
    places = {
        (name, place["port"])
        for job in prometheus["scrape_configs"]
        for place in job.get("dns_sd_configs", ())
        for name in place["names"]
    }
    # Replays of Dagster run beside the code server, each on the next free port.
    replays = {("dagster-code", PORTS["ingestor"] + number) for number in range(3)}
    assert places == {(name, PORTS[name]) for name in ("api", "forecaster", "exporter", "ingestor")} | replays
    (location,) = yaml.safe_load((compose.DEPLOY / "workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] == "dagster-code"
    assert location["grpc_server"]["port"] == PORTS["dagster-code"]


def test_prometheus_has_the_jobs_that_the_rules_ask_for() -> None:
    laptop = yaml.safe_load((CHECKOUT / "monitoring" / "prometheus.yml").read_text())
    server = yaml.safe_load((compose.DEPLOY / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in server["scrape_configs"]}
    assert jobs == {job["job_name"] for job in laptop["scrape_configs"]} | {"redpanda"}
    assert server["global"] == laptop["global"]
    assert set(RETENTION) <= set(compose.words(SERVICES["prometheus"]))


@pytest.mark.parametrize("public_host", ["", "forecasts.example.org"])
def test_links_hosts_and_origins_are_those_of_the_gateway(public_host: str) -> None:
    services = compose.services(PUBLIC_HOST=public_host)
    url = f"https://{public_host}" if public_host else "http://localhost:8080"
    for name, page in (("api", "dagster"), ("api", "mlflow"), ("api", "grafana"), ("dagster-webserver", "dagster")):
        assert services[name]["environment"][f"{page.upper()}_PUBLIC_URL"] == f"{url}/{page}"
    assert services["grafana"]["environment"]["GF_SERVER_ROOT_URL"] == f"{url}/grafana/"
    assert services["mlflow"]["environment"]["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == url
    assert (public_host or "localhost") in services["api"]["environment"]["ALLOWED_HOSTS"].split(",")
    allowed = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert allowed[:2] == ([public_host, f"{public_host}:*"] if public_host else ["localhost:*", "127.0.0.1:*"])


@EACH
def test_secrets_are_files(name: str) -> None:
    service = SERVICES[name]
    variables = compose.environment(service)
    literal = {
        variable for variable, value in variables.items() if re.search(r"PASSWORD|TOKEN|SECRET|KEY", variable)
        and value and not value.startswith("/run/secrets/")
    }  # fmt: skip
    assert literal == set()
    named = re.findall(r"/run/secrets/(\w+)", str(service)) + _named_in_scripts(service)
    assert set(named) <= set(service.get("secrets", ()))


def _named_in_scripts(service: compose.Service) -> list[str]:
    """Return the secrets that the mounted scripts of a service read."""
    scripts = [source for source, _ in compose.mounts(service) if source.endswith(".sh")]
    text = "\n".join((CHECKOUT / script).read_text() for script in scripts)
    return re.findall(r"/run/secrets/(\w+)\b(?!/)", text)


def test_each_secret_is_made_by_make_secrets() -> None:
    declared = compose.compose()["secrets"]
    assert declared == {name: {"file": f"./secrets/{name}"} for name in declared}
    makefile = (CHECKOUT / "Makefile").read_text()
    (made,) = re.findall(r"^SECRETS := (.*)$", makefile, re.MULTILINE)
    assert {*made.split(), "api_keys", "alert_webhook_url"} == set(declared)
    used = set().union(*(service.get("secrets", ()) for service in SERVICES.values()))
    assert used == set(declared)
    assert "/secrets/" in (CHECKOUT / ".gitignore").read_text().splitlines()


@EACH
def test_each_mounted_file_exists_and_each_volume_is_declared(name: str) -> None:
    volumes = compose.compose()["volumes"]
    for source, target in compose.mounts(SERVICES[name]):
        if source.startswith("./"):
            assert source == "./recordings" or (CHECKOUT / source).exists(), source
        else:
            assert source in volumes
        assert target.startswith("/")


def test_each_variable_of_a_person_is_explained() -> None:
    page = section((CHECKOUT / "docs" / "deploy.md").read_text(), "## Variables")
    explained = {name for name in first_cells(page) if name.isupper()}
    assert explained == compose.variables()
