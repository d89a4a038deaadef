"""Evaluate forecasts on recordings and candles: `python -m offline.evaluation FILE ...`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from math import isnan
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from data.features.spec import FeatureSpec
from data.files import may_lose_its_reader, replacing
from data.names import ModelRefused, RegistryError, check_product_id
from data.recordings.dialects.column_map import ColumnMap
from offline.evaluation.report import Subject, html_report, markdown_table, meaning_of_columns, model_card
from offline.evaluation.rivals import BASELINE, ML, recipes
from offline.evaluation.scoring import Scores, score
from offline.evaluation.served import (
    champions,
    score_served,
    simulated_history,
    trained_on_simulated_days,
    with_oracle,
)
from offline.evaluation.walk_forward import Run, walk_forward
from offline.history import History, read_history
from offline.settings import OfflineSettings

CANNOT_EVALUATE = 2
"""Exit code."""

WIDTH = 100
"""Fewest columns of the terminal: a narrow table would cut figures."""

TABLE = re.compile(r"(<!-- table of the evaluation -->\n).*?(<!-- end of the table -->)", re.DOTALL)
"""Place in a page where `--page` writes the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate forecasts on one source: recordings of trades, or candles, in the order of recording."""
    parser = argparse.ArgumentParser(prog="python -m offline.evaluation", description=main.__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="trades, or bars of 1 s or 60 s")
    parser.add_argument("--days", type=int, metavar="N", help="in place of files: N simulated days, with the oracle")
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--champions", action="store_true", help="judge what the registry serves")
    models.add_argument(
        "--simulated", action="store_true", help="judge models like those of `make run`, trained on simulated days"
    )
    parser.add_argument("--product", default="BTC-USD", help="of trades in files that name none; default BTC-USD")
    parser.add_argument("--columns", default="", metavar="MAP", help="names of columns, as time=ts,price=px,size=qty")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--html", type=Path, metavar="PATH", help="write a report with plots")
    parser.add_argument("--card", type=Path, metavar="PATH", help="write a model card")
    parser.add_argument("--page", type=Path, metavar="PATH", help="write the table into a page in Markdown")
    args = parser.parse_args(arguments)
    if bool(args.files) == (args.days is not None):
        parser.error("give FILE ..., or --days N")
    if args.days is not None and args.days < 1:
        parser.error(f"--days must be at least 1, was {args.days}")
    try:
        check_product_id(args.product)
        columns = ColumnMap.parse(args.columns)
        if args.days:
            history = simulated_history(args.days, FeatureSpec())
        else:
            history = read_history(args.files, args.product, columns)
        run, made = _run(history, champions_of_registry=args.champions, simulated=args.simulated)
        if args.days:
            run = with_oracle(run)
        scores = score(run)
    except (ValueError, ModelRefused, RegistryError, OSError) as error:
        source = ", ".join(str(path) for path in args.files)
        reason = str(error) if not source or source in str(error) else f"{source}: {error}"
        print(f"error: {reason}", file=sys.stderr)
        return CANNOT_EVALUATE
    subject = Subject(", ".join(path.name for path in args.files) or f"{args.days} simulated days", made)
    _write(args, subject, run, scores)
    if args.json:
        print(json.dumps(scores.as_json(), indent=2))
    else:
        _print(subject, run, scores)
    return 0


def _run(history: History, *, champions_of_registry: bool, simulated: bool) -> tuple[Run, str]:
    """Return the forecasts to judge, and where the models come from."""
    if (champions_of_registry or simulated) and history.spec.spec_id != FeatureSpec().spec_id:
        raise ValueError(
            f"bars of {history.spec.grid_step_s} s can only be walked forward, without --champions and --simulated: "
            f"served models forecast {FeatureSpec().horizon_s} s from trades"
        )
    if champions_of_registry:
        models = champions(OfflineSettings().mlflow_tracking_uri, history.spec)
        if BASELINE not in models:
            raise ValueError("the registry has no champion of the baseline: `make run` or offline.training makes one")
        run = score_served(history, models, stated_floors=True)
        return run, "champions of the registry, adapted while the recording runs"
    if simulated:
        models = trained_on_simulated_days(history.spec)
        run = score_served(history, models, stated_floors=False)
        return run, "trained on simulated days, adapted while the recording runs"
    return walk_forward(history, recipes(history.spec), (ML, BASELINE)), "walked forward, each fitted to its own past"


def _write(args: argparse.Namespace, subject: Subject, run: Run, scores: Scores) -> None:
    for path, written in ((args.html, html_report), (args.card, model_card)):
        if path is not None:
            with replacing(path) as file:
                file.write(written(subject, run, scores).encode())
    if args.page is not None:
        text = args.page.read_text()
        head = (
            f"`{subject.source}`: {scores.forecasts:,} forecasts of {run.rows.spec.horizon_s:,} s in "
            f"{scores.horizons:,} horizons, {subject.models}; {scores.zero_share:.1%} of the targets are 0."
        )
        made = TABLE.sub(lambda found: f"{found[1]}{head}\n\n{markdown_table(scores)}\n{found[2]}", text)
        with replacing(args.page) as file:
            file.write(made.encode())


def _print(subject: Subject, run: Run, scores: Scores) -> None:
    """Print the overall figures as a table."""
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(
        f"{subject.source}: {subject.models}\n{scores.forecasts:,} forecasts of {run.rows.spec.horizon_s:,} s in "
        f"{scores.horizons:,} horizons; {scores.zero_share:.1%} of the targets are 0"
    )
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in markdown_table(scores).splitlines()]
    table = Table(*rows[0], *scores.slices["tercile"], box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for cells in rows[2:]:
        coverages = [each[cells[0]].coverage for each in scores.slices["tercile"].values()]
        table.add_row(*cells, *("" if isnan(each) else f"{each:.1%}" for each in coverages))
    console.print(table)
    console.print(f"{meaning_of_columns(scores)} By tercile of the calibrated EWMA: coverage.")
    for name, reason in run.left_out.items():
        console.print(f"{name} is left out: {reason}")


if __name__ == "__main__":
    with may_lose_its_reader():
        sys.exit(main())
