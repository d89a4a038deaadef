"""A real Prometheus answers each query of the dashboards: with plausible values, and with those of a running stack."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from monitoring.dashboards.__main__ import FOLDER
from tests.drawing.stack import eventful_stack
from tests.plausible import history
from tests.prometheus import empty_queries, expressions, prometheus_of, result_of, sent_queries
from tests.proofs import Proof

END = float(round(time.time()) // 60 * 60)
START = END - 1_200.0
"""Seconds since 1970 of the history's ends."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a Prometheus with plausible values of each metric, one every 15 s."""
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip("Prometheus is not installed")
    times = [START + 15.0 * step for step in range(81)]
    with prometheus_of(history(times, END), (START, END), 15, tmp_path_factory.mktemp("prometheus")) as found:
        yield found


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.json")))
def test_prometheus_has_data_for_each_query(url: str, name: str) -> None:
    board = json.loads((FOLDER / name).read_text())
    assert len(list(expressions(board))) > 10
    assert empty_queries(url, board, END) == []


def test_a_wrong_query_is_reported(url: str) -> None:
    assert empty_queries(url, {"panels": [{"targets": [{"expr": "cryptovol_absent"}]}]}, END) == ["cryptovol_absent"]
    with pytest.raises(ValueError, match="parse error"):
        result_of(url, "sum by (")


SPEED, EVENTS_S, LATE_S = 120.0, 240.0, 240.0
"""Event time per wall time, seconds for the events, and for what follows late, as a drift report.

Four hours of event time, for the p of Diebold and Mariano, take two minutes.
"""
STEP_S = 5
RIGHTLY_EMPTY: dict[str, str] = {}
"""By panel: why the panel has no number in a stack in which all is well."""


@pytest.mark.acceptance
def test_a_running_stack_has_a_number_for_each_query(tmp_path: Path, jars: list[Path], proof: Proof) -> None:
    """Replays, a client, malformed rows, shadows, moves of the champion, drift reports, a sink, parity, a retrain."""
    if not shutil.which("prometheus"):
        pytest.skip("Prometheus is not installed")
    boards = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    proof.disturbs("a champion promoted and rolled back, a retrain, malformed records and rows")
    with eventful_stack(tmp_path, SPEED) as stack:
        stack.live(EVENTS_S)
        deadline = time.monotonic() + LATE_S
        while True:
            now = time.time()
            each_board = (sent_queries(stack.url("prometheus"), board, stack.began, now, STEP_S) for board in boards)
            sent = list(chain.from_iterable(each_board))
            empty = {each.place: each.expr for each in sent if not each.has_number}
            if empty.keys() <= RIGHTLY_EMPTY.keys() or time.monotonic() > deadline:
                break
            time.sleep(5)
    proof.saw(queries=len(sent), rightly_empty=len(empty))
    assert {place: expr for place, expr in empty.items() if place not in RIGHTLY_EMPTY} == {}
