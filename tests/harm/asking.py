"""What a person does and reads in Dagster, over GraphQL; and which rules Prometheus has evaluated."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, NamedTuple

import httpx

from orchestration.instance.home import LOCATION
from orchestration.local.dagster import client as dagster
from orchestration.local.dagster.client import REPOSITORY
from tests.pipeline import wait_until
from tests.prometheus import result_of

RUN_S = 1_200.0
"""Limit for a run of Dagster, on two busy processors; on idle ones the longest takes a minute."""
RULES_S = 120.0
"""Limit for a scrape and an evaluation, 5 s each, on two busy processors."""


class DriftReport(NamedTuple):
    """A report of the asset `drift`.

    Attributes:
        hours: number of judged hours.
        hour: the shown hour, UTC.
        drift, loss, with_loss: see `monitoring.drift.verdict.Findings`.
        named: the largest column.
        url: of Evidently's page in MLflow.
    """

    run_id: str
    hours: int
    hour: str
    drift: bool
    loss: bool
    with_loss: bool
    named: str
    largest: float
    url: str


class Run(NamedTuple):
    """A run of Dagster."""

    run_id: str
    status: str
    tags: dict[str, str]


def run_job(url: str, job: str, config: dict[str, Any] | None = None) -> str:
    """Launch a job, wait for its success, and return the id of the run."""
    return _succeeded(url, dagster.launch(url, job, config), job)


def materialize(url: str, asset: str, partition: str) -> str:
    """Materialize a partition of an asset, wait for the success, and return the id of the run."""
    query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
        ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
    selector = {
        "repositoryLocationName": LOCATION,
        "repositoryName": REPOSITORY,
        "jobName": "__ASSET_JOB",
        "assetSelection": [{"path": [asset]}],
    }
    tags = [{"key": "dagster/partition", "value": partition}]
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
    found = dagster.ask(url, query, params=params)["launchRun"]
    assert found["__typename"] == "LaunchRunSuccess", found
    return _succeeded(url, str(found["run"]["runId"]), asset)


def _succeeded(url: str, run_id: str, what: str) -> str:
    ended = await_run(url, run_id)
    assert ended == "SUCCESS", f"{what} ended with {ended}: {dagster.failure_of(url, run_id)}"
    return run_id


def await_run(url: str, run_id: str) -> str:
    """Wait until a run has ended, and return its end state."""

    def ended() -> str:
        try:
            now = dagster.status(url, run_id)
        except OSError:  # a busy webserver is asked again
            return ""
        return now if now in dagster.ENDED else ""

    return str(wait_until(ended, f"the end of {url}/runs/{run_id}", RUN_S))


def report_of(url: str, run_id: str) -> DriftReport | None:
    """Return the drift report that a run made; None if no full hour was new."""
    query = """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations(limit: 100) { runId metadataEntries { label ... on BoolMetadataEntry { boolValue }
        ... on TextMetadataEntry { text } ... on FloatMetadataEntry { floatValue }
        ... on IntMetadataEntry { intValue } ... on UrlMetadataEntry { url } } } } } }"""
    found = dagster.ask(url, query, key={"path": ["drift"]})["assetOrError"].get("assetMaterializations", [])
    entries = next((each["metadataEntries"] for each in found if each["runId"] == run_id), None)
    if entries is None:
        return None
    facts: dict[str, Any] = {entry.pop("label"): next(iter(entry.values()), None) for entry in entries}
    names = "hours", "hour", "drift", "loss", "drift with loss", "largest", "largest ratio", "report"
    return DriftReport(run_id, *(facts[name] for name in names))


def runs_of(url: str, **tags: str) -> list[Run]:
    """Return the runs with some tags, newest first; a double underscore in a name is a slash in the tag."""
    query = """query($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {
        runId status tags { key value } } } } }"""
    wanted = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
    found = dagster.ask(url, query, filter={"tags": wanted})["runsOrError"]["results"]
    return [Run(each["runId"], each["status"], {tag["key"]: tag["value"] for tag in each["tags"]}) for each in found]


def await_rules(prometheus: str) -> None:
    """Wait until all rules were evaluated on scrapes later than now."""
    moment = time.time() + 1.0  # the exporter may still read

    def evaluated() -> bool:
        try:
            return _has_evaluated_since(prometheus, moment)
        except httpx.TransportError:
            return False

    wait_until(evaluated, "the rules are evaluated", RULES_S)


def _has_evaluated_since(prometheus: str, moment: float) -> bool:
    """Return whether all rules were evaluated on scrapes of the exporter after a moment, in seconds since 1970."""
    scraped = [float(each["value"][1]) for each in result_of(prometheus, "timestamp(up{job='exporter'})")]
    if not scraped or min(scraped) < moment:
        return False
    groups = httpx.get(f"{prometheus}/api/v1/rules", trust_env=False).json()["data"]["groups"]
    return min(_seconds(group["lastEvaluation"]) for group in groups) > max(scraped)


def _seconds(text: str) -> float:
    """Return a time of Prometheus, which has nine digits, in seconds since 1970.

    >>> _seconds("1970-01-01T00:01:00.500000001Z")
    60.5
    """
    return dt.datetime.fromisoformat(f"{text[:19]}.{(text[20:-1] + '000000')[:6]}+00:00").timestamp()
