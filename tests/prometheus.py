"""Run a Prometheus with a history, and ask a Prometheus for the queries of the dashboards."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from data.files import CHECKOUT
from tests.broker import free_ports

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
    """Return what a Prometheus answers to an expression.

    Args:
        url: address of the Prometheus.
        at: seconds since 1970; None: now.

    Raises:
        ValueError: the expression is wrong.
    """
    form = {"query": expr} | ({} if at is None else {"time": f"{at:.3f}"})
    answer = httpx.post(f"{url}/api/v1/query", data=form, trust_env=False).json()
    if answer["status"] != "success":
        raise ValueError(f"{expr}: {answer['error']}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def empty_queries(url: str, dashboard: Mapping[str, Any], at: float | None = None) -> list[str]:
    """Return the expressions of a dashboard for which a Prometheus has no series, with variables replaced.

    Raises:
        ValueError: an expression is wrong.
    """
    return [expr for expr in expressions(dashboard) if not result_of(url, replaced(expr), at)]


@contextmanager
def prometheus_of(history: Iterable[str], times: tuple[float, float], step_s: int, folder: Path) -> Iterator[str]:
    """Yield the address of a Prometheus that holds a history and what the recording rules make of it.

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
    try:
        for _ in range(300):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            try:
                if httpx.get(f"{url}/-/ready", trust_env=False).is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
