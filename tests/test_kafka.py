"""Asking the broker; what the clients do on a real one is in test_pipeline.py and faults/."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from online.kafka import Stopped, Unanswered, insist


def broker_that_answers(after: int, code: int = KafkaError._TIMED_OUT) -> tuple[list[float], object]:
    """Return the list of questions, and a stand-in for a call of the client that fails `after` times."""
    asked: list[float] = []

    def ask(timeout_s: float) -> str:
        asked.append(timeout_s)
        if len(asked) <= after:
            raise KafkaException(KafkaError(code))
        return "answer"

    return asked, ask


@pytest.mark.parametrize("code", [KafkaError._TIMED_OUT, KafkaError.NOT_COORDINATOR])
def test_what_passes_is_asked_again(code: int) -> None:
    asked, ask = broker_that_answers(2, code)
    assert insist(ask, lambda: True) == "answer"  # type: ignore[arg-type]
    assert len(asked) == 3


def test_a_refusal_is_no_reason_to_ask_again() -> None:
    asked, ask = broker_that_answers(1, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        insist(ask, lambda: True)  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_stop_ends_the_asking() -> None:
    _, ask = broker_that_answers(1_000)
    with pytest.raises(Stopped):
        insist(ask, lambda: False)  # type: ignore[arg-type]


def test_patience_ends() -> None:
    _, ask = broker_that_answers(1_000)
    with pytest.raises(Unanswered):
        insist(ask, lambda: True, patience_s=0.1)  # type: ignore[arg-type]
