"""Simulated trades could be taken for a market's, and the page about them says what they are."""

from pathlib import Path

import pytest

from data.files import CHECKOUT
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.simulator.facts import FACTS, Fact, facts_of
from data.simulator.report import (
    SAMPLE,
    Simulated,
    main,
    plot_facts,
    plot_hours,
    read_recording,
    simulated_facts,
    table,
)

DOCS = CHECKOUT / "docs"


@pytest.fixture(scope="module")
def simulated() -> dict[str, Simulated]:
    return simulated_facts()


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_every_fact_is_in_its_band(fact: Fact, simulated: dict[str, Simulated]) -> None:
    low, high = fact.band
    assert low <= simulated[fact.name].median <= high


def test_the_page_holds_the_table_that_the_command_prints(
    simulated: dict[str, Simulated], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data.simulator.report.simulated_facts", lambda: simulated)
    main([])
    printed = capsys.readouterr().out
    assert printed.count("\n") == len(FACTS) + 2
    assert printed in (DOCS / "simulator.md").read_text()


def test_a_recording_stands_beside_the_simulated_trades(
    simulated: dict[str, Simulated],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("data.simulator.report.simulated_facts", lambda: simulated)
    trades = simulate_day("ETH-USD", SAMPLE[0], hours=(0, 1))
    write_csv(tmp_path / "hour.csv", [trades])
    main([str(tmp_path / "hour.csv")])
    head, _, first, *_ = capsys.readouterr().out.splitlines()
    assert head.endswith("| hour.csv |")
    assert first.endswith(f"| {facts_of(trades)['trades a second, mean']:.2g} |")
    assert facts_of(read_recording(tmp_path / "hour.csv")) == pytest.approx(facts_of(trades), nan_ok=True)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "none.csv")])
    assert "none.csv" in capsys.readouterr().err


def test_plots_are_drawn(simulated: dict[str, Simulated], tmp_path: Path) -> None:
    plot_facts(tmp_path / "facts.png", simulated)
    plot_hours(tmp_path / "hours.png")
    for name in ("facts", "hours"):
        drawn = (tmp_path / f"{name}.png").read_bytes()
        assert drawn.startswith(b"\x89PNG")
        assert len(drawn) > 10_000  # an empty figure has a few hundred bytes
        assert (DOCS / f"simulator-{name}.png").stat().st_size > 10_000


def test_a_table_says_what_is_unknown() -> None:
    simulated = {fact.name: Simulated(float("nan"), float("nan"), float("nan")) for fact in FACTS}
    assert table(simulated, {}).splitlines()[2] == "| trades a second, mean | 7.2 to 23 | 4.8 to 34 | - | - |"
