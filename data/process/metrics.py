"""Make and serve the Prometheus metrics of a process."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SIDE_BY_SIDE = 100
"""Number of ports in which processes of one kind on one machine find a free port."""


class BatchHistogram(Collector):
    """Observe a whole batch at once in a histogram: the client's own histogram costs 2 us a row, more than the row's
    features."""

    def __init__(
        self,
        name: str,
        help_text: str,
        registry: CollectorRegistry,
        bounds: tuple[float, ...] = LATENCY_BUCKETS_S,
    ) -> None:
        self._name, self._help, self._bounds = name, help_text, bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        """Count each value in its bucket.

        Args:
            seconds: shape (n,).
        """
        places = np.searchsorted(self._bounds, seconds, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(seconds.sum())

    def collect(self) -> Iterable[Metric]:
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, np.cumsum(self._counts).astype(float).tolist(), strict=True))
        yield HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=self._sum)


def process_registry() -> CollectorRegistry:
    """Return a registry that exports CPU time, memory, files and start of this process, and the Python version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


@contextmanager
def serve_metrics(registry: CollectorRegistry, host: str, port: int, *, ports: int = 1) -> Iterator[int]:
    """Serve a registry under `/metrics` while the block runs, on the first free port; yield the port.

    Args:
        port: the first port to try.
        ports: how many ports to try, counting up from `port`.

    Raises:
        OSError: all ports are taken, or the host is not ours; names the host and the ports.
    """
    last = min(port + ports - 1, 65_535)
    for candidate in range(port, last + 1):
        try:
            server, thread = start_http_server(candidate, host, registry=registry)
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
