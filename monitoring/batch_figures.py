"""Keep the newest figures of batch jobs, as values of the metrics that the catalog declares for them."""

from __future__ import annotations

from collections.abc import Iterator

from data.process import catalog
from data.stream.records import Figure
from data.times import NS
from monitoring.live_truth import Sample

PREFIX = "cryptovol_"
_METRICS = {metric.name.removeprefix(PREFIX): metric for metric in catalog.FIGURES}


class BatchFigures:
    """The newest figure of each name and labels.

    Of a name and product, only the figures of the newest report are kept: a column that the report leaves out is gone.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Figure] = {}
        self._reported: dict[tuple[str, str], int] = {}

    def take(self, figure: Figure) -> None:
        """Keep a figure in place of an older one.

        Raises:
            ValueError: the catalog has no such figure, or the figure has other labels.
        """
        metric = _METRICS.get(figure.name)
        if metric is None:
            raise ValueError(f"the catalog has no figure {figure.name!r}; it has {', '.join(_METRICS)}")
        if figure.labels.keys() != set(metric.labels):
            raise ValueError(f"{figure.name} has the labels {metric.labels}, were {sorted(figure.labels)}")
        if "product_id" in figure.labels:
            report = figure.name, figure.labels["product_id"]
            if figure.at != self._reported.get(report):
                self._reported[report] = figure.at
                old = [
                    key for key, each in self._newest.items() if (each.name, each.labels.get("product_id")) == report
                ]
                for key in old:
                    del self._newest[key]
        self._newest[figure.key] = figure

    def samples(self, now: int) -> Iterator[Sample]:
        """Yield each figure, and the age of the newest figure of each name and product.

        Args:
            now: wall time, ns since 1970.
        """
        newest: dict[tuple[str, str], int] = {}
        for figure in self._newest.values():
            metric = _METRICS[figure.name]
            yield Sample(metric, tuple(figure.labels[name] for name in metric.labels), figure.value)
            shown = figure.name, figure.labels.get("product_id", "")
            newest[shown] = max(figure.at, newest.get(shown, 0))
        for shown, at in newest.items():
            yield Sample(catalog.FIGURE_AGE, shown, (now - at) / NS)
