"""The report of the drill, for a terminal: the hours of the day, and what each part saw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.models.promises import read_promises
from data.models.served import ML
from data.times import time_text
from monitoring.drift.hours import HOUR_NS
from monitoring.live_truth import COVERAGE_MARGIN
from tests.harm.chain import Outcome
from tests.harm.day import HARM_FROM, PRODUCT
from tests.harm.hours import HourFigures, low_hours
from tests.harm.pages import Pages

WIDTH = 150
NAMES = {"published": "as published", "own": "without adaptation"}


def show(seen: Outcome, pages: Pages, console: Console) -> None:
    """Print the hours and the facts."""
    console.print(_hours(seen))
    console.print("what each part saw", style="italic")
    for step, what, where in _rows(seen, pages):
        console.print(f"[bold]{escape(step)}[/bold]: {escape(what)}", soft_wrap=True)
        if where:
            console.print(f"    {where}", style="dim", markup=False, soft_wrap=True)


def _hours(seen: Outcome) -> Table:
    table = Table(title=f"{PRODUCT}, hour by hour of event time (UTC)", title_justify="left")
    for name in ("hour", "QLIKE", "coverage", "own coverage", "drift", "loss"):
        table.add_column(name, justify="right" if name != "drift" else "left")
    table.add_column("seen while the event clock was in the hour", overflow="fold")
    for each in seen.hours:
        is_last_calm = each.start + HOUR_NS == HARM_FROM
        ratio, named = each.drift
        table.add_row(
            _hour(each.start),
            f"{each.qlike:.3f}",
            f"{each.published:.3f}",
            f"{each.own:.3f}",
            f"{ratio:.2f} {named}" if ratio >= 1 else f"{ratio:.2f}",
            f"{each.loss:.2f}",
            "; ".join(_events(seen, each)),
            style="" if each.start >= HARM_FROM else "dim",
            end_section=is_last_calm,
        )
    for name, is_harmed in (("before", False), ("after", True)):
        mine = [each for each in seen.hours if (each.start >= HARM_FROM) == is_harmed]
        means = (np.mean([getattr(each, field) for each in mine]) for field in ("qlike", "published", "own"))
        table.add_row(name, *(f"{mean:.3f}" for mean in means), style="bold")
    return table


def _events(seen: Outcome, hour: HourFigures) -> Iterator[str]:
    """Yield what came first while the event clock was in the hour."""
    if hour.start == HARM_FROM:
        yield "the harm begins"
    if hour.with_loss:
        yield "drift with loss"
    for name, at in seen.fired.items():
        if hour.start <= at < hour.start + HOUR_NS:
            yield f"{name} fires at {time_text(at)[11:16]}"


def _rows(seen: Outcome, pages: Pages) -> Iterator[tuple[str, str, str]]:
    promised = read_promises(seen.champion.tags)["coverage", 0.05]
    yield "forecasts", f"by {ML} version {seen.champion.version}", pages.live
    for at, report in seen.reports:
        what = "drift with loss" if report.with_loss else "drift" if report.drift else "no drift"
        text = f"hours judged: {report.hours}; {what}; {report.named} {report.largest:.2f} in {report.hour[11:16]}"
        yield f"drift report at {time_text(at)[11:16]}", text, report.url
    yield "drift", f"{len(seen.reports)} reports", pages.drift
    fired = ", ".join(f"{name} {time_text(at)[11:16]}" for name, at in seen.fired.items()) or "none"
    if not seen.has_prometheus:
        fired = "not looked at: Prometheus is not on this machine"
    yield "alerts, event time", f"{fired}. Alertmanager had {', '.join(sorted(seen.told)) or 'none'}", pages.alerts
    limit = f"below {promised:.3f} less {COVERAGE_MARGIN:g} for two hours"
    for name, where in (("published", pages.live), ("own", "a broker of its own, which has ended")):
        hours = low_hours(np.array([getattr(each, name) for each in seen.hours]), promised)
        what = ", ".join(f"from {_hour(seen.hours[hour].start + HOUR_NS)} on" for hour in hours) or "never"
        if name == "own" and seen.fired_unadapted is not None:
            what += f"; ForecastCoverageLow fires at {time_text(seen.fired_unadapted)[11:16]}"
        yield f"coverage, {NAMES[name]}", f"{limit}: {what}", where
    for run in seen.asked:
        yield "retrain asked for", f"{run.tags.get('cryptovol/reason')}: {run.status}", pages.run(run.run_id)
    yield "retrains asked for", f"{len(seen.asked)}", pages.sensor
    assert seen.challenger is not None
    assert seen.entry is not None
    text = f"trained up to {seen.train_end}, tested from there on"
    yield f"challenger: version {seen.challenger.version}", text, pages.version(seen.challenger)
    evidence = seen.entry.evidence
    text = f"{seen.judged:,} horizons after {evidence['tested_after']}, {seen.harmed:,} of them harmed"
    yield "judged by the gate", text, pages.entry(seen.entry)
    names = [name for name in ("qlike", "qlike_compared", "coverage") if name in evidence]
    figures = ", ".join(f"{name} {evidence[name]:.3f}" for name in names)
    text = f"{figures}; compared with {evidence['compared_with']}"
    yield f"verdict: {seen.entry.action}", f"{text}. {seen.refused}".rstrip(". "), pages.run(seen.promote_run)


def _hour(start: int) -> str:
    return time_text(start)[11:16]
