"""Score feature rows with one model, and adapt the scores of several models, each by its own past forecasts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.features.spec import FeatureSpec
from data.models.served import Scores
from data.stream.codec import Forecasts
from data.stream.records import Forecaster
from data.times import to_ns
from data.trades import Floats, StreamKey
from data.truth.adaptation import Adaptations, Published, RawForecasts, teaching
from online.exactly_once.feature_stage import FeatureColumns
from online.model_watch import ModelVersion


class Scorer:
    """Score feature rows of a spec with a model."""

    def __init__(self, found: ModelVersion, spec: FeatureSpec) -> None:
        self.model = found.model
        self.forecaster = Forecaster(found.model.variant, found.version, found.model.digest)
        self.train_end_ns = to_ns(found.model.train_end)
        self._columns = spec.places(found.model.columns)

    def score(self, values: Floats, product_ids: Sequence[str]) -> Scores:
        """Return the model's own scores.

        Args:
            values: shape (n, columns of the spec).
            product_ids: n, of each row.
        """
        return self.model.score(values[:, self._columns], product_ids)


class StreamStates:
    """Adapt the forecasts of several models in the streams of one partition.

    A model that misses a row of a stream starts afresh in the stream: the row might have ended a horizon.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._states: dict[str, Adaptations] = {}  # by digest

    def resume(self, key: StreamKey, digest: str, published: Published) -> None:
        """Rebuild the state of a stream and a model, see `Adaptations.resume`."""
        self._of(digest).resume(key, published)

    def drop(self, key: StreamKey) -> None:
        """Drop the states of a stream that has ended."""
        for states in self._states.values():
            states.drop(key)

    def adapt(self, part: FeatureColumns, scored: Sequence[tuple[Scorer, Scores]]) -> list[Forecasts]:
        """Return the adapted forecasts of each model for n rows, and leave the states ready for the next rows.

        Args:
            scored: each model with its own scores of the rows.
        """
        absent = self._states.keys() - {scorer.forecaster.digest for scorer, _ in scored}
        if absent:
            self._forget(absent, part)
        return [self._adapt(part, *each) for each in scored]

    def _adapt(self, part: FeatureColumns, scorer: Scorer, scores: Scores) -> Forecasts:
        trades, forecaster = part.trades, scorer.forecaster
        teaches = teaching(part.values, trades.event_time, scorer.train_end_ns, self._spec)
        adapted = self._of(forecaster.digest).adapt(trades.keys, RawForecasts.of(trades, scores, teaches))
        return Forecasts(forecaster, scores.score, adapted, trades.event_time <= scorer.train_end_ns)

    def _forget(self, digests: set[str], part: FeatureColumns) -> None:
        """Forget models in the streams that have rows in a part."""
        keys = [part.trades.keys[stream] for stream in np.unique(part.trades.stream)]
        for digest in digests:
            for key in keys:
                self._states[digest].drop(key)
            if not self._states[digest].open_streams:
                del self._states[digest]

    def _of(self, digest: str) -> Adaptations:
        if digest not in self._states:
            self._states[digest] = Adaptations(self._spec)
        return self._states[digest]
