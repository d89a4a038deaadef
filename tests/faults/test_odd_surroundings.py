"""The whole system below a folder with an odd name, in an environment full of variables of other programs."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from orchestration.local.dagster.client import is_loaded
from tests.faults.stacks import running_stack
from tests.pipeline import wait_until
from tests.proofs import Proof

STRANGE = {"LC_ALL": "C", "WEB_CONCURRENCY": "2", "UVICORN_ROOT_PATH": "/x", "MLFLOW_RUN_ID": "0" * 32}
"""Variables that changed a part, or stopped it."""


@pytest.mark.acceptance
def test_the_stack_works_below_an_odd_folder_behind_a_proxy_that_is_not_there(
    tmp_path: Path, jars: list[Path], nobody: str, proof: Proof
) -> None:
    """Forecasts flow, Dagster reaches its code, and nothing lies in a mangled folder beside."""
    var, log = tmp_path / "jörg" / "my data", tmp_path / "stack.log"
    proof.disturbs("a folder named jörg/my data, http_proxy of a closed port, the locale C, WEB_CONCURRENCY=2")
    proxies = {name: nobody for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())}
    with running_stack(var, log, **proxies, **STRANGE) as (stack, settings):

        def first_forecast() -> re.Match[str] | None:
            assert stack.poll() is None, log.read_text()
            return re.search(r"first forecast (\S+) s after start", log.read_text())

        seconds = wait_until(first_forecast, "a first forecast", 400).group(1)
        wait_until(lambda: is_loaded(f"http://127.0.0.1:{settings['DAGSTER_PORT']}"), "Dagster's UI", 300)
        stack.send_signal(signal.SIGINT)
        assert stack.wait(90) == 0, log.read_text()
    proof.saw(first_forecast_s=float(seconds))
    assert "Traceback" not in log.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jörg", "stack.log"]
    assert [path.name for path in (tmp_path / "jörg").iterdir()] == ["my data"]
    assert (var / "broker" / "kafka" / "data" / "coinbase-trades-0").is_dir()
