"""The forecaster with a learner that does nothing and records without a learner's state: the peer of adaptation.

`python -m tests.benchmarks.unadapted` takes the settings of `python -m online.forecaster`.
"""

from __future__ import annotations

import sys

import msgspec
import numpy as np

from data.stream import codec
from data.trades import StreamKey
from data.truth.adaptation import Adaptations, Adapted, RawForecasts
from online import forecaster
from online.exactly_once import scorers


class NoLearner(Adaptations):
    """Returns each forecast as the model made the forecast."""

    def adapt(self, keys: tuple[StreamKey, ...], raw: RawForecasts) -> Adapted:  # noqa: ARG002
        state = np.zeros(len(raw.price))
        alike = np.zeros(len(raw.price), np.int64)
        return Adapted(raw.score, raw.lower, raw.upper, state, state, state, state, state, alike)


class NoState(msgspec.Struct):
    """One short field in place of a state: the encoder needs one."""

    weight: float


if __name__ == "__main__":
    vars(scorers)["Adaptations"] = NoLearner
    vars(codec)["AdaptedBy"] = NoState
    sys.exit(forecaster.main())
