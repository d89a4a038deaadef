"""Retries of requests to the broker; tests with a real broker are in test_pipeline.py and faults/."""

from __future__ import annotations

import math
from itertools import count

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from data.names import NotRead, Stopped, Unanswered
from data.settings import KafkaSettings
from data.stream import clients as kafka
from data.stream.clients import client_config, new_process_helps, retry


def broker_that_answers(after: int, code: int = KafkaError._TIMED_OUT) -> tuple[list[float], object]:
    """Return the list of requests, and a stand-in for a call of the client that fails `after` times."""
    asked: list[float] = []

    def ask(timeout_s: float) -> str:
        asked.append(timeout_s)
        if len(asked) <= after:
            raise KafkaException(KafkaError(code))
        return "answer"

    return asked, ask


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.NOT_COORDINATOR,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
    ],
)
def test_a_passing_error_is_retried(code: int) -> None:
    asked, ask = broker_that_answers(2, code)
    assert retry(ask, lambda: True, "here:1") == "answer"  # type: ignore[arg-type]
    assert len(asked) == 3


def test_a_partition_that_stays_unknown_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0.25 s between two requests, the waits reach 1 s after four; the fifth answer is the last."""
    monkeypatch.setattr(kafka, "RETRY_S", 0.25)
    monkeypatch.setattr(kafka, "KNOWN_WITHIN_S", 1.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    asked, ask = broker_that_answers(1_000, KafkaError._UNKNOWN_PARTITION)
    with pytest.raises(KafkaException) as said:
        retry(ask, lambda: True, "here:1")  # type: ignore[arg-type]
    error = said.value.args[0]
    assert (error.code(), error.str()) == (KafkaError.UNKNOWN_TOPIC_OR_PART, "Local: Unknown partition, for 1 s")
    assert not new_process_helps(error)
    assert len(asked) == 5


def test_time_in_which_a_process_does_not_run_is_no_wait_for_a_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes with each request."""
    hours = count(0, 3_600)
    monkeypatch.setattr("time.monotonic", lambda: next(hours))
    asked, ask = broker_that_answers(2, KafkaError._UNKNOWN_PARTITION)
    assert retry(ask, lambda: True, "here:1") == "answer"  # type: ignore[arg-type]
    assert len(asked) == 3


def test_a_transaction_without_a_partition_is_not_asked_again() -> None:
    """The forecaster aborts such a transaction, and makes another."""
    asked: list[float] = []

    def commit(timeout_s: float) -> None:
        asked.append(timeout_s)
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION, txn_requires_abort=True))

    with pytest.raises(KafkaException):
        retry(commit, lambda: True, "here:1")
    assert len(asked) == 1


def test_a_refusal_is_not_retried() -> None:
    asked, ask = broker_that_answers(1, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        retry(ask, lambda: True, "here:1")  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_stop_ends_the_retries() -> None:
    _, ask = broker_that_answers(1_000)
    with pytest.raises(Stopped):
        retry(ask, lambda: False, "here:1")  # type: ignore[arg-type]


def test_patience_ends() -> None:
    _, ask = broker_that_answers(1_000)
    with pytest.raises(Unanswered):
        retry(ask, lambda: True, "here:1", patience_s=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("again_s", "times"), [(math.inf, 1), (0.0, 4)])
def test_a_long_wait_and_its_end_are_logged(again_s: float, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "SILENT_S", 0.0)
    monkeypatch.setattr(kafka, "STILL_SILENT_S", again_s)
    _, ask = broker_that_answers(4)
    with structlog.testing.capture_logs() as said:
        retry(ask, lambda: True, "here:1")  # type: ignore[arg-type]
    assert [line["event"] for line in said] == ["waiting for the broker"] * times + ["the broker answers"]
    assert (said[0]["log_level"], said[0]["address"]) == ("warning", "here:1")
    assert "Timed out" in said[0]["reason"]


def test_a_short_wait_is_not_logged() -> None:
    _, ask = broker_that_answers(4)
    with structlog.testing.capture_logs() as said:
        retry(ask, lambda: True, "here:1")  # type: ignore[arg-type]
    assert not said


def test_a_setting_that_the_client_refuses_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SSL_ENDPOINT", "none")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "sesame")
    with pytest.raises(NotRead, match=r"^KAFKA_SSL_ENDPOINT: the Kafka client refuses this: No such") as said:
        client_config(KafkaSettings(_env_file=None))
    assert "sesame" not in str(said.value)
    monkeypatch.delenv("KAFKA_SSL_ENDPOINT")
    monkeypatch.setenv("KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", "nobody")
    with pytest.raises(NotRead, match=r"^KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM: .*nobody"):
        client_config(KafkaSettings(_env_file=None))
    monkeypatch.setenv("KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", "none")
    assert client_config(KafkaSettings(_env_file=None))["ssl.endpoint.identification.algorithm"] == "none"


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_a_file_of_tls_that_is_missing_is_named_by_its_variable(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", protocol)
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "sesame")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", "/nowhere/ca.pem")
    with pytest.raises(NotRead, match=r"^KAFKA_SSL_CA_LOCATION: ") as said:
        client_config(KafkaSettings(_env_file=None))
    assert "sesame" not in str(said.value)
