"""The forecaster, with its shadows in every second second alone: both sides see the same machine.

`python -m tests.benchmarks.blinking` takes the settings of `python -m online.forecaster`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from data.features.spec import FeatureSpec
from online import forecaster
from online.exactly_once.resumption import ReadPredictions
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion


class BlinkingStage(ScoreStage):
    """Hides the shadows in even seconds."""

    def __init__(
        self,
        spec: FeatureSpec,
        serving: Callable[[], ModelVersion],
        read: ReadPredictions,
        metrics: ForecasterMetrics,
        shadows: Callable[[], tuple[ModelVersion, ...]],
    ) -> None:
        super().__init__(spec, serving, read, metrics, lambda: shadows() if int(time.monotonic()) % 2 else ())


if __name__ == "__main__":
    vars(forecaster)["ScoreStage"] = BlinkingStage
    sys.exit(forecaster.main())
