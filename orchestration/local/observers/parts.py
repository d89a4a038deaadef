"""Observers of the stack: Prometheus, Alertmanager and Grafana, if the machine has the programs.

Forecasts go first: observers start after the processes of the forecasts, yield to these processes, and may be absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestration.local.observers.configs import MONITORING, alertmanager_file, prometheus_file, web_file
from orchestration.local.observers.login import can_hash, observer_login
from orchestration.local.parts import STANDS_BACK, answers
from orchestration.local.ports import port_conflicts
from orchestration.local.settings import StackSettings
from orchestration.local.supervisor import Part
from orchestration.settings import Login

RETENTION = ("--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=1GB")
# Half of the garbage of Go's default, and one thread: a small machine runs all parts.
SMALL_GO = {"GOGC": "50", "GOMAXPROCS": "1"}
DASHBOARDS = MONITORING / "grafana"


def observer_parts(settings: StackSettings) -> tuple[list[Part], list[str]]:
    """Return the observers, and for each missing observer a sentence with the remedy."""
    parts, notes = [], []
    prometheus = shutil.which("prometheus")
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")  # Debian's name goes first
    grafana = shutil.which("grafana") or shutil.which("grafana-server")
    login = observer_login(settings)
    if can_hash():
        if prometheus:
            parts.append(_prometheus(settings, login, prometheus))
        if alertmanager:
            parts.append(_alertmanager(settings, login, alertmanager))
    elif prometheus or alertmanager:
        notes.append("prometheus and alertmanager do not start: this machine makes no hash of bcrypt for their login")
    if not (prometheus and alertmanager):
        absent = " and ".join(
            name for name, program in (("prometheus", prometheus), ("alertmanager", alertmanager)) if not program
        )
        notes.append(f"no {absent} here, so nobody is alerted: apt-get install prometheus prometheus-alertmanager")
    if grafana:
        parts.append(_grafana(settings, login, Path(grafana)))
    else:
        notes.append("no grafana here, so there are no dashboards: grafana.com/grafana/download has its program")
    conflicts = {part.name: port_conflicts([part]) for part in parts}
    notes += [f"{name} does not start: {text}" for name, texts in conflicts.items() for text in texts]
    free = [part for part in parts if not conflicts[part.name]]
    return [replace(part, needs=("forecaster", "api"), essential=False, nice=STANDS_BACK) for part in free], notes


def _prometheus(settings: StackSettings, login: Login, program: str) -> Part:
    url, config = f"http://127.0.0.1:{settings.prometheus_port}", prometheus_file(settings)
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={config.parent / 'data'}",
        *RETENTION,
        *_listening(url, config),
        f"--web.cors.origin={url}",
    )
    return Part(
        "prometheus",
        command,
        environment=SMALL_GO,
        is_ready=answers(login.in_url(f"{url}/-/ready"), timeout_s=1.0),
        ports={"PROMETHEUS_PORT": settings.prometheus_port},
        address=url,
        advice="The forecasts go on; nothing is recorded, and no alert fires.",
    )


def _alertmanager(settings: StackSettings, login: Login, program: str) -> Part:
    url, config = f"http://127.0.0.1:{settings.alertmanager_port}", alertmanager_file(settings)
    command = (
        program,
        f"--config.file={config}",
        f"--storage.path={config.parent / 'data'}",
        "--cluster.listen-address=",
        *_listening(url, config),
    )
    return Part(
        "alertmanager",
        command,
        environment=SMALL_GO,
        is_ready=answers(login.in_url(f"{url}/-/ready"), timeout_s=1.0),
        ports={"ALERTMANAGER_PORT": settings.alertmanager_port},
        address=url,
        advice="The forecasts go on; alerts reach nobody.",
    )


def _listening(url: str, config: Path) -> Sequence[str]:
    return (
        f"--web.listen-address={url.removeprefix('http://')}",
        f"--web.external-url={url}/",
        f"--web.config.file={web_file(config)}",
        "--log.level=warn",
    )


def _grafana(settings: StackSettings, login: Login, program: Path) -> Part:
    """Return Grafana with our data source and dashboards.

    Grafana sets the password once, when making the database. The folder of earlier releases may hold a database with
    Grafana's default password, so the state has a new folder.
    """
    url, state = f"http://127.0.0.1:{settings.grafana_port}", settings.var_dir / "grafana" / "with-login"
    packaged = Path("/usr/share/grafana")  # of Debian's package; an archive has its programs in bin/ of its home
    home = packaged if packaged.is_dir() else program.resolve().parent.parent
    return Part(
        "grafana",
        (str(program), *(("server",) if program.name == "grafana" else ()), f"--homepath={home}"),
        environment=SMALL_GO
        | {
            "GF_PATHS_DATA": str(state),
            "GF_PATHS_LOGS": str(state / "log"),
            "GF_PATHS_PLUGINS": str(state / "plugins"),
            "GF_PATHS_PROVISIONING": str(DASHBOARDS / "provisioning"),
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": str(settings.grafana_port),
            "GF_LOG_MODE": "console",
            "GF_SECURITY_ADMIN_USER": login.user,
            "GF_SECURITY_ADMIN_PASSWORD": login.password,
            "GF_AUTH_ANONYMOUS_ENABLED": "false",
            "GF_USERS_ALLOW_SIGN_UP": "false",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_NEWS_NEWS_FEED_ENABLED": "false",
            "GF_METRICS_ENABLED": "false",  # they would ask for no login
            "PROMETHEUS_URL": f"http://127.0.0.1:{settings.prometheus_port}",  # read by the provisioning
            "PROMETHEUS_USER": login.user,
            "PROMETHEUS_PASSWORD": login.password,
            "DASHBOARDS_DIR": str(DASHBOARDS / "dashboards"),
        },
        is_ready=answers(f"{url}/api/health", timeout_s=1.0),
        ports={"GRAFANA_PORT": settings.grafana_port},
        address=url,
        advice="The forecasts go on; there are no dashboards.",
    )
