"""Make keys, and find the name of a given key by the hashes of all keys."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

KEY_BYTES = 32
"""Random bytes of a key: too many to guess, so a plain hash is enough, and a wrong key needs no delay."""
_NAME = re.compile("[A-Za-z0-9._-]{1,64}")
_HASH = re.compile("[0-9a-f]{64}")


def new_key() -> str:
    """Return a new random key, as text for a header."""
    return secrets.token_urlsafe(KEY_BYTES)


def check_name(name: str) -> None:
    """Refuse a name that a line of `API_KEYS` cannot hold.

    Raises:
        ValueError: states the allowed characters.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a key has 1 to 64 letters, digits, dots, hyphens or underscores")


def hash_line(name: str, key: str) -> str:
    """Return `NAME:HASH`, an entry of `API_KEYS`; the hash is the SHA-256 of the key in hexadecimal digits."""
    check_name(name)
    return f"{name}:{sha256(key.encode()).hexdigest()}"


class KeyRing:
    """Hold the hashes of all keys, by name; a key itself is not kept.

    Args:
        digests: SHA-256 of each key.
    """

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read `API_KEYS`: entries `NAME:HASH`, separated by commas, spaces or line ends.

        Raises:
            ValueError: an entry is none, or a name or hash is there twice. The message holds no part of the text: a
                person may have put a key there in place of a hash.
        """
        digests: dict[str, bytes] = {}
        for number, entry in enumerate(text.replace(",", " ").split(), 1):
            name, _, digits = entry.partition(":")
            if not _NAME.fullmatch(name) or not _HASH.fullmatch(digits.lower()):
                raise ValueError(
                    f"entry {number} is not NAME:HASH; `python -m online.keys new NAME` prints such a line"
                )
            digest = bytes.fromhex(digits)
            if name in digests or digest in digests.values():
                raise ValueError(f"entry {number} has the name or the hash of an entry before")
            digests[name] = digest
        if not digests:
            raise ValueError("there is no entry; leave the setting empty for an API without keys")
        return cls(digests)

    def name_of(self, key: bytes) -> str | None:
        """Return the name of a key; None for an unknown key. The time does not depend on which bytes are right."""
        given, found = sha256(key).digest(), None
        for name, digest in self._digests.items():
            if compare_digest(given, digest):
                found = name
        return found

    def digest_of(self, name: str) -> bytes | None:
        """Return the hash of a key by its name; None for an unknown name."""
        return self._digests.get(name)
