"""Read the rules of Prometheus, their tests and their metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from dagster_shared.yaml_utils import load_yaml_from_path

from data.files import CHECKOUT

RULES = CHECKOUT / "monitoring" / "rules"
CASES = CHECKOUT / "tests" / "rules"
SELECTOR = re.compile(r"\b(cryptovol_\w+|\w+:cryptovol_\w+:\w+|up)\b(\{[^}]*\})?")
"""A metric, or a recorded series, with its label matchers."""


class Selector(NamedTuple):
    """A metric in an expression, and the names of the labels that choose its series."""

    text: str
    name: str
    labels: frozenset[str]


def rules() -> Iterator[dict[str, Any]]:
    """Yield all rules of all files."""
    for path in sorted(RULES.glob("*.yml")):
        for group in loaded(str(path))["groups"]:
            yield from group["rules"]


def cases() -> Iterator[dict[str, Any]]:
    """Yield what the tests of rules say about an alert at a time."""
    for path in sorted(CASES.glob("*.yml")):
        for test in loaded(str(path))["tests"]:
            yield from test["alert_rule_test"]


def selectors(expression: str) -> Iterator[Selector]:
    """Yield the metrics of an expression.

    >>> [(each.name, sorted(each.labels)) for each in selectors('rate(cryptovol_rejects_total{a="1",b!="2"}[5m]) > up')]
    [('cryptovol_rejects_total', ['a', 'b']), ('up', [])]
    """
    for found in SELECTOR.finditer(expression):
        yield Selector(found[0], found[1], frozenset(re.findall(r"(\w+)\s*[!=]", found[2] or "")))


def loaded(path: str) -> Any:
    return load_yaml_from_path(path)
