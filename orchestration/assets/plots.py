"""Small pictures for the metadata, because people look rather than read. Each is PNG in Markdown, some tens of kB."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - matplotlib takes a second to import, and only runs that draw need it

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from offline.days.steps import FEATURE_ROWS, StepResult
from offline.lake.store import Lake

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from offline.samples import Sample


POINTS = 600
"""Most points of a line."""
BASIS_POINT = 1e-4
PICTURE = "picture"
"""Name of a picture in the metadata."""


def of_day(
    lake: Lake, spec: FeatureSpec, product_id: str, day: date, made: StepResult[Any]
) -> dict[str, dg.MetadataValue[Any]]:
    """Plot price and volatility of a day with new feature rows; return nothing for other days and tables."""
    if not made.is_new or made.partition is None or made.partition.table != FEATURE_ROWS or not made.partition.rows:
        return {}
    from matplotlib.figure import Figure

    from offline.losses_table import plain_ewma

    columns = ["event_time", "price", plain_ewma(spec)]
    table = lake.read(FEATURE_ROWS, product_id, day, columns)
    time, price, variance = (column.to_numpy() for column in table.take(_few(len(table))).columns)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.plot(time, price, linewidth=0.7)
    above.set_title(f"{product_id} {day}: price, and volatility per horizon in basis points", fontsize=8)
    below.plot(time, np.sqrt(variance) / BASIS_POINT, linewidth=0.7, color="tab:orange")
    return {PICTURE: _shown(figure)}


def of_test(
    models: Mapping[str, ServedModel], product_id: str, test: "Sample", spec: FeatureSpec
) -> dict[str, dg.MetadataValue[Any]]:
    """Plot forecasts beside the realized volatility, over the rows of one product."""
    from matplotlib.figure import Figure

    from offline.evaluation.plots import label_plainly
    from offline.losses_table import judged_rows

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
    return {PICTURE: _shown(figure)}


def _few(rows: int) -> "np.typing.NDArray[np.intp]":
    """Return evenly spread indexes of rows."""
    return np.unique(np.linspace(0, rows - 1, min(rows, POINTS)).astype(np.intp))


def _shown(figure: "Figure") -> dg.MetadataValue[Any]:
    axes: Sequence[Any] = figure.axes
    for each in axes:
        each.tick_params(labelsize=7, which="both")
        each.grid(color="0.93")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(file.getvalue()).decode()})")
