"""Where a person sees each step."""

from __future__ import annotations

from dataclasses import dataclass

from data.models.registry import Version
from offline.promotion.ledger import Entry
from tests.harm.day import PRODUCT


@dataclass(frozen=True)
class Pages:
    """Addresses of a stack."""

    api: str
    dagster: str
    mlflow: str
    prometheus: str

    @property
    def live(self) -> str:
        return f"{self.api}/"

    @property
    def drift(self) -> str:
        return f"{self.dagster}/assets/drift?view=partitions&partition={PRODUCT}"

    @property
    def sensor(self) -> str:
        return f"{self.dagster}/locations/cryptovol/sensors/drift_retrain"

    @property
    def alerts(self) -> str:
        return f"{self.prometheus}/alerts"

    def run(self, run_id: str) -> str:
        return f"{self.dagster}/runs/{run_id}"

    def version(self, version: Version) -> str:
        return f"{self.mlflow}/#/models/{version.name}/versions/{version.version}"

    def entry(self, entry: Entry) -> str:
        return f"{self.mlflow}/#/experiments/{entry.experiment_id}/runs/{entry.entry_id}"
