# ruff: noqa: PLC0415 -- matplotlib is imported by a picture alone
"""Draw a recording: price, trades a second, and holes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.recordings.dialects.column_map import ColumnMap
from data.recordings.inspection.summary import Inspection, Product
from data.recordings.readers import read_trades
from data.times import NS
from data.trades import Floats, Int64s, Trades

BINS = 1_500
"""Intervals of time of a picture; the memory for a picture does not depend on the recording's length."""


class PictureBins:
    """Low and high price and number of trades of a product, in `BINS` equal intervals of time.

    Attributes:
        low, high: shape (BINS,); NaN without a trade.
        trades: shape (BINS,), numbers of trades.
    """

    def __init__(self, product: Product) -> None:
        self._first, self.width_ns = product.first_ns, max(1, -(-(product.last_ns + 1 - product.first_ns) // BINS))
        self.low, self.high = np.full(BINS, np.nan), np.full(BINS, np.nan)
        self.trades = np.zeros(BINS, np.int64)

    def add(self, event_time: Int64s, price: Floats) -> None:
        """Count further trades."""
        at = np.clip((event_time - self._first) // self.width_ns, 0, BINS - 1)
        np.fmin.at(self.low, at, price)
        np.fmax.at(self.high, at, price)
        self.trades += np.bincount(at, minlength=BINS)

    @property
    def times(self) -> NDArray[np.datetime64]:
        """Return the begin of each interval, shape (BINS,)."""
        return (self._first + np.arange(BINS) * self.width_ns).astype("M8[ns]")


def draw(found: Inspection, path: Path, product_id: str, columns: ColumnMap | None = None) -> None:
    """Draw the trades of a recording to a file: two panels a product, with the longest holes in grey.

    Args:
        found: summary of the recording.
        path: of the picture; the ending chooses the format.
        product_id: product of trades in a recording without product names.
        columns: names of columns that no dialect knows.

    Raises:
        ValueError: the recording holds bars, or no trade; or matplotlib is not installed; or the ending is unknown.
    """
    if found.step_s is not None or not found.products:
        raise ValueError(f"{found.file}: a picture shows trades, and this recording holds none")
    if find_spec("matplotlib") is None:
        raise ValueError(
            "a picture needs matplotlib, which the group `offline` has: pip install matplotlib, or leave --plot out"
        )
    bins = {name: PictureBins(product) for name, product in found.products.items()}
    for batch in read_trades(Path(found.file), product_id=product_id, columns=columns):
        _add(bins, batch.trades)
    _save(found, bins, path)


def _save(found: Inspection, bins: dict[str, PictureBins], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5 * len(bins)), layout="constrained")
    panels = figure.subplots(2 * len(bins), 1, squeeze=False)[:, 0]
    for nth, (name, mine) in enumerate(sorted(bins.items())):
        _draw_product(panels[2 * nth : 2 * nth + 2], name, mine, found.products[name])
    figure.savefig(path, dpi=100)


def _add(bins: dict[str, PictureBins], trades: Trades) -> None:
    for place, key in enumerate(trades.keys):
        mine = trades.stream == place
        if mine.any():
            bins[key.product_id].add(trades.event_time[mine], trades.price[mine])


def _draw_product(panels: NDArray[Any], name: str, bins: PictureBins, product: Product) -> None:
    prices, rates = panels
    times = bins.times
    prices.vlines(times, bins.low, bins.high, color="tab:blue", linewidth=1)
    prices.plot(times, (bins.low + bins.high) / 2, ".", color="tab:blue", markersize=2)
    prices.set_title(f"{name}: price")
    rate = bins.trades / (bins.width_ns / NS)
    rates.step(times, rate, where="post", color="tab:green", linewidth=0.8)
    rates.set_title("trades a second")
    for panel in panels:
        for _, begin, end in product.longest:
            panel.axvspan(np.datetime64(begin, "ns"), np.datetime64(end, "ns"), color="0.85")
