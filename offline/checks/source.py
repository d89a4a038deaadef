"""Comparison of all records of a source on the topics with an offline computation of the source's trades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np

from data.features.spec import FeatureRows, FeatureSpec
from data.features.windows import Windows, feature_rows
from data.models.served import ServedModel
from data.stream.codec import encode_features, encode_trades, mark_of
from data.stream.reader import TopicReader
from data.stream.records import FEATURES, PREDICTIONS, TRADES, AdaptedBy, Forecaster, Purpose, partition_of
from data.times import to_ns
from data.trades import Trades
from data.truth.adaptation import adapted, teaching

OF_A_RUN = ("ingest_time", "ts", "kafka_partition", "kafka_offset")
"""Fields that differ between two runs of the same trades."""
Records = list[dict[str, Any]]
ModelOf = Callable[[Forecaster], ServedModel]


class TopicComparison(NamedTuple):
    """Records of a source on one topic, against the computed records.

    Attributes:
        expected: number of computed records, each of which was compared.
        lost: computed records that the topic lacks.
        twice: records of the topic beyond the first of each trade, or without a computed record.
        different: records with another value in any column.
        first: the first fault in words; empty without a fault.
    """

    topic: str
    expected: int
    lost: int
    twice: int
    different: int
    first: str

    @property
    def is_equal(self) -> bool:
        return self.lost == self.twice == self.different == 0


def ends_of(reader: TopicReader, product_id: str) -> dict[str, int]:
    """Return by topic the end of a product's partition: a source that begins now lies behind the end."""
    return {topic: reader.span(topic, partition_of(product_id))[1] for topic in (TRADES, FEATURES, PREDICTIONS)}


def compare_source(
    reader: TopicReader,
    since: Mapping[str, int],
    trades: Trades,
    purpose: Purpose,
    spec: FeatureSpec,
    model_of: ModelOf,
) -> list[TopicComparison]:
    """Compare the records of an ended source on the three topics with records computed from the source's trades.

    Args:
        since: see `ends_of`, asked before the source began.
        trades: all trades of one stream, with the names of source and product.
        model_of: returns the model of a forecast.

    Raises:
        ValueError: a record is no JSON object, or the model of a forecast is missing.
        NotRead: the broker does not answer.
    """
    (key,) = trades.keys
    partition = partition_of(key.product_id)
    rows = feature_rows(trades, Windows(spec))
    offsets = np.zeros(len(rows.trades), np.int64)
    made = encode_features(rows, spec, {key: purpose}, partition, offsets)
    features: Records = [msgspec.json.decode(text) for text in made]
    published = {topic: list(_records(reader, topic, partition, since[topic], key.source_id)) for topic in since}
    expected = {
        TRADES: [msgspec.json.decode(text) for text in encode_trades(trades, purpose)],
        FEATURES: features,
        PREDICTIONS: forecasts_again(rows, features, published[PREDICTIONS], spec, model_of),
    }
    return [compared(topic, expected[topic], published[topic]) for topic in (TRADES, FEATURES, PREDICTIONS)]


def compared(topic: str, expected: Records, published: Records) -> TopicComparison:
    """Compare records of one stream, each by its trade id."""
    known = {record["trade_id"]: record for record in reversed(published)}
    counts = Counter(record["trade_id"] for record in published)
    lost = [record["trade_id"] for record in expected if record["trade_id"] not in counts]
    wanted = {record["trade_id"] for record in expected}
    twice = [trade_id for trade_id, count in counts.items() for _ in range(count - (trade_id in wanted))]
    pairs = [(record, known[record["trade_id"]]) for record in expected if record["trade_id"] in known]
    different = [(record, found, names[0]) for record, found in pairs if (names := _differing(record, found))]
    first = ""
    if lost:
        first = f"trade {lost[0]} is not on {topic}"
    elif twice:
        first = f"trade {twice[0]} is on {topic} once more"
    elif different:
        record, found, name = different[0]
        first = f"trade {record['trade_id']} on {topic}: {name} is {found.get(name)!r}, computed {record.get(name)!r}"
    return TopicComparison(topic, len(expected), len(lost), len(twice), len(different), first)


def _differing(record: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    names = sorted((record.keys() | found.keys()) - set(OF_A_RUN))
    return [name for name in names if name not in record or name not in found or record[name] != found[name]]


def _records(reader: TopicReader, topic: str, partition: int, start: int, source_id: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a source without ends, in the order of the topic."""
    mine = mark_of(source_id)
    for block in reader.read(topic, partition, start):
        for value in block.values:
            if mine in value:
                record = msgspec.json.decode(value, type=dict[str, Any])
                if not record.get("end"):
                    yield record


def forecasts_again(
    rows: FeatureRows, features: Records, published: Records, spec: FeatureSpec, model_of: ModelOf
) -> Records:
    """Return the forecast of each row, by the models that served and stood by at that row.

    Which models these were is taken from the published forecasts; a row without one counts to its neighbour's models.

    Args:
        rows: n, of one stream from its beginning.
        features: n, the records of the rows.
    """
    if not published:
        return [dict(record) for record in features]
    named = _named_models(features, published)
    forecasts: list[dict[Forecaster, dict[str, Any]]] = [{} for _ in features]
    for forecaster in dict.fromkeys(each for models in named for each in models):
        model = model_of(forecaster)
        numbers = (row for row, models in enumerate(named) if forecaster in models)
        # A model that misses a row starts afresh.
        for _, together in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            places = [row for _, row in together]
            for row, forecast in zip(
                places, _forecasts(rows, slice(places[0], places[-1] + 1), model, spec), strict=True
            ):
                forecasts[row][forecaster] = forecast
    return [
        record | _served(models[0], forecast, [_shadow(each, forecast[each]) for each in models[1:]])
        for record, models, forecast in zip(features, named, forecasts, strict=True)
    ]


def _named_models(features: Records, published: Records) -> list[tuple[Forecaster, ...]]:
    """Return the models of each row, the served one first, then its shadows."""
    by_trade = {
        record["trade_id"]: tuple(
            Forecaster(each["model_variant"], each["version"], each["digest"]) for each in (record, *record["shadow"])
        )
        for record in reversed(published)
    }
    last = by_trade[published[0]["trade_id"]]
    return [last := by_trade.get(record["trade_id"], last) for record in features]


def _forecasts(rows: FeatureRows, part: slice, model: ServedModel, spec: FeatureSpec) -> Iterator[dict[str, Any]]:
    """Yield the forecasts of a model that begins at the first row of a part, as fields of a record."""
    trades, values = rows.trades.take(part), rows.values[part]
    train_end = to_ns(model.train_end)
    scores = model.score(values[:, spec.places(model.columns)], [trades.keys[0].product_id] * len(trades))
    teaches = teaching(values, trades.event_time, train_end, spec)
    found = adapted(trades.event_time, trades.price, scores, teaches, spec)
    for row in range(len(trades)):
        yield {
            "horizon_s": model.horizon_s,
            "score": float(found.score[row]),
            "interval": [float(found.lower[row]), float(found.upper[row])],
            "raw_score": float(scores.score[row]),
            **{name: float(getattr(found, name)[row]) for name in AdaptedBy.__struct_fields__},
            "in_sample": bool(trades.event_time[row] <= train_end),
            "missing": [name for name, absent in zip(model.columns, scores.missing[row], strict=True) if absent],
        }


def _served(
    forecaster: Forecaster, forecasts: Mapping[Forecaster, dict[str, Any]], shadows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {**forecasts[forecaster], **forecaster._asdict(), "shadow": list(shadows)}


def _shadow(forecaster: Forecaster, forecast: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in forecast.items() if name not in ("horizon_s", "missing")}
    return {**fields, **forecaster._asdict()}
