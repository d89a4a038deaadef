"""How many rows a training may hold in memory, and the product-days that give the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from itertools import groupby, pairwise
from typing import NamedTuple

from offline.lake.state import Partition

FIXED_MB = 650
"""Memory of a training without rows: interpreter, scikit-learn, onnxruntime, and the client of MLflow."""

ROW_KB = 2.2
"""Memory for each row of training and its part of the test: at the peak of a training 1.2 kB, of the gate 2.0 kB."""

TEST_PART = 0.5
"""Stored rows of the test for each row of training, at most. Half of the stored rows are of short windows, and have no
part in a test."""

LEAST_ROWS = 200
"""Rows of a product-day in a sample: with fewer, the files cost more time than their rows are worth."""

SAMPLE_SEED = 0
"""Seed of samples of product-days and of rows."""


class SampledDays(NamedTuple):
    """Product-days that give the rows of a sample.

    Attributes:
        partitions: by product and day.
        share: of the rows of each, see `offline.samples.thinned`; 1 if all rows fit.
        of_rows, of_days: numbers of rows and of product-days that the sample stands for.
    """

    partitions: list[Partition]
    share: float
    of_rows: int
    of_days: int

    @property
    def is_whole(self) -> bool:
        """True if all rows are taken."""
        return self.share == 1 and len(self.partitions) == self.of_days

    @property
    def part(self) -> float:
        """Return the taken rows, as a share of all rows."""
        return self.share * sum(each.rows for each in self.partitions) / max(self.of_rows, 1)

    def product_days(self) -> list[tuple[str, date]]:
        """Return product and day of each."""
        return [(each.product_id, each.day) for each in self.partitions]


def sampled_days(partitions: Sequence[Partition], most_rows: int) -> SampledDays:
    """Return the product-days of a sample of at most about `most_rows` rows, and the share of their rows.

    If each product-day would give fewer than `LEAST_ROWS` rows, fewer product-days give rows: the days of each product
    are cut into runs of equal length, and one day of each run is chosen, by a hash. A product keeps one day at least.

    Args:
        partitions: with rows, sorted by product and day.
    """
    total = sum(each.rows for each in partitions)
    if total <= most_rows:
        return SampledDays(list(partitions), 1.0, total, len(partitions))
    few = most_rows // LEAST_ROWS
    chosen = list(partitions)
    if len(chosen) > few:
        chosen = []
        for _, group in groupby(partitions, key=lambda each: each.product_id):
            days = list(group)
            count = min(max(round(len(days) * few / len(partitions)), 1), len(days))
            edges = [len(days) * i // count for i in range(count + 1)]
            chosen += [min(days[begin:end], key=_rank) for begin, end in pairwise(edges)]
    share = min(most_rows / sum(each.rows for each in chosen), 1.0)
    return SampledDays(chosen, share, total, len(partitions))


def days_of_training(partitions: Sequence[Partition], max_mb: int) -> SampledDays:
    """Return the product-days whose rows fit a training, see `sampled_days`.

    Args:
        max_mb: memory of the process, 10 ** 6 bytes.
    """
    return sampled_days(partitions, _most_rows(max_mb))


def days_of_test(partitions: Sequence[Partition], max_mb: int) -> SampledDays:
    """Return the product-days whose rows fit a test beside the training, see `days_of_training`."""
    return sampled_days(partitions, int(_most_rows(max_mb) * TEST_PART))


def _most_rows(max_mb: int) -> int:
    return int((max_mb - FIXED_MB) * 1e3 / ROW_KB)


def _rank(partition: Partition) -> bytes:
    return hashlib.sha256(f"{SAMPLE_SEED} {partition.product_id} {partition.day}".encode()).digest()
