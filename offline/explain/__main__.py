"""Origin of a past forecast, made again and compared: `python -m offline.explain SOURCE PRODUCT TRADE`."""

from __future__ import annotations

import argparse
import json
import sys

from data.files import may_lose_its_reader
from data.models.registry import Registry
from data.names import NotRead, check_names
from data.settings import KafkaSettings
from data.trades import StreamKey
from offline.explain.bisection import BadRecord
from offline.explain.findings import DIFFERENT, NOT_FOUND, OUTCOMES
from offline.explain.remake import Explainer
from offline.explain.report import described, rendered
from offline.explain.streams import ForecastNotFound
from offline.lake.store import Lake
from offline.settings import OfflineSettings


def main() -> int:
    """Show the origin of a forecast, make the forecast again, and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m offline.explain",
        description=main.__doc__,
        epilog="Exit code: 0 all is equal, 1 something differs or cannot be read, 2 there is no such forecast, 3 a "
        "part has expired. The broker is KAFKA_BOOTSTRAP_SERVERS, 127.0.0.1:9092 where that is not set; the registry "
        "MLFLOW_TRACKING_URI; what the topics no longer hold is read from the lake, LAKE_URI.",
    )
    parser.add_argument("source", metavar="SOURCE", help="source_id of the forecast, as replay-1")
    parser.add_argument("product", metavar="PRODUCT", help="as BTC-USD")
    parser.add_argument("trade", metavar="TRADE", type=int, help="trade_id")
    parser.add_argument("--trades", action="store_true", help="print all trades of the window")
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args()
    key = StreamKey(args.source, args.product)
    try:
        check_names(key)
    except ValueError as error:
        parser.error(str(error))
    settings = OfflineSettings()
    registry = Registry(settings.mlflow_tracking_uri)
    explainer = Explainer(KafkaSettings(), registry, settings.models_dir, settings.spec(), Lake.open(settings.lake_uri))
    try:
        (explanation,) = explainer.explain(key, [args.trade])
    except (BadRecord, ForecastNotFound, NotRead) as error:
        exit_code = DIFFERENT if isinstance(error, BadRecord) else NOT_FOUND
        if args.json:
            print(json.dumps({"outcome": OUTCOMES[exit_code], "said": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return exit_code
    if args.json:
        print(json.dumps(described(explanation, all_trades=args.trades), indent=2))
    else:
        print(rendered(explanation, all_trades=args.trades))
    return explanation.exit_code


if __name__ == "__main__":
    with may_lose_its_reader():
        sys.exit(main())
