"""The progress of a source whose topics were changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from data.settings import KafkaSettings
from data.stream.records import PARTITIONS, REJECTED, TRADES
from online.replay import progress
from online.replay.lease import SourceLease
from online.replay.progress import ProgressUnknown, SourceProgress, find_progress

BEGUN = dict.fromkeys(range(PARTITIONS), (7, ""))
"""Offsets with notes, by partition, that a source has committed at its beginning."""


class Topics:
    """Stands in for `TopicReader`: topics of 7 records of other sources."""

    def __init__(self, committed: dict[str, dict[int, tuple[int, str]]]) -> None:
        self._committed = committed

    def __enter__(self) -> Topics:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def committed(self, topic: str, _: Iterable[int]) -> dict[int, tuple[int, str]]:
        return self._committed.get(topic, {})

    def span(self, *_: object) -> tuple[int, int]:
        return 0, 7

    def read(self, *_: object) -> Iterator[Any]:
        return iter(())


def found(monkeypatch: pytest.MonkeyPatch, committed: dict[str, dict[int, tuple[int, str]]]) -> SourceProgress:
    monkeypatch.setattr(progress, "TopicReader", lambda *_, **__: Topics(committed))
    lease = cast(SourceLease, SimpleNamespace(group="of-the-source", commit=lambda _: None))
    return find_progress(KafkaSettings(), "one", lambda: True, lease, "a note")


def test_a_source_whose_trades_were_deleted_with_their_topic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker forgets the offsets of a deleted topic; those of `trades-rejected` tell that the source had begun."""
    with pytest.raises(ProgressUnknown, match=f"{TRADES} was deleted after this source had begun"):
        found(monkeypatch, {REJECTED: BEGUN})


@pytest.mark.parametrize("committed", [{}, {TRADES: BEGUN, REJECTED: BEGUN}, {TRADES: BEGUN}])
def test_other_sources_go_on_behind_what_the_topics_hold(
    monkeypatch: pytest.MonkeyPatch, committed: dict[str, dict[int, tuple[int, str]]]
) -> None:
    """A new one, a begun one, and one whose `trades-rejected` was deleted: no trade of it is on the topic here."""
    assert found(monkeypatch, committed).last == {}
