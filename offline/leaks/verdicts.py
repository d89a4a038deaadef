"""Verdicts of the leak sentinels, and the error to block a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

FUTURE_CUT_OFF, HOLES, SCALE_AND_DATE, DUPLICATES = "future cut off", "holes", "scale and date", "duplicates"
FUTURE_CHANGED, SPLIT, COLUMNS, ANSWERS = "future changed", "split", "columns", "answers"
SHUFFLED_LABELS, TOO_GOOD = "shuffled labels", "too good"
ROW_SENTINELS = (FUTURE_CUT_OFF, HOLES, SCALE_AND_DATE, DUPLICATES)
MODEL_SENTINELS = (FUTURE_CHANGED, SPLIT, COLUMNS, ANSWERS, SHUFFLED_LABELS, TOO_GOOD)


class Verdict(NamedTuple):
    """Verdict of a sentinel.

    Attributes:
        passed: true if the sentinel found no leak.
        found, allowed: figures, for people.
    """

    name: str
    passed: bool
    found: str
    allowed: str


class LeakFound(ValueError):
    """A training is blocked.

    Attributes:
        verdicts: of all sentinels, passed or not.
    """

    def __init__(self, model: str, verdicts: Sequence[Verdict]) -> None:
        failed = [each for each in verdicts if not each.passed]
        reasons = "; ".join(f"{each.name}: found {each.found}, allowed is {each.allowed}" for each in failed)
        super().__init__(f"the training of {model} is blocked, and nothing is registered. {reasons}. See docs/leaks.md")
        self.verdicts = tuple(verdicts)


def listed(names: Iterable[str]) -> str:
    """Return names as one text.

    >>> listed(["n", "price"]), listed([])
    ('n, price', 'none')
    """
    return ", ".join(names) or "none"
