"""The state of each chosen stream, and the writers that the page asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from data.features.spec import FeatureSpec
from data.settings import KafkaSettings
from data.stream.codec import Records
from data.stream.records import PARTITIONS, Figure
from data.trades import StreamKey
from online.live import facts as facts_module
from online.live import pulse as pulse_module
from online.live.facts import SlowFacts
from online.live.pulse import Beat, Checks, Pulse
from online.live.view import LiveView

LIMIT_S = 30.0


def stream(source_id: str, age_s: float = 99.0, *, has_ended: bool = False) -> dict[str, Any]:
    fields = {"source_id": source_id, "age_s": age_s, "has_ended": has_ended}
    return {"product_id": "BTC-USD", "event_time": 1.7e12, **fields}


def pulse_of(*streams: dict[str, Any], writers: dict[str, bool]) -> Pulse:
    facts: Any = SimpleNamespace(writers=writers, ask=None)
    unused: Any = None
    pulse = Pulse(unused, unused, facts, Checks(unused, unused, unused), LIMIT_S)
    pulse.newest = Beat(1, {"model": None, "trades_behind": 0}, None, list(streams))
    return pulse


def state_of(pulse: Pulse, source_id: str) -> str:
    return str(msgspec.json.decode(pulse.state_for(StreamKey(source_id, "BTC-USD")))["state"]["state"])


def test_each_chosen_stream_is_told_paused_by_its_own_writer() -> None:
    pulse = pulse_of(stream("new"), stream("other"), stream("unknown"), writers={"new": True, "other": False})
    assert [state_of(pulse, source) for source in ("new", "other", "unknown")] == ["stale", "paused", "stale"]


def test_writers_are_asked_for_stale_sources_that_a_browser_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = stream("live", age_s=1.0), stream("ended", has_ended=True), stream("a"), stream("b"), stream("not shown")
    pulse = pulse_of(*streams, writers={})
    for source in ("live", "ended", "a", "b"):
        state_of(pulse, source)
    assert pulse.silent() == ["a", "b"]
    monkeypatch.setattr(pulse_module, "SHOWN_S", -1.0)
    assert pulse.silent() == []


def test_a_source_that_is_silent_no_more_is_asked_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Group:
        def __init__(self, _: KafkaSettings, group: str) -> None:
            made.append(group)
            self._members = ["an ingestor"] if group == "ingestor-a" else []

        def members(self, _: float) -> list[str]:
            return self._members

    monkeypatch.setattr(facts_module, "GroupMembers", Group)
    silent = ["a", "b"]
    unused: Any = None
    facts = SlowFacts(KafkaSettings(_env_file=None), LiveView(FeatureSpec()), unused, {}, lambda: silent)
    facts._ask_writers()
    assert facts.writers == {"a": True, "b": False}
    silent = ["b"]
    facts._ask_writers()
    assert facts.writers == {"b": False}
    assert made == ["ingestor-a", "ingestor-b"]


def test_the_progress_of_open_sources_is_read_from_the_notes_of_their_ingestors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = {"ingestor-half": '{"share":0.5}', "ingestor-old": "{}", "ingestor-feed": None}
    asked = []

    class Admin:
        def list_topics(self, **_: float) -> None:
            """Answer: the broker is there."""

    class Reader:
        def __init__(self, _: KafkaSettings, group: str) -> None:
            asked.append(group)
            self._group = group

        def committed(self, places: list[Any], **_: float) -> list[Any]:
            if self._group == "ingestor-mute":
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED) if self._group == "ingestor-refused" else None
            return [SimpleNamespace(metadata=notes.get(self._group), error=error) for _ in places]

        def __enter__(self) -> Reader:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

    monkeypatch.setattr(facts_module, "offsets_reader", Reader)
    sources = [stream(name) for name in ("mute", "refused", "half", "old", "feed")] + [stream("over", has_ended=True)]
    view: Any = SimpleNamespace(summary=lambda: sources)
    unused: Any = None
    facts = SlowFacts(KafkaSettings(_env_file=None), view, unused, {}, list)
    facts._admin = Admin()  # type: ignore[assignment]
    facts.shares = {"mute": 0.25, "refused": 0.5, "gone": 0.75}
    facts._ask_shares()
    assert sorted(asked) == ["ingestor-feed", "ingestor-half", "ingestor-mute", "ingestor-old", "ingestor-refused"]
    known = {"half": 0.5, "mute": 0.25, "refused": 0.5}
    assert facts.shares == known, "a group that does not answer, or is refused, keeps the share of before"


@pytest.mark.parametrize("question", ["committed", "offsets_for_times"])
def test_a_refused_partition_gives_no_lag(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each partition ends at offset 5, and is read up to 3; the answer about one partition has an error alone."""
    refused: list[str] = []

    class Reader:
        def __init__(self, *_: object) -> None:
            """Connect to nothing."""

        def committed(self, places: list[Any], **_: float) -> list[Any]:
            return self._answers(places, 3, is_refused="committed" in refused)

        def offsets_for_times(self, places: list[Any], **_: float) -> list[Any]:
            return self._answers(places, 5, is_refused="offsets_for_times" in refused)

        def _answers(self, places: list[Any], offset: int, *, is_refused: bool) -> list[Any]:
            found = [SimpleNamespace(partition=place.partition, offset=offset, error=None) for place in places]
            if is_refused:
                found[7] = SimpleNamespace(
                    partition=7, offset=-1_001, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
                )
            return found

        def __enter__(self) -> Reader:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

    monkeypatch.setattr(facts_module, "offsets_reader", Reader)
    unused: Any = None
    facts = SlowFacts(KafkaSettings(_env_file=None), unused, unused, {}, list)
    facts._ask_lag()
    assert facts.trades_behind == 2 * PARTITIONS
    refused.append(question)
    with pytest.raises(KafkaException, match="authorization"):
        facts._ask_lag()
    assert facts.trades_behind is None


def test_a_figure_that_is_none_of_ours_costs_the_page_nothing() -> None:
    """A record stays on the compacted topic: the page would never be drawn again."""
    unused: Any = None
    facts = SlowFacts(KafkaSettings(_env_file=None), unused, unused, {}, list)
    good = Figure("drift_report_timestamp_seconds", {"product_id": "BTC-USD"}, 1.0, 5)
    bad = [
        Figure("drift_alarm", {}, 1.0, 6),
        Figure("drift_ratio", {"product_id": "BTC-USD"}, 1.0, 6),
        Figure("drift_report_timestamp_seconds", {"product_id": "B" * 101}, 1.0, 6),
    ]
    reader: Any = SimpleNamespace(read=lambda: Records([good, *bad], [0, 1, 2, 3], [], []))
    facts._reader = reader
    facts._ask_figures()
    assert facts.drift() == {
        "figures": [{"name": good.name, "value": 1.0, "at": 5e-6, "product_id": "BTC-USD"}],
        "at": 5e-6,
    }
