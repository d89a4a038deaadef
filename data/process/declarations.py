"""Define what a declaration of a metric holds; `data/process/catalog.py` has the declarations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Process = Literal["api", "forecaster", "ingestor", "exporter"]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """Declare a metric.

    Attributes:
        name: without the suffix that the kind adds.
        unit: empty for a number without a unit.
        labels: names in order.
        processes: the processes that export the metric.
    """

    name: str
    unit: str
    labels: tuple[str, ...]
    meaning: str
    processes: tuple[Process, ...]
    kind: Kind = field(init=False)

    @property
    def exported_name(self) -> str:
        """Return the name of the metric in Prometheus; a histogram has series under three longer names."""
        return self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names of all series of the metric in Prometheus."""
        return (self.exported_name,)


@dataclass(frozen=True)
class CounterMetric(Metric):
    """Declare a counter.

    Attributes:
        known: by process, the label values that exist at 0 from the start.
    """

    known: Mapping[Process, tuple[tuple[str, ...], ...]] = field(default_factory=dict, hash=False)
    kind: Kind = field(init=False, default="counter")

    @property
    def exported_name(self) -> str:
        return f"{self.name}_total"


@dataclass(frozen=True)
class GaugeMetric(Metric):
    """Declare a gauge."""

    kind: Kind = field(init=False, default="gauge")


@dataclass(frozen=True)
class HistogramMetric(Metric):
    """Declare a histogram.

    Attributes:
        bounds: upper bounds of the buckets, rising, in the metric's unit.
        known: label values that exist at 0 from the start.
    """

    bounds: tuple[float, ...]
    known: tuple[tuple[str, ...], ...] = ()
    kind: Kind = field(init=False, default="histogram")

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
