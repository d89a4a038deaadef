"""A real Prometheus answers each query of the dashboards."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from monitoring.dashboards.__main__ import FOLDER
from tests.plausible import history
from tests.prometheus import empty_queries, expressions, prometheus_of, result_of

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
