"""Small pictures of a day and of a test, as PNG of some tens of kB."""

from __future__ import annotations

# ruff: noqa: PLC0415 - matplotlib takes a second to import, and only runs that draw need it
import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from offline.days.steps import FEATURE_ROWS
from offline.lake.store import Lake
from offline.losses_table import judged_rows, plain_ewma
from offline.samples import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 600
"""Most points of a line."""
BASIS_POINT = 1e-4


def picture_of_day(lake: Lake, spec: FeatureSpec, product_id: str, day: date) -> bytes:
    """Draw price and volatility of a day that has feature rows in the lake."""
    from matplotlib.figure import Figure

    table = lake.read(FEATURE_ROWS, product_id, day, ["event_time", "price", plain_ewma(spec)])
    time, price, variance = (column.to_numpy() for column in table.take(_few(len(table))).columns)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.plot(time, price, linewidth=0.7)
    above.set_title(f"{product_id} {day}: price, and volatility per horizon in basis points", fontsize=8)
    below.plot(time, np.sqrt(variance) / BASIS_POINT, linewidth=0.7, color="tab:orange")
    return _png(figure)


def picture_of_test(models: Mapping[str, ServedModel], product_id: str, test: Sample, spec: FeatureSpec) -> bytes:
    """Draw forecasts beside the realized volatility, over the rows of one product."""
    from matplotlib.figure import Figure

    from offline.evaluation.plots import label_plainly

    rows = judged_rows(test, spec)
    few = _few(len(rows))
    time, values = rows.event_time[few].view("datetime64[ns]"), rows.values[few]
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(time, rows.targets[few] / BASIS_POINT, ".", markersize=2, color="0.6", label="realized")
    for name, model in models.items():
        inputs = values[:, spec.places(model.columns)]
        score = model.score(inputs, [product_id] * len(inputs)).score
        axes.plot(time, score / BASIS_POINT, linewidth=0.8, label=name)
    axes.set_yscale("log", nonpositive="mask")
    label_plainly(axes.yaxis)
    axes.set_title(f"{product_id}: volatility per horizon over the test, in basis points", fontsize=8)
    axes.legend(fontsize=7)
    return _png(figure)


def _few(rows: int) -> NDArray[np.intp]:
    """Return evenly spread indexes of rows."""
    return np.unique(np.linspace(0, rows - 1, min(rows, POINTS)).astype(np.intp))


def _png(figure: Figure) -> bytes:
    axes: Sequence[Any] = figure.axes
    for each in axes:
        each.tick_params(labelsize=7, which="both")
        each.grid(color="0.93")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()
