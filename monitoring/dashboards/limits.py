"""Read the limits of alerts from the rules, so that a dashboard shows the number at which an alert fires."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, Final, NamedTuple

import yaml

from data.files import CHECKOUT

RULES: Final = CHECKOUT / "monitoring" / "rules"


class Limit(NamedTuple):
    """The value of a series at which an alert fires.

    Attributes:
        severity: `page` or `ticket`.
        sign: how a series that fires compares with the value: `>`, `>=`, `==`, `<` or `<=`.
    """

    alert: str
    severity: str
    sign: str
    value: float


def limit(alert: str, series: str) -> Limit:
    """Return the limit of a series in an alert's expression.

    Raises:
        KeyError: no alert has this name.
        ValueError: the expression does not compare the series with a number.
    """
    rule = _alerts()[alert]
    found = re.search(
        re.escape(series) + r"(?:\{[^}]*\})?\)*\s*(?P<sign>[<>]=?|==)\s*(?P<number>[\d.]+(?: \* [\d.]+)*)",
        rule["expr"],
    )
    if not found:
        raise ValueError(f"{alert} does not compare {series} with a number: {rule['expr']}")
    value = math.prod(float(factor) for factor in found["number"].split(" * "))
    return Limit(alert, rule["labels"]["severity"], found["sign"], value)


def slow_answer_s() -> float:
    """Return the time, in seconds, after which an answer of the API counts as slow in the recording rules.

    Raises:
        ValueError: the rules name no time, or several.
    """
    text = (RULES / "recording.yml").read_text()
    bounds = set(re.findall(r'cryptovol_request_seconds_bucket\{[^}]*le="([\d.]+)"', text))
    if len(bounds) != 1:
        raise ValueError(f"the rules name {len(bounds)} bounds for slow answers, 1 is needed")
    return float(bounds.pop())


@cache
def _alerts() -> dict[str, dict[str, Any]]:
    documents = (yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml")))
    rules = (rule for document in documents for group in document["groups"] for rule in group["rules"])
    return {rule["alert"]: rule for rule in rules if "alert" in rule}
