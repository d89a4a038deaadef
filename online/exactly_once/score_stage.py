"""Make forecasts from feature rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.stream.codec import encode_predictions
from data.stream.records import PREDICTIONS, Forecaster
from data.times import to_ns
from online.exactly_once.feature_stage import EndedStream, FeatureColumns
from online.exactly_once.loop import Record
from online.model_watch import ModelVersion


class ScoreStage:
    """Make forecasts from feature rows, without a memory between batches.

    Args:
        serving: returns the model that serves now; one model scores a whole batch.
    """

    def __init__(self, spec: FeatureSpec, serving: Callable[[], ModelVersion]) -> None:
        self._spec, self._serving = spec, serving
        self._take(serving())

    def _take(self, served: ModelVersion) -> None:
        self._served = served
        self._train_end_ns = to_ns(served.model.train_end)
        self._columns = [self._spec.columns.index(column) for column in served.model.columns]

    def process(self, parts: list[FeatureColumns | EndedStream]) -> list[Record]:
        """Return the records of `predictions`, in the order of the rows and ends."""
        if (served := self._serving()) is not self._served:
            self._take(served)
        rows = [part for part in parts if isinstance(part, FeatureColumns)]
        texts = self._score(rows) if rows else []
        records: list[Record] = []
        start = 0
        for part in parts:
            where = repeat(PREDICTIONS), repeat(part.partition)
            if isinstance(part, EndedStream):
                records.append((PREDICTIONS, part.partition, part.product_id, part.text, part.ingest_time_ms))
            else:
                mine = texts[start : (start := start + len(part.texts))]
                records.extend(zip(*where, part.product_ids, mine, part.ingest_time_ms, strict=False))
        return records

    def _score(self, rows: list[FeatureColumns]) -> list[bytes]:
        """Return each row with its forecast as a record of `predictions`."""
        model = self._served.model
        values = np.concatenate([part.values for part in rows])[:, self._columns]
        scores = model.score(values, [name for part in rows for name in part.product_ids])
        return encode_predictions(
            [text for part in rows for text in part.texts],
            time.time_ns(),
            model.horizon_s,
            scores.score,
            np.column_stack((scores.lower, scores.upper)),
            Forecaster(model.variant, self._served.version, model.digest),
            np.concatenate([part.trades.event_time for part in rows]) <= self._train_end_ns,
            self._missing_names(scores.missing),
        )

    def _missing_names(self, missing: NDArray[np.bool_]) -> list[tuple[str, ...]]:
        """Return the names of each row's missing columns."""
        patterns, of_row = np.unique(missing @ (1 << np.arange(missing.shape[1])), return_inverse=True)
        names = self._served.model.columns
        sets = [tuple(name for bit, name in enumerate(names) if pattern >> bit & 1) for pattern in patterns.tolist()]
        return [sets[pattern] for pattern in of_row.tolist()]
