"""Decide which host names a request may carry."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

REFUSED_HOST = "the server answers to addresses, to localhost and to the names in ALLOWED_HOSTS alone"
"""Answer to a request for another host, with the status 421."""


def host_check(names: Collection[str]) -> Callable[[bytes], bool]:
    """Return a function that tells whether a server answers to a `Host` header.

    A page of another site can point its own name at this machine, and a browser would then let the page read the
    answers. Nobody can point an IP address or `localhost` elsewhere, so both always pass, and Prometheus can ask
    replicas by their address.

    Args:
        names: further host names, without port, in lower case.
    """

    @lru_cache(256)
    def is_allowed(header: bytes) -> bool:
        try:
            host = urlsplit(f"http://{header.decode('latin-1')}").hostname or ""
        except ValueError:  # as "[", which is no host
            return False
        return host in names or host == "localhost" or host.endswith(".localhost") or _is_address(host)

    return is_allowed


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
