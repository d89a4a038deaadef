"""Training of the baseline on simulated days, so that a champion serves before the first recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data.models.registry import Registry
from data.names import RegistryError
from offline.models.recipes import BASELINE, simulated_rows, train_baseline, train_end_of_simulated_days
from offline.promotion.gate import Refused
from offline.promotion.ledger import finish_pending
from offline.promotion.moves import promote
from offline.promotion.register import register
from offline.settings import OfflineSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the baseline on simulated days, register it in MLflow, and promote it through the gate."""
    parser = argparse.ArgumentParser(prog="python -m offline.training", description=main.__doc__)
    parser.add_argument("--if-missing", action="store_true", help="do nothing if a champion for these features serves")
    only_if_missing = parser.parse_args(arguments).if_missing
    settings = OfflineSettings()
    uri, spec = settings.mlflow_tracking_uri.rstrip("/"), settings.spec()
    try:
        finish_pending(uri)
        champion = Registry(uri).champion(BASELINE)
        if only_if_missing and champion is not None and champion.tags.get("spec_id") == spec.spec_id:
            print(f"{BASELINE} version {champion.version} is champion already: nothing to do")
            return
        rows = simulated_rows(spec)
        candidate = train_baseline(rows, spec, train_end_of_simulated_days())
        version = register(uri, candidate)
        promote(
            uri, BASELINE, version, test=rows.after, spec=spec, who="offline.training", why="trained on simulated days"
        )
    except (RegistryError, Refused) as error:
        sys.exit(str(error))
    metrics = candidate.metrics
    print(
        f"{BASELINE} version {version} is champion: QLIKE {metrics['qlike']:.3f} on {metrics['test_horizons']:.0f} "
        f"horizons after training (unscaled EWMA {metrics['qlike_unscaled_ewma']:.3f}, contract alone "
        f"{metrics['qlike_contract']:.3f}), intervals cover {metrics['coverage']:.1%}"
    )


if __name__ == "__main__":
    main()
