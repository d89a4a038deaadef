"""Take over a lake of an earlier release: `python -m offline.lake`."""

from __future__ import annotations

import argparse
import sys

from data.process.running import REFUSED
from offline.lake.objects import Objects
from offline.lake.takeover import take_over
from offline.settings import OfflineSettings


def main() -> int:
    """Turn the files of an earlier release in LAKE_URI into objects and manifests. No other process may run meanwhile.

    Stopped or killed, the command goes on when started again. Return the exit code, 2 for a refusal.
    """
    argparse.ArgumentParser(prog="python -m offline.lake", description=main.__doc__).parse_args()
    try:
        taken = take_over(Objects.open(OfflineSettings().lake_uri), print)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    print(f"{taken.partitions:,} partitions and the rejects of {taken.recordings:,} recordings were taken over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
