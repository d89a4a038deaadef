"""The job `drill`: disturb the running stack while it serves a simulated source, and compare all rows of the source."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import dagster as dg
from pydantic import Field

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import ServedModel
from data.names import new_replay_id
from data.process.running import REFUSED
from data.recordings.readers import write_csv
from data.settings import KafkaSettings
from data.simulator.day import simulate_day
from data.stream.reader import TopicReader
from data.stream.records import Forecaster
from data.trades import StreamKey, Trades
from offline.checks.source import TopicComparison, compare_source, ends_of
from offline.explain.remake import find_model
from orchestration.drills.disturbances import DRILLS, Disturbance, disturb, find_ingestor, find_part
from orchestration.drills.follower import Follower
from orchestration.jobs.ingestor_process import ProgressLine, ingest_online
from orchestration.jobs.replay import REPLAY_TAG
from orchestration.local.parts import answers
from orchestration.local.settings import StackSettings
from orchestration.resources import explained

POOL = "drill"
"""Pool of the drills: one at a time."""
PRODUCT, DAY, HOURS = "DRILL-USD", date(2025, 3, 5), (14, 18)
"""What is simulated: a product of its own, so that no other product gets its newest forecast from a drill."""
END_S = 180.0
"""Limit from the last trade to the last forecast, and for a part to answer again, with the slowest restart in it."""
POLL_S = 0.1
CHOOSE = f"choose a drill: the partition of this job, one of {', '.join(DRILLS)}"

drills = dg.StaticPartitionsDefinition(list(DRILLS))
drill_results = dg.AssetSpec(
    "drill_results",
    description="What became of each drill at last: the disturbance, its rows against those computed offline, and the "
    "time of recovery. The job `drill` makes it.",
    partitions_def=drills,
    group_name="drills",
    kinds={"kafka"},
)


class DrillConfig(dg.Config):
    """Size of a drill."""

    seed: int = Field(default=18, ge=0, description="of the simulated trades")
    trades: int = Field(default=3_000, ge=100, le=10_000, description="how many are replayed")
    replay_s: float = Field(default=30.0, gt=0, le=3_600, description="how long the replay takes undisturbed, seconds")
    pause_s: float = Field(default=5.0, gt=0, le=60, description="how long pause_broker pauses the broker, seconds")


class DrillResult(NamedTuple):
    """How a drill ended.

    Attributes:
        sent: trades that the ingestor delivered, as its log has it.
        recovery_s: longest time without a forecast after the disturbance, in seconds; for a part that no forecast
            needs, until it answered again.
    """

    sent: int
    compared: Sequence[TopicComparison]
    recovery_s: float

    @property
    def is_equal(self) -> bool:
        return all(each.is_equal for each in self.compared)

    def metadata(self) -> dict[str, Any]:
        sums = {name: sum(getattr(each, name) for each in self.compared) for name in ("lost", "twice", "different")}
        faults = "; ".join(each.first for each in self.compared if each.first)
        return {
            "trades sent": self.sent,
            "rows compared": sum(each.expected for each in self.compared),
            **sums,
            "recovery seconds": round(self.recovery_s, 1),
            "verdict": f"not equal: {faults}" if faults else "equal: each row as computed offline, once",
        }


@dg.op(tags={"dagster/kind": "kafka"}, pool=POOL, out=dg.Out(dg.Nothing))
def run_drill(context: dg.OpExecutionContext, config: DrillConfig) -> Iterator[dg.AssetMaterialization]:
    """Disturb the stack of `make run` while it serves a simulated source of purpose `drill`, and compare all rows.

    The partition is the drill. It ends well if each trade, feature row and forecast of the source is on its topic once,
    with the bytes of a computation offline. Sources of other purposes are disturbed as by a restart.
    """
    if not context.has_partition_key:
        raise dg.Failure(CHOOSE, allow_retries=False)
    name = context.partition_key
    source_id = new_replay_id(datetime.now(UTC)).replace("replay", "drill", 1)
    with explained():
        result = drill_stack(
            name, config, source_id, StackSettings(), lambda level, text: getattr(context.log, level)(text)
        )
    done = DRILLS[name].done + (f" for {config.pause_s:g} s" if name == "pause_broker" else "")
    metadata = {"drill": name, "seed": config.seed, "source": source_id, "what was done": done, **result.metadata()}
    yield dg.AssetMaterialization(drill_results.key, metadata=metadata, partition=name)
    if not result.is_equal:
        raise dg.Failure(str(metadata["verdict"]), metadata=metadata, allow_retries=False)


def drill_stack(
    name: str, config: DrillConfig, source_id: str, settings: StackSettings, tell: Callable[[str, str], None]
) -> DrillResult:
    """Replay a simulated source through the stack, disturb the stack in the middle, and compare.

    Args:
        tell: gets a level (info, warning or error) and a line.

    Raises:
        ValueError: the process to disturb is not here, or the source did not go through.
        NotRead: the broker does not answer.
    """
    drill, kafka, spec = DRILLS[name], KafkaSettings(), settings.spec()
    find = _finder(drill, settings.var_dir)
    if drill.part:
        find()  # before a trade is sent
    trades = drill_trades(config, source_id)
    tell("warning", f"{name}: {drill.done} in the middle of {len(trades):,} trades of source {source_id}. {drill.harm}")
    with TopicReader(kafka) as reader:
        since = ends_of(reader, PRODUCT)
    recovery = Recovery(drill, find, settings)

    disturbed: list[int] = []

    def act() -> None:
        process = find()
        recovery.begin(process.pid)
        disturb(process, drill.signal, config.pause_s)
        disturbed.append(process.pid)

    with TemporaryDirectory(prefix="drill-") as folder:
        recording = Path(folder) / "drill.csv"
        write_csv(recording, [trades])
        with Follower(kafka, trades.keys[0], since["predictions"], len(trades) // 3, act) as follower:
            sent = _replay(recording, trades, config, source_id, tell)
            has_ended = follower.wait_for_end(END_S)
            if follower.failure is not None:
                raise ValueError(f"the drill could not go on: {follower.failure}") from follower.failure
            if not has_ended:
                raise ValueError(
                    f"source {source_id} did not end on predictions within {END_S:.0f} s of its last trade, after "
                    f"{follower.forecasts:,} forecasts: does a forecaster run, and has it a model?"
                )
            if not disturbed:
                raise ValueError("the source ended before it was disturbed")
            tell("info", f"{drill.done}: process {disturbed[0]}, after {len(trades) // 3:,} forecasts")
            back_s = follower.longest_wait_s if drill.stops_forecasts else recovery.wait()
    models = _models(settings, spec)
    with TopicReader(kafka) as reader:
        compared = compare_source(reader, since, trades, "drill", spec, models)
    return DrillResult(sent, compared, back_s)


def drill_trades(config: DrillConfig, source_id: str) -> Trades:
    """Return the simulated trades of a drill, the same for the same seed but for the name of the source."""
    trades = simulate_day(PRODUCT, DAY, config.seed, HOURS).take(slice(0, config.trades))
    return replace(trades, keys=(StreamKey(source_id, PRODUCT),))


def _replay(
    recording: Path, trades: Trades, config: DrillConfig, source_id: str, tell: Callable[[str, str], None]
) -> int:
    """Replay a recording to its end, and return the number of delivered trades."""
    span_s = float(trades.event_time[-1] - trades.event_time[0]) / 1e9
    environment = {
        "REPLAY_ID": source_id,
        "REPLAY_SPEED": str(max(span_s / config.replay_s, 1e-3)),
        "REPLAY_END_ON_STOP": "true",
        "PURPOSE": "drill",
        "PRODUCT_ID": PRODUCT,
        "MAX_WAIT_S": str(config.replay_s),
    }

    def passed_on(line: ProgressLine) -> None:
        tell(line.level if line.level in ("warning", "error") else "info", line.text)

    ended = ingest_online(["--new", str(recording)], environment, passed_on)
    if ended.code != 0:
        what = "is refused" if ended.code == REFUSED else f"ended with code {ended.code}"
        raise ValueError(f"the drill's replay {what}: {ended.reason or 'it did not say why'}")
    return ended.trades


def _finder(drill: Disturbance, var_dir: Path) -> Callable[[], Any]:
    return (lambda: find_part(var_dir, drill.part)) if drill.part else find_ingestor


class Recovery:
    """Measure in a thread how long a part is away: until another process of the part answers."""

    def __init__(self, drill: Disturbance, find: Callable[[], Any], settings: StackSettings) -> None:
        self._find = find
        url = {"api": f"http://127.0.0.1:{settings.api_port}/health", "mlflow": f"{settings.local_mlflow}/health"}
        self._answers = answers(url[drill.part], timeout_s=5.0) if not drill.stops_forecasts else None
        self._back_s: float | None = None
        self._thread: threading.Thread | None = None

    def begin(self, pid: int) -> None:
        """Begin to measure, just before the part's process is disturbed; a part that forecasts need is not asked."""
        if self._answers is not None:
            self._thread = threading.Thread(target=self._wait_for_another, args=(pid,), name="recovery", daemon=True)
            self._thread.start()

    def wait(self) -> float:
        """Return how long the part was away, in seconds.

        Raises:
            ValueError: it did not come back.
        """
        assert self._thread is not None
        self._thread.join(END_S)
        if self._back_s is None:
            raise ValueError(f"the disturbed part did not answer again within {END_S:.0f} s: see the log of `make run`")
        return self._back_s

    def _wait_for_another(self, pid: int) -> None:
        began = time.monotonic()
        while time.monotonic() < began + END_S:
            if self._is_another(pid) and self._answers is not None and self._answers():
                self._back_s = time.monotonic() - began
                return
            time.sleep(POLL_S)

    def _is_another(self, pid: int) -> bool:
        try:
            return bool(self._find().pid != pid)
        except ValueError:  # the part is between two processes
            return False


def _models(settings: StackSettings, spec: FeatureSpec) -> Callable[[Forecaster], ServedModel]:
    """Return a function that loads the model named by a forecast."""

    @cache
    def model_of(forecaster: Forecaster) -> ServedModel:
        variant, version, digest = forecaster
        found = find_model(
            Registry(settings.mlflow_tracking_uri), settings.models_dir, variant, version, digest, spec.spec_id
        )
        if found.model is None:
            raise ValueError(f"{found.name} version {version}, which forecast in the drill: {found.finding.said}")
        return found.model

    return model_of


@dg.job(description=run_drill.__doc__, tags=REPLAY_TAG, partitions_def=drills)
def drill() -> None:
    run_drill()
