"""Drills on the running stack: which process is disturbed, what is refused, and how rows are compared."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import msgspec
import psutil
import pytest

from data.features.spec import FeatureRows
from data.models.served import ServedModel
from data.settings import KafkaSettings
from data.stream.codec import encode_trades
from data.stream.reader import RecordBlock
from data.stream.records import FEATURES, PREDICTIONS, TRADES, Forecaster
from data.trades import StreamKey
from offline.checks.source import TopicComparison, compare_source, compared, ends_of, forecasts_again
from online.exactly_once.score_stage import ScoreStage
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion
from orchestration.drills import disturbances
from orchestration.drills import follower as follower_module
from orchestration.drills.disturbances import DRILLS, MARKS, NotHere, find_part, stack_of
from orchestration.drills.follower import Follower
from orchestration.drills.job import CHOOSE, DrillConfig, drill, drill_trades
from orchestration.local.parts import stack_parts
from orchestration.local.settings import StackSettings
from orchestration.local.stack import only_stack
from tests.models import baseline
from tests.unit.test_score_stage import SPEC, columns, decoded, served
from tests.unit.test_score_stage import rows as feature_rows_of_a_day  # noqa: F401 - a fixture


def test_each_drill_is_a_choice_in_the_list_and_says_what_others_notice() -> None:
    assert drill.partitions_def is not None
    assert drill.partitions_def.get_partition_keys() == list(DRILLS)
    assert all(each.done and each.harm.endswith(".") for each in DRILLS.values())


def test_each_disturbed_part_is_one_of_make_run_with_the_mark_in_its_command(tmp_path: Path) -> None:
    """The broker's command becomes Java, whose main class is the mark."""
    settings = StackSettings(_env_file=None, var_dir=tmp_path)
    commands = {part.name: part.command for part in stack_parts(settings, {"bootstrap.servers": ""})}
    assert {each.part for each in DRILLS.values()} - {""} == set(MARKS)
    assert all(mark in commands[name] for name, mark in MARKS.items() if name != "kafka")
    assert "kafka" in commands


def test_a_drill_must_be_chosen() -> None:
    result = drill.execute_in_process(raise_on_error=False)
    (failure,) = (event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert failure.user_failure_data is not None
    assert failure.user_failure_data.description == CHOOSE


@pytest.mark.parametrize("name", [name for name, each in DRILLS.items() if each.part])
def test_without_make_run_a_drill_says_so_before_a_trade_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As on compose and Kubernetes: nobody holds the lock of the stack. No broker is asked, no process is started."""
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    (tmp_path / "stack.lock").write_text("1")
    result = drill.execute_in_process(partition_key=name, raise_on_error=False)
    (failure,) = (event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert failure.user_failure_data is not None
    said = failure.user_failure_data.description or ""
    assert said.startswith(f"no `make run` runs here on {tmp_path}")
    assert "this drill is for `make run`" in said


def test_the_stack_is_the_holder_of_the_lock_and_names_the_part_that_it_does_not_run(tmp_path: Path) -> None:
    with only_stack(tmp_path):
        assert stack_of(tmp_path).pid == os.getpid()
        with pytest.raises(NotHere, match="`make run` runs no mlflow of its own"):
            find_part(tmp_path, "mlflow")
    with pytest.raises(NotHere, match="no `make run` runs here"):
        stack_of(tmp_path)


def test_a_part_is_found_by_its_mark_and_gets_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        def __init__(self, pid: int, *command: str) -> None:
            self.pid, self._command = pid, command

        def cmdline(self) -> list[str]:
            if not self._command:
                raise psutil.NoSuchProcess(self.pid)
            return list(self._command)

    class Stack:
        def children(self) -> list[Part]:
            return [Part(1), Part(2, "python", "-m", "online.api"), Part(3, "python", "-m", "online.forecaster")]

    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(disturbances, "stack_of", lambda _: Stack())
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    disturbances.disturb(find_part(tmp_path, "forecaster"), signal.SIGKILL, 5.0)
    disturbances.disturb(find_part(tmp_path, "api"), signal.SIGTERM, 5.0)
    assert sent == [(3, signal.SIGKILL), (2, signal.SIGTERM)]


def test_a_seed_names_the_trades_of_a_drill() -> None:
    one, same, other = (drill_trades(DrillConfig(seed=seed, trades=200), "a") for seed in (3, 3, 4))
    assert len(one) == 200
    assert one.price.tolist() == same.price.tolist() != other.price.tolist()
    assert one.keys == (("a", "DRILL-USD"),)


def test_forecasts_computed_offline_are_those_of_the_forecaster_over_a_swap_with_a_shadow(
    feature_rows_of_a_day: FeatureRows,  # noqa: F811
) -> None:
    """Rows 0 to 999 by the first model; then the second stands by, and serves from 2,000 on with the first beside."""
    made = feature_rows_of_a_day
    first, second = served("1"), served("2", baseline(scale=2.0))
    now: list[tuple[ModelVersion, tuple[ModelVersion, ...]]] = [(first, ())]
    stage = ScoreStage(SPEC, lambda: now[-1][0], lambda *_: (), ForecasterMetrics(), lambda: now[-1][1])
    parts = [columns(made, slice(begin, begin + 500)) for begin in range(0, 3_000, 500)]
    published = []
    for part, models in zip(
        parts, [(first, ())] * 2 + [(first, (second,))] * 2 + [(second, (first,))] * 2, strict=True
    ):
        if models != now[-1]:
            now.append(models)
        published += decoded(stage.process([part]), PREDICTIONS)
    features = [msgspec.json.decode(text) for part in parts for text in part.texts]
    by_digest: dict[str, ServedModel] = {each.model.digest: each.model for each in (first, second)}

    def model_of(forecaster: Forecaster) -> ServedModel:
        return by_digest[forecaster.digest]

    found = forecasts_again(made, features, published, SPEC, model_of)
    assert len(found[1_500]["shadow"]) == 1
    assert found[-1]["judged_horizons"] > 0, "the adaptation has learnt"
    assert compared(PREDICTIONS, found, published) == (PREDICTIONS, 3_000, 0, 0, 0, "")
    harmed = published[:700] + published[701:]
    harmed[1_999] = harmed[1_999] | {"weight": harmed[1_999]["weight"] + 1e-9}
    again = compared(PREDICTIONS, forecasts_again(made, features, harmed, SPEC, model_of), harmed)
    assert (again.lost, again.twice, again.different) == (1, 0, 1)


class Topics:
    """Reader of three topics in memory, with an older source and an end beside the drill's records."""

    def __init__(self, records: dict[str, list[bytes]]) -> None:
        others = [b'{"source_id":"other","trade_id":1}', b'{"source_id":"s","end":true}']
        self._values = {topic: [b"not asked for"] * 4 + others + values for topic, values in records.items()}

    def span(self, topic: str, _: int) -> tuple[int, int]:
        return 0, self._values[topic].count(b"not asked for")

    def read(self, topic: str, _: int, start: int) -> Iterator[RecordBlock]:
        values = self._values[topic][start:]
        yield RecordBlock(list(range(start, start + len(values))), values)


def test_a_source_is_compared_on_all_three_topics_behind_its_beginning(
    feature_rows_of_a_day: FeatureRows,  # noqa: F811
) -> None:
    """What the stages write of the same trades is equal; a forecast less and a trade twice are told by topic."""
    model = served("1")
    stage = ScoreStage(SPEC, lambda: model, lambda *_: (), ForecasterMetrics())
    part = columns(feature_rows_of_a_day, slice(None))
    trades = part.trades
    topics = {
        TRADES: encode_trades(trades, "replay"),
        FEATURES: part.texts,
        PREDICTIONS: [value for _, _, _, value, _ in stage.process([part])],
    }

    def compare(records: dict[str, list[bytes]]) -> list[TopicComparison]:
        reader: Any = Topics(records)
        return compare_source(reader, ends_of(reader, "BTC-USD"), trades, "replay", SPEC, lambda _: model.model)

    assert compare(topics) == [(topic, 3_000, 0, 0, 0, "") for topic in topics]
    harmed = topics | {TRADES: [*topics[TRADES], topics[TRADES][7]], PREDICTIONS: topics[PREDICTIONS][1:]}
    assert [each[1:5] for each in compare(harmed)] == [(3_000, 0, 1, 0), (3_000, 0, 0, 0), (3_000, 1, 0, 0)]


class Broker:
    """Consumer that hands out batches, each after a number of seconds on a clock of the test."""

    def __init__(self, clock: list[float], *batches: tuple[float, Sequence[bytes]]) -> None:
        self._clock, self._batches = clock, list(batches)

    def consume(self, *_: float) -> list[Any]:
        seconds, values = self._batches.pop(0)
        self._clock[0] += seconds
        return [SimpleNamespace(error=lambda: None, value=lambda value=value: value) for value in values]


def test_a_follower_disturbs_once_and_measures_the_longest_wait_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third forecast disturbs, at 6 s; the next come 2 s and 9 s after the one before. Others do not count."""
    clock, disturbed = [100.0], list[float]()
    monkeypatch.setattr(follower_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    key, mine, other = StreamKey("d", "DRILL-USD"), b'{"source_id":"d","trade_id":1}', b'{"source_id":"x"}'
    follower = Follower(KafkaSettings(_env_file=None), key, 0, 3, lambda: disturbed.append(clock[0]))
    broker: Any = Broker(
        clock, (5, [mine, mine]), (1, [mine]), (2, [mine, other]), (4, [other]), (5, [mine]), (1, [mine]),
        (1, [b'{"source_id":"d","end":true}']),
    )  # fmt: skip
    for _ in range(6):
        assert not follower.wait_for_end(0)
        follower._read(broker)
    follower._read(broker)
    assert follower.wait_for_end(0)
    assert disturbed == [106.0]
    assert (follower.forecasts, follower.longest_wait_s) == (6, 9.0)


def rows(*trade_ids: int, **more: Any) -> list[dict[str, Any]]:
    return [{"trade_id": trade_id, "price": 1.5, "ingest_time": 7, **more} for trade_id in trade_ids]


def test_rows_of_another_run_are_equal_whatever_their_times() -> None:
    found = compared("features", rows(1, 2, 3), rows(1, 2, 3, ingest_time=9, kafka_offset=4))
    assert found == ("features", 3, 0, 0, 0, "")
    assert found.is_equal


@pytest.mark.parametrize(
    ("published", "faults", "first"),
    [
        (rows(1, 3), (1, 0, 0), "trade 2 is not on features"),
        (rows(1, 2, 2, 2, 3), (0, 2, 0), "trade 2 is on features once more"),
        (rows(1, 2, 3, 4), (0, 1, 0), "trade 4 is on features once more"),
        (rows(1) + rows(2, price=1.25) + rows(3), (0, 0, 1), "trade 2 on features: price is 1.25, computed 1.5"),
        (rows(1, 2) + rows(3, score=None), (0, 0, 1), "trade 3 on features: score is None, computed None"),
        ([], (3, 0, 0), "trade 1 is not on features"),
    ],
)
def test_each_fault_of_a_source_is_counted(
    published: list[dict[str, Any]], faults: tuple[int, int, int], first: str
) -> None:
    found = compared("features", rows(1, 2, 3), published)
    assert (found.lost, found.twice, found.different) == faults
    assert found.first == first
    assert not found.is_equal


def test_dagster_takes_the_pool_of_drills() -> None:
    assert isinstance(drill, dg.JobDefinition)
    assert {node.pool for node in drill.all_node_defs if isinstance(node, dg.OpDefinition)} == {"drill"}
