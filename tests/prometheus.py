"""Ask a Prometheus for the queries of the dashboards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

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


def result_of(url: str, expr: str) -> list[dict[str, Any]]:
    """Return what a Prometheus answers to an expression, now.

    Args:
        url: address of the Prometheus.

    Raises:
        ValueError: the expression is wrong.
    """
    answer = httpx.post(f"{url}/api/v1/query", data={"query": expr}, trust_env=False).json()
    if answer["status"] != "success":
        raise ValueError(f"{expr}: {answer['error']}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def empty_queries(url: str, dashboard: Mapping[str, Any]) -> list[str]:
    """Return the expressions of a dashboard for which a Prometheus has no series, with variables replaced.

    Raises:
        ValueError: an expression is wrong.
    """
    return [expr for expr in expressions(dashboard) if not result_of(url, replaced(expr))]
