"""Compile every kernel into the cache: `python -m data.process.precompile`.

The build of an image runs the command: processes of the image find compiled code in a read-only folder. The code is for
one feature spec, and a process with another `WINDOW_SIZE` compiles again.
"""

from __future__ import annotations

import datetime as dt

import numpy as np

from data.compiled import CompilerSettings
from data.features.admission import Admission
from data.features.spec import FeatureSpec
from data.features.strays import judged
from data.features.windows import compile_kernel
from data.models.served import Scores
from data.models.settings import RegistrySettings
from data.recordings.dialects.documents import object_lines
from data.simulator.day import simulate_day
from data.truth.adaptation import adapted_by_targets, compile_adaptation
from data.truth.judging import Judge
from data.truth.targets import target_volatility


def precompile(spec: FeatureSpec) -> None:
    """Call every compiled function once, on a simulated minute."""
    trades = simulate_day("BTC-USD", dt.date(2025, 1, 6), hours=(0, 1)).take(slice(0, 700))
    time, price = trades.event_time, trades.price
    compile_kernel(spec)
    compile_adaptation(spec)
    Admission().judge(trades)
    judged(trades)
    judged(trades.take(np.arange(len(trades))[::-1]))  # times that fall are searched for strays
    list(object_lines(iter([b'[{"a":1},{"a":2}]'])))
    targets = target_volatility(time, price, spec)
    judge = Judge(spec)
    judge.follow(time, price, price)
    judge.end()
    scores = Scores(price, price, price, np.zeros((len(price), 0), np.bool_))
    adapted_by_targets(time, targets, scores, np.ones(len(time), np.bool_), spec)


def main() -> None:
    precompile(RegistrySettings().spec())
    folder = CompilerSettings().cache_folder()
    print(f"{folder}: compiled code of {sum(1 for _ in folder.rglob('*.nbc'))} functions")


if __name__ == "__main__":
    main()
