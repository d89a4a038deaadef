"""Check names that come from outside, products and sources, and make new names of sources."""

from __future__ import annotations

import re
import secrets
from datetime import datetime

from data.trades import StreamKey

PRODUCT_ID = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}")
"""Base and quote currency, for example `BTC-USD`."""


def explain_product(_: str) -> str:
    """Return the rule for product names, as the end of an error message."""
    return "must be named like BTC-USD (capitals and digits)"


def check_product_id(product_id: str) -> None:
    """Raise ValueError if a text is no product name."""
    if not PRODUCT_ID.fullmatch(product_id):
        raise ValueError(f"a product {explain_product(product_id)}, was {product_id!r}")


PRODUCT_PATTERN = "^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$"
SOURCE_PATTERN = "^[A-Za-z0-9._:-]{1,100}$"


def check_names(key: StreamKey) -> None:
    """Check source and product name of a stream.

    Raises:
        ValueError: a name is not allowed; the message has the name and the allowed pattern.
    """
    for what, name, pattern in zip(StreamKey._fields, key, (SOURCE_PATTERN, PRODUCT_PATTERN), strict=True):
        if not re.match(pattern, name):
            raise ValueError(f"{what} must match {pattern}, was {name[:100]!r}")


def new_replay_id(now: datetime) -> str:
    """Return a name for a new source, such as replay-20261123T101500Z-3f9a.

    Args:
        now: UTC. Two names of one second differ in their random end.
    """
    return f"replay-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
