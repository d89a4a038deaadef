"""Seconds to find the stale days of a lake: a product-day has a recording of its own, and nothing is stale."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from data.features.spec import FeatureSpec
from offline.days.feature_rows import FeatureFacts
from offline.days.staging import RECORDINGS, StagedNotes
from offline.days.staleness import STEPS, stale
from offline.days.steps import DayNotes
from offline.days.trades import TradesFacts
from offline.days.training_set import TrainingFacts
from offline.lake.state import Change, Entry, ProductState, changed, manifest_of
from offline.lake.store import Lake, manifest_path
from tests.benchmarks.measure import Row
from tests.seaweed import KEYS, running_seaweed

FIRST_DAY = dt.date(2022, 1, 1)
DAYS = 1_000
PRODUCT_DAYS = (1_000, 10_000, 100_000)
ROUNDS = 3


def _hash(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _facts(table: str, spec: FeatureSpec) -> Any:
    """Return facts as large as those of a day of 500,000 trades."""
    ns = 1_700_000_000_000_000_000
    if table == "trades":
        return TradesFacts(
            rows=500_000, recordings=1, duplicates=0, conflicts=0, fallen=12, covered=0, id_spaces=1, holes=2,
            longest_hole_s=412.123456789, has_ids=True, head_hash=_hash("head"), tail_hash=_hash("tail"),
        )  # fmt: skip
    if table == "feature_rows":
        return FeatureFacts(500_000, 90_000, spec.spec_id, ns, ns + 86_399_123_456_789)
    return TrainingFacts(
        rows=17_280, short_rows=4_320, horizons=1_440.0, target_median=0.000_612_345_678_9,
        zero_target_share=0.001_234_567, last_time=ns,
    )  # fmt: skip


def fill(lake: Lake, products: int, days: int, spec: FeatureSpec) -> None:
    """Put manifests as of days that are all made; the lake has no objects, and nobody looks for objects."""
    all_days = [FIRST_DAY + dt.timedelta(days=number) for number in range(days)]
    for number in range(products):
        state = ProductState(product_id=f"P{number:03}-USD")
        entries = [
            (f"{RECORDINGS}/{state.product_id}-{day}.csv", day, StagedNotes(f"{state.product_id}-{day}.csv", True))
            for day in all_days
        ]
        state = _with(state, entries)
        for step in STEPS:
            made = [(day, step.inputs(state, day, spec)) for day in all_days]
            notes = [(step.table, day, DayNotes(inputs, _facts(step.table, spec))) for day, inputs in made if inputs]
            state = _with(state, notes)
        lake.objects.put(manifest_path(state.product_id), manifest_of(state), None)


def _with(state: ProductState, entries: Sequence[tuple[str, dt.date, Any]]) -> ProductState:
    changes = [
        Change(table, day, Entry(500_000, _hash(state.product_id, table, day), "", _encoded(notes)), None)
        for table, day, notes in entries
    ]
    return changed(state, changes, 0)[0]


def _encoded(notes: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(notes))


def _measured(uri: str, where: str) -> list[Row]:
    rows, spec = [], FeatureSpec()
    for product_days in PRODUCT_DAYS:
        days = min(DAYS, product_days)
        own = uri.format(product_days)
        fill(Lake.open(own), product_days // days, days, spec)
        took = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            assert stale(Lake.open(own), spec) == []
            took.append(time.perf_counter() - began)
        rows.append(Row(f"stale of {product_days:,} product-days and recordings, {where}", "s", sorted(took)[1]))
    return rows


def rows() -> list[Row]:
    with TemporaryDirectory() as folder:
        found = _measured(f"{folder}/lake-{{}}", "folder")
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        for name, value in KEYS.items():
            patched.setenv(name, value)
        with running_seaweed(Path(folder)) as store:
            found += _measured(store.uri("lake-{}"), "SeaweedFS")
    return found
