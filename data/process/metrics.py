"""Make and serve the Prometheus metrics of a process, from the declarations of the catalog."""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from data.files import CHECKOUT
from data.process import catalog
from data.process.declarations import CounterMetric, GaugeMetric, HistogramMetric, Process
from data.process.declarations import Metric as Declared
from data.process.hosts import REFUSED_HOST, host_check

SIDE_BY_SIDE = 100
"""Number of ports in which processes of one kind on one machine find a free port."""


class BatchHistogram(Collector):
    """Observe a whole batch at once in a histogram: the client's own histogram costs 2 us a row, more than the row's
    features."""

    def __init__(self, declared: HistogramMetric, registry: CollectorRegistry) -> None:
        self._declared = declared
        self._counts: dict[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        for labels in declared.known if declared.labels else ((),):
            self._add(labels)
        registry.register(self)

    def _add(self, labels: tuple[str, ...]) -> None:
        self._sums[labels] = 0.0
        self._counts[labels] = np.zeros(len(self._declared.bounds) + 1, np.int64)

    def observe(self, values: np.ndarray[tuple[int], np.dtype[np.float64]], *labels: str) -> None:
        """Count each value in its bucket.

        Args:
            values: shape (n,), in the unit of the metric.
            labels: values of the metric's labels, in order.
        """
        if labels not in self._counts:
            self._add(labels)
        places = np.searchsorted(self._declared.bounds, values, side="left")
        self._counts[labels] += np.bincount(places, minlength=len(self._declared.bounds) + 1)
        self._sums[labels] += float(values.sum())

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._declared.name, self._declared.meaning, labels=self._declared.labels)
        bounds = [*map(str, self._declared.bounds), "+Inf"]
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(bounds, np.cumsum(counts).astype(float).tolist(), strict=True))
            family.add_metric(labels, buckets=buckets, sum_value=self._sums[labels])
        yield family


class ProcessMetrics:
    """Make the metrics of one process in a registry of its own, beside the metrics that every process has.

    Attributes:
        ready: 1 while the process does its work.
    """

    def __init__(self, process: Process) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a further series for each counter, and no reader
        self._process = process
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.gauge(catalog.BUILD_INFO).labels(project_version()).set(1)
        self.ready = self.gauge(catalog.READY)

    def counter(self, declared: CounterMetric) -> Counter:
        """Make a counter, at 0 for all labels that are known; raise `ValueError` for a metric of other processes."""
        made = Counter(declared.name, declared.meaning, self._labels(declared), registry=self.registry)
        for labels in declared.known.get(self._process, ()):
            made.labels(*labels)
        return made

    def gauge(self, declared: GaugeMetric) -> Gauge:
        """Make a gauge; raise `ValueError` for a metric of other processes."""
        return Gauge(declared.name, declared.meaning, self._labels(declared), registry=self.registry)

    def histogram(self, declared: HistogramMetric) -> Histogram:
        """Make a histogram of single values; raise `ValueError` for a metric of other processes."""
        labels = self._labels(declared)
        made = Histogram(declared.name, declared.meaning, labels, registry=self.registry, buckets=declared.bounds)
        for known in declared.known:
            made.labels(*known)
        return made

    def batch_histogram(self, declared: HistogramMetric) -> BatchHistogram:
        """Make a histogram of whole batches; raise `ValueError` for a metric of other processes."""
        self._labels(declared)
        return BatchHistogram(declared, self.registry)

    def _labels(self, declared: Declared) -> tuple[str, ...]:
        if self._process not in declared.processes:
            raise ValueError(f"{declared.name} is exported by {', '.join(declared.processes)}, not by {self._process}")
        return declared.labels


@cache
def project_version() -> str:
    """Return the version of the project."""
    return str(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"])


@contextmanager
def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, *, ports: int = 1, names: Collection[str] = ()
) -> Iterator[int]:
    """Serve a registry under `/metrics` while the block runs, on the first free port; yield the port.

    Args:
        port: the first port to try.
        ports: how many ports to try, counting up from `port`.
        names: further host names of requests, see `host_check`.

    Raises:
        OSError: all ports are taken, or the host is not ours; names the host and the ports.
    """
    last = min(port + ports - 1, 65_535)
    for candidate in range(port, last + 1):
        try:
            server, thread = start_http_server(candidate, host, registry=registry)
            server.set_app(_guarded(make_wsgi_app(registry), host_check(names)))
            break
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate < last:
                continue
            where = f"{host}:{port}" if port == last else f"{host}:{port} to {last}"
            raise OSError(error.errno, f"metrics cannot be served on {where}: {error.strerror}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _guarded(metrics: WSGIApplication, is_allowed: Callable[[bytes], bool]) -> WSGIApplication:
    """Return a WSGI application that refuses requests for another host."""

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        if is_allowed(environ.get("HTTP_HOST", "").encode("latin-1")):
            return metrics(environ, start)
        start("421 Misdirected Request", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{REFUSED_HOST}\n".encode()]

    return answer
