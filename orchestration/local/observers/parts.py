"""Parts of the stack that observe: Prometheus, Alertmanager and Grafana, where the programs are on the machine.

Forecasts go first: observers yield to the processes of the forecasts, start after these processes, and may be absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestration.local.observers.configs import MONITORING, alertmanager_file, prometheus_file
from orchestration.local.parts import STANDS_BACK, answers
from orchestration.local.ports import port_conflicts
from orchestration.local.settings import StackSettings
from orchestration.local.supervisor import Part

RETENTION = ("--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=1GB")
# Half of the garbage of Go's default, and one thread: a small machine runs all parts.
SMALL_GO = {"GOGC": "50", "GOMAXPROCS": "1"}
DASHBOARDS = MONITORING / "grafana"


def observer_parts(settings: StackSettings) -> tuple[list[Part], list[str]]:
    """Return the parts that can start, and for each missing part a sentence with the remedy."""
    parts, notes = [], []
    prometheus = shutil.which("prometheus")
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")  # Debian's name goes first
    grafana = shutil.which("grafana") or shutil.which("grafana-server")
    if prometheus:
        parts.append(_prometheus(settings, prometheus))
    if alertmanager:
        parts.append(_alertmanager(settings, alertmanager))
    if not (prometheus and alertmanager):
        absent = " and ".join(
            name for name, program in (("prometheus", prometheus), ("alertmanager", alertmanager)) if not program
        )
        notes.append(f"no {absent} here, so nobody is alerted: apt-get install prometheus prometheus-alertmanager")
    if grafana:
        parts.append(_grafana(settings, Path(grafana)))
    else:
        notes.append("no grafana here, so there are no dashboards: grafana.com/grafana/download has its program")
    conflicts = {part.name: port_conflicts([part]) for part in parts}
    notes += [f"{name} does not start: {text}" for name, texts in conflicts.items() for text in texts]
    free = [part for part in parts if not conflicts[part.name]]
    return [replace(part, needs=("forecaster", "api"), essential=False, nice=STANDS_BACK) for part in free], notes


def _prometheus(settings: StackSettings, program: str) -> Part:
    url, config = f"http://127.0.0.1:{settings.prometheus_port}", prometheus_file(settings)
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={config.parent / 'data'}",
        *RETENTION,
        *_listening(url),
        f"--web.cors.origin={url}",
    )
    return Part(
        "prometheus",
        command,
        environment=SMALL_GO,
        is_ready=answers(f"{url}/-/ready", timeout_s=1.0),
        ports={"PROMETHEUS_PORT": settings.prometheus_port},
        address=url,
        advice="The forecasts go on; nothing is recorded, and no alert fires.",
    )


def _alertmanager(settings: StackSettings, program: str) -> Part:
    url, config = f"http://127.0.0.1:{settings.alertmanager_port}", alertmanager_file(settings)
    command = (
        program,
        f"--config.file={config}",
        f"--storage.path={config.parent / 'data'}",
        "--cluster.listen-address=",
        *_listening(url),
    )
    return Part(
        "alertmanager",
        command,
        environment=SMALL_GO,
        is_ready=answers(f"{url}/-/ready", timeout_s=1.0),
        ports={"ALERTMANAGER_PORT": settings.alertmanager_port},
        address=url,
        advice="The forecasts go on; alerts reach nobody.",
    )


def _listening(url: str) -> Sequence[str]:
    return f"--web.listen-address={url.removeprefix('http://')}", f"--web.external-url={url}/", "--log.level=warn"


def _grafana(settings: StackSettings, program: Path) -> Part:
    """Return Grafana with our data source and dashboards, for anybody on this machine to read."""
    url, state = f"http://127.0.0.1:{settings.grafana_port}", settings.var_dir / "grafana"
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
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_NEWS_NEWS_FEED_ENABLED": "false",
            "PROMETHEUS_URL": f"http://127.0.0.1:{settings.prometheus_port}",  # read by the provisioning
            "DASHBOARDS_DIR": str(DASHBOARDS / "dashboards"),
        },
        is_ready=answers(f"{url}/api/health", timeout_s=1.0),
        ports={"GRAFANA_PORT": settings.grafana_port},
        address=url,
        advice="The forecasts go on; there are no dashboards.",
    )
