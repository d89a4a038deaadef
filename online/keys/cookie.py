"""Sign the cookie of a browser that has logged in with a key, and read the cookie again."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from hmac import new as hmac

from online.keys.ring import KeyRing

COOKIE_S = 7 * 24 * 3600
"""How long a login lasts, in seconds."""
MAX_LENGTH = 200


class CookieSigner:
    """Sign and read cookies `NAME.EXPIRY.SIGNATURE`. A cookie holds no key, and ends with its key.

    Args:
        secret: of all replicas, so that each reads the cookies of the others.
    """

    def __init__(self, secret: bytes, ring: KeyRing) -> None:
        self._secret, self._ring = secret, ring

    def sign(self, name: str, now: float) -> str:
        """Return a cookie for a key's name.

        Args:
            now: seconds since 1970.

        Raises:
            ValueError: no key has this name.
        """
        text = f"{name}.{int(now) + COOKIE_S}"
        signature = self._signature(name, text)
        if signature is None:
            raise ValueError(f"no key has the name {name}")
        return f"{text}.{signature}"

    def name_in(self, cookie: str, now: float) -> str | None:
        """Return the key's name in a cookie; None for a cookie that is not ours, has expired, or whose key is gone."""
        text, _, given = cookie.rpartition(".")
        name, _, expiry = text.rpartition(".")
        if len(cookie) > MAX_LENGTH or not (cookie.isascii() and expiry.isdecimal()) or int(expiry) <= now:
            return None
        signature = self._signature(name, text)
        return name if signature is not None and compare_digest(signature, given) else None

    def _signature(self, name: str, text: str) -> str | None:
        digest = self._ring.digest_of(name)
        return None if digest is None else hmac(self._secret, text.encode() + b"." + digest, sha256).hexdigest()
