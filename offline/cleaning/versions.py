"""Training rows that the lake must keep, because a model version in use names the rows."""

from __future__ import annotations

from data.models.registry import Registry
from offline.lake.cleaning import Cleaned, clean, store_time_ns
from offline.lake.store import Lake
from offline.promotion.provenance import named_hashes

HOUR_S = 3_600


def clean_lake(lake: Lake, registry: Registry, grace_h: float) -> Cleaned:
    """Remove what neither a manifest nor a version in use names, see `clean`.

    Args:
        grace_h: hours.

    Raises:
        RegistryError: the registry does not answer: no object is removed.
        ValueError: the rows of a version in use cannot be read, see `named_hashes`: no object is removed.
        ValueError, OSError: see `clean`.
    """
    return clean(lake, grace_h * HOUR_S, store_time_ns(lake.objects), named_hashes(registry))
