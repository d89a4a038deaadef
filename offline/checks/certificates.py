"""Certificates of parity, kept in the lake: the gate asks for one before a new recipe serves."""

from __future__ import annotations

import msgspec
import pyarrow as pa

from data.features.spec import FeatureSpec
from offline.checks.parity import Certificate
from offline.days.steps import FEATURE_ROWS
from offline.lake.state import PartitionKey
from offline.lake.store import Lake

CERTIFICATES = "certificates"
"""Table of the lake: a file without rows for each certified product-day."""


class Certified(msgspec.Struct, frozen=True, kw_only=True):
    """Notes of a certificate: the comparison, and the feature rows that it holds for.

    Attributes:
        feature_rows: content hash of the lake's feature rows.
        equal: number of equal rows.
    """

    spec_id: str
    feature_rows: str
    source_id: str
    equal: int


def keep_certificate(lake: Lake, spec: FeatureSpec, found: Certificate) -> None:
    """Keep a certificate that holds; forget the certificate of a product-day whose new comparison does not hold.

    Raises:
        OSError: the lake cannot be written.
    """
    key = PartitionKey(CERTIFICATES, found.product_id, found.day)
    rows = lake.partition(FEATURE_ROWS, found.product_id, found.day)
    if found.holds and rows is not None:
        notes = Certified(
            spec_id=spec.spec_id, feature_rows=rows.content_hash, source_id=found.source_id, equal=found.equal
        )
        lake.write(*key, batches=(), schema=pa.schema([("equal", pa.int64())]), notes=notes)
    elif lake.partition(*key) is not None:
        lake.delete(*key)


def certified(lake: Lake, spec: FeatureSpec) -> str:
    """Return the newest certificate for a spec, in words; empty if there is none for the rows of the lake today."""
    lake = lake.held()
    for key in sorted(lake.partition_keys(CERTIFICATES), key=lambda key: key.day, reverse=True):
        kept, rows = lake.partition(*key), lake.partition(FEATURE_ROWS, key.product_id, key.day)
        if kept is None or rows is None:
            continue
        notes = kept.notes_as(Certified)
        if (notes.spec_id, notes.feature_rows) == (spec.spec_id, rows.content_hash):
            return f"{key.product_id} {key.day}: {notes.equal:,} rows equal to those of source {notes.source_id}"
    return ""
