"""The rules of Prometheus: existing metrics and labels, a runbook for each alert, and no page for a drill."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from data.files import CHECKOUT
from data.process.catalog import METRICS
from orchestration.local.observers.configs import (
    INGESTORS,
    SCRAPED,
    prometheus_config,
    prometheus_file,
    write_configs,
)
from orchestration.local.observers.login import password_file
from orchestration.local.observers.scrape_key import key_file, keys_environment
from orchestration.local.settings import StackSettings
from orchestration.settings import Login
from tests.rules_files import Selector, cases, loaded, rules, selectors

ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
LABELS = {name: set(metric.labels) for metric in METRICS for name in (metric.exported_name, *metric.series)}
SCRAPE = {"job", "instance"}
"""Labels that Prometheus adds to each series."""
ALL = [*RECORDED.items(), *((name, rule["expr"]) for name, rule in ALERTS.items())]


def is_known(selector: Selector) -> bool:
    """Return whether a process exports the metric with these labels, or a rule records the series."""
    if selector.name == "up":
        return selector.labels <= SCRAPE
    if selector.name in RECORDED:
        return not selector.labels
    bounds = {"le"} if selector.name.endswith("_bucket") else set()
    return selector.name in LABELS and selector.labels <= LABELS[selector.name] | SCRAPE | bounds


@pytest.mark.parametrize(("name", "expression"), ALL, ids=[name for name, _ in ALL])
def test_each_metric_of_a_rule_is_exported_with_its_labels(name: str, expression: str) -> None:
    found = list(selectors(expression))
    assert found or name == "Watchdog"
    assert [each.text for each in found if not is_known(each)] == []


@pytest.mark.parametrize(("name", "expression"), ALL, ids=[name for name, _ in ALL])
def test_a_rule_groups_by_labels_that_its_metrics_have(name: str, expression: str) -> None:
    grouped = {label for words in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in words.split(", ")}
    known = set().union(*(LABELS.get(each.name, set()) for each in selectors(expression)))
    assert grouped - {""} <= known | SCRAPE | {"le"}


def test_each_alert_has_a_severity_a_summary_and_a_section_of_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (CHECKOUT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in ("page", "ticket", "none"), name
        assert alert["annotations"]["summary"], name
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    assert headings == list(ALERTS), "the runbook has the alerts in the order of the rules"


def test_each_alert_has_a_firing_and_a_silent_case() -> None:
    firing = {case["alertname"] for case in cases() if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases() if not case["exp_alerts"]}
    assert firing == set(ALERTS)
    assert silent == set(ALERTS) - {"Watchdog"}  # the watchdog always fires


def test_drills_and_in_sample_forecasts_raise_no_alert() -> None:
    """Figures of batch jobs have no purpose."""
    for alert in ALERTS.values():
        asked = list(selectors(alert["expr"]))
        asked += [inner for each in asked for inner in selectors(RECORDED.get(each.name, ""))]
        for selector in asked:
            labels = LABELS.get(selector.name, set())
            if "purpose" in labels:
                assert 'purpose!="drill"' in selector.text, alert["alert"]
            if "in_sample" in labels:
                assert 'in_sample="false"' in selector.text, alert["alert"]
                assert 'role="champion"' in selector.text, alert["alert"]


def test_a_page_is_for_what_a_dead_broker_does_not_explain_or_says_so() -> None:
    """Alertmanager tells nobody of alerts with `follows` while `BrokerDown` fires."""
    follows = {name for name, alert in ALERTS.items() if "follows" in alert["labels"]}
    stops_with_the_broker = {"ApiErrors", "ApiSlow", "ForecastStale", "ConsumerLagGrowing"}
    assert follows == stops_with_the_broker | {"ExporterNotReady", "BatchFigureOld", "BatchFigureMissing", "TargetDown"}
    inhibited = loaded(str(CHECKOUT / "monitoring" / "alertmanager.yml"))["inhibit_rules"]
    assert inhibited[0] == {"source_matchers": ['alertname="BrokerDown"'], "target_matchers": ['follows="broker"']}


def test_prometheus_asks_the_ports_of_the_settings() -> None:
    """The API has the default port of the forecaster, and the other way round."""
    scraped = {name: 20_000 + number for number, name in enumerate(SCRAPED)}
    scraped |= {"api_port": 8001, "forecaster_port": 8000}
    login = Login("me", "pass: word")
    ours = StackSettings(_env_file=None, ingestor_port=30_000, **scraped)  # type: ignore[arg-type]
    config, default = prometheus_config(ours, login), prometheus_config(StackSettings(_env_file=None), login)
    assert re.findall(r":(\d+)\"", default) == ["9095", "8000", "8001", "8004", *map(str, range(8010, 8018))]
    names = ["alertmanager_port", "api_port", "forecaster_port", "exporter_port"]
    ingestors = map(str, range(30_000, 30_000 + INGESTORS))
    assert re.findall(r":(\d+)\"", config) == [*(str(scraped[name]) for name in names), *ingestors]
    assert '      basic_auth: {"username": "me", "password": "pass: word"}\n' in config


@pytest.mark.parametrize("is_open", [True, False])
def test_prometheus_has_the_stacks_own_key_if_the_metrics_of_the_api_ask_for_one(is_open: bool, tmp_path: Path) -> None:
    """The key is in files for their owner alone, and the API gets its hash beside the keys of a person."""
    keys = f"desk:{'0' * 64}"
    ours = StackSettings(_env_file=None, var_dir=tmp_path, api_keys=keys, api_metrics_open=is_open)
    write_configs(ours)
    key = key_file(ours).read_text().strip()
    files = (key_file(ours), prometheus_file(ours), password_file(ours))
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    jobs = {job["job_name"]: job for job in loaded(str(prometheus_file(ours)))["scrape_configs"]}
    expected = {} if is_open else {"api": {"credentials": key}}
    assert {name: job["authorization"] for name, job in jobs.items() if "authorization" in job} == expected
    hashed = hashlib.sha256(key.encode()).hexdigest()
    assert keys_environment(ours) == {"API_KEYS": f"{keys},stack:{hashed}", "API_KEYS_FILE": ""}
    assert keys_environment(ours) == keys_environment(ours), "a later start has the same key"
    without = StackSettings(_env_file=None, var_dir=tmp_path / "without")
    assert (keys_environment(without), key_file(without).exists()) == ({}, False)
