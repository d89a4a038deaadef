"""Where a forecast came from, and whether it can be made again: `python -m offline.explain SOURCE PRODUCT TRADE`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from dotenv import dotenv_values
from numpy.typing import NDArray

from data.dialects import Dialect
from data.features import Windows, feature_rows
from data.lines import Damaged, chunks_of, head_of, whole_lines
from data.origin import Origin, read_origin, recording_of
from data.pipes import may_lose_its_reader
from data.readers import Batch, read_trades, recognize
from data.serving import ModelRefused, ServedModel
from data.spec import CONTRACT, FeatureSpec
from data.topic_reader import NotRead, TopicReader, client_config
from data.topics import PREDICTIONS, TRADES, check_names, prediction_type
from data.trades import NS, Int64s, Side, StreamKey, Trades, iso_times, parse_times
from offline.ledger import Entry, history
from offline.registry import RegistryError, download
from offline.settings import OfflineSettings
from offline.streams import PROBE_BYTES, BadRecord, NotFound, Passage, Stream, Target

EQUAL, DIFFERENT, NOT_FOUND, EXPIRED = range(4)
"""Exit codes: all was made again and is equal; something differs, or the record cannot be read; there is no such
forecast, or no broker to ask; a part of what it was made from is gone."""
OUTCOMES = ("equal", "different", "not found", "expired")
"""What each of them is called."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NEWEST = 5
"""Trades of a window that are shown."""

FEW = 3
"""Trades whose lines are looked for one by one; for more of them the recordings are read once."""
MOST_LINES = 5_000
"""With the digits of a trade id that are looked at in a recording: an id of a few digits stands in every line."""

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
        trade: its own as the topic has it, one row; None where it is gone or another one.
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
    trade: Trades | None = None
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
        models: folder where the forecaster keeps the models that it has loaded.
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
        found: dict[int, Explanation] = {}
        targets: list[Target] = []
        with (
            TopicReader(self._kafka, f"ingestor-{key.source_id}") as reader,
            TopicReader(self._kafka, fetch_bytes=PROBE_BYTES) as prober,
        ):
            stream = Stream(reader, prober, key)
            forecasts = stream.find(set(trade_ids))
            ledger = read_ledger(self._registry)
            for trade_id, forecast in forecasts.items():
                record = read_record(forecast.value, self._spec, stream.partition, forecast.offset)
                each = found[trade_id] = Explanation(record, stream.partition, forecast.offset, self._model(record))
                each.findings.append(each.model.finding)
                each.promotion, finding = served_under(ledger, record)
                each.findings.append(finding)
                since = oldest_block(int(parse_times([record.event_time])[0]), self._spec)
                targets.append(Target(forecast, record.kafka_partition, record.kafka_offset, since))
            for together, passage in stream.passages(targets, self._reaches):
                for target in together:
                    each = found[target.forecast.trade_id]
                    if (at := place_of(each, passage)) is not None:
                        each.trade = passage.trades.take(slice(at, at + 1))
                        remake_row(each, passage, at, self._spec)
        explanations = [found[trade_id] for trade_id in trade_ids]
        for each in found.values():
            remake_score(each)
        find_in_recordings(list(found.values()), key.product_id, stream.note)
        return explanations

    def _reaches(self, passage: Passage, target: Target) -> bool:
        """Return whether a passage holds all trades that the row of one of its trades is made from."""
        at = passage.index_of(target.kafka_offset)
        return at is not None and trades_of_row(passage, at, self._spec) is not None

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


def oldest_block(event_time: int, spec: FeatureSpec) -> int:
    """Return the start of the oldest block of the grid that a row sees, ns since 1970.

    Args:
        event_time: of the row, ns since 1970.
    """
    block_ns = spec.block_steps * spec.grid_step_s * NS
    block = (event_time // (spec.grid_step_s * NS) - 1) // spec.block_steps
    return (block - (spec.lookback_steps // spec.block_steps - 1)) * block_ns


def oldest_trade(event_time: Int64s, row: int, spec: FeatureSpec, *, counts_as: int, is_whole: bool) -> int | None:
    """Return the first of the trades that a row is made from, or None if these do not reach back so far.

    A row sees the last `window_size` + 1 trades, and on the grid what happened since the start of the oldest block in
    reach, where the trade before it sets the price; and nothing before its segment. It begins with a trade that counts
    as its own time: where time falls, a trade counts as the time before it, which others have set.

    Args:
        event_time: shape (n,), ns since 1970, as recorded, of the trades that the stream took.
        row: index of the row's trade.
        counts_as: event time that the first trade counts as, ns since 1970.
        is_whole: no row reaches back behind the first trade.
    """
    recorded = event_time[: row + 1]
    counted = np.maximum.accumulate(np.concatenate(([counts_as], recorded[1:])))
    starts = np.flatnonzero(np.diff(counted) > spec.gap_s * NS) + 1
    segment = int(starts[-1]) if len(starts) else 0
    sets_price = int(np.searchsorted(counted, oldest_block(int(counted[row]), spec), side="right")) - 1
    reach = min(sets_price, row - spec.window_size)
    begins = max(reach, segment) if is_whole or segment else reach
    own_time = np.flatnonzero(recorded[: max(begins + 1, 0)] == counted[: max(begins + 1, 0)])
    return int(own_time[-1]) if len(own_time) else None


def trades_of_row(passage: Passage, at: int, spec: FeatureSpec) -> NDArray[np.intp] | None:
    """Return the indices of the trades that the row of a passage's trade is made from; None if some are not there."""
    taken = np.flatnonzero(passage.is_taken[: at + 1])
    event_time = passage.trades.event_time[taken]
    first = oldest_trade(event_time, len(taken) - 1, spec, counts_as=passage.counts_as, is_whole=passage.is_whole)
    return None if first is None else taken[first:]


def place_of(each: Explanation, passage: Passage) -> int | None:
    """Return the index of a forecast's trade in a passage of its stream, or None and why it is not there."""
    record = each.prediction
    at = passage.index_of(record.kafka_offset)
    if record.kafka_partition != passage.partition:
        said = f"{each.trade_place} is no trade of this stream, which stands in partition {passage.partition}"
        each.found("trades", "different", said)
    elif record.kafka_offset < passage.oldest:
        said = f"{each.trade_place} is no longer kept, the oldest offset there is {passage.oldest}"
        each.found("trades", "expired", said)
    elif at is None:
        each.found("trades", "different", f"{each.trade_place} is no trade of this stream")
    elif passage.trades.trade_id[at] != record.trade_id:
        each.found("trades", "different", f"{each.trade_place} is trade {passage.trades.trade_id[at]}")
    elif not passage.is_taken[at]:
        each.found("trades", "different", f"{each.trade_place} is a trade that its stream does not take")
    else:
        return at
    return None


def remake_row(each: Explanation, passage: Passage, at: int, spec: FeatureSpec) -> None:
    """Make the row of a passage's trade again from the trades in its reach, and compare it."""
    record = each.prediction
    if record.spec_id != spec.spec_id:
        said = f"the row is of feature spec {record.spec_id}, rows here are of {spec.spec_id}: is WINDOW_SIZE another?"
        each.found("row", "expired", said)
        return
    rows = trades_of_row(passage, at, spec)
    if rows is None:
        said = f"the row's window begins before {TRADES}[{passage.partition}]@{passage.oldest}, the oldest that is kept"
        each.found("trades", "expired", said)
        return
    each.window = passage.trades.take(rows)
    made = feature_rows(each.window, Windows(spec))
    each.found("trades", "equal", f"{len(each.window):,} in the row's window")
    columns = [None if np.isnan(value) else float(value) for value in made.values[-1]]
    remade: dict[str, Any] = dict(zip(spec.columns, columns, strict=True))
    remade["n"] = int(made.values[-1, 0])
    remade["event_time"] = iso_times(made.trades.event_time[-1:])[0]
    remade["ingest_time"] = iso_times(made.trades.ingest_time[-1:])[0]
    remade["price"] = float(made.trades.price[-1])
    remade["purpose"] = passage.purposes[record.kafka_offset]
    each.compare("row", remade, f"all {len(spec.columns)} columns")


def find_model(record: Any, registry: str, models: Path) -> FoundModel:
    """Return the model that a record names: from the registry, else as the forecaster has kept it."""
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

    A forecaster follows an alias within a second, and one that is cut off from the registry serves on: so it is the
    newest entry that names the version, also where the alias has moved on since.
    """
    if isinstance(ledger, str):
        return None, Finding("promotion", "expired", ledger)
    name = f"volatility-{record.model_variant}"
    scored = EPOCH + timedelta(microseconds=int(parse_times([record.ts])[0]) // 1_000)
    # The intent is written before the alias moves, and a forecaster may be faster than the note that it has moved.
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


def find_in_recordings(explanations: Sequence[Explanation], product_id: str, note: str) -> None:
    """Look for trades in the recordings of their source, and compare them with the topic.

    Args:
        note: what the ingestor says of the recordings, see `Origin`.
    """
    try:
        origin = read_origin(note)
    except ValueError as error:
        said = "the broker has no note of what the source was made of"
        for each in explanations:
            each.found("recording", "expired", f"{said} that can be read: {error}" if note else said)
        return
    paths, problem = _whole_recordings(origin)
    is_quick = len(explanations) <= FEW
    rest = [each for each in explanations if not (is_quick and _find_line(each, paths, product_id, origin))]
    found, damage = _read_recordings(paths, origin, product_id, {each.prediction.trade_id for each in rest})
    for each in rest:
        recorded = each.recorded = found.get(each.prediction.trade_id)
        if recorded is None:
            files = ", ".join(recording.path for recording in origin.recordings)
            reason = problem or damage
            each.found("recording", "expired" if reason else "different", reason or f"{files}: no such trade")
        elif each.trade is None:
            where = f"{recorded.file}:{recorded.line}"
            each.found("recording", "expired", f"{where}, but the topic has no trade to compare it with")
        else:
            each.findings.append(compare_recorded(recorded, each.trade, origin))


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


def _whole_recordings(origin: Origin) -> tuple[list[Path], str]:
    """Return the recordings up to the first that is gone or another, and why trades may be missing; empty if none."""
    paths: list[Path] = []
    for recording in origin.recordings:
        path = Path(recording.path)
        now = recording_of(path)
        if recording.size is None or now != recording:
            return paths, f"{path} {'is gone' if now.size is None else 'has changed since it was replayed'}"
        paths.append(path)
    if origin.left_out:
        return paths, f"of the source's recordings only the first {len(paths)} are known, {origin.left_out} are not"
    return paths, ""


def _find_line(each: Explanation, paths: Sequence[Path], product_id: str, origin: Origin) -> bool:
    """Look for a line that holds a trade's id and equals the trade on the topic, and return whether there is one.

    Other lines are not parsed. The source took none of them for this trade: what is equal and comes later was rejected.
    """
    if each.trade is None:
        return False
    trade_id = each.prediction.trade_id
    is_number = re.compile(rf"(?<![\w.+-]){trade_id}(?![\w.+-])".encode())
    with suppress(ValueError, OSError, Damaged):
        for path in paths:
            if not (isinstance(dialect := recognize(path), Dialect) and dialect.has_ids):
                return False
            header = head_of(chunks_of(path)).partition(b"\n")[0] + b"\n"
            for number, line in islice(_lines_with(path, str(trade_id).encode()), MOST_LINES):
                recording = line if line.startswith(b"{") else header + line
                if is_number.search(line) and (found := _parsed_alone(recording, origin, product_id, trade_id)):
                    recorded = found._replace(file=str(path), line=number)
                    finding = compare_recorded(recorded, each.trade, origin)
                    if finding.outcome == "equal":
                        each.recorded = recorded
                        each.findings.append(finding)
                        return True
    return False


def _parsed_alone(recording: bytes, origin: Origin, product_id: str, trade_id: int) -> Recorded | None:
    """Return a trade from the text of a recording that holds one line, or None if that line is another."""
    with TemporaryDirectory() as folder, suppress(ValueError):
        path = Path(folder) / "recording"
        path.write_bytes(recording)
        found = dict(_recorded(read_trades(path, product_id=origin.product_id), product_id, {trade_id}))
        return found.get(trade_id)
    return None


def _lines_with(path: Path, digits: bytes) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a text in which some digits stand, with the number of each line from 1.

    Raises:
        Damaged: see `chunks_of`.
    """
    number = 1
    for block in whole_lines(chunks_of(path)):
        counted, at = 0, block.find(digits)
        while at >= 0:
            begin, end = block.rfind(b"\n", 0, at) + 1, block.index(b"\n", at) + 1
            number += block.count(b"\n", counted, begin)
            counted = begin
            yield number, block[begin:end]
            at = block.find(digits, end)
        number += block.count(b"\n", counted)


def _read_recordings(
    paths: Sequence[Path], origin: Origin, product_id: str, trade_ids: Collection[int]
) -> tuple[dict[int, Recorded], str]:
    """Return trades as they were recorded, and what is wrong with a recording; empty if nothing is."""
    found: dict[int, Recorded] = {}
    try:
        batches = read_trades(paths, product_id=origin.product_id) if paths and trade_ids else ()
        for trade_id, recorded in _recorded(batches, product_id, trade_ids):
            found[trade_id] = recorded
    except ValueError as error:  # a recording is damaged; it was when it was replayed
        return found, str(error)
    return found, ""


def _recorded(batches: Iterable[Batch], product_id: str, trade_ids: Collection[int]) -> Iterator[tuple[int, Recorded]]:
    """Yield some trades of a product by their ids, as they were recorded, until all are found."""
    wanted, left = np.array(sorted(trade_ids), np.int64), len(trade_ids)
    for batch in batches:
        trades = batch.trades
        for row in np.flatnonzero(np.isin(trades.trade_id, wanted)).tolist():
            if trades.keys[trades.stream[row]].product_id == product_id:
                left -= 1
                yield (
                    int(trades.trade_id[row]),
                    Recorded(
                        batch.file,
                        int(batch.line[row]),
                        int(trades.event_time[row]),
                        float(trades.price[row]),
                        float(trades.size[row]),
                        int(trades.side[row]),
                    ),
                )
        if not left:
            return


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
