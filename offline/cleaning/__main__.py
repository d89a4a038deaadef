"""Clean up the lake: `python -m offline.cleaning`."""

from __future__ import annotations

import argparse
import sys

from data.models.registry import Registry
from data.names import RegistryError
from offline.cleaning.versions import clean_lake
from offline.lake.store import Lake
from offline.settings import OfflineSettings


def main() -> int:
    """Remove the objects of LAKE_URI that no manifest and no model version in use names, older than LAKE_GRACE_H hours.

    Other processes may run meanwhile. Return the exit code, 2 for a refusal.
    """
    argparse.ArgumentParser(prog="python -m offline.cleaning", description=main.__doc__).parse_args()
    settings = OfflineSettings()
    try:
        cleaned = clean_lake(
            Lake.open(settings.lake_uri), Registry(settings.mlflow_tracking_uri), settings.lake_grace_h
        )
    except (RegistryError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(cleaned.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
