"""The dashboards equal their code, name exported metrics, and show the limits of the alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from data.files import CHECKOUT
from data.process import catalog
from data.process.catalog import METRICS
from monitoring.dashboards.__main__ import FOLDER, dashboards, encoded
from monitoring.dashboards.drift import ALARM
from monitoring.dashboards.limits import Limit, limit, slow_answer_s
from monitoring.dashboards.panels import SCRAPED, Query, lines, series
from tests.prometheus import expressions
from tests.rules_files import rules

NAMES = sorted(path.name for path in FOLDER.glob("*.json"))


@cache
def committed(name: str) -> dict[str, Any]:
    """Return a dashboard as Grafana reads the dashboard."""
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def panels(name: str) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard without its rows."""
    yield from (panel for panel in committed(name)["panels"] if panel["type"] != "row")


def test_committed_dashboards_equal_the_code() -> None:
    """`python -m monitoring.dashboards` writes the files anew."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == {
        path.name: encoded(dashboard) for path, dashboard in dashboards().items()
    }
    assert NAMES == ["drift.json", "forecast-quality.json", "replay.json", "service.json", "stream.json"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_survives_the_round_trip(name: str) -> None:
    register_default_plugins()
    assert encoded(Dashboard.from_json(committed(name))) == (FOLDER / name).read_text()


SERIES = {each: metric for metric in METRICS for each in metric.series} | {
    metric.exported_name: metric for metric in METRICS if metric.kind == "counter"
}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
OF_EVERY_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


@pytest.mark.parametrize("name", NAMES)
def test_metrics_and_labels_are_declared(name: str) -> None:
    for expr in expressions(committed(name)):
        found = re.findall(r"((?:job|purpose):[\w:]+|(?:cryptovol|process)_\w+)(?:\{([^}]*)\})?", expr)
        assert found, expr
        for metric, matchers in found:
            if metric in RECORDED | OF_EVERY_PROCESS:
                continue
            known = {*SERIES[metric].labels, *SCRAPED}
            assert set(re.findall(r'(\w+)[=!]~?"', matchers)) <= known, expr


@pytest.mark.parametrize("name", NAMES)
def test_series_are_grouped_and_named_by_labels_of_their_metric(name: str) -> None:
    for panel in panels(name):
        for target in panel["targets"]:
            names = [each for each in re.findall(r"[\w:]+", target["expr"]) if each in SERIES]
            if not names:
                continue
            known = {*SERIES[names[0]].labels, *SCRAPED, "le"}
            groups = re.search(r"by \(([^)]*)\)", target["expr"])
            grouped = set(groups[1].split(", ")) if groups else known
            assert grouped <= known, target["expr"]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped, target


@pytest.mark.parametrize("name", NAMES)
def test_each_panel_has_unit_description_source_and_place(name: str) -> None:
    numbers = [panel["id"] for panel in committed(name)["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells: set[tuple[int, int]] = set()
    for panel in panels(name):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        place = panel["gridPos"]
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & mine and max(x for x, _ in mine) < 24, panel["title"]
        cells |= mine
    rows = [panel for panel in committed(name)["panels"] if panel["type"] == "row"]
    assert all((0, row["gridPos"]["y"]) not in cells for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_rates_follow_the_interval_of_the_page(name: str) -> None:
    """The exception is the span of the alert RecordsRejected."""
    for expr in expressions(committed(name)):
        spans = re.findall(r"\[([^\]]*)\]", expr)
        if "cryptovol_rejects_total" in expr and "increase" in expr:
            assert spans == ["15m"] and "[15m]" in expression_of("RecordsRejected")
        else:
            assert set(spans) <= {"$__rate_interval"}, expr


@pytest.mark.parametrize("name", NAMES)
def test_the_variables_are_those_that_the_queries_use(name: str) -> None:
    board = committed(name)
    declared = {each["name"]: each for each in board["templating"]["list"]}
    moves = board["annotations"]["list"][0]["expr"]
    used = set(re.findall(r"\$(\w+)", " ".join([moves, *expressions(board)]))) - {"__rate_interval"}
    assert declared.keys() == used | {"datasource"}
    for variable in used:
        query = declared[variable]["query"]
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        assert label in SERIES[metric].labels


@pytest.mark.parametrize("name", NAMES)
def test_promotions_and_rollbacks_are_marks_at_the_time_of_the_move(name: str) -> None:
    """The metric's value is a time in seconds; Grafana wants milliseconds."""
    (moves,) = committed(name)["annotations"]["list"]
    assert moves["expr"] == 'cryptovol_ledger_move_timestamp_seconds{model_variant=~"$variant"} * 1000'
    assert moves["useValueForTime"] and moves["enable"]
    assert set(re.findall(r"\{\{(\w+)\}\}", moves["titleFormat"] + moves["textFormat"])) == set(
        catalog.LEDGER_MOVE.labels
    )


@cache
def expression_of(alert: str) -> str:
    """Return the expression of an alert, in one line."""
    (found,) = (rule["expr"] for rule in rules() if rule.get("alert") == alert)
    return str(found)


@pytest.mark.parametrize("name", NAMES)
def test_thresholds_equal_those_of_the_alerts(name: str) -> None:
    """A panel without an alert has no threshold; a drift ratio has its alarm at 1 by definition."""
    for panel in panels(name):
        thresholds = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})
        values = [step["value"] for step in thresholds["steps"][1:]]
        told = re.search(r"Alert (\w+): (\S+) ([\d.]+)\.$", panel["description"])
        if not told:
            is_ratio = all("cryptovol_drift_ratio" in target["expr"] for target in panel["targets"])
            assert values in ([], [ALARM] if is_ratio else []), panel["title"]
            continue
        assert values == [pytest.approx(float(told[3]))], panel["title"]
        compared = re.findall(r"([<>]=?|==) ([\d.]+(?: \* [\d.]+)*)", expression_of(told[1]))
        limits = [(sign, eval(number, {})) for sign, number in compared]  # digits and `*` alone
        assert (told[2], pytest.approx(values[0])) in limits, panel["title"]


def test_a_limit_is_read_from_the_rule_of_its_alert() -> None:
    assert limit("ForecastStale", "cryptovol_newest_forecast_age_seconds") == Limit("ForecastStale", "page", ">", 30)
    assert limit("ForecastWorseThanBaseline", "cryptovol_forecast_worse_p") == Limit(
        "ForecastWorseThanBaseline", "ticket", "<", 0.05
    )
    assert limit("ConsumerLagGrowing", "job:cryptovol_consumer_lag_watched:sum").value == 100, "not that of the slope"
    assert limit("ApiErrors", "job:cryptovol_request_errors:ratio_rate1h").value == pytest.approx(0.0144)
    with pytest.raises(ValueError, match="ForecastStale does not compare cryptovol_ready with a number"):
        limit("ForecastStale", "cryptovol_ready")
    assert slow_answer_s() == 0.05


def test_a_selector_has_the_variables_of_the_metrics_labels() -> None:
    assert series(catalog.FEATURE_AGE) == 'cryptovol_feature_age_seconds{purpose=~"$purpose"}'
    assert series(catalog.REJECTS, span="15m", purpose="!drill") == 'cryptovol_rejects_total{purpose!="drill"}[15m]'
    assert series(catalog.TRANSACTION, "bucket") == "cryptovol_transaction_seconds_bucket"
    with pytest.raises(ValueError, match="cryptovol_ready has no label topic"):
        series(catalog.READY, topic="features")


def test_a_panel_shows_the_limit_of_its_alert() -> None:
    panel = lines("t", "d.", "s", [Query("up", "")], limit=Limit("Slow", "page", ">", 2.5)).build()
    assert panel.description == "d. Alert Slow: > 2.5."
    assert panel.field_config and panel.field_config.defaults and panel.field_config.defaults.thresholds
    steps = panel.field_config.defaults.thresholds.steps
    assert [(step.value, step.color) for step in steps] == [(None, "green"), (2.5, "red")]


def test_grafana_finds_the_dashboards_and_their_source() -> None:
    folder = CHECKOUT / "monitoring" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "cryptovol.yml").read_text())["providers"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "${PROMETHEUS_URL}", True)
    assert (provider["type"], provider["options"]["path"]) == ("file", "${DASHBOARDS_DIR}")
