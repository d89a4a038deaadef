"""The step of a product-day, one function for all tables: find inputs, compare, make rows, note facts, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Generic, NamedTuple, TypeVar

import msgspec
import pyarrow as pa

from data.features.admission import MAX_FALL_S
from data.features.reach import reach_s
from data.features.spec import FeatureSpec
from data.times import DAY_S
from offline.lake.state import Partition, PartitionKey, ProductState, decoded_notes
from offline.lake.store import Lake

TRADES, FEATURE_ROWS, TRAINING_SET = "trades", "feature_rows", "training_set"
"""Tables of the lake."""

SEEN_BY_NEIGHBOURS = FeatureSpec()
"""Spec by which neighbour days see into a day, for the hashes of its head and its tail."""

Facts = TypeVar("Facts", bound=msgspec.Struct)
Write = Callable[[pa.RecordBatch], None]
"""Writer of the rows of a product-day."""


class DayNotes(msgspec.Struct, Generic[Facts], frozen=True):
    """Notes of a product-day.

    Attributes:
        inputs: hash or version of each input, by the input's name.
        facts: figures for people and for later steps; one struct for each table.
    """

    inputs: dict[str, str]
    facts: Facts


class StepResult(NamedTuple, Generic[Facts]):
    """Result of a step.

    Attributes:
        partition: None if the inputs are missing.
        is_new: true if the step made or removed the partition now; false if the stored partition is up to date.
        notes: of the partition.
        missing: without a partition, the missing inputs, and what to do.
    """

    partition: Partition | None
    is_new: bool
    notes: DayNotes[Facts] | None
    missing: str = ""

    @property
    def facts(self) -> Facts:
        """Return the facts; raise ValueError if there is no partition."""
        if self.notes is None:
            raise ValueError(self.missing)
        return self.notes.facts


@dataclass(frozen=True)
class DayStep(Generic[Facts]):
    """A step of a product-day: what differs between the tables.

    Attributes:
        table: name of the table.
        meaning: raise this number when the step gives another result for the same inputs: old partitions are then made
            again.
        missing: message for missing inputs, with `{product_id}` and `{day}`.
        notes: type of the notes of the table.
        schema: returns the columns of the table.
        find_inputs: returns hashes or versions by name of input, from the state of the product; None if an input is
            missing.
        make: hands batches of rows to its last argument, and returns the facts.
    """

    table: str
    meaning: str
    missing: str
    notes: type[DayNotes[Facts]]
    schema: Callable[[FeatureSpec], pa.Schema]
    find_inputs: Callable[[ProductState, date, FeatureSpec], dict[str, str] | None]
    make: Callable[[Lake, str, date, FeatureSpec, Write], Facts]

    def __call__(
        self, lake: Lake, product_id: str, day: date, spec: FeatureSpec = SEEN_BY_NEIGHBOURS
    ) -> StepResult[Facts]:
        """Make the partition of a product and day, unless made from the same inputs; remove it if inputs are missing.

        Another process may change the partition meanwhile. Then the partition of the process whose inputs are those of
        the lake stays, and is the result.

        Raises:
            OSError: the lake cannot be written.
            ValueError: an object of the lake is damaged, or of another release or spec.
        """
        with lake.batch() as batch:
            state = batch.product(product_id)
            inputs, known = self.inputs(state, day, spec), self.stored(batch, product_id, day)
            if known.notes is not None and known.notes.inputs == inputs:
                return known

            def is_current(present: ProductState) -> bool:
                return self.inputs(present, day, spec) == inputs

            if inputs is None:
                if known.partition is None:
                    return known
                batch.delete(self.table, product_id, day, is_current)
            else:
                key = PartitionKey(self.table, product_id, day)
                with batch.writing(key, self.schema(spec)) as writing:
                    notes = DayNotes(inputs, self.make(batch, product_id, day, spec, writing.write))
                    entry = writing.finish()
                batch.record(key, entry, notes, is_current)
        return self.stored(batch, product_id, day)._replace(is_new=True)

    def inputs(self, state: ProductState, day: date, spec: FeatureSpec) -> dict[str, str] | None:
        """Return the inputs of a day in the state of a product, see `DayNotes`; None if an input is missing."""
        found = self.find_inputs(state, day, spec)
        return None if found is None else {"meaning": self.meaning, **found}

    def noted(self, state: ProductState, day: date) -> DayNotes[Facts] | None:
        """Return the notes of a day's partition in the state of a product; None if there is no partition.

        Raises:
            ValueError: another release wrote the partition.
        """
        entry = state.entry(self.table, day)
        name = f"{self.table} of {state.product_id} on {day}"
        return None if entry is None else decoded_notes(entry.notes, self.notes, name)

    def stored(self, lake: Lake, product_id: str, day: date) -> StepResult[Facts]:
        """Return the stored partition, if any, as the result of a step whose inputs have not changed."""
        partition = lake.partition(self.table, product_id, day)
        notes = None if partition is None else partition.notes_as(self.notes)
        return StepResult(partition, False, notes, self.missing.format(product_id=product_id, day=day))

    def read(
        self, lake: Lake, product_id: str, day: date, spec: FeatureSpec, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of a product and day.

        Raises:
            ValueError: the rows are of another spec.
            FileNotFoundError: there are no rows.
        """
        table = lake.read(self.table, product_id, day, columns)
        found = table.schema.metadata[b"spec_id"].decode()
        if found != spec.spec_id:
            rows = f"the {self.table.partition('_')[0]} rows of {product_id} on {day}"
            raise ValueError(
                f"{rows} are of feature spec {found}, asked for is {spec.spec_id}: make them again (backfill)"
            )
        return table


def days_before(spec: FeatureSpec) -> int:
    """Return how many days back a row may look."""
    return -(-reach_s(spec) // DAY_S)


def head_s(spec: FeatureSpec) -> int:
    """Return how many seconds the targets of a day look into the next day: a horizon, a hole, and a fall of time."""
    return spec.horizon_s + spec.gap_s + MAX_FALL_S
