"""Tags with the promises of a version: training writes the tags, the live page and the exporter read them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

MEASURES = ("qlike", "coverage")
QUANTILES = {"05": 0.05, "50": 0.5, "95": 0.95}
"""Of the hours of a test, by the end of a tag's name."""


def promise_tag(measure: str, ending: str) -> str:
    """Return the name of the tag of a measure and a quantile.

    >>> promise_tag("qlike", "05")
    'promised_qlike_05'
    """
    return f"promised_{measure}_{ending}"


def read_promises(tags: Mapping[str, str]) -> dict[tuple[str, float], float]:
    """Return the promised values by measure and quantile; a missing tag, or a tag without a number, is left out.

    >>> read_promises({"promised_qlike_05": "0.1", "promised_qlike_95": "much", "digest": "ab"})
    {('qlike', 0.05): 0.1}
    """
    found = {}
    for measure in MEASURES:
        for ending, quantile in QUANTILES.items():
            with contextlib.suppress(KeyError, ValueError):
                found[measure, quantile] = float(tags[promise_tag(measure, ending)])
    return found
