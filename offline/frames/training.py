"""The rows of a version's training as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from offline.lake.store import Lake
from offline.promotion.inputs import lake_sample, simulated_sample
from offline.promotion.provenance import LakeRows, SimulatedRows, TrainingRows
from offline.samples import scores_of

if TYPE_CHECKING:
    import pandas as pd

MOST_DAYS = 20
"""Days of a product in a frame, the newest: more days change no threshold of drift."""


def training_frame(
    lake: Lake, spec: FeatureSpec, rows: TrainingRows, product_id: str, model: ServedModel | None = None
) -> pd.DataFrame:
    """Return the counted rows of a product in a version's training, with targets, without rows of short windows.

    The index is `event_time`, UTC. The columns are those of the spec, `target`, and with a model `score`, `lower` and
    `upper`: volatility per horizon.

    Args:
        rows: as the version's run names them, see `Provenance.of_version`: partitions of `training_set`, or days of the
            simulator.
        model: answers each row, without adaptation.

    Raises:
        ValueError: the training had no rows of the product, or a partition is gone or has changed.

    In a notebook::

        registry = Registry("http://127.0.0.1:5000")
        rows = Provenance.of_version(registry, registry.champion("volatility-ml")).rows
        frame = training_frame(Lake.open("var/lake"), FeatureSpec(), rows, "BTC-USD")
    """
    import pandas as pd  # noqa: PLC0415 - takes a second to import

    known = rows.products if isinstance(rows, SimulatedRows) else tuple(rows.content_hashes)
    if product_id not in known:
        raise ValueError(f"the model was trained on {', '.join(known)}, without {product_id}: nothing is usual for it")
    if isinstance(rows, SimulatedRows):
        days = SimulatedRows(seed=rows.seed, products=(product_id,), days=rows.days[-MOST_DAYS:], hours=rows.hours)
        found = simulated_sample(days, spec, short_windows=())
    else:
        newest = dict(sorted(rows.content_hashes[product_id].items())[-MOST_DAYS:])
        found = lake_sample(lake, LakeRows(content_hashes={product_id: newest}), spec, with_short_windows=False)
    columns = dict(zip(spec.columns, found.values.T, strict=True)) | {"target": found.targets}
    if model is not None:
        scores = scores_of(model, found, spec)
        columns |= {"score": scores.score, "lower": scores.lower, "upper": scores.upper}
    return pd.DataFrame(columns, pd.DatetimeIndex(found.event_time, tz="UTC", name="event_time"))
