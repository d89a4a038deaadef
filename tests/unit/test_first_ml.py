"""The maker of the first `volatility-ml`: when another start may help, and which steps are never repeated."""

from __future__ import annotations

import sys
from email.message import Message
from itertools import count
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest

from data.process.running import AGAIN, REFUSED
from orchestration.local.dagster import client as dagster_client
from orchestration.local.dagster import first_model as first_ml
from tests.fakes import FakeRegistry


def made(monkeypatch: pytest.MonkeyPatch, registry: str, dagster: str) -> int:
    """Run the maker, with an API that does not answer, and return the exit code."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry)
    monkeypatch.setattr(first_ml, "ANSWERS_WITHIN_S", 0.0)
    monkeypatch.setattr(sys, "argv", ["first_ml", "--dagster", dagster, "--api", dagster])
    return first_ml.main()


@pytest.mark.parametrize(("status", "code"), [(401, 1), (403, 1), (503, AGAIN)])
def test_a_registry_that_refuses_is_no_cause_that_passes(
    registry: FakeRegistry, nobody: str, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    """The supervisor gives up a part that exits with the same error again and again, except with `AGAIN`."""
    registry.broken = status, b"who are you?"
    assert made(monkeypatch, registry.uri, nobody) == code


def test_a_registry_or_a_dagster_that_does_not_answer_yet_is_asked_again(
    registry: FakeRegistry, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(monkeypatch, nobody, nobody) == AGAIN
    assert made(monkeypatch, registry.uri, nobody) == AGAIN


@pytest.mark.parametrize(("status", "code"), [(403, 1), (502, AGAIN)])
def test_a_dagster_that_answers_with_an_error(
    registry: FakeRegistry, nobody: str, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    def launch(url: str, *_: Any) -> str:
        raise HTTPError(url, status, "no", Message(), None)

    monkeypatch.setattr(first_ml, "launch", launch)
    assert made(monkeypatch, registry.uri, nobody) == code


def test_a_run_is_waited_for_however_long_dagster_is_away(
    registry: FakeRegistry, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand seconds pass with each look at the clock; another start would launch all runs again."""
    launched: list[str] = []
    answers: list[str] = ["away", "away", "SUCCESS", "away", "SUCCESS", "away", "FAILURE"]

    def launch(_: str, job: str, *__: Any) -> str:
        launched.append(job)
        return job

    def status(*_: Any) -> str:
        if (found := answers.pop(0)) == "away":
            raise ConnectionRefusedError
        return found

    monkeypatch.setattr(first_ml, "launch", launch)
    monkeypatch.setattr(first_ml, "failure_of", lambda *_: "the gate is shut")
    monkeypatch.setattr(dagster_client, "status", status)
    clock = SimpleNamespace(monotonic=count(0, 1_000).__next__, sleep=lambda _: None)
    monkeypatch.setattr(dagster_client, "time", clock)
    assert made(monkeypatch, registry.uri, nobody) == REFUSED
    assert launched == ["simulate", "retrain", "promote"]
    assert not answers
