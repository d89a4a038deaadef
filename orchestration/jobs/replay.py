"""The job `replay`: recordings into the broker, as a run of Dagster."""

# No `from __future__ import annotations` here: Dagster reads the real types.

import subprocess
import sys
from datetime import UTC, datetime
from enum import Enum

import dagster as dg
from pydantic import Field

from data.files import CHECKOUT
from data.names import check_names, new_replay_id
from data.process.running import REFUSED
from data.recordings.dialects.column_map import ColumnMap
from data.trades import StreamKey
from offline.recordings.places import RecordingPlaces
from orchestration.assets.inbox import COLUMNS
from orchestration.jobs.ingestor_process import ProgressLine, ingest_online
from orchestration.local.parts import SIMULATED_DAY, simulated_recording
from orchestration.local.settings import StackSettings
from orchestration.resources import explained

REPLAY_TAG = {"cryptovol/kind": "replay"}
"""Tag in dagster.yaml that limits concurrent replays."""


class ReplayPurpose(Enum):
    """Purpose of a source: a label on metrics."""

    live = "live"
    replay = "replay"
    drill = "drill"


class ReplayConfig(dg.Config):
    """Recordings to replay into Kafka, and their speed."""

    recordings: list[str] = Field(
        default=[],
        description="paths in the folders of RECORDINGS_DIRS, in the order of their trades; none: the simulated day of "
        "`make run`",
    )
    speed: str = Field(
        default="10", description="1, 10, any number above 0 (times the recorded pace), real-time or max"
    )
    purpose: ReplayPurpose = Field(default=ReplayPurpose.replay, description="a label on metrics")
    replay_id: str = Field(
        default="", description="name of the source; a known name goes on where the source stopped; empty: a new name"
    )
    product_id: str = Field(default="BTC-USD", description="for recordings without a product")
    columns: str = Field(default="", description=COLUMNS)
    max_wait_s: float = Field(default=10.0, description="a longer wait between two trades is cut to this, in seconds")
    ends_when_cancelled: bool = Field(
        default=True, description="whether a cancelled replay ends the source; an open source can go on by replay_id"
    )


@dg.op(tags={"dagster/kind": "kafka"})
def replay_trades(
    context: dg.OpExecutionContext, config: ReplayConfig, recording_places: dg.ResourceParam[RecordingPlaces]
) -> None:
    """Write recorded trades to the topic `coinbase-trades` at their pace, as one source.

    Terminate stops the replay in good order: trades already read are delivered, and the source ends. Several replays
    may run at once.
    """
    source_id = config.replay_id or new_replay_id(datetime.now(UTC))
    with explained():  # before a day is simulated for the replay
        check_names(StreamKey(source_id, config.product_id))
        if not config.max_wait_s >= 0:  # also true for NaN
            raise ValueError(f"max_wait_s must be 0 or more seconds, was {config.max_wait_s}")
        ColumnMap.parse(config.columns)
        recordings = [str(recording_places.local_path(path)) for path in config.recordings]
    recordings = recordings or [_simulated_day(context)]
    settings = {
        "REPLAY_ID": source_id,
        "REPLAY_SPEED": config.speed,
        "REPLAY_END_ON_STOP": str(config.ends_when_cancelled).lower(),
        "PURPOSE": config.purpose.value,
        "PRODUCT_ID": config.product_id,
        "MAX_WAIT_S": str(config.max_wait_s),
    }
    if config.columns:
        settings["RECORDING_COLUMNS"] = config.columns
    context.log.info(f"source {source_id}: {', '.join(recordings)} at speed {config.speed}")

    def tell(line: ProgressLine) -> None:
        getattr(context.log, line.level, context.log.info)(line.text)

    ended = ingest_online(recordings if config.replay_id else ["--new", *recordings], settings, tell)
    if ended.code != 0:
        what = "this cannot be replayed" if ended.code == REFUSED else f"the ingestor ended with code {ended.code}"
        raise dg.Failure(
            f"{what}: {ended.reason or 'it did not say why'}",
            metadata={"source_id": source_id, "trades": ended.trades},
            allow_retries=ended.code != REFUSED,
        )
    context.add_output_metadata({"source_id": source_id, "trades": ended.trades, "speed": config.speed})


def _simulated_day(context: dg.OpExecutionContext) -> str:
    """Return the default recording of `make run`, simulated first if the file is missing."""
    settings = StackSettings()
    path = simulated_recording(settings)
    if not path.exists():
        context.log.info(f"simulating {SIMULATED_DAY} of {settings.product_id} into {path}")
        command = [sys.executable, "-m", "data.simulator", "--product", settings.product_id]
        subprocess.run([*command, "--day", SIMULATED_DAY, "--out", str(path)], cwd=CHECKOUT, check=True)
    return str(path)


@dg.job(description=replay_trades.__doc__, tags=REPLAY_TAG)
def replay() -> None:
    replay_trades()
