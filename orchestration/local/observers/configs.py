"""Write the configuration of Prometheus and Alertmanager with the ports and the webhook of a stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from data.files import CHECKOUT
from data.names import is_loopback
from orchestration.local.observers.login import can_hash, observer_login, web_config
from orchestration.local.observers.scrape_key import stack_key
from orchestration.local.settings import StackSettings
from orchestration.settings import Login

MONITORING = CHECKOUT / "monitoring"
INGESTORS = 8
"""Ports of ingestors that Prometheus asks, from INGESTOR_PORT on."""
SCRAPED = ("api_port", "forecaster_port", "exporter_port", "alertmanager_port")
_LOGIN = "# basic_auth: {login of Alertmanager}"
_KEY = "# authorization: {key of the API}"
_WEBHOOK = "# webhook_configs: [{ALERT_WEBHOOK_URL}]"
_ADDRESS = re.compile(r"(?<=127\.0\.0\.1:)\d+")


def prometheus_file(settings: StackSettings) -> Path:
    """Return the path of Prometheus' configuration."""
    return settings.var_dir / "prometheus" / "prometheus.yml"


def alertmanager_file(settings: StackSettings) -> Path:
    """Return the path of Alertmanager's configuration."""
    return settings.var_dir / "alertmanager" / "alertmanager.yml"


def web_file(config: Path) -> Path:
    """Return the path of the file with the login, beside the configuration of Prometheus or Alertmanager."""
    return config.with_name("web.json")


def write_configs(settings: StackSettings) -> None:
    """Write all files; only their owner may read them, as they hold a login, and a webhook's URL may hold a secret."""
    prometheus, alertmanager = prometheus_file(settings), alertmanager_file(settings)
    login, webhook = observer_login(settings), settings.alert_webhook_url
    files = {
        prometheus: prometheus_config(settings, login, stack_key(settings)),
        alertmanager: alertmanager_config(webhook.get_secret_value() if webhook else None),
    }
    if can_hash():
        files |= {web_file(path): web_config(login) for path in (prometheus, alertmanager)}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)  # `touch` leaves the mode of an existing file
        path.write_text(text, "utf-8")


def prometheus_config(settings: StackSettings, login: Login, key: str | None = None) -> str:
    """Return `monitoring/prometheus.yml` with the ports of a stack, Alertmanager's login, and the rules' whole path.

    Args:
        key: of the API; used if the API's metrics ask for one.
    """
    ports = dict(_ports(settings))
    text = _ADDRESS.sub(lambda found: str(ports[int(found[0])]), (MONITORING / "prometheus.yml").read_text("utf-8"))
    for number in range(INGESTORS):
        if (port := settings.ingestor_port + number) in settings.ports_of_others:  # it is never an ingestor's
            text = text.replace(f'          - "127.0.0.1:{port}"\n', "")
    basic_auth = {"username": login.user, "password": login.password}
    text = text.replace(_LOGIN, f"basic_auth: {_yaml(basic_auth)}")
    if key and not settings.api_metrics_open:
        text = text.replace(_KEY, f"authorization: {_yaml({'credentials': key})}")
    return text.replace("rules/*.yml", _yaml(f"{_plain(str(MONITORING))}/rules/*.yml"))


def _yaml(value: Any) -> str:
    """Return a value as JSON, which is YAML if no character is written as two halves."""
    return json.dumps(value, ensure_ascii=False)


def _plain(path: str) -> str:
    """Return a path as a pattern that fits this path alone.

    >>> _plain("/my [data]")
    '/my \\\\[data]'
    """
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def _ports(settings: StackSettings) -> Iterator[tuple[int, int]]:
    """Yield each default port and the port of a stack in its place."""
    fields = StackSettings.model_fields
    for name in SCRAPED:
        yield fields[name].default, getattr(settings, name)
    for number in range(INGESTORS):
        yield fields["ingestor_port"].default + number, settings.ingestor_port + number


def alertmanager_config(webhook: str | None) -> str:
    """Return `monitoring/alertmanager.yml`; pages and tickets go to the webhook if there is one."""
    text = (MONITORING / "alertmanager.yml").read_text("utf-8")
    if webhook is None:
        return text
    receiver: dict[str, Any] = {"url": webhook}
    if (proxy := _proxy_of(webhook)) is not None:
        receiver["http_config"] = {"proxy_url": proxy}
    return text.replace(_WEBHOOK, f"webhook_configs: {_yaml([receiver])}")


def _proxy_of(url: str) -> str | None:
    """Return the proxy of the environment for a URL; None for a URL that is reached directly."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme, proxies.get("all"))
