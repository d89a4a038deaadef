"""Training rows that the lake must keep, because a model version in use names the rows."""

from __future__ import annotations

import time

from data.models.registry import Registry
from data.models.served import BASELINE, ML
from offline.lake.cleaning import Cleaned, clean
from offline.lake.store import Lake
from offline.promotion.provenance import LakeRows, Provenance

IN_USE = ("champion", "challenger", "previous")
"""Aliases of the versions whose training rows are read again: by the gate, and as the reference of drift."""
HOUR_S = 3_600


def clean_lake(lake: Lake, registry: Registry, grace_h: float) -> Cleaned:
    """Remove what neither a manifest nor a version in use names, see `clean`.

    Args:
        grace_h: hours.

    Raises:
        RegistryError: the registry does not answer: no object is removed.
        ValueError, OSError: see `clean`.
    """
    return clean(lake, grace_h * HOUR_S, time.time_ns(), rows_in_use(registry))


def rows_in_use(registry: Registry) -> set[str]:
    """Return the content hashes of the training rows of all versions with an alias of `IN_USE`.

    Raises:
        RegistryError: the registry does not answer.
    """
    found: set[str] = set()
    for model in (BASELINE, ML):
        for alias in IN_USE:
            version = registry.aliased(model, alias)
            made = None if version is None else Provenance.of_version(registry, version)
            if made is not None and isinstance(made.rows, LakeRows):
                found.update(each for days in made.rows.content_hashes.values() for each in days.values())
    return found
