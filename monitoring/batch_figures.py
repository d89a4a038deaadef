"""Keep the newest figures of batch jobs, as values of the metrics that the catalog declares for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from data.process import catalog
from data.stream.records import Figure
from data.times import NS
from monitoring.live_truth import Sample


class BatchFigures:
    """The newest figure of each name and labels.

    Of a name and product, only the figures of the newest report are kept: a column that the report leaves out is gone.
    """

    def __init__(self) -> None:
        self._kept: defaultdict[tuple[str, str], dict[str, Figure]] = defaultdict(dict)  # by name and product, by key

    def take(self, figure: Figure) -> None:
        """Keep a figure in place of an older one.

        Raises:
            ValueError: see `catalog.metric_of`.
        """
        catalog.metric_of(figure)
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
            metric = catalog.FIGURES_BY_NAME[shown[0]]
            for figure in kept.values():
                yield Sample(metric, tuple(figure.labels[name] for name in metric.labels), figure.value)
            yield Sample(catalog.FIGURE_AGE, shown, (now - max(figure.at for figure in kept.values())) / NS)
