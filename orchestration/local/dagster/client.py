"""Client of Dagster's GraphQL for the local stack: ask for the definitions, launch a job, wait for a run, end all runs.

Without Dagster's own packages: the stack's own process stays small.
"""

from __future__ import annotations

import json
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from types import MappingProxyType
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from orchestration.instance.home import LOCATION

LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine: never through a proxy of the environment."""
REPOSITORY = "__repository__"
"""Dagster's name of the only repository in a module with `Definitions`."""
TIMEOUT_S = 10.0
LAUNCH_S = 60.0
"""A launch is asked for once: a second request would launch a second run."""
PATIENCE_S = 60.0
POLL_S = 0.5
ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
ACTIVE = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")


class DagsterRefused(RuntimeError):
    """Dagster answers with an error; the message is Dagster's."""


def open_local(url: str, timeout_s: float, json_body: bytes | None = None) -> HTTPResponse:
    """Return the answer of a server of this machine; a login in the URL becomes a header.

    Raises:
        OSError: the server does not answer, or refuses.
    """
    parts = urlsplit(url)
    login, _, place = parts.netloc.rpartition("@")
    headers = {} if json_body is None else {"content-type": "application/json"}
    if login:
        headers["authorization"] = f"Basic {b64encode(unquote(login).encode()).decode()}"
    request = urllib.request.Request(parts._replace(netloc=place).geturl(), json_body, headers)
    try:
        answer: HTTPResponse = LOOPBACK.open(request, timeout=timeout_s)
    except HTTPError as refusal:
        refusal.close()  # an unread body would keep its connection open
        raise
    return answer


def ask(url: str, query: str, timeout_s: float = TIMEOUT_S, /, **variables: Any) -> dict[str, Any]:
    """Return the data of a GraphQL answer.

    Args:
        url: of the webserver, with the login if it asks for one.

    Raises:
        OSError: the webserver does not answer.
        DagsterRefused: the query is refused.
    """
    body = json.dumps({"query": query, "variables": variables}).encode()
    with open_local(f"{url}/graphql", timeout_s, body) as answer:
        found = json.load(answer)
    if found.get("errors"):
        raise DagsterRefused("; ".join(error["message"] for error in found["errors"]))
    data: dict[str, Any] = found["data"]
    return data


def is_loaded(url: str) -> bool:
    """Return whether the webserver answers with our definitions; only then can a job be launched."""
    query = """{ workspaceOrError { ... on Workspace { locationEntries {
        loadStatus locationOrLoadError { __typename } } } } }"""
    try:
        entries = ask(url, query, 2.0)["workspaceOrError"].get("locationEntries", [])
    except (OSError, ValueError, DagsterRefused):
        return False
    return bool(entries) and all(
        entry["loadStatus"] == "LOADED" and (entry["locationOrLoadError"] or {})["__typename"] == "RepositoryLocation"
        for entry in entries
    )


def launch(url: str, job: str, config: Mapping[str, Any] | None = None, partition: str | None = None) -> str:
    """Launch a job and return the run's id.

    Args:
        config: run config, as in the launchpad.
        partition: of a job with partitions.

    Raises:
        DagsterRefused: the job does not exist, or does not take the config.
    """
    query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
        ... on LaunchRunSuccess { run { runId } } ... on Error { message }
        ... on RunConfigValidationInvalid { errors { message } } } }"""
    selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "jobName": job}
    tags = [] if partition is None else [{"key": "dagster/partition", "value": partition}]
    params = {"selector": selector, "runConfigData": dict(config or {}), "executionMetadata": {"tags": tags}}
    found = ask(url, query, LAUNCH_S, params=params)["launchRun"]
    if found["__typename"] != "LaunchRunSuccess":
        reasons = [error["message"] for error in found.get("errors", [])] or [found.get("message", "")]
        raise DagsterRefused(f"{job} was not launched, {found['__typename']}: {'; '.join(reasons)}")
    return str(found["run"]["runId"])


def status(url: str, run_id: str) -> str:
    """Return the state of a run, such as STARTED or SUCCESS."""
    query = "query($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status } } }"
    found = ask(url, query, id=run_id)["runOrError"]
    if "status" not in found:
        raise DagsterRefused(f"run {run_id}: {found['__typename']}")
    return str(found["status"])


def wait(url: str, run_id: str, patience_s: float = PATIENCE_S) -> str:
    """Wait until a run has ended, and return its end state.

    Raises:
        OSError: the webserver has not answered for `patience_s`; a busy or restarting webserver is asked again.
    """
    answered = time.monotonic()
    while True:
        try:
            if (now := status(url, run_id)) in ENDED:
                return now
            answered = time.monotonic()
        except OSError:
            if time.monotonic() - answered > patience_s:
                raise
        time.sleep(POLL_S)


def failure_of(url: str, run_id: str) -> str:
    """Return why a run has failed, in the run's own words: the first error in the chain that is not Dagster's."""
    query = """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events { __typename
        ... on ExecutionStepFailureEvent { error { message cause { message } } failureMetadata { description } }
        ... on RunFailureEvent { message error { className message cause { className message
            cause { className message } } } } } } } }"""
    events = ask(url, query, id=run_id)["logsForRun"].get("events", [])
    first_of = {event["__typename"]: event for event in reversed(events)}
    if event := first_of.get("ExecutionStepFailureEvent"):
        described = (event["failureMetadata"] or {}).get("description")
        error = event["error"] or {}
        return str(described or (error.get("cause") or error).get("message", "")).strip()
    if event := first_of.get("RunFailureEvent"):
        error = event["error"] or event
        while error.get("cause") and str(error["className"]).startswith("Dagster"):
            error = error["cause"]
        return str(error["message"]).strip()
    return ""


def active_runs(url: str, tags: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the runs that have not ended and have all tags: id and state of each."""
    query = """query($filter: RunsFilter!) { runsOrError(filter: $filter) {
        ... on Runs { results { runId status } } } }"""
    wanted = [{"key": key, "value": value} for key, value in tags.items()]
    found = ask(url, query, filter={"statuses": ACTIVE, "tags": wanted})["runsOrError"].get("results", [])
    return {str(run["runId"]): str(run["status"]) for run in found}


def end_runs(
    url: str, within_s: float, say: Callable[[str], None], tags: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Cancel all runs and wait for their end: stopping Dagster alone would leave the runs alive.

    A run during its launch cannot be cancelled yet, and Dagster does not keep the wish: the cancel is sent again.

    Args:
        tags: of the runs; without tags all runs are cancelled.
    """
    query = """mutation($ids: [String!]!) { terminateRuns(runIds: $ids, terminatePolicy: SAFE_TERMINATE) {
        __typename } }"""
    deadline = time.monotonic() + within_s
    told = False
    while runs := active_runs(url, tags):
        if not told:
            told = True
            say(f"cancelling {len(runs)} Dagster run{'s' if len(runs) > 1 else ''}")
        if time.monotonic() > deadline:
            say(f"{len(runs)} Dagster runs did not end within {within_s:.0f} s and are killed")
            return
        if going_on := [run_id for run_id, state in runs.items() if state != "CANCELING"]:
            ask(url, query, ids=going_on)
        time.sleep(POLL_S)
