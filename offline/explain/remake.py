"""Remaking of a past forecast: record, row, model, score."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from data.features.spec import FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.registry import Registry
from data.models.served import Scores, ServedModel
from data.names import ModelRefused, NotRead, RegistryError
from data.settings import KafkaSettings
from data.stream.origin import group_of
from data.stream.published import forecast_of
from data.stream.reader import TopicReader
from data.stream.records import PREDICTIONS, TRADES, AdaptedBy, Shadow, prediction_type
from data.times import time_text, to_datetime, to_ns
from data.trades import StreamKey
from data.truth.adaptation import Adapted
from offline.explain.adaptation import adapted_again, records_behind, scores_of
from offline.explain.bisection import BadRecord
from offline.explain.findings import Explanation, Finding, FoundModel, Outcome
from offline.explain.recordings import find_in_recordings
from offline.explain.streams import PROBE_BYTES, ForecastNotFound, Passage, Stream
from offline.lake.store import Lake
from offline.promotion.ledger import Entry, history, until
from offline.served.files import read_again
from offline.served.kept.records import JoinedRecords, KeptRecords, kept_records

GONE = "forecasts behind the adaptation are no longer kept"


class Explainer:
    """Explainer of forecasts. One call reads topics and recordings once for all its forecasts.

    Args:
        models: folder in which the forecaster keeps loaded models.
        lake: what the topics no longer hold is read from the lake; None: the topics alone are read.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: Registry, models: Path, spec: FeatureSpec, lake: Lake | None = None
    ) -> None:
        self._kafka, self._registry, self._models, self._spec, self._lake = kafka, registry, models, spec, lake

    def explain(self, key: StreamKey, trade_ids: Sequence[int]) -> list[Explanation]:
        """Explain forecasts of one stream, in the order of `trade_ids`.

        Raises:
            ForecastNotFound: a trade has no forecast, on the topics and in the lake.
            BadRecord: the record of a forecast cannot be read.
            NotRead: the broker does not answer, and the lake does not have the stream; or the lake cannot be read.
        """
        try:
            return read_again(lambda: self._from_topics(key, trade_ids))
        except FileNotFoundError as error:
            raise NotRead(f"the lake changes while it is read: {error}") from error
        except OSError as error:
            raise NotRead(f"the lake does not answer: {error}") from error

    def _from_topics(self, key: StreamKey, trade_ids: Sequence[int]) -> list[Explanation]:
        """Explain from the topics, before their oldest record from the lake; without the stream from the lake alone."""
        try:
            with (
                TopicReader(self._kafka, group_of(key.source_id)) as reader,
                TopicReader(self._kafka, fetch_bytes=PROBE_BYTES) as prober,
            ):
                kept = self._kept(key, {topic: prober.topic_id(topic) for topic in (TRADES, PREDICTIONS)})
                joined = JoinedRecords(reader, kept)
                return self._explain(key, trade_ids, joined, JoinedRecords(prober, kept))
        except (ForecastNotFound, NotRead):
            kept = self._kept(key)
            if kept is None or PREDICTIONS not in kept.topics:
                raise
            with suppress(ForecastNotFound):
                return self._explain(key, trade_ids, kept, kept)
            raise

    def _kept(self, key: StreamKey, topic_ids: dict[str, str] | None = None) -> KeptRecords | None:
        """Return the lake's records of a stream, see `kept_records`; None, and a line on stderr, if damaged."""
        if self._lake is None:
            return None
        try:
            return kept_records(self._lake, key, topic_ids)
        except ValueError as error:
            print(f"the lake is left out: {error}", file=sys.stderr)
            return None

    def _explain(
        self,
        key: StreamKey,
        trade_ids: Sequence[int],
        reader: JoinedRecords | KeptRecords,
        prober: JoinedRecords | KeptRecords,
    ) -> list[Explanation]:
        found: dict[int, Explanation] = {}
        stream = Stream(reader, prober, key)
        forecasts = stream.find(set(trade_ids))
        ledger = read_ledger(self._registry)
        model_of = cache(partial(find_model, self._registry, self._models))
        for trade_id, forecast in forecasts.items():
            record = read_record(forecast.value, self._spec, stream.partition, forecast.offset)
            model = model_of(record.model_variant, record.version, record.digest, record.spec_id)
            entry, finding = served_under(ledger, record)
            each = found[trade_id] = Explanation(record, stream.partition, forecast.offset, model, entry)
            each.forecast_from = reader.place_of(PREDICTIONS, stream.partition, forecast.offset)
            each.findings += [model.finding, finding]
        for together, passage in stream.passages(found.values(), self._spec):
            for each in together:
                if (at := place_of(each, passage, stream)) is not None:
                    each.trade = passage.trades.take(slice(at, at + 1))
                    first = remake_row(each, passage, at, stream, self._spec)
                    each.trades_from = reader.place_of(TRADES, stream.partition, int(passage.offsets[first]))
        for each in found.values():
            records = records_behind(stream, each.kafka_offset, self._spec)
            remake_score(each, records, self._spec)
            remake_shadows(each, model_of, records, self._spec)
        find_in_recordings(list(found.values()), key.product_id, stream.note)
        return [found[trade_id] for trade_id in trade_ids]


def read_record(value: bytes, spec: FeatureSpec, partition: int, offset: int) -> Any:
    """Return a forecast's record, see `prediction_type`.

    Args:
        partition, offset: of the record on `predictions`.

    Raises:
        BadRecord: the record cannot be read.
    """
    try:
        return msgspec.json.decode(value, type=prediction_type(spec))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(partition, offset, error) from None


def place_of(each: Explanation, passage: Passage, stream: Stream) -> int | None:
    """Return the index of a forecast's trade in a passage; if absent, add a finding and return None."""
    record = each.prediction
    at = passage.index_of(record.kafka_offset)
    if record.kafka_partition != stream.partition:
        said = f"{each.trade_place} is no trade of this stream, which stands in partition {stream.partition}"
        each.found("trades", "different", said)
    elif record.kafka_offset < stream.oldest:
        said = f"{each.trade_place} is no longer kept, the oldest offset there is {stream.oldest}"
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


def remake_row(each: Explanation, passage: Passage, at: int, stream: Stream, spec: FeatureSpec) -> int:
    """Make the row of a passage's trade again from the trades in reach, and compare all fields.

    Returns:
        The index of the first trade that was needed; `at` if the row is not made again.
    """
    record = each.prediction
    if record.spec_id != spec.spec_id:
        said = f"the row is of feature spec {record.spec_id}, rows here are of {spec.spec_id}: is WINDOW_SIZE another?"
        each.found("row", "expired", said)
        return at
    rows = passage.behind_row(at, spec)
    if rows is None:
        said = f"the row's window begins before {TRADES}[{stream.partition}]@{stream.oldest}, the oldest kept offset"
        each.found("trades", "expired", said)
        return at
    each.window = passage.trades.take(rows)
    made = feature_rows(each.window, Windows(spec))
    each.found("trades", "equal", f"{len(each.window):,} in the row's window")
    columns = [None if np.isnan(value) else float(value) for value in made.values[-1]]
    remade: dict[str, Any] = dict(zip(spec.columns, columns, strict=True))
    remade["n"] = int(made.values[-1, 0])
    remade["event_time"] = int(made.trades.event_time[-1])
    remade["ingest_time"] = int(made.trades.ingest_time[-1])
    remade["price"] = float(made.trades.price[-1])
    remade["purpose"] = passage.purposes[record.kafka_offset]
    each.compare("row", remade, f"all {len(spec.columns)} columns")
    return int(rows[0])


def find_model(registry: Registry, models: Path, variant: str, version: str, digest: str, spec_id: str) -> FoundModel:
    """Return the model named by a record: from the registry, else from the forecaster's folder."""
    name = f"volatility-{variant}"
    path = models / name / f"{digest}.onnx"
    problems: list[str] = []
    outcome: Outcome = "expired"
    files: dict[str, Callable[[], bytes]] = {
        registry.uri: lambda: registry.download(name, version),
        str(path): path.read_bytes,
    }
    for origin, fetch in files.items():
        try:
            content = fetch()
            model = ServedModel.load(content, spec_id=spec_id, digest=digest)
        except RegistryError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except ModelRefused as error:
            problems.append(f"{name} version {version} at {origin} is not the one that answered: {error}")
            outcome = "different"
        except ValueError as error:  # an embedded null byte
            problems.append(f"{str(path)!r} can be no file: {error}")
            outcome = "different"
        else:
            finding = Finding("model", "equal", f"SHA-256 of the file at {origin}")
            if outcome == "different":
                finding = Finding("model", outcome, "; ".join(problems))
            return FoundModel(name, model, origin, finding)
    return FoundModel(name, None, "", Finding("model", outcome, "; ".join(problems)))


def read_ledger(registry: Registry) -> list[Entry] | str:
    """Return the entries of the ledger, oldest first, or the error message if the ledger cannot be read."""
    try:
        return history(registry)
    except RegistryError as error:
        return str(error)


def served_under(ledger: list[Entry] | str, record: Any) -> tuple[Entry | None, Finding]:
    """Return the entry that made a model champion before the forecast, and the finding on the part `promotion`.

    The newest entry with the version is right, even after a later move of the alias: a forecaster follows the alias
    within a second, but a forecaster without connection to the registry keeps serving the old version.
    """
    if isinstance(ledger, str):
        return None, Finding("promotion", "expired", ledger)
    name = f"volatility-{record.model_variant}"
    scored = to_datetime(record.ts)
    # The intent is written before the alias moves, and a forecaster may be faster than the `moved_at` tag.
    moves = [entry for entry in ledger if entry.model == name and entry.at is not None]
    until_then = until(moves, lambda entry: entry.begun <= scored)
    naming = [entry for entry in until_then if entry.to_version == record.version]
    if not naming:
        model = f"{name} version {record.version}"
        said = f"the ledger has no entry before {time_text(record.ts)} that made {model} champion"
        return None, Finding("promotion", "expired", said)
    entry = naming[-1]
    if entry.digest != record.digest:
        return entry, Finding("promotion", "different", f"entry {entry.entry_id} is of SHA-256 {entry.digest}")
    said = f"{entry.action} at {entry.at:%Y-%m-%dT%H:%M:%S.%fZ}"
    if until_then[-1] is not entry:
        later = (scored - until_then[-1].begun).total_seconds()
        said += f"; version {until_then[-1].to_version} was on its way, {later:.1f} s before this was scored"
    return entry, Finding("promotion", "equal", said)


def remake_score(each: Explanation, records: Sequence[Any], spec: FeatureSpec) -> None:
    """Score the record's row again with the named model, adapt the score again, and compare.

    Args:
        records: see `records_behind`.
    """
    record, model = each.prediction, each.model.model
    if model is None:
        return each.found("score", "expired", "there is no model to score with")
    scores = scores_of([record], model)
    remade: dict[str, Any] = {
        "horizon_s": model.horizon_s,
        "score": float(scores.score[0]),
        "interval": (float(scores.lower[0]), float(scores.upper[0])),
        "in_sample": record.event_time <= to_ns(model.train_end),
        "missing": [name for name, is_missing in zip(model.columns, scores.missing[0], strict=True) if is_missing],
    }
    if record.raw_score is None or record.spec_id != spec.spec_id:  # an earlier release published the model's own
        return each.compare("score", remade, "score and interval")
    adapted = adapted_again([*records[:-1], record], model, spec)
    if adapted is None:
        return each.found("score", "expired", GONE)
    return each.compare("score", remade | _adapted_fields(adapted, scores), "score and interval")


def remake_shadows(
    each: Explanation, model_of: Callable[[str, str, str, str], FoundModel], records: Sequence[Any], spec: FeatureSpec
) -> None:
    """Make the forecasts of a record's shadows again, and compare.

    Args:
        model_of: called with variant, version, digest and spec id, see `find_model`.
        records: see `records_behind`.
    """
    record = each.prediction
    made: list[Shadow] = []
    for shadow in record.shadow:
        if forecast_of(record, shadow.digest) is not shadow or record.spec_id != spec.spec_id:
            return each.found("shadow", "expired", f"the record names no model or state of {_name_of(shadow)}")
        found = model_of(shadow.model_variant, shadow.version, shadow.digest, record.spec_id)
        if found.model is None or found.finding.outcome != "equal":
            return each.found("shadow", found.finding.outcome, f"{_name_of(shadow)}: {found.finding.said}")
        adapted = adapted_again([*records[:-1], record], found.model, spec)
        if adapted is None:
            return each.found("shadow", "expired", f"{_name_of(shadow)}: {GONE}")
        in_sample = record.event_time <= to_ns(found.model.train_end)
        named = {"model_variant": found.model.variant, "version": shadow.version, "digest": found.model.digest}
        made.append(Shadow(**named, in_sample=in_sample, **_adapted_fields(adapted, scores_of([record], found.model))))
    if made:
        names = ", ".join(map(_name_of, made))
        each.compare("shadow", {"shadow": made}, f"score, interval and adaptation of {names}")
    return None


def _name_of(shadow: Shadow) -> str:
    return f"volatility-{shadow.model_variant} version {shadow.version}"


def _adapted_fields(adapted: Adapted, scores: Scores) -> dict[str, Any]:
    """Return the fields of the last of some adapted forecasts.

    Args:
        scores: the model's own, of the last forecast alone.
    """
    fields: dict[str, Any] = {
        name: float(getattr(adapted, name)[-1]) for name in ("score", *AdaptedBy.__struct_fields__)
    }
    return fields | {
        "raw_score": float(scores.score[0]),
        "interval": (float(adapted.lower[-1]), float(adapted.upper[-1])),
    }
