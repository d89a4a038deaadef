"""The forecaster with an idle learner: the model's file alone makes the published intervals.

No setting of the product switches the learner off. `python -m tests.harm.unadapted` takes the settings of
`python -m online.forecaster`.
"""

from __future__ import annotations

import sys

from online import forecaster
from online.exactly_once import scorers
from tests.benchmarks.unadapted import NoLearner

if __name__ == "__main__":
    vars(scorers)["Adaptations"] = NoLearner
    sys.exit(forecaster.main())
