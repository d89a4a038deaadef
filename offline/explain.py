"""Where a forecast came from, and whether it can be made again: `python -m offline.explain SOURCE PRODUCT TRADE`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from dotenv import dotenv_values

from data.admission import MAX_FALL_S
from data.features import Windows, feature_rows
from data.origin import Origin, read_origin, recording_of
from data.pipes import may_lose_its_reader
from data.readers import read_trades
from data.serving import ModelRefused, ServedModel
from data.spec import CONTRACT, FeatureSpec
from data.topic_reader import NotRead, TopicReader, client_config
from data.topics import PREDICTIONS, TRADES, check_names, prediction_type
from data.trades import NS, Int64s, Side, StreamKey, Trades, iso_times, parse_times
from offline.ledger import Entry, history
from offline.registry import RegistryError, download
from offline.settings import OfflineSettings
from offline.streams import BadRecord, NotFound, Stream, read_stream

EQUAL, DIFFERENT, NOT_FOUND, EXPIRED = range(4)
"""Exit codes: all was made again and is equal; something differs, or the record cannot be read; there is no such
forecast, or no broker to ask; a part of what it was made from is gone."""
OUTCOMES = ("equal", "different", "not found", "expired")
"""What each of them is called."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NEWEST = 5
"""Trades of a window that are shown."""

Outcome = Literal["equal", "different", "expired"]


class Finding(NamedTuple):
    """What became of one part of an explanation.

    Attributes:
        part: `model`, `promotion`, `trades`, `row`, `score` or `recording`.
        outcome: found or made again, and equal, or not; or gone.
        said: in words.
    """

    part: str
    outcome: Outcome
    said: str


class Recorded(NamedTuple):
    """A trade as a recording has it.

    Attributes:
        file, line: where; the line counts from 1, in a Parquet file it is the row.
        event_time: ns since 1970.
        side: see `Side`.
    """

    file: str
    line: int
    event_time: int
    price: float
    size: float
    side: int


class FoundModel(NamedTuple):
    """The model that a forecast names.

    Attributes:
        name: of the registered model.
        model: None where it is gone.
        origin: where its file was found; empty where it is gone.
        finding: what became of it.
    """

    name: str
    model: ServedModel | None
    origin: str
    finding: Finding


@dataclass
class Explanation:
    """All that is known of a forecast.

    Attributes:
        prediction: the record, see `prediction_type`.
        kafka_partition, kafka_offset: where it stands on `predictions`; its trade's place is in the record.
        model: that it names.
        window: the trades that the row was made from, in order, the last one its own; None where they are gone.
        recorded: its trade in the recording; None where it is not found.
        remade: of the record's fields, those that were made again.
        promotion: the entry of the ledger under which the model served then; None where there is none.
        findings: of each part.
    """

    prediction: Any
    kafka_partition: int
    kafka_offset: int
    model: FoundModel
    promotion: Entry | None = None
    window: Trades | None = None
    recorded: Recorded | None = None
    remade: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        outcomes = {finding.outcome for finding in self.findings}
        return DIFFERENT if "different" in outcomes else EXPIRED if "expired" in outcomes else EQUAL

    @property
    def trade_place(self) -> str:
        """Of its trade on the topic."""
        return f"{TRADES}[{self.prediction.kafka_partition}]@{self.prediction.kafka_offset}"

    def found(self, part: str, outcome: Outcome, said: str) -> None:
        """Note what became of a part."""
        self.findings.append(Finding(part, outcome, said))

    def compare(self, part: str, remade: dict[str, Any], what: str) -> None:
        """Compare fields of the record with those that were made again: by all digits, -0 is not 0."""
        self.remade |= remade
        recorded = {name: getattr(self.prediction, name) for name in remade}
        differing = [name for name in remade if repr(recorded[name]) != repr(remade[name])]
        if differing:
            pairs = (f"{name} is {recorded[name]} in the record, made again {remade[name]}" for name in differing)
            self.found(part, "different", "; ".join(pairs))
        else:
            self.found(part, "equal", what)


class Explainer:
    """Explains forecasts. Topics and recordings are read once for all that are asked for together.

    Args:
        kafka: see `client_config`.
        registry: URI of MLflow.
        models: folder where the scorer keeps the models that it has loaded.
    """

    def __init__(self, kafka: Mapping[str, Any], registry: str, models: Path, spec: FeatureSpec) -> None:
        self._kafka, self._registry, self._models, self._spec = kafka, registry, models, spec
        self._found_models: dict[tuple[str, str, str], FoundModel] = {}

    def explain(self, key: StreamKey, trade_ids: Sequence[int]) -> list[Explanation]:
        """Explain forecasts of one stream, in the order in which they are asked for.

        Raises:
            NotFound: there is no forecast of one of these trades.
            BadRecord: one of them cannot be read.
            NotRead: the broker does not answer.
        """
        with TopicReader(self._kafka, f"ingestor-{key.source_id}") as reader:
            stream = read_stream(reader, key, set(trade_ids))
        ledger = read_ledger(self._registry)
        explanations: list[Explanation] = []
        places: list[int | None] = []
        for trade_id in trade_ids:
            offset, value = stream.forecasts[trade_id]
            record = read_record(value, self._spec, stream.partition, offset)
            each = Explanation(record, stream.partition, offset, self._model(record))
            each.findings.append(each.model.finding)
            each.promotion, finding = served_under(ledger, record)
            each.findings.append(finding)
            at = place_of(each, stream)
            if at is not None:
                remake_row(each, stream, at, self._spec)
            remake_score(each)
            explanations.append(each)
            places.append(at)
        find_in_recordings(explanations, places, key.product_id, stream)
        return explanations

    def _model(self, record: Any) -> FoundModel:
        """Return the model that a record names."""
        named = (record.model_variant, record.version, record.digest)
        if named not in self._found_models:
            self._found_models[named] = find_model(record, self._registry, self._models)
        return self._found_models[named]


def read_record(value: bytes, spec: FeatureSpec, partition: int, offset: int) -> Any:
    """Return a forecast's record, see `prediction_type`, whose times are times.

    Args:
        partition, offset: where it stands on `predictions`.

    Raises:
        BadRecord: it cannot be read.
    """
    try:
        record = msgspec.json.decode(value, type=prediction_type(spec))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(partition, offset, error) from None
    for name in ("event_time", "ingest_time", "ts"):
        try:
            parse_times([getattr(record, name)])
        except ValueError as error:
            raise BadRecord(partition, offset, f"{name}: {error}") from None
    return record


def oldest_trade(event_time: Int64s, row: int, spec: FeatureSpec, *, is_whole: bool) -> int | None:
    """Return the first of the trades that a row is made from, or None if these do not reach back so far.

    A row sees the last `window_size` + 1 trades, and on the grid what happened since the start of the oldest block in
    reach, where the trade before it sets the price; and nothing before its segment. It begins with a trade that counts
    as its own time: where time falls, a trade counts as the time before it, which others have set.

    Args:
        event_time: shape (n,), ns since 1970, as recorded, of the trades that the stream took.
        row: index of the row's trade.
        is_whole: the stream begins with the first of these trades.
    """
    recorded = event_time[: row + 1]
    counts_as = np.maximum.accumulate(recorded)
    starts = np.flatnonzero(np.diff(counts_as) > spec.gap_s * NS) + 1
    segment = int(starts[-1]) if len(starts) else 0
    step = spec.grid_step_s * NS
    block = (int(counts_as[row]) // step - 1) // spec.block_steps
    oldest_block = block - (spec.lookback_steps // spec.block_steps - 1)
    sets_price = int(np.searchsorted(counts_as, oldest_block * spec.block_steps * step, side="right")) - 1
    reach = min(sets_price, row - spec.window_size)
    own_time = recorded == counts_as
    if segment == 0 and not is_whole:
        # A trade before the first one here may have been up to a second later.
        own_time &= recorded >= recorded[0] + MAX_FALL_S * NS
        found = np.flatnonzero(own_time[: max(reach + 1, 0)])
        return int(found[-1]) if len(found) else None
    return int(np.flatnonzero(own_time[: max(reach, segment) + 1])[-1])


def place_of(each: Explanation, stream: Stream) -> int | None:
    """Return the index of a forecast's trade in its stream, or None and why it is not there."""
    record = each.prediction
    if record.kafka_partition != stream.partition:
        said = f"{each.trade_place} is no trade of this stream, which stands in partition {stream.partition}"
        each.found("trades", "different", said)
        return None
    at = int(np.searchsorted(stream.offsets, record.kafka_offset))
    if at == len(stream.offsets) or stream.offsets[at] != record.kafka_offset:
        if record.kafka_offset < stream.oldest:
            said = f"{each.trade_place} is no longer kept, the oldest offset there is {stream.oldest}"
            each.found("trades", "expired", said)
        else:
            each.found("trades", "different", f"{each.trade_place} is no trade of this stream")
    elif stream.trades.trade_id[at] != record.trade_id:
        each.found("trades", "different", f"{each.trade_place} is trade {stream.trades.trade_id[at]}")
    elif not stream.is_taken[at]:
        each.found("trades", "different", f"{each.trade_place} is a trade that its stream does not take")
    else:
        return at
    return None


def remake_row(each: Explanation, stream: Stream, at: int, spec: FeatureSpec) -> None:
    """Make the row of a stream's trade again from the trades in its reach, and compare it."""
    record = each.prediction
    if record.spec_id != spec.spec_id:
        said = f"the row is of feature spec {record.spec_id}, rows here are of {spec.spec_id}: is WINDOW_SIZE another?"
        each.found("row", "expired", said)
        return
    last_end = max((end for end in stream.ends if end < record.kafka_offset), default=-1)
    began = int(np.searchsorted(stream.offsets, last_end))
    taken = began + np.flatnonzero(stream.is_taken[began : at + 1])
    is_whole = stream.is_whole or last_end >= 0
    first = oldest_trade(stream.trades.event_time[taken], len(taken) - 1, spec, is_whole=is_whole)
    if first is None:
        said = f"the row's window begins before {TRADES}[{stream.partition}]@{stream.oldest}, the oldest that is kept"
        each.found("trades", "expired", said)
        return
    made = feature_rows(stream.trades.take(slice(int(taken[first]), at + 1)), Windows(spec))
    each.window = stream.trades.take(taken[first:])
    each.found("trades", "equal", f"{len(each.window):,} in the row's window")
    columns = [None if np.isnan(value) else float(value) for value in made.values[-1]]
    remade: dict[str, Any] = dict(zip(spec.columns, columns, strict=True))
    remade["n"] = int(made.values[-1, 0])
    remade["event_time"] = iso_times(made.trades.event_time[-1:])[0]
    remade["ingest_time"] = iso_times(made.trades.ingest_time[-1:])[0]
    remade["price"] = float(made.trades.price[-1])
    remade["purpose"] = stream.purposes[record.kafka_offset]
    each.compare("row", remade, f"all {len(spec.columns)} columns")


def find_model(record: Any, registry: str, models: Path) -> FoundModel:
    """Return the model that a record names: from the registry, else as the scorer has kept it."""
    name = f"volatility-{record.model_variant}"
    path = models / name / f"{record.digest}.onnx"
    problems: list[str] = []
    outcome: Outcome = "expired"
    files: dict[str, Callable[[], bytes]] = {
        registry: lambda: download(registry, name, record.version),
        str(path): path.read_bytes,
    }
    for origin, fetch in files.items():
        try:
            content = fetch()
            model = ServedModel.load(content, spec_id=record.spec_id, digest=record.digest)
        except RegistryError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except ModelRefused as error:
            problems.append(f"{name} version {record.version} at {origin} is not the one that answered: {error}")
            outcome = "different"
        except ValueError as error:  # an embedded null byte
            problems.append(f"{str(path)!r} can be no file: {error}")
            outcome = "different"
        else:
            if outcome == "expired":
                return FoundModel(name, model, origin, Finding("model", "equal", f"SHA-256 of the file at {origin}"))
            return FoundModel(name, model, origin, Finding("model", outcome, "; ".join(problems)))
    return FoundModel(name, None, "", Finding("model", outcome, "; ".join(problems)))


def read_ledger(registry: str) -> list[Entry] | str:
    """Return the entries of the ledger, oldest first, or why they cannot be read."""
    try:
        return history(registry)
    except RegistryError as error:
        return str(error)


def served_under(ledger: list[Entry] | str, record: Any) -> tuple[Entry | None, Finding]:
    """Return the entry that made champion of a model before it gave a forecast, and what became of it.

    A scorer follows an alias within a second, and one that is cut off from the registry serves on: so it is the newest
    entry that names the version, also where the alias has moved on since.
    """
    if isinstance(ledger, str):
        return None, Finding("promotion", "expired", ledger)
    name = f"volatility-{record.model_variant}"
    scored = EPOCH + timedelta(microseconds=int(parse_times([record.ts])[0]) // 1_000)
    # The intent is written before the alias moves, and a scorer may be faster than the note that it has moved.
    until_then = [entry for entry in ledger if entry.model == name and entry.at is not None and entry.begun <= scored]
    naming = [entry for entry in until_then if entry.to_version == record.version]
    if not naming:
        said = f"the ledger has no entry before {record.ts} that made {name} version {record.version} champion"
        return None, Finding("promotion", "expired", said)
    entry = naming[-1]
    if entry.digest != record.digest:
        return entry, Finding("promotion", "different", f"entry {entry.entry_id} is of SHA-256 {entry.digest}")
    said = f"{entry.action} at {entry.at:%Y-%m-%dT%H:%M:%S.%fZ}"
    if until_then[-1] is not entry:
        later = (scored - until_then[-1].begun).total_seconds()
        said += f"; version {until_then[-1].to_version} was on its way, {later:.1f} s before this was scored"
    return entry, Finding("promotion", "equal", said)


def remake_score(each: Explanation) -> None:
    """Score the record's row again with the model that it names, and compare."""
    record, model = each.prediction, each.model.model
    if model is None:
        return each.found("score", "expired", "there is no model to score with")
    values = [np.nan if (value := getattr(record, name)) is None else value for name in model.columns]
    scores = model.score(np.array([values], np.float64))
    train_end_ns = (model.train_end - EPOCH) // timedelta(microseconds=1) * 1_000
    remade = {
        "horizon_s": model.horizon_s,
        "score": float(scores.score[0]),
        "interval": (float(scores.lower[0]), float(scores.upper[0])),
        "in_sample": int(parse_times([record.event_time])[0]) <= train_end_ns,
        "missing": [name for name, is_missing in zip(model.columns, scores.missing[0], strict=True) if is_missing],
    }
    return each.compare("score", remade, "score and interval")


def find_in_recordings(
    explanations: Sequence[Explanation], places: Sequence[int | None], product_id: str, stream: Stream
) -> None:
    """Look for trades in the recordings of their source, all in one pass, and compare them with the topic.

    Args:
        places: index of each one's trade in the stream.
    """
    try:
        origin = read_origin(stream.note)
    except ValueError as error:
        said = "the broker has no note of what the source was made of"
        for each in explanations:
            each.found("recording", "expired", f"{said} that can be read: {error}" if stream.note else said)
        return
    found, problem = _read_recordings(origin, product_id, {each.prediction.trade_id for each in explanations})
    for each, at in zip(explanations, places, strict=True):
        recorded = each.recorded = found.get(each.prediction.trade_id)
        if recorded is None:
            files = ", ".join(recording.path for recording in origin.recordings)
            each.found("recording", "expired" if problem else "different", problem or f"{files}: no such trade")
        elif at is None:
            where = f"{recorded.file}:{recorded.line}"
            each.found("recording", "expired", f"{where}, but the topic has no trade to compare it with")
        else:
            each.findings.append(compare_recorded(recorded, stream.trades.take(slice(at, at + 1)), origin))


def compare_recorded(recorded: Recorded, trade: Trades, origin: Origin) -> Finding:
    """Compare a recorded trade with the one on the topic; a real-time replay has moved its time by whole seconds."""
    where = f"{recorded.file}:{recorded.line}"
    shift_ns = int(trade.event_time[0]) - recorded.event_time
    pairs: dict[str, tuple[float | str, float | str]] = {
        "price": (recorded.price, float(trade.price[0])),
        "size": (recorded.size, float(trade.size[0])),
        "side": (Side(recorded.side).name, Side(trade.side[0]).name),
    }
    if shift_ns and (origin.speed != "real-time" or shift_ns % NS):
        there, here = iso_times(np.array([recorded.event_time, trade.event_time[0]]))
        pairs["event_time"] = there, here
    differing = [
        f"{name} is {there} recorded, {here} on the topic"
        for name, (there, here) in pairs.items()
        if repr(there) != repr(here)
    ]
    if differing:
        return Finding("recording", "different", f"{where}: {'; '.join(differing)}")
    moved = f", its time moved by {shift_ns // NS:+,} s (a real-time replay)" if shift_ns else ""
    return Finding("recording", "equal", where + moved)


def _read_recordings(origin: Origin, product_id: str, trade_ids: set[int]) -> tuple[dict[int, Recorded], str]:
    """Return trades as they were recorded, and why some may not be found; empty if nothing stands in the way."""
    paths, problem = [], ""
    for recording in origin.recordings:
        path = Path(recording.path)
        now = recording_of(path)
        if recording.size is None or now != recording:
            is_there = now.size is not None
            problem = f"{path} {'has changed since it was replayed' if is_there else 'is gone'}"
            break
        paths.append(path)
    else:
        if origin.left_out:
            problem = f"of the source's recordings only the first {len(paths)} are known, {origin.left_out} are not"
    found: dict[int, Recorded] = {}
    wanted = np.array(sorted(trade_ids), np.int64)
    try:
        for batch in read_trades(paths, product_id=origin.product_id) if paths else ():
            trades = batch.trades
            is_wanted = np.isin(trades.trade_id, wanted)
            for row in np.flatnonzero(is_wanted).tolist():
                if trades.keys[trades.stream[row]].product_id == product_id:
                    found[int(trades.trade_id[row])] = Recorded(
                        batch.file,
                        int(batch.line[row]),
                        int(trades.event_time[row]),
                        float(trades.price[row]),
                        float(trades.size[row]),
                        int(trades.side[row]),
                    )
            if len(found) == len(wanted):
                break
    except ValueError as error:  # a recording is damaged; it was when it was replayed
        problem = problem or str(error)
    return found, problem


def described(each: Explanation, *, all_trades: bool) -> dict[str, Any]:
    """Return an explanation as it is written in JSON."""
    record, model, promotion = each.prediction, each.model, each.promotion
    window: dict[str, Any] | None = None
    if each.window is not None:
        shown = each.window if all_trades else each.window.take(slice(-NEWEST, None))
        window = {
            "count": len(each.window),
            "of_contract_columns": record.n + 1,
            "first": _trades(each.window.take(slice(0, 1)))[0],
            "last": _trades(each.window.take(slice(-1, None)))[0],
            "all" if all_trades else "newest": _trades(shown),
        }
    return {
        "outcome": OUTCOMES[each.exit_code],
        "findings": [finding._asdict() for finding in each.findings],
        "prediction": msgspec.to_builtins(record),
        "place": {
            "trade": {"topic": TRADES, "kafka_partition": record.kafka_partition, "kafka_offset": record.kafka_offset},
            "prediction": {
                "topic": PREDICTIONS,
                "kafka_partition": each.kafka_partition,
                "kafka_offset": each.kafka_offset,
            },
            "recording": None if each.recorded is None else {"file": each.recorded.file, "line": each.recorded.line},
        },
        "model": {
            "name": model.name,
            "version": record.version,
            "digest": record.digest,
            "file": model.origin or None,
            "train_end": None if model.model is None else f"{model.model.train_end:%Y-%m-%dT%H:%M:%SZ}",
        },
        "promotion": None if promotion is None else msgspec.to_builtins(promotion),
        "trades": window,
        "remade": msgspec.to_builtins(each.remade),
    }


def _trades(trades: Trades) -> list[dict[str, Any]]:
    sides = {Side.BUY: "buy", Side.SELL: "sell"}
    return [
        {
            "trade_id": int(trades.trade_id[row]),
            "event_time": time,
            "price": float(trades.price[row]),
            "size": None if np.isnan(trades.size[row]) else float(trades.size[row]),
            "side": sides.get(Side(trades.side[row])),
        }
        for row, time in enumerate(iso_times(trades.event_time))
    ]


def rendered(each: Explanation, *, all_trades: bool) -> str:
    """Return an explanation as it is read."""
    record, said = each.prediction, described(each, all_trades=all_trades)
    lines = [
        f"{record.source_id} {record.product_id} trade {record.trade_id}  {record.event_time}  price {record.price}",
        "",
        f"forecast    {record.score} in [{record.interval[0]}, {record.interval[1]}]",
        f"            volatility of the {record.horizon_s} s after it, scored {record.ts}",
    ]
    if record.in_sample:
        lines.append("            in-sample: the model was trained on data as late as this")
    if record.missing:
        lines.append(f"            made without {', '.join(record.missing)}")
    trained = f", trained up to {said['model']['train_end']}" if said["model"]["train_end"] else ""
    lines += [
        f"model       {each.model.name} version {record.version}{trained}",
        f"            SHA-256 {record.digest}",
        *_promotion_lines(each.promotion),
        f"row         spec {record.spec_id}",
    ]
    values = {name: getattr(record, name) for name in FeatureSpec().columns}
    lines += [f"            {name:<24}{'missing' if value is None else value}" for name, value in values.items()]
    if (window := said["trades"]) is not None:
        first, last = window["first"], window["last"]
        lines += [
            f"trades      {window['count']:,}, the newest {window['of_contract_columns']} for {', '.join(CONTRACT)}",
            f"            first {_line(first)}",
            f"            last  {_line(last)}",
            f"            {'all of them' if all_trades else 'the newest'}:",
        ]
        lines += [f"                  {_line(trade)}" for trade in window["all" if all_trades else "newest"]]
    recorded = f"{each.recorded.file}:{each.recorded.line}" if each.recorded is not None else "unknown, see below"
    lines += [
        f"topic       trade {each.trade_place}, forecast {PREDICTIONS}[{each.kafka_partition}]@{each.kafka_offset}",
        f"recording   {recorded}",
        "",
    ]
    lines += [f"{finding.outcome:<12}{finding.part}: {finding.said}" for finding in each.findings]
    return "\n".join(lines)


def _promotion_lines(entry: Entry | None) -> list[str]:
    if entry is None:
        return ["promotion   unknown, see below"]
    forced = ", forced" if entry.is_forced else ""
    return [
        f"promotion   {entry.at:%Y-%m-%dT%H:%M:%SZ} {entry.action}{forced}, by {entry.who}: {entry.why}",
        f"            from version {entry.from_version or '-'} to {entry.to_version}, entry {entry.entry_id}",
    ]


def _line(trade: dict[str, Any]) -> str:
    size = "size unknown" if trade["size"] is None else trade["size"]
    return f"{trade['trade_id']}  {trade['event_time']}  {trade['price']}  {size}  {trade['side'] or ''}".rstrip()


def main() -> int:
    """Say where a forecast came from, make it again, and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m offline.explain",
        description=main.__doc__,
        epilog="Exit code: 0 all is equal, 1 something differs or cannot be read, 2 there is no such forecast, 3 a "
        "part has expired. The broker is KAFKA_BOOTSTRAP_SERVERS, localhost:9092 where that is not set; the registry "
        "MLFLOW_TRACKING_URI.",
    )
    parser.add_argument("source", metavar="SOURCE", help="source_id of the forecast, as replay-1")
    parser.add_argument("product", metavar="PRODUCT", help="as BTC-USD")
    parser.add_argument("trade", metavar="TRADE", type=int, help="trade_id")
    parser.add_argument("--trades", action="store_true", help="print all trades of the window")
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args()
    key = StreamKey(args.source, args.product)
    try:
        check_names(key)
    except ValueError as error:
        parser.error(str(error))
    settings = OfflineSettings()
    kafka = client_config({name: value or "" for name, value in dotenv_values(".env").items()} | dict(os.environ))
    explainer = Explainer(kafka, settings.mlflow_tracking_uri, settings.models_dir, settings.spec())
    try:
        (explanation,) = explainer.explain(key, [args.trade])
    except (BadRecord, NotFound, NotRead) as error:
        exit_code = DIFFERENT if isinstance(error, BadRecord) else NOT_FOUND
        if args.json:
            print(json.dumps({"outcome": OUTCOMES[exit_code], "said": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return exit_code
    if args.json:
        print(json.dumps(described(explanation, all_trades=args.trades), indent=2))
    else:
        print(rendered(explanation, all_trades=args.trades))
    return explanation.exit_code


if __name__ == "__main__":
    with may_lose_its_reader():
        sys.exit(main())
