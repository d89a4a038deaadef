"""The chain from a harmed replay to the verdict of the gate, step by step on a running stack."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from data.features.spec import FeatureSpec
from data.models.registry import Registry, Version
from data.models.served import ML, ServedModel
from data.times import second_text, time_text
from monitoring.drift.hours import HOUR_NS
from offline.frames.serving import newest_forecasts
from offline.lake.store import Lake
from offline.losses_table import judged_rows
from offline.promotion.inputs import lake_inputs
from offline.promotion.ledger import Entry, history
from orchestration.local.dagster import client as dagster
from orchestration.local.observers.login import observer_login
from orchestration.local.settings import StackSettings
from tests.harm.asking import DriftReport, Run, await_rules, await_run, materialize, report_of, run_job, runs_of
from tests.harm.clock import EventClock
from tests.harm.coverage import first_page
from tests.harm.day import HARM_FROM, PRODUCT, SOURCE, WATCHED_HOURS, play
from tests.harm.hours import HourFigures, figures_by_hour
from tests.pipeline import wait_until
from tests.prometheus import results_between

FIRST_MODEL_S = 1_800.0
"""Limit for the first `volatility-ml`, on two busy processors; 2 minutes on idle ones."""
ASKED_S = 150.0
"""Limit for the sensor that looks for drift with loss each minute."""

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What was seen.

    Attributes:
        hours: of the harmed day.
        champion, challenger: versions of `volatility-ml`.
        reports: drift reports, oldest first, each with the event time at which the report was there, ns since 1970.
        fired: by name of an alert, the event time at which the alert was first firing, ns since 1970; without the
            watchdog; empty without Prometheus.
        fired_unadapted: event time at which the alert of coverage fires if nothing adapts the forecasts, ns since 1970;
            None if the alert is silent, or without Prometheus.
        told: alerts that Alertmanager had.
        asked: retrains that the sensor for drift has asked for.
        train_end: of the challenger, UTC: where the test begins.
        entry: of the ledger, with the gate's verdict.
        refused: the failed conditions of the gate; empty if the gate is open.
        judged, harmed: horizons on which the challenger was judged, and those of them after the harm.
    """

    champion: Version
    has_prometheus: bool
    hours: list[HourFigures] = field(default_factory=list)
    reports: list[tuple[int, DriftReport]] = field(default_factory=list)
    fired: dict[str, int] = field(default_factory=dict)
    fired_unadapted: int | None = None
    told: set[str] = field(default_factory=set)
    asked: list[Run] = field(default_factory=list)
    promote_run: str = ""
    challenger: Version | None = None
    train_end: str = ""
    entry: Entry | None = None
    refused: str = ""
    judged: int = 0
    harmed: int = 0


class Chain:
    """The steps on one stack.

    Args:
        process: the stack.
        settings: of the stack.
        log: of the stack.
        folder: for the recording and the log of the ingestor.
    """

    def __init__(self, process: psutil.Popen, settings: dict[str, str], log: Path, folder: Path, say: Say) -> None:
        self._process, self._settings, self._log, self._folder, self._say = process, settings, log, folder, say
        self.spec = FeatureSpec()
        self.servers = f"127.0.0.1:{settings['KAFKA_PORT']}"
        self.api, self.dagster, self.mlflow, self.prometheus, self.alertmanager = (
            f"http://127.0.0.1:{settings[f'{name}_PORT']}"
            for name in ("API", "DAGSTER", "MLFLOW", "PROMETHEUS", "ALERTMANAGER")
        )
        self.registry = Registry(self.mlflow)
        self.began = time.time()
        self._observers = StackSettings(_env_file=None, var_dir=Path(settings["VAR_DIR"]))

    def run(self, recording: Path) -> Outcome:
        """Do all steps."""
        champion = self.await_first_model()
        self.await_observers()
        seen = Outcome(champion, self.has_prometheus)
        self._say(f"{ML} version {champion.version} serves; the replay of {recording.name} begins")
        with EventClock(self.servers, SOURCE) as clock:
            for hour in range(WATCHED_HOURS + 1):
                self.play(recording, clock, HARM_FROM + hour * HOUR_NS)
                self.look(clock, seen)
            self.play(recording, clock, None)
            self.look(clock, seen)
            self.retrain(seen)
            if self.has_prometheus:
                self._say("the same day without adaptation, on a broker of its own")
                seen.fired_unadapted = first_page(self._folder / "unadapted", recording, self.mlflow)
            self.gate(seen)
            seen.asked = runs_of(self.dagster, dagster__sensor_name="drift_retrain")
            self.judge(seen)
            if self.has_prometheus:
                seen.fired = self.first_firing(clock)
        return seen

    def await_first_model(self) -> Version:
        """Wait until the first `volatility-ml` serves."""

        def serves() -> bool:
            said = self._log.read_text()
            assert self._process.poll() is None, said
            assert "first_ml ended" not in said, said
            return re.search(rf"first_ml: {ML} version \d+ answers now", said) is not None

        wait_until(serves, f"a first {ML}", FIRST_MODEL_S)
        champion = self.registry.champion(ML)
        assert champion is not None
        return champion

    def await_observers(self) -> None:
        """Wait until Prometheus scrapes, if its program is on this machine."""
        self.has_prometheus = shutil.which("prometheus") is not None
        if self.has_prometheus:
            await_rules(self.observer(self.prometheus))

    def play(self, recording: Path, clock: EventClock, until: int | None) -> None:
        """Replay the day on, up to an event time, ns since 1970, or to its end."""
        play(
            os.environ | self._settings | {"KAFKA_BOOTSTRAP_SERVERS": self.servers},
            self._folder,
            recording,
            clock,
            until,
        )
        self._say(f"event time {time_text(clock.now)[:16].replace('T', ' ')}")

    def look(self, clock: EventClock, seen: Outcome) -> None:
        """Take what was served to the lake, judge its drift, and wait for the rules."""
        run_job(self.dagster, "sink")
        report = report_of(self.dagster, materialize(self.dagster, "drift", PRODUCT))
        if report is not None:
            seen.reports.append((clock.now, report))
            what = "drift with loss" if report.with_loss else "drift" if report.drift else "no drift"
            self._say(f"  drift report: {what}, largest {report.named} {report.largest:.2f} in the hour {report.hour}")
        if self.has_prometheus:
            await_rules(self.observer(self.prometheus))
            now = self.told()
            if new := sorted(now - seen.told):
                self._say(f"  Alertmanager has {', '.join(new)}")
            seen.told |= now

    def observer(self, url: str) -> str:
        """Return the URL of Prometheus or Alertmanager with the login."""
        return observer_login(self._observers).in_url(url)

    def told(self) -> set[str]:
        """Return the alerts that Alertmanager has, without the watchdog; none if its program is not here."""
        try:
            found = httpx.get(f"{self.observer(self.alertmanager)}/api/v2/alerts", trust_env=False).json()
        except httpx.TransportError:
            return set()
        return {each["labels"]["alertname"] for each in found} - {"Watchdog"}

    def retrain(self, seen: Outcome) -> None:
        """Wait for the retrain that the sensor asks for, and for its end."""

        def asked() -> list[Run]:
            return runs_of(self.dagster, dagster__sensor_name="drift_retrain")

        run = wait_until(asked, "the sensor drift_retrain asks for a retrain", ASKED_S)[0]
        self._say(f"the sensor has asked for a retrain: {run.tags.get('cryptovol/reason')}")
        ended = await_run(self.dagster, run.run_id)
        assert ended == "SUCCESS", dagster.failure_of(self.dagster, run.run_id)
        seen.challenger = self.registry.version(ML, "challenger")
        model = self.model(seen.challenger)
        seen.train_end = second_text(model.train_end)
        self._say(f"{ML} version {seen.challenger.version} is challenger, trained up to {seen.train_end}")

    def gate(self, seen: Outcome) -> None:
        """Ask the gate, and read its entry in the ledger."""
        assert seen.challenger is not None
        config: dict[str, Any] = {"model": ML, "version": seen.challenger.version, "why": "drill of harm"}
        seen.promote_run = dagster.launch(self.dagster, "promote", {"ops": {"promote_model": {"config": config}}})
        await_run(self.dagster, seen.promote_run)
        seen.refused = dagster.failure_of(self.dagster, seen.promote_run)
        seen.entry = history(self.registry, ML)[-1]
        assert seen.entry.to_version == seen.challenger.version, seen.refused
        after = datetime.fromisoformat(str(seen.entry.evidence["tested_after"]))
        rows = judged_rows(lake_inputs(self._lake_uri, self.spec).test(after).after(after), self.spec)
        seen.judged = rows.horizons(self.spec)
        seen.harmed = rows.take(rows.event_time >= HARM_FROM).horizons(self.spec)
        self._say(f"the gate's verdict: {seen.entry.action}, on {seen.judged:,} horizons, {seen.harmed:,} harmed")

    def judge(self, seen: Outcome) -> None:
        """Judge the served forecasts hour by hour."""
        served = newest_forecasts(Lake.open(self._lake_uri), self.spec, PRODUCT)
        assert served is not None
        assert served.source_id == SOURCE
        assert served.version == seen.champion.version
        folder = Path(self._settings["VAR_DIR"]) / "drift" / PRODUCT
        seen.hours = figures_by_hour(served.frame, self.model(seen.champion), PRODUCT, folder)

    def first_firing(self, clock: EventClock) -> dict[str, int]:
        """Return the event time at which each alert was first firing."""
        series = results_between(
            self.observer(self.prometheus), 'ALERTS{alertstate="firing"}', self.began, time.time(), 5
        )
        first: dict[str, float] = {}
        for each in series:
            name, wall = each["metric"]["alertname"], float(each["values"][0][0])
            first[name] = min(wall, first.get(name, wall))
        return {name: clock.at(wall) for name, wall in sorted(first.items()) if name != "Watchdog"}

    def model(self, version: Version) -> ServedModel:
        """Return the model of a version."""
        file = self.registry.fetch(version)
        return ServedModel.load(file.model_bytes, spec_id=self.spec.spec_id, digest=file.digest)

    @property
    def _lake_uri(self) -> str:
        return str(Path(self._settings["VAR_DIR"]) / "lake")
