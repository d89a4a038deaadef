"""Conditions and figures of the gate, each at its limit; the description of how a version was made."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.files import CHECKOUT
from data.models.registry import Registry, Version
from data.names import VersionNotFound
from data.times import NS
from data.trades import Floats
from offline.ewma import calibrate, ewmas_of
from offline.leaks.rows import duplicates
from offline.promotion import provenance
from offline.promotion.conditions import (
    LIMITS,
    MIN_HORIZONS,
    Comparison,
    Finding,
    Kind,
    check_duplicates,
    check_intervals,
    check_training,
    compare,
    conditions,
    limits_of,
)
from offline.promotion.inputs import GateInputs, blind_test
from offline.promotion.ledger import Entry, in_order, promotions_in_effect, tries_on, until
from offline.promotion.provenance import MADE_BY, LakeRows, Provenance, RowSample, SimulatedRows
from offline.samples import Sample
from tests.models import SPEC

HOUR = 3_600 * NS


def comparison(
    kind: Kind, gain: float, noise: float = 0.0, baseline: float | None = None, tries: int = 1
) -> Comparison:
    """Return losses on 240 horizons: the rival loses 1 on each row, the version `gain` less, with noise by horizon."""
    horizon = np.repeat(np.arange(MIN_HORIZONS), 12)
    rival = np.ones(len(horizon))
    noisy = np.random.default_rng(0).normal(0, noise, MIN_HORIZONS)[horizon]
    return Comparison(
        kind=kind,
        losses=rival - gain + noisy,
        rival=rival,
        baseline=None if baseline is None else np.full(len(horizon), baseline),
        horizon=horizon,
        tercile=horizon % 3,
        product=np.where(horizon % 2 == 0, "BTC-USD", "ETH-USD"),
        tries=tries,
    )


def failed(given: Comparison) -> set[str]:
    return {name for name, found in compare(given).items() if not found.is_met}


@pytest.mark.parametrize(
    ("kind", "gain", "expected"),
    [
        (Kind.FIRST, -0.0199, set()),
        (Kind.FIRST, -0.0201, {"QLIKE"}),
        (Kind.REFRESH, -0.0199, set()),
        (Kind.REFRESH, -0.0201, {"QLIKE"}),
        (Kind.NEW_RECIPE, 0.0301, set()),
        (Kind.NEW_RECIPE, 0.0299, {"QLIKE"}),
        (Kind.NEW_RECIPE, 0.0, {"QLIKE", "significance"}),
    ],
)
def test_the_limit_of_the_ratio_depends_on_the_kind(kind: Kind, gain: float, expected: set[str]) -> None:
    assert failed(comparison(kind, gain)) == expected


def test_an_ml_version_of_any_kind_must_gain_over_the_baseline() -> None:
    """The version loses 1: .97 of a baseline of 1.031, and more of one of 1.03."""
    for kind in (Kind.FIRST, Kind.REFRESH):
        assert failed(comparison(kind, 0.0, baseline=1.031)) == set()
        assert failed(comparison(kind, 0.0, baseline=1.03)) == {"gain over the baseline"}
        assert failed(comparison(kind, 0.0, baseline=1.0)) == {"gain over the baseline", "significance of this gain"}


def test_each_try_multiplies_p() -> None:
    once = compare(comparison(Kind.NEW_RECIPE, 0.05, noise=0.4))["significance"]
    p = float(once.found.removeprefix("p "))
    assert 0.001 < p < 0.05
    tries = int(0.05 / p) + 1
    assert once.is_met
    assert compare(comparison(Kind.NEW_RECIPE, 0.05, noise=0.4, tries=tries - 1))["significance"].is_met
    many = compare(comparison(Kind.NEW_RECIPE, 0.05, noise=0.4, tries=tries))["significance"]
    assert not many.is_met
    assert many.found.endswith(f"times {tries} tries")


@pytest.mark.parametrize("part", ["terciles of volatility", "products"])
def test_no_part_of_the_rows_may_lose_much(part: str) -> None:
    """Half as much loss everywhere but in the last part, where there is 1.11 of it."""
    given = comparison(Kind.NEW_RECIPE, 0.5)
    if part == "products":
        given = replace(given, product=np.where(given.horizon % 10 == 9, "ETH-USD", "BTC-USD"))
        worst = given.product == "ETH-USD"
    else:
        worst = given.tercile == 2
    for ratio, expected in ((1.09, set()), (1.11, {part})):
        found = failed(replace(given, losses=np.where(worst, ratio, given.losses)))
        assert found & {part} == expected
    assert compare(replace(given, losses=np.where(worst, 1.11, given.losses)))[part].found == (
        "1.110 in ETH-USD" if part == "products" else "1.110 in tercile 3"
    )


def test_amounts_of_training_at_their_limits() -> None:
    time = np.arange(240) * 60 * NS
    short, hours = time[:179], time[::80]  # 0:00, 1:20 and 2:40
    assert [each.is_met for each in check_training(time // (60 * NS), time, hours).values()] == [True, True]
    found = check_training(short // (60 * NS), short, time[:120])
    assert found["training horizons"] == Finding(False, "179")
    assert found["hours of the day"] == Finding(False, "3 in training, 2 in test")
    assert check_duplicates(np.arange(100) < 1).is_met
    assert check_duplicates(np.arange(100) < 2) == Finding(False, "2.0%, 2 of 100")


def test_intervals_at_their_limits() -> None:
    targets: Floats = np.ones(100)
    for covered, is_met in ((81, False), (82, True), (96, True), (97, False)):
        upper = np.where(np.arange(100) < covered, 1.5, 0.9)
        assert check_intervals(np.full(100, 0.5), upper, targets)["coverage"].is_met == is_met
    flat = check_intervals(np.where(np.arange(100) == 7, 1.0, 0.5), np.ones(100), targets)
    assert flat["interval width"] == Finding(False, "1 of 100 of width 0")


def test_a_condition_without_a_finding_is_not_met() -> None:
    limits = LIMITS | limits_of(Kind.NEW_RECIPE, "the champion", None, tries=2)
    found = conditions({"coverage": Finding(True, "90.0%")}, limits)
    assert [each.name for each in found if each.is_met] == ["coverage"]
    assert {each.found for each in found if not each.is_met} == {"not judged"}
    allowed = {each.name: each.allowed for each in found}
    assert allowed["significance"] == "p below 0.05 after 2 tries on these rows"
    assert allowed["QLIKE"] == "0.97 of the champion or less"


# Measures


def rows_of(count: int, seed: int = 0, start: int = 0) -> Sample:
    """Return rows 5 s apart whose contract columns and targets are all different."""
    rng = np.random.default_rng(seed)
    values: Floats = np.full((count, len(SPEC.columns)), np.nan)
    values[:, :3] = np.column_stack([np.full(count, 50), rng.normal(size=count), rng.uniform(1, 2, count)])
    time = (start + 5 * np.arange(count)) * NS
    return Sample(values, rng.uniform(1, 2, count), time, int(time[-1]), np.full(count, "BTC-USD"))


def test_copies_at_another_time_or_in_another_product_are_duplicates() -> None:
    rows = rows_of(100)
    later = replace(rows, event_time=rows.event_time + HOUR)
    assert not duplicates(rows, rows_of(100, seed=1), SPEC).any()
    assert duplicates(rows, later, SPEC).all()
    assert duplicates(rows, rows, SPEC).all()  # under another product name
    assert duplicates(Sample.join([rows, later.take(np.arange(100) < 3)]), rows_of(5, seed=2), SPEC).sum() == 6


def test_neighbours_and_a_market_that_stands_still_are_no_duplicates() -> None:
    """A row and the next row 5 s later may be equal in a sparse market; zero volatility repeats for ever."""
    rows = rows_of(100)
    pairs = replace(rows, values=np.repeat(rows.values[::2], 2, axis=0), targets=np.repeat(rows.targets[::2], 2))
    still = replace(rows, values=np.ones_like(rows.values), targets=np.zeros(100))
    others = rows_of(3, seed=1)
    assert not duplicates(pairs, others, SPEC).any()
    assert not duplicates(still, others, SPEC).any()


def test_the_calibrated_ewma_falls_back_to_what_a_row_has() -> None:
    """Realized variance is 3 times the EWMA of 1,200 steps and 2 times that of 300; the others are noise."""
    training, test = rows_of(1_000), rows_of(3)
    at = {half_life: SPEC.columns.index(f"ewma_variance_{half_life}") for half_life in SPEC.half_lives}
    realized = training.targets**2
    noise = np.random.default_rng(3).lognormal(0, 1, (2, 1_000))
    training.values[:, at[1_200]], training.values[:, at[300]] = realized / 3, realized / 2 * noise[0] ** 0.1
    training.values[:, at[60]], training.values[:, at[3_600]] = noise
    test.values[0, at[300]], test.values[0, at[1_200]] = 5.0, 7.0
    test.values[1, at[300]] = 5.0
    calibrated = calibrate(ewmas_of(training.values, SPEC), realized, floor=1e-9)
    found = calibrated.forecast(ewmas_of(test.values, SPEC), float(np.mean(realized)))
    assert found == pytest.approx([21.0, 10.0, float(np.mean(realized))], rel=0.02)
    with pytest.raises(ValueError, match="no row has an EWMA"):
        calibrate(ewmas_of(rows_of(10).values, SPEC), np.ones(10), floor=1e-9)


# Provenance


class Artifacts(Registry):
    """A registry with one artifact."""

    def __init__(self, content: str) -> None:
        self.content = content.encode()

    def artifact(self, run_id: str, path: str) -> bytes:
        if not self.content:
            raise VersionNotFound(f"{run_id} has no {path}")
        return self.content


def provenance_of(tags: dict[str, str], artifact: str = "") -> Provenance | None:
    return Provenance.of_version(Artifacts(artifact), Version("m", "1", tags, "run"))


def test_a_description_survives_the_tags_of_a_version() -> None:
    day = dt.date(2010, 1, 4)
    taken = RowSample(share=0.25, seed=0, max_mb=2_000, of_rows=4_000, of_days=2, first_day=day)
    for rows in (
        SimulatedRows(seed=3, products=("BTC-USD",), days=(day,), hours=(0, 5)),
        LakeRows(content_hashes={"BTC-USD": {day: "ab" * 32}, "ETH-USD": {}}),
        LakeRows(content_hashes={"BTC-USD": {day: "ab" * 32}}, sample=taken),
    ):
        made = Provenance.here("cascade of limited shapes", rows)
        assert provenance_of(made.tags()) == made
        assert made.differences() == []
        assert made.rows_file() == ""
        assert provenance_of({**made.tags(), "rows": "{}"}) is None
        assert provenance_of({name: text for name, text in made.tags().items() if name != "recipe"}) is None
        other = provenance_of({**made.tags(), "cpu_type": "abacus", "code_digest": "0"})
        assert other is not None
        assert other.differences() == ["code", "CPU type"]


def test_rows_of_many_days_are_an_artifact_and_no_other_file_counts_as_the_artifact() -> None:
    days = {dt.date(2010, 1, 4) + dt.timedelta(days=i): "ab" * 32 for i in range(200)}
    made = Provenance.here("cascade of limited shapes", LakeRows(content_hashes={"BTC-USD": days}))
    listed, tags = made.rows_file(), made.tags()
    assert len(tags["rows"]) < 200 < len(listed)
    assert provenance_of(tags, listed) == made
    assert provenance_of(tags, listed.replace("ab", "cd", 1)) is None
    assert provenance_of(tags) is None


def test_the_code_digest_covers_what_makes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in MADE_BY:
        assert (CHECKOUT / path).exists(), path
    (tmp_path / "offline" / "models").mkdir(parents=True)
    module = tmp_path / "offline" / "models" / "recipes.py"
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    monkeypatch.setattr(provenance, "MADE_BY", ("offline/models",))
    digests = []
    for text in ("one", "two", "one"):
        module.write_text(text)
        digests.append(provenance.code_digest())
    assert digests[0] == digests[2] != digests[1]


def test_the_test_is_hidden_from_a_recipe_that_is_fitted_again() -> None:
    """In its place stand rows of training, more than a horizon after the end, in their order."""
    training = rows_of(5_000)
    end = dt.datetime.fromtimestamp(30_000, dt.UTC)
    blind = blind_test(training, end, SPEC)
    assert len(blind) == 2_000
    assert blind.event_time[0] == 30_120 * NS
    np.testing.assert_array_equal(blind.targets, training.targets[-2_000:])
    assert (np.diff(blind.event_time) == 5 * NS).all()


def test_rows_that_a_version_does_not_name_are_refused() -> None:
    inputs = GateInputs(lambda _: rows_of(1), lambda _: rows_of(5), recipes={})
    made = Provenance.here("gone", LakeRows(content_hashes={}))
    with pytest.raises(ValueError, match="there is no recipe 'gone'"):
        inputs.refit(made, dt.datetime(2010, 1, 1, tzinfo=dt.UTC), SPEC)


# The ledger


def entry(action: str, first: str = "", last: str = "") -> Entry:
    evidence = {"first_row": f"2010-01-09T{first}:00Z", "last_row": f"2010-01-09T{last}:00Z"} if first else {}
    return Entry(action=action, model="m", to_version="1", digest="", evidence=evidence)  # type: ignore[arg-type]


def test_tries_are_entries_whose_test_overlaps_by_half() -> None:
    """The span is 10:00 to 14:00; 12:00 to 16:00 shares half of both, 12:01 to 16:01 less."""
    first, last = (dt.datetime(2010, 1, 9, hour, tzinfo=dt.UTC) for hour in (10, 14))
    counted = [entry("refuse", "10:00", "14:00"), entry("promote", "12:00", "16:00"), entry("refuse", "00:00", "23:00")]
    others = [entry("refuse", "12:01", "16:01"), entry("rollback"), entry("refuse")]
    assert tries_on([*counted, *others], first, last) == 3


def test_a_refusal_is_no_promotion_in_effect() -> None:
    promoted = [replace(entry("promote"), entry_id=str(i), state="done") for i in range(2)]
    refused = replace(entry("refuse"), state="done")
    assert promotions_in_effect([promoted[0], refused, promoted[1], refused]) == promoted


def linked(entry_id: str, after: str, minute: int, action: str = "promote") -> Entry:
    """Return an entry at 10:`minute` that names the entry before."""
    begun = dt.datetime(2010, 1, 9, 10, minute, tzinfo=dt.UTC)
    return replace(entry(action), entry_id=entry_id, after=after, begun=begun)


@pytest.mark.parametrize("turned", [1, -1])
def test_links_order_entries_and_times_only_what_has_no_link(turned: int) -> None:
    """Old entries `a` and `b` have no links; then a chain whose clock runs backwards, with two refusals after `c`."""
    chain = [linked("a", "", 1), linked("b", "", 40), linked("c", "b", 30), linked("r", "c", 50, "refuse")]
    chain += [linked("s", "c", 51, "refuse"), linked("d", "c", 20), linked("e", "d", 10)]
    assert [each.entry_id for each in in_order(chain[::turned])] == [*"abcrsde"]


def test_an_entry_whose_link_leads_nowhere_or_in_a_circle_is_not_lost() -> None:
    entries = [linked("a", "removed", 1), linked("b", "c", 2), linked("c", "b", 3)]
    assert [each.entry_id for each in in_order(entries)] == [*"abc"]


def test_a_reached_entry_reaches_all_entries_before() -> None:
    """The second entry is of 11:40 by a clock an hour ahead: at 10:50 the third one counts."""
    entries = [linked("a", "", 1), linked("b", "a", 40), linked("c", "b", 10)]
    when = dt.datetime(2010, 1, 9, 10, 20, tzinfo=dt.UTC)
    assert until(entries, lambda each: each.time <= when) == entries
    assert until(entries[:2], lambda each: each.time <= when) == entries[:1]
    assert until([], lambda _: True) == []
