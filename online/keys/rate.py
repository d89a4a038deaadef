"""Limit the requests of each key."""

from __future__ import annotations


class RateLimit:
    """Hold a bucket of requests for each key: full at first, and filled again at a constant rate.

    Args:
        per_s: requests per second that fill a bucket.
        burst: requests in a full bucket.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s, self.burst = per_s, burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, name: str, now: float) -> float:
        """Take a request from the bucket of a key; return 0, or the seconds until there is one to take.

        Args:
            now: seconds of a clock that never goes back.

        >>> limit = RateLimit(per_s=2.0, burst=1)
        >>> [limit.wait_s("a", now) for now in (10.0, 10.0, 10.25, 10.5)]
        [0.0, 0.5, 0.25, 0.0]
        """
        left, since = self._buckets.get(name, (float(self.burst), now))
        left = min(left + (now - since) * self.per_s, self.burst)
        wait = 0.0 if left >= 1 else (1 - left) / self.per_s
        self._buckets[name] = (left if wait else left - 1, now)
        return wait
