"""Run a Prometheus with a history, and ask a Prometheus for the queries of the dashboards."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from data.files import CHECKOUT
from orchestration.local.observers.configs import write_configs
from orchestration.local.observers.parts import observer_parts
from orchestration.local.parts import fetch_text
from orchestration.local.settings import StackSettings
from tests.broker import free_ports
from tests.pipeline import wait_until

REPLACED = {
    "$__rate_interval": "1m",
    "$product": ".*",
    "$variant": ".*",
    "$purpose": ".*",
}
"""Values of variables: all products, variants and purposes."""


def expressions(dashboard: Mapping[str, Any]) -> Iterator[str]:
    """Yield the expressions of a dashboard's panels."""
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def replaced(expr: str, variables: Mapping[str, str] = REPLACED) -> str:
    """Return an expression with values in place of its variables."""
    for name, value in variables.items():
        expr = expr.replace(name, value)
    return expr


def result_of(url: str, expr: str, at: float | None = None) -> list[dict[str, Any]]:
    """Return a Prometheus's answer to an expression.

    Args:
        url: address of the Prometheus.
        at: seconds since 1970; None: now.

    Raises:
        ValueError: the expression is wrong.
    """
    return _asked(f"{url}/api/v1/query", {"query": expr} | ({} if at is None else {"time": f"{at:.3f}"}))


def results_between(url: str, expr: str, start: float, end: float, step_s: int) -> list[dict[str, Any]]:
    """Return a Prometheus's answers to an expression, one each `step_s` from `start` to `end`, seconds since 1970.

    Raises:
        ValueError: the expression is wrong.
    """
    return _asked(f"{url}/api/v1/query_range", {"query": expr, "start": start, "end": end, "step": step_s})


def _asked(url: str, form: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(url, data=dict(form), trust_env=False).json()
    if answer["status"] != "success":
        raise ValueError(f"{form['query']}: {answer['error']}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def empty_queries(url: str, dashboard: Mapping[str, Any], at: float | None = None) -> list[str]:
    """Return the expressions of a dashboard for which a Prometheus has no series, with variables replaced.

    Raises:
        ValueError: an expression is wrong.
    """
    return [expr for expr in expressions(dashboard) if not result_of(url, replaced(expr), at)]


class Sent(NamedTuple):
    """A query that Grafana sends for a dashboard, and the answer.

    Attributes:
        place: title of the dashboard and of the panel; or name of the annotation or the variable.
        expr: with the variables replaced.
        has_number: whether a value of the answer is a number; an empty panel has none.
    """

    place: str
    expr: str
    has_number: bool


def sent_queries(url: str, dashboard: Mapping[str, Any], start: float, end: float, step_s: int) -> Iterator[Sent]:
    """Send each query of a dashboard, as Grafana does: of panels, of annotations, and of the variables' values.

    A panel that is repeated for a variable is asked once for each value, other panels for all values at once.

    Args:
        start: seconds since 1970 of the page's first time; `end` of its last.

    Raises:
        ValueError: an expression is wrong.
    """
    offered = values_offered(url, dashboard, end)
    board = dashboard["title"]
    for name, (query, values) in offered.items():
        yield Sent(f"{board}: variable {name}", query, bool(values))
    for panel in (*dashboard["annotations"]["list"], *dashboard["panels"]):
        variable = panel.get("repeat")
        values = offered[variable][1] if variable else [".*"]
        for target, value in product([panel["target"]] if "target" in panel else panel.get("targets", ()), values):
            expr = replaced(target["expr"], REPLACED | {f"${variable}": value})
            if target.get("range"):
                series = results_between(url, expr, start, end, step_s)
            else:
                series = result_of(url, expr, end)
            yield Sent(f"{board}: {panel.get('title') or panel['name']}", expr, any(map(_has_number, series)))


def values_offered(url: str, dashboard: Mapping[str, Any], at: float) -> dict[str, tuple[str, list[str]]]:
    """Return the query and the values of each variable of a dashboard that picks values of a label."""
    offered: dict[str, tuple[str, list[str]]] = {}
    for variable in dashboard["templating"]["list"]:
        if found := re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]):
            metric, label = found.groups()
            series = result_of(url, f'group by ({label}) ({metric}{{{label}!=""}})', at)
            offered[variable["name"]] = variable["query"], sorted(each["metric"][label] for each in series)
    return offered


def _has_number(series: Mapping[str, Any]) -> bool:
    points = series.get("values") or [series["value"]]
    return any(value != "NaN" for _, value in points)


@contextmanager
def prometheus_of(history: Iterable[str], times: tuple[float, float], step_s: int, folder: Path) -> Iterator[str]:
    """Yield the address of a Prometheus with a history, and with the series of the recording rules.

    Args:
        history: lines of an OpenMetrics file.
        times: seconds since 1970 of the first and the last value.
        step_s: seconds between the points of the recording rules.
        folder: for the data.
    """
    text, blocks = folder / "history.txt", folder / "blocks"
    with text.open("w") as out:
        out.writelines(history)
    _promtool("tsdb", "create-blocks-from", "openmetrics", str(text), str(blocks))
    rules = CHECKOUT / "monitoring" / "rules" / "recording.yml"
    with _running(blocks, folder) as url:
        start, end = (f"--{name}={round(at)}" for name, at in zip(("start", "end"), times, strict=True))
        recorded = [f"--url={url}", f"--output-dir={blocks}", f"--eval-interval={step_s}s", str(rules)]
        _promtool("tsdb", "create-blocks-from", "rules", start, end, *recorded)
    with _running(blocks, folder) as url:
        yield url


def own_ports() -> dict[str, Any]:
    """Return a free port for each port in the settings of a stack, by the name of the setting."""
    names = [name for name in StackSettings.model_fields if name.endswith("_port")]
    return dict(zip(names, free_ports(len(names)), strict=True))


def as_variables(ports: Mapping[str, int]) -> dict[str, str]:
    """Return ports as variables of an environment."""
    return {name.upper(): str(port) for name, port in ports.items()}


@contextmanager
def observers(ours: StackSettings, *names: str) -> Iterator[None]:
    """Run observers, with the commands of the stack."""
    write_configs(ours)
    parts = [part for part in observer_parts(ours)[0] if part.name in names]
    assert [part.name for part in parts] == list(names)
    processes = []
    try:
        for part in parts:
            with (ours.var_dir / f"{part.name}.log").open("w") as log:
                processes.append(subprocess.Popen(part.command, env=part.environment, stdout=log, stderr=log))
        for part in parts:
            assert part.is_ready is not None
            wait_until(part.is_ready, f"{part.name} is ready")
        yield
        for process in processes:
            process.terminate()
            assert process.wait(12) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _promtool(*words: str) -> None:
    subprocess.run(["promtool", *words], check=True, capture_output=True, text=True)


@contextmanager
def _running(blocks: Path, folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text("global: {scrape_interval: 15s}\n")
    with (folder / "prometheus.log").open("a") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={blocks}",
                "--storage.tsdb.retention.time=10y",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        return fetch_text(f"{url}/-/ready") is not None

    try:
        wait_until(is_ready, "Prometheus is ready")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
