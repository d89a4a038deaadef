"""Count what a model has forecast as a shadow, on the topic of forecasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec import Struct

from data.features.spec import FeatureSpec
from data.settings import KafkaSettings
from data.stream.codec import decode_records
from data.stream.reader import TopicReader
from data.stream.records import PREDICTIONS
from data.truth.counting import TWELFTH
from data.truth.streaming import Horizon


class ShadowLimit(NamedTuple):
    """Least number of horizons that a version must have forecast as a shadow before the version serves.

    Attributes:
        least: above 0.
        count: called with the version's digest, returns the number of horizons.
    """

    least: int
    count: Callable[[str], int]


def asked_shadows(least: int, settings: KafkaSettings, spec: FeatureSpec) -> ShadowLimit | None:
    """Return the limit on the forecasts of a topic; None without a limit, and then no broker is asked."""
    return ShadowLimit(least, partial(shadow_horizons, settings, spec)) if least > 0 else None


class _Shadow(Struct, gc=False):
    digest: str | None = None
    in_sample: bool | None = None


class _Forecast(Struct, gc=False):
    product_id: str
    purpose: str
    event_time: int
    shadow: list[_Shadow]


def shadow_horizons(settings: KafkaSettings, spec: FeatureSpec, digest: str) -> int:
    """Return the number of horizons that a model has forecast as a shadow, as far as the topic holds them.

    Drills and in-sample forecasts do not count. As everywhere, twelve forecasts count in a horizon: of the forecasts of
    a product in a twelfth of a horizon one counts, in however many sources the product's trades were replayed.

    Raises:
        NotRead: the broker does not answer, or has no such topic.
    """
    decode = msgspec.json.Decoder(_Forecast).decode
    twelfth_ns, named = Horizon.of(spec).twelfth, digest.encode()
    counted: set[tuple[str, int]] = set()
    with TopicReader(settings) as reader:
        for partition in reader.partitions(PREDICTIONS):
            for block in reader.read(PREDICTIONS, partition):
                values = [value for value in block.values if named in value]
                for record in decode_records(values, decode).records:
                    is_shadow = any(each.digest == digest and each.in_sample is False for each in record.shadow)
                    if is_shadow and record.purpose != "drill":
                        counted.add((record.product_id, -(-record.event_time // twelfth_ns)))
    return len(counted) // TWELFTH
