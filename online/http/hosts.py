"""Decide which host names a request may carry."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from data.names import is_loopback
from online.settings import ApiSettings


def host_check(settings: ApiSettings) -> Callable[[bytes], bool]:
    """Return a function that tells whether the API answers to a `Host` header.

    A page of another site can point its own name at 127.0.0.1, and a browser would then let the page read the answers.
    So an API on loopback answers to names of loopback and to `ALLOWED_HOSTS` alone. On another address, the API answers
    to all names.
    """
    more = frozenset(settings.allowed_hosts.lower().replace(",", " ").split())
    host = settings.host
    if not is_loopback(f"http://[{host}]" if ":" in host else f"http://{host}"):
        return lambda _: True

    @lru_cache(256)
    def is_allowed(header: bytes) -> bool:
        url = f"http://{header.decode('latin-1')}"
        try:
            return is_loopback(url) or urlsplit(url).hostname in more
        except ValueError:  # as "[", which is no host
            return False

    return is_allowed
