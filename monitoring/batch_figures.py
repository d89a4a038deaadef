"""Keep the newest figures of batch jobs, as values of the metrics that the catalog declares for them."""

from __future__ import annotations

from collections import defaultdict
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
        self._kept: defaultdict[tuple[str, str], dict[str, Figure]] = defaultdict(dict)  # by name and product, by key

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
        kept = self._kept[figure.name, figure.labels.get("product_id", "")]
        if "product_id" in figure.labels and any(each.at != figure.at for each in kept.values()):
            kept.clear()
        kept[figure.key] = figure

    def samples(self, now: int) -> Iterator[Sample]:
        """Yield each figure, and the age of the newest figure of each name and product.

        Args:
            now: wall time, ns since 1970.
        """
        for shown, kept in self._kept.items():
            metric = _METRICS[shown[0]]
            for figure in kept.values():
                yield Sample(metric, tuple(figure.labels[name] for name in metric.labels), figure.value)
            yield Sample(catalog.FIGURE_AGE, shown, (now - max(figure.at for figure in kept.values())) / NS)
