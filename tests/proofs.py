"""Table at the end of a session: each proof's disturbance, figures and outcome.

A test with the fixture `proof` is a proof: a part of `make acceptance`, long or quick, with a line in the table. The
test reports while running:

    def test_a_killed_thing_costs_nothing(proof: Proof, ...) -> None:
        proof.disturbs("thing killed 3 times")
        ...
        proof.saw(restart_p95_s=2.71, rows=6_000)       # figures; the unit ends the name
        proof.equal(found, expected, "predictions")     # notes the comparison, and fails with the first difference

A failed test keeps its report in the table. A proof too long for `make test` is marked `acceptance` besides.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from itertools import zip_longest
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

WIDTH = 150
NOTHING = object()
UNFINISHED = "unfinished"
"""Outcome of a test whose session was interrupted."""


@dataclass
class Proof:
    """Line of the table.

    Attributes:
        name: of the test.
        compared: the compared records, and whether they were equal.
        outcome: passed, failed, unfinished, or why the test was skipped.
    """

    name: str
    disturbed: str = ""
    figures: dict[str, float | int | str] = field(default_factory=dict)
    compared: dict[str, bool] = field(default_factory=dict)
    outcome: str = UNFINISHED
    seconds: float = 0.0

    def disturbs(self, what: str) -> None:
        """Note the disturbance of the system."""
        self.disturbed = what

    def saw(self, **figures: float | int | str) -> None:
        """Add measured figures."""
        self.figures |= figures

    def equal(self, found: Sequence[Any], expected: Sequence[Any], what: str) -> None:
        """Compare two sequences, and fail with the first difference: a whole diff of 20,000 rows takes minutes."""
        pairs = zip_longest(found, expected, fillvalue=NOTHING)
        differs = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        self.compared[what] = differs is None
        if differs is not None:
            shown = [rows[differs] if differs < len(rows) else "nothing" for rows in (found, expected)]
            pytest.fail(
                f"{what}: {len(found)} found, {len(expected)} expected; the first that differs is number {differs}: "
                f"found {shown[0]}, expected {shown[1]}"
            )


PROOFS = pytest.StashKey[dict[str, Proof]]()


class ProofTable:
    """Collects the lines of all reports, also from other processes, and prints the table."""

    def __init__(self) -> None:
        self._lines: dict[str, Proof] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "proof":
                self._lines[report.nodeid] = Proof(**json.loads(str(value)))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._lines:
            terminalreporter.write_line("")
            terminalreporter.write(render(list(self._lines.values())))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proof: has a line in the table of `make acceptance`")
    config.stash[PROOFS] = {}
    config.pluginmanager.register(ProofTable())


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "proof" in getattr(item, "fixturenames", ()):
            item.add_marker("proof")


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    """Return the test's line in the table."""
    return request.config.stash[PROOFS][request.node.nodeid]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("proof") is not None:
        line = item.config.stash[PROOFS].setdefault(item.nodeid, Proof(_readable(item.name)))
        line.seconds += report.duration
        if report.failed:
            line.outcome = "FAILED"
        elif report.skipped:
            line.outcome = f"skipped: {report.longrepr[-1] if isinstance(report.longrepr, tuple) else ''}"
        elif report.when == "call":
            line.outcome = "passed"
        report.user_properties.append(("proof", json.dumps(asdict(line))))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("proof") is not None:
        item.config.stash[PROOFS][item.nodeid] = Proof(_readable(item.name))


def render(proofs: Sequence[Proof]) -> str:
    """Return the table as text."""
    table = Table(title="proofs", title_justify="left", show_lines=True)
    for name, ratio in (("proof", 5), ("disturbed", 4), ("figures", 5), ("outcome", 3)):
        table.add_column(name, ratio=ratio, overflow="fold")
    table.add_column("s", justify="right")
    for each in proofs:
        figures = [f"{name} {_shown(value)}" for name, value in each.figures.items()]
        compared = [f"{what} {'equal' if is_equal else 'NOT EQUAL'}" for what, is_equal in each.compared.items()]
        outcome = "\n".join([each.outcome, *compared])
        table.add_row(each.name, each.disturbed, "\n".join(figures), outcome, f"{each.seconds:.1f}")
    text = StringIO()
    Console(file=text, width=WIDTH, highlight=False, markup=False).print(table)
    return text.getvalue()


def _readable(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _shown(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
