"""The forecaster with a learner that learns nothing: the published intervals are those of the model's file.

No setting of the product does so; the drill compares with this forecaster. `python -m tests.harm.unadapted` takes the
settings of `python -m online.forecaster`.
"""

from __future__ import annotations

import sys

from online import forecaster
from online.exactly_once import scorers
from tests.benchmarks.unadapted import NoLearner

if __name__ == "__main__":
    vars(scorers)["Adaptations"] = NoLearner
    sys.exit(forecaster.main())
