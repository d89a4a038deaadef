"""The forecaster with a learner that learns nothing: it publishes each model's own intervals, as the file makes them.

No setting of the product does this: the drill compares with it. `python -m tests.harm.unadapted` takes the settings of
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
