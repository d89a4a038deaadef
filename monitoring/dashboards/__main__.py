"""Write the dashboards: `python -m monitoring.dashboards`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from data.files import CHECKOUT
from monitoring.dashboards import drift, forecast_quality, replay, service, stream

FOLDER: Final = CHECKOUT / "monitoring" / "grafana" / "dashboards"
BOARDS: Final = (service, stream, forecast_quality, drift, replay)


def dashboards() -> Mapping[Path, Dashboard]:
    """Return the dashboards by the file that Grafana reads."""
    built = [each.build() for each in BOARDS]
    return {FOLDER / f"{(each.uid or '').removeprefix('cryptovol-')}.json": each for each in built}


def encoded(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, dashboard in dashboards().items():
        path.write_text(encoded(dashboard))
        print(path.relative_to(CHECKOUT))
