"""What a person launches from the Dagster UI. Each job is one op; its config has defaults, so that it runs as it is."""

# ruff: noqa: PLC0415 - what promotes takes a second to import, and most processes only serve the definitions
# No `from __future__ import annotations` here: Dagster reads the real types.

import getpass
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
from pydantic import Field

from data.lake import Lake
from data.readers import check_product_id
from data.spec import FeatureSpec
from data.topics import check_names
from data.trades import StreamKey
from offline.days import (
    FEATURE_ROWS,
    TRADES,
    TRAINING_SET,
    Made,
    make_feature_rows,
    make_trades,
    make_training_set,
    stale,
    standing,
)
from offline.recordings import RECORDINGS, simulate
from online.exit_codes import REFUSED
from orchestration import plots
from orchestration.assets import (
    CHECKS,
    LAKE,
    Found,
    Inbox,
    InboxConfig,
    add_products,
    check_result,
    evaluation_of,
    stage_inbox,
)
from orchestration.local.parts import SIMULATED_DAY, simulated_recording
from orchestration.local.settings import StackSettings
from orchestration.partitions import day_of, days_of, materializations, table_of, told_of, told_of_recordings
from orchestration.replays import ROOT, Line, ingest_online
from orchestration.resources import DagsterPages, LakeResource, RegistryResource, explained
from orchestration.retraining import REGISTRY

if TYPE_CHECKING:
    from offline.ledger import Entry
    from offline.promotion import Refused

USUAL_WHY = "launched from Dagster"
"""What the ledger is told by default: no reason to force anything."""
NOT_TAKEN = "not taken"
"""Metadata of an ingest that has failed for nothing but files that are no recordings: the rest is in the lake."""


REPLAY_TAG = {"cryptovol/kind": "replay"}
"""By which dagster.yaml limits how many replays go on at once."""


class Purpose(Enum):
    """What a source is for: a label on metrics."""

    live = "live"
    replay = "replay"
    drill = "drill"


class ReplayConfig(dg.Config):
    """What is replayed into Kafka, and how fast."""

    recordings: list[str] = Field(
        default=[],
        description="paths, in the order of their trades; none: the simulated day that `make run` replays",
    )
    speed: str = Field(
        default="10", description="1, 10, any number above 0 (times the recorded pace), real-time or max"
    )
    purpose: Purpose = Field(default=Purpose.replay, description="a label on metrics")
    replay_id: str = Field(
        default="", description="name of the source, or one that goes on where it stopped; empty: a new one"
    )
    product_id: str = Field(default="BTC-USD", description="of trades in recordings that name none")
    max_wait_s: float = Field(default=10.0, description="a longer wait between two trades is cut to this, in seconds")
    ends_when_cancelled: bool = Field(
        default=True, description="whether a cancelled replay ends its source; if not, its replay_id can go on later"
    )


@dg.op(tags={"dagster/kind": "kafka"})
def replay_trades(context: dg.OpExecutionContext, config: ReplayConfig) -> None:
    """Write recorded trades to the topic `coinbase-trades` at their pace, as one source.

    Terminate stops it in good order: what was read is delivered, and the source ends. Several replays may run at once.
    """
    source_id = config.replay_id or f"replay-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    with explained():  # before a day is simulated for it
        check_names(StreamKey(source_id, config.product_id))
        if not config.max_wait_s >= 0:  # nor is it a number
            raise ValueError(f"max_wait_s must be 0 or more seconds, was {config.max_wait_s}")
    recordings = [str(Path(path).expanduser().resolve()) for path in config.recordings] or [_simulated_day(context)]
    settings = {
        "REPLAY_ID": source_id,
        "REPLAY_SPEED": config.speed,
        "REPLAY_END_ON_STOP": str(config.ends_when_cancelled).lower(),
        "PURPOSE": config.purpose.value,
        "PRODUCT_ID": config.product_id,
        "MAX_WAIT_S": str(config.max_wait_s),
    }
    context.log.info(f"source {source_id}: {', '.join(recordings)} at speed {config.speed}")

    def tell(line: Line) -> None:
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
    """Return the recording that `make run` replays when none is named, made if it is not there."""
    settings = StackSettings()
    path = simulated_recording(settings)
    if not path.exists():
        context.log.info(f"simulating {SIMULATED_DAY} of {settings.product_id} into {path}")
        command = [sys.executable, "-m", "data.simulator", "--product", settings.product_id]
        subprocess.run([*command, "--day", SIMULATED_DAY, "--out", str(path)], cwd=ROOT, check=True)
    return str(path)


@dg.job(description=replay_trades.__doc__, tags=REPLAY_TAG)
def replay() -> None:
    replay_trades()


class IngestConfig(InboxConfig):
    """Recordings that come into the lake."""

    then_backfill: bool = Field(default=True, description="make all that is stale afterwards")


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def ingest_inbox(
    context: dg.OpExecutionContext, config: IngestConfig, lake: LakeResource, inbox: Inbox
) -> Iterator[Any]:
    """Take all recordings in the inbox into the lake, each once, and make what follows from them.

    What cannot be read is left out and said; the rest is taken. A file that was read before and has not changed costs
    nothing but a look.
    """
    store = lake.open()
    with explained():
        changed, wrong = stage_inbox(context, store, inbox, config)
    yield from materializations(context.instance, (told_of_recordings(store, *place) for place in changed))
    context.log.info(f"{len(changed)} product-days are new or have changed")
    if config.then_backfill:
        yield from make_stale(context, store, lake.spec, Wanted())
    if wrong:
        not_taken = "1 file is" if len(wrong) == 1 else f"{len(wrong)} files are"
        raise dg.Failure(
            f"{not_taken} not taken, the rest is: {wrong[0]}",
            metadata={NOT_TAKEN: dg.MetadataValue.md("\n".join(f"- {each}" for each in wrong))},
            allow_retries=False,
        )
    yield dg.Output(None)


@dg.job(description=ingest_inbox.__doc__)
def ingest() -> None:
    ingest_inbox()


class SimulateConfig(dg.Config):
    """Simulated days that come into the lake."""

    products: list[str] = Field(default=["BTC-USD", "ETH-USD"], description="as BTC-USD; any name is simulated")
    first_day: str = Field(default="2010-01-04", description="UTC; by default before anyone traded bitcoin")
    days: int = Field(default=7, ge=1, le=366, description="from the first day on, for each product")
    seed: int = Field(default=0, ge=0, description="of the market: another one is another recording of these days")
    hours: list[int] = Field(default=[0, 24], description="of each day: the first, and the one before which it ends")
    then_backfill: bool = Field(default=True, description="make all that is stale afterwards")


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def simulate_days(context: dg.OpExecutionContext, config: SimulateConfig, lake: LakeResource) -> Iterator[Any]:
    """Take simulated days into the lake, as if they had been recorded."""
    store = lake.open()
    with explained():
        first = day_of("first_day", config.first_day)
        if len(config.hours) != 2:
            raise ValueError(f"hours are two, as [0, 24]: the first, and the one to end before; were {config.hours}")
        begin, end = config.hours
        for number in range(config.days):
            day = first + timedelta(days=number)
            for product_id in config.products:
                found = simulate(store, product_id, day, config.seed, (begin, end))
                rows = sum(each.rows for each in found.days)
                context.log.info(f"{product_id} {day}: {rows:,} trades{'' if found.is_new else ', there already'}")
                add_products(context.instance, store)
                yield from materializations(context.instance, [told_of_recordings(store, product_id, day)])
    if config.then_backfill:
        yield from make_stale(context, store, lake.spec, Wanted())
    yield dg.Output(None)


@dg.job(name="simulate", description=simulate_days.__doc__)
def simulate_job() -> None:
    simulate_days()


class BackfillConfig(dg.Config):
    """Which product-days are made."""

    products: list[str] = Field(default=[], description="none: all that the lake has recordings of")
    first_day: str = Field(default="", description="UTC, as 2025-01-06; empty: the first that there is")
    last_day: str = Field(default="", description="likewise; empty: the last that there is")


class Wanted(NamedTuple):
    """Some product-days."""

    products: frozenset[str] = frozenset()
    first: date = date.min
    last: date = date.max

    def has(self, product_id: str, day: date) -> bool:
        return self.first <= day <= self.last and (not self.products or product_id in self.products)


@dg.op(pool=LAKE, out=dg.Out(dg.Nothing))
def make_days(context: dg.OpExecutionContext, config: BackfillConfig, lake: LakeResource) -> Iterator[Any]:
    """Make trades, feature rows and training sets of a range of days, as far as they are stale.

    What is stale is told by content hashes: where the inputs of a day are what they were, it is left as it is. So a
    backfill that was killed goes on where it was, and one that runs twice does nothing the second time.
    """
    with explained():
        first, last = days_of(config.first_day, config.last_day)
        for product_id in config.products:
            check_product_id(product_id)
        store = lake.open()
        recorded = store.products(RECORDINGS)
        if unknown := sorted(set(config.products) - set(recorded)):
            raise ValueError(f"the lake has no recordings of {', '.join(unknown)}; it has some of "
                             f"{', '.join(recorded) or 'no product'}")  # fmt: skip
    yield from make_stale(context, store, lake.spec, Wanted(frozenset(config.products), first, last))
    yield dg.Output(None)


def make_stale(
    context: dg.OpExecutionContext, lake: Lake, spec: FeatureSpec, wanted: Wanted
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Make what is stale, one table after the other, and tell Dagster of each product-day as soon as it is made.

    What the lake has and Dagster does not know (a run was killed between the two) is told as well.
    """
    instance = context.instance
    add_products(instance, lake)
    places = sorted({(p.product_id, p.day) for p in lake.places(RECORDINGS) if wanted.has(p.product_id, p.day)})
    context.log.info(f"{len(places)} product-days have recordings")
    yield from materializations(instance, (told_of_recordings(lake, *place) for place in places))
    found: dict[str, list[Found]] = {name: [] for name in CHECKS}
    for table, make in STEPS.items():
        todo = [each for each in stale(lake, spec, table) if wanted.has(each.product_id, each.day)]
        context.log.info(f"{table}: {len(todo)} of {len(places)} product-days are to be made")
        for count, each in enumerate(todo, 1):
            began = time.monotonic()
            with explained():
                made = make(lake, each.product_id, each.day, spec)
            rows = made.partition.rows if made.partition else 0
            context.log.info(
                f"{table} {each.product_id} {each.day}: {rows:,} rows in {time.monotonic() - began:.1f} s, since it "
                f"{each.why} ({count} of {len(todo)})"
            )
            pictures = plots.of_day(lake, spec, each.product_id, each.day, made) if table == FEATURE_ROWS else {}
            yield from materializations(instance, told_of(table, each.product_id, each.day, made, pictures))
            if table == TRADES:
                for name, check in CHECKS.items():
                    found[name].append(check(lake, each.product_id, each.day, made))
        others = set(places) - {(each.product_id, each.day) for each in todo}
        for product_id, day in sorted(others):
            made = standing(lake, table, product_id, day)
            yield from materializations(instance, told_of(table, product_id, day, made))
    for name, results in found.items():
        if results:
            yield evaluation_of(check_result(name, results))
    if wanted == Wanted():
        return  # all was wanted: nothing is left
    left = [each for each in stale(lake, spec) if not wanted.has(each.product_id, each.day)]
    if left:
        context.log.info(f"{len(left)} other partitions are stale, as {left[0].table} of {left[0].product_id} "
                         f"{left[0].day}: {left[0].why}. `backfill` without a range makes them.")  # fmt: skip


STEPS: Mapping[str, Callable[[Lake, str, date, FeatureSpec], Made]] = {
    TRADES: lambda lake, product_id, day, _: make_trades(lake, product_id, day),
    FEATURE_ROWS: make_feature_rows,
    TRAINING_SET: make_training_set,
}


@dg.job(description=make_days.__doc__)
def backfill() -> None:
    make_days()


class PromoteConfig(dg.Config):
    """Which version asks the gate."""

    model: str = Field(default="volatility-ml", description="volatility-ml or volatility-baseline")
    version: str = Field(default="challenger", description="a number, or an alias")
    who: str = Field(default="", description="for the ledger; empty: this user, and the run")
    why: str = Field(default=USUAL_WHY, description="for the ledger")
    force: bool = Field(
        default=False,
        description="promote what the gate refuses, if it can serve; `why` must say the reason, and it is recorded",
    )


@dg.op(pool=REGISTRY)
def promote_model(
    context: dg.OpExecutionContext,
    config: PromoteConfig,
    lake: LakeResource,
    registry: RegistryResource,
    pages: DagsterPages,
) -> None:
    """Ask the gate; where it is open, the version becomes champion, and the online tier answers with it in a second.

    The gate judges anew, on the lake's rows after both trainings. A refusal names each condition that failed, with its
    figures.
    """
    from offline.promotion import Refused, lake_rows, promote

    if config.force and config.why in ("", USUAL_WHY):
        raise dg.Failure("a forced promotion needs a reason of its own: write it into `why`", allow_retries=False)
    with explained():
        try:
            entry = promote(
                registry.uri,
                config.model,
                config.version,
                test=lake_rows(lake.uri, lake.spec),
                spec=lake.spec,
                who=config.who or _who(context),
                why=config.why,
                force=config.force,
                dagster_run_url=pages.run_url(context.run_id),
            )
        except Refused as refused:
            raise _refusal(refused) from None
    _show_entry(context, registry, entry)


@dg.job(name="promote", description=promote_model.__doc__)
def promote_job() -> None:
    promote_model()


class RollbackConfig(dg.Config):
    """Which model goes back."""

    model: str = Field(default="volatility-ml", description="volatility-ml or volatility-baseline")
    who: str = Field(default="", description="for the ledger; empty: this user, and the run")
    why: str = Field(default=USUAL_WHY, description="for the ledger")


@dg.op  # in no pool: it must not wait for a training, and the ledger keeps it alone for the second that it takes
def roll_back_model(
    context: dg.OpExecutionContext,
    config: RollbackConfig,
    lake: LakeResource,
    registry: RegistryResource,
    pages: DagsterPages,
) -> None:
    """Make champion what was it before; a second rollback goes one further.

    One that was killed, or whose answer was lost, is finished by the next, which goes no further then.
    """
    from offline.promotion import Refused, begun_before, roll_back

    asked_at = datetime.now(UTC)
    with explained():
        try:
            entry = roll_back(
                registry.uri,
                config.model,
                spec=lake.spec,
                who=config.who or _who(context),
                why=config.why,
                dagster_run_url=pages.run_url(context.run_id),
            )
        except Refused as refused:
            raise _refusal(refused) from None
    if entry.begun < asked_at:
        context.log.warning(begun_before(entry))
    _show_entry(context, registry, entry)


@dg.job(description=roll_back_model.__doc__, tags={"dagster/priority": "1"})
def rollback() -> None:
    roll_back_model()


def _who(context: dg.OpExecutionContext) -> str:
    return f"{getpass.getuser()}, Dagster run {context.run_id[:8]}"


def _refusal(refused: "Refused") -> dg.Failure:
    """Return a failure that lists all conditions, those that failed first."""
    conditions = sorted(refused.conditions, key=lambda condition: condition.is_met)
    rows = ((each.name, "yes" if each.is_met else "NO", each.found, each.allowed) for each in conditions)
    table = dg.MetadataValue.md(table_of(("condition", "met", "found", "allowed"), rows))
    return dg.Failure(str(refused), metadata={"conditions": table}, allow_retries=False)


def _show_entry(context: dg.OpExecutionContext, registry: RegistryResource, entry: "Entry") -> None:
    was = f"version {entry.from_version}" if entry.from_version else "nothing"
    forced = ", forced" if entry.is_forced else ""
    context.log.info(f"{entry.model} version {entry.to_version} is champion, after {was}{forced}")
    evidence = table_of(("evidence", "value"), entry.evidence.items())
    context.add_output_metadata(
        {
            "champion": dg.MetadataValue.url(registry.version_url(entry.model, entry.to_version)),
            "version": entry.to_version,
            "before": entry.from_version or "none",
            "ledger entry": dg.MetadataValue.url(registry.run_url(entry.experiment_id, entry.entry_id)),
            "evidence": dg.MetadataValue.md(evidence),
        }
    )
