"""Read the exports of a process to Prometheus."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector


def names_in(page: str) -> set[str]:
    """Return the names of the project's metrics on a page `/metrics`; a metric without a value has a name too."""
    return set(re.findall(r"^# TYPE (cryptovol_\w+) ", page, re.MULTILINE))


def exported(registry: CollectorRegistry) -> set[str]:
    """Return the names of the project's metrics in a registry."""
    return names_in(generate_latest(registry).decode())


def series_of(registry: Collector) -> int:
    """Return the number of series in a registry, or of another collector."""
    return sum(len(family.samples) for family in registry.collect())
