"""The API with metrics that count nothing: the peer of the API with metrics.

`python -m tests.benchmarks.unmetered` takes the settings of `python -m online.api`.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Histogram

from online import api


def nothing(*_: Any, **__: Any) -> None:
    """Count nothing."""


if __name__ == "__main__":
    for metric, method in ((Counter, "inc"), (Histogram, "observe")):
        setattr(metric, method, nothing)
    api.main()
