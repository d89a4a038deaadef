"""The gate refuses for each condition, and the ledger stays whole after any kill."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from data.features.spec import FeatureSpec
from data.models.registry import Registry
from data.models.served import ServedModel
from data.names import RegistryAway, RegistryError, VersionNotFound
from data.times import NS
from data.trades import Floats
from offline.days.feature_rows import make_feature_rows
from offline.days.staging import simulate
from offline.days.trades import make_trades
from offline.days.training_set import make_training_set
from offline.lake.objects import Objects
from offline.lake.store import Lake
from offline.leaks.verdicts import FUTURE_CUT_OFF, HOLES, Verdict
from offline.locks.lease import Lease, Occupied
from offline.models.baseline import ScaledEwma, fit
from offline.models.candidate import Candidate
from offline.models.onnx_graph import Graph
from offline.models.recipes import fit_with_intervals
from offline.promotion import ledger
from offline.promotion.__main__ import main
from offline.promotion.conditions import LIMITS
from offline.promotion.gate import Refused, judge
from offline.promotion.inputs import GateInputs
from offline.promotion.ledger import Entry, finish_pending, history, served_at
from offline.promotion.moves import promote
from offline.promotion.provenance import LakeRows, Provenance, SimulatedRows, TrainingRows
from offline.promotion.register import set_alias
from offline.samples import Sample
from tests.fakes import FakeRegistry
from tests.mlflow_server import running_mlflow
from tests.models import NAN, SENTINELS, SPEC, baseline, locks, model_bytes, put_version, roll_back_here
from tests.seaweed import Lakes

START = datetime(2010, 1, 9, tzinfo=UTC)
"""End of training of the models here."""

HONEST = ((0.764, 1.2513),) * 3
"""Nine tenths of the targets of `market` lie within: target / score is log-normal, with a deviation of .15."""
fitted = partial(baseline, intervals=HONEST)
BASELINE = fitted()


def market(horizons: int, seed: int = 0, since: datetime = START) -> Sample:
    """A market whose variance is in law 4 * ewma_variance_300; ewma_variance_1200 is the same with noise of 40 %.

    Twelve rows a horizon, from a minute after `since` on.
    """
    rng = np.random.default_rng(seed)
    count = 12 * horizons
    ewma = np.exp(rng.normal(-14, 1, count))
    values: Floats = np.full((count, len(SPEC.columns)), NAN)
    columns = ("n", "ret_mean", "ret_std", "ewma_variance_300", "ewma_variance_1200")
    values[:, [SPEC.columns.index(name) for name in columns]] = np.column_stack(
        [np.full(count, 50), np.zeros(count), np.full(count, 1e-4), ewma, ewma * np.exp(rng.normal(-0.08, 0.4, count))]
    )
    targets = np.sqrt(4 * ewma * np.exp(rng.normal(-0.045, 0.3, count)))
    event_time = (np.arange(count) * 5 * NS) + int(since.timestamp() + 60) * NS + NS
    return Sample(values, targets, event_time.astype(np.int64), int(event_time[-1]), np.full(count, "BTC-USD"))


def nan_between(low: float, high: float) -> bytes:
    """Return a model that answers NaN for `ewma_variance_300` between `low` and `high`."""

    class NanBetween(ScaledEwma):
        def node(self, graph: Graph) -> str:
            ewma = graph.column(self.column)
            within = graph.node("Greater", ewma, graph.constant(low)), graph.node("Less", ewma, graph.constant(high))
            return graph.node("Where", graph.node("And", *within), graph.constant(NAN), super().node(graph))

    return model_bytes(replace(BASELINE, steps=(NanBetween("ewma_variance_300", 4.0), *BASELINE.steps[1:])))


def edited(output: str, *nodes: onnx.NodeProto, **constants: float | list[int]) -> bytes:
    """Return a good model with a changed output, made from the old output under the name `own`."""
    model = onnx.load_from_string(model_bytes(BASELINE))
    for node in model.graph.node:
        node.input[:] = ["own" if name == output else name for name in node.input]
        node.output[:] = ["own" if name == output else name for name in node.output]
    model.graph.node.extend(nodes)
    for name, value in constants.items():
        kind = np.int64 if isinstance(value, list) else np.float32
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def with_the_next_rows_upper_end() -> bytes:
    """Return a model with `upper` plus a share of the next row's `upper` in the batch."""
    node = helper.make_node
    return edited(
        "upper",
        node("Slice", ["own", "one", "end", "axis"], ["later"]),
        node("Slice", ["own", "last", "end", "axis"], ["latest"]),
        node("Concat", ["later", "latest"], ["next"], axis=0),
        node("Mul", ["next", "share"], ["some"]),
        node("Add", ["own", "some"], ["upper"]),
        one=[1],
        last=[-1],
        end=[2**62],
        axis=[0],
        share=0.01,
    )


def that_dices() -> bytes:
    """Return a model with `upper` times a random factor."""
    node = helper.make_node
    return edited(
        "upper",
        node("RandomUniformLike", ["own"], ["dice"], low=1.0, high=1.1),
        node("Mul", ["own", "dice"], ["upper"]),
    )


def with_a_lower_end_below_0(lower: float) -> bytes:
    """Return a model with `lower` on rows of a `ret_std` near 1e-4, which the loader does not check."""
    node = helper.make_node
    return edited(
        "lower",
        node("Gather", ["X", "column"], ["std"], axis=1),
        node("Squeeze", ["std", "axis"], ["flat"]),
        node("Greater", ["flat", "low"], ["above"]),
        node("Less", ["flat", "high"], ["below"]),
        node("And", ["above", "below"], ["near"]),
        node("Where", ["near", "wrong", "own"], ["lower"]),
        column=[2],
        axis=[1],
        low=0.9e-4,
        high=1.1e-4,
        wrong=lower,
    )


ROWS = market(300)
TRAINING = market(300, seed=9, since=START - timedelta(hours=6))
GOOD, WORSE = model_bytes(BASELINE), model_bytes(fitted(scale=6.0))

MADE: list[bytes] = []
"""Files by seed of their training rows: the recipes here keep what they make."""


def kept(rows: Sample, spec: FeatureSpec, train_end: datetime) -> Candidate:
    """Return the file that was made of these rows: `last_time` holds the seed."""
    content = MADE[rows.last_time]
    floor = {"variance_floor": 0.01 * float(np.median(TRAINING.targets**2))}
    return Candidate("kept", content, ServedModel.load(content, spec_id=spec.spec_id), np.empty(0), {}, floor)


def training(rows: TrainingRows) -> Sample:
    return replace(TRAINING, last_time=rows.seed if isinstance(rows, SimulatedRows) else 0)


@dataclass(frozen=True, slots=True)
class Checked(GateInputs):
    """Inputs of a gate whose leak sentinels have passed, but for `leaks`: the rows here have no trades."""

    leaks: tuple[str, ...] = ()

    def verdicts(self, *_: Any) -> list[Verdict]:
        return [Verdict(name, name not in self.leaks, "1 row", "0 rows") for name in SENTINELS]


INPUTS = Checked(ROWS.after, training, recipes={"kept": kept, "another": kept})


def on_rows(*parts: Sample) -> GateInputs:
    """Return inputs of a gate with other rows for the test, one product for each part."""
    rows = Sample.join(replace(part, product_id=np.full(len(part), f"P{i}")) for i, part in enumerate(parts))
    return replace(INPUTS, test=lambda _: rows)


def put(uri: str, name: str, content: bytes, recipe: str = "kept", **tags: str) -> str:
    """Put a file into the registry, as made by a recipe, and return the version's number; `tags` replace tags."""
    MADE.append(content)
    rows = SimulatedRows(seed=len(MADE) - 1, products=("BTC-USD",), days=(START.date(),))
    return put_version(uri, name, content, tags=Provenance.here(recipe, rows).tags() | tags)


@pytest.fixture(autouse=True)
def lake_of_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands use the lock of the calls."""
    monkeypatch.setenv("LAKE_URI", locks().where(""))


@pytest.fixture
def mlflow(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


def promote_here(registry: Registry, name: str, version: str = "1", **changed: Any) -> Entry:
    """Promote as most tests do: 300 horizons of test, compared with the calibrated EWMA at first."""
    given: dict[str, Any] = {"inputs": INPUTS, "spec": SPEC, "who": "me", "why": "because", "baseline": name}
    return promote(registry, name, version, **{"objects": locks()} | given | changed)


def champion(registry: Registry, name: str, alias: str = "champion") -> str | None:
    """Return the number behind an alias."""
    try:
        return registry.version(name, alias).version
    except RegistryError:
        return None


def failed(error: Refused) -> dict[str, str]:
    return {condition.name: condition.found for condition in error.conditions if not condition.is_met}


def test_what_is_not_there_is_answered_with_what_is(tmp_path: Path) -> None:
    """A registry of its own: the answer names all its models."""
    with running_mlflow(tmp_path) as server:
        uri, own = server.uri, Registry(server.uri)
        with pytest.raises(VersionNotFound, match=f"^there is no model mine at {uri}; there is none yet$"):
            promote_here(own, "mine")
        for name in ("mine", "mine", "yours"):
            put(uri, name, GOOD)
        promote_here(own, "mine")
        absent = f"^there is no model nobodys at {uri}; there are mine, yours$"
        for ask in (promote_here, partial(promote_here, version="challenger"), roll_back_here):
            with pytest.raises(VersionNotFound, match=absent):
                ask(own, "nobodys")
        there = f"at {uri}; its newest is 2, champion is 1$"
        with pytest.raises(VersionNotFound, match=f"^mine has no version 99 {there}"):
            promote_here(own, "mine", "99")
        with pytest.raises(VersionNotFound, match=f"^mine has no alias chalenger {there}"):
            promote_here(own, "mine", "chalenger")
        with pytest.raises(Refused, match="the ledger holds no promotion of yours that stands, allowed is 2 or more"):
            roll_back_here(own, "yours")


# The gate


def test_what_is_as_good_as_the_calibrated_ewma_is_a_first_champion(mlflow: Registry) -> None:
    """The candidate knows the law, which the calibration finds: each loses half a variance of the noise."""
    name = "gate-first"
    put(mlflow.uri, name, GOOD)
    entry = promote_here(mlflow, name)
    assert champion(mlflow, name) == "1"
    assert champion(mlflow, name, "previous") is None
    assert entry.evidence["qlike"] == pytest.approx(0.045, abs=0.005)
    assert entry.evidence["qlike_compared"] == pytest.approx(0.045, abs=0.005)
    assert entry.evidence["compared_with"] == "the calibrated EWMA"
    assert entry.evidence["qlike_ratio"] == pytest.approx(1, abs=0.01)
    assert entry.evidence["coverage"] == pytest.approx(0.9, abs=0.015)
    assert (entry.evidence["horizons"], entry.evidence["judged_rows"]) == (300, 3_600)
    assert entry.digest == hashlib.sha256(GOOD).hexdigest()
    assert not entry.is_forced


NOISY_BYTES = model_bytes(baseline("ewma_variance_1200"))
"""A calibrated EWMA of the noisy half-life: QLIKE .13 where `GOOD` has .045."""


def test_an_ml_version_must_beat_the_baselines_champion(mlflow: Registry) -> None:
    """A first version, and a refresh: a copy of the baseline has no gain, and the law has one over a noisy baseline."""
    name, baseline = "gate-ml", "gate-ml-baseline"
    put(mlflow.uri, baseline, GOOD)
    put(mlflow.uri, baseline, NOISY_BYTES)
    promote_here(mlflow, baseline)
    for content in (model_bytes(BASELINE, variant="ml"), model_bytes(fitted(scale=4.01), variant="ml")):
        put(mlflow.uri, name, content)
    gain = rf"gain over the baseline: found 1\.0.*, allowed is 0.97 of {baseline} version 1 or less"
    with pytest.raises(Refused, match=gain) as refused:
        promote_here(mlflow, name, baseline=baseline)
    assert set(failed(refused.value)) == {"gain over the baseline", "significance of this gain"}
    promote_here(mlflow, baseline, "2", force=True, why="a worse baseline")
    entry = promote_here(mlflow, name, baseline=baseline)
    assert entry.evidence["condition gain over the baseline"].startswith("0.3")
    promote_here(mlflow, name, "2", baseline=baseline)
    assert history(mlflow, name)[-1].evidence["kind"] == "refresh"


def test_a_new_recipe_must_gain_where_a_refresh_must_not_lose(mlflow: Registry) -> None:
    """Scale 4.02 costs next to nothing: newer data may. Another recipe may not, also if half as good again."""
    name = "gate-kinds"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    same = model_bytes(fitted(scale=4.02))
    put(mlflow.uri, name, same)
    put(mlflow.uri, name, same, recipe="another")
    promote_here(mlflow, name, "2")
    with pytest.raises(
        Refused, match=rf"QLIKE: found 1\.0.*allowed is 0.97 of {name} version 2 or less; signif"
    ) as refused:
        promote_here(mlflow, name, "3")
    assert set(failed(refused.value)) == {"QLIKE", "significance"}


@pytest.mark.parametrize(
    ("again", "end", "kind"),
    [
        pytest.param(4.0, "00:00", "refresh", id="the code makes the same model"),
        pytest.param(4.01, "00:00", "new recipe", id="the code makes another model"),
        pytest.param(None, "00:00", "new recipe", id="the rows of the champion are gone"),
        pytest.param(4.0, "00:30", "new recipe", id="the rows end before those of the champion"),
    ],
)
def test_changed_code_under_the_champions_name_is_a_new_recipe(
    mlflow: Registry, again: float | None, end: str, kind: str
) -> None:
    """The champion names other code; a fit with the code of today gives scale `again` for the champion's rows."""
    name = f"gate-code-{again}-{end[3:]}"
    train_end = f"2010-01-09T{end}:00Z"
    put(mlflow.uri, name, model_bytes(BASELINE, train_end=train_end), code_digest="0")
    of_champion = len(MADE) - 1
    promote_here(mlflow, name)
    put(mlflow.uri, name, model_bytes(fitted(scale=4.02)))
    if again is not None:
        MADE[of_champion] = model_bytes(fitted(scale=again), train_end=train_end)

    def rows_of(rows: TrainingRows) -> Sample:
        found = training(rows)
        if again is None and found.last_time == of_champion:
            raise ValueError("the rows are gone")
        return found

    verdict = judge(mlflow, mlflow.version(name, "2"), inputs=replace(INPUTS, training=rows_of), spec=SPEC)
    assert verdict.evidence["kind"] == kind
    assert verdict.is_open == (kind == "refresh")


def test_a_new_recipe_with_a_gain_must_pass_the_leak_sentinels_and_each_try_costs(mlflow: Registry) -> None:
    name = "gate-recipe"
    put(mlflow.uri, name, NOISY_BYTES)
    promote_here(mlflow, name, force=True)
    for _ in range(3):
        put(mlflow.uri, name, GOOD, recipe="another")
    for version, leaks in (("2", (FUTURE_CUT_OFF, HOLES)), ("3", (HOLES,))):
        found = "; ".join(f"{each}: 1 row, not 0 rows" for each in leaks)
        with pytest.raises(Refused, match=f"leak sentinels: found {found}, allowed is all passed") as refused:
            promote_here(mlflow, name, version, inputs=replace(INPUTS, leaks=leaks))
        assert set(failed(refused.value)) == {"leak sentinels"}
    entry = promote_here(mlflow, name, "4")
    assert entry.evidence["condition leak sentinels"] == "all 10 passed; allowed is all passed"
    assert [each.action for each in history(mlflow, name)] == ["promote", "refuse", "refuse", "promote"]
    assert (entry.evidence["kind"], entry.evidence["tries"]) == ("new recipe", 4)
    assert "after 4 tries on these rows" in entry.evidence["condition significance"]


def test_tries_on_other_rows_do_not_count(mlflow: Registry) -> None:
    """The champion was judged on the first day, the new recipe on the second."""
    name = "gate-tries"
    put(mlflow.uri, name, NOISY_BYTES)
    promote_here(mlflow, name, force=True)
    put(mlflow.uri, name, GOOD, recipe="another")
    entry = promote_here(mlflow, name, "2", inputs=on_rows(market(300, since=START + timedelta(days=1))))
    assert entry.evidence["tries"] == 1


def test_a_new_recipe_that_fails_one_product_is_refused(mlflow: Registry) -> None:
    """Better by far in the mean, and badly scaled for the small product, whose rows are a tenth."""
    name = "gate-products"
    put(mlflow.uri, name, NOISY_BYTES)
    promote_here(mlflow, name, force=True)
    put(mlflow.uri, name, GOOD, recipe="another")
    rows, small = market(300), market(30, seed=1)
    ewma = small.values[:, SPEC.columns.index("ewma_variance_1200")]
    small = replace(small, targets=np.sqrt(4 * ewma))  # the noisy EWMA is right here
    with pytest.raises(Refused, match=r"products: found .* in P1, allowed is 1.10 of gate-products version 1 or less"):
        promote_here(mlflow, name, "2", inputs=on_rows(rows, small))


def test_a_new_recipe_on_rows_of_the_lake_needs_a_certificate_of_parity(mlflow: Registry) -> None:
    name = "gate-parity"
    put(mlflow.uri, name, NOISY_BYTES)
    promote_here(mlflow, name, force=True)
    lake = Provenance.here("another", LakeRows(content_hashes={"BTC-USD": {START.date(): "0" * 64}}))
    put(mlflow.uri, name, GOOD, **lake.tags())
    inputs = replace(INPUTS, training=lambda _: replace(TRAINING, last_time=len(MADE) - 1))
    with pytest.raises(Refused, match=r"parity: found none, allowed is a certificate for this spec: run the check"):
        promote_here(mlflow, name, "2", inputs=inputs)
    promote_here(mlflow, name, "2", inputs=replace(inputs, certificate=lambda: "BTC-USD: 10 rows equal"))


# The refit


def test_a_version_that_its_recipe_does_not_make_is_refused(mlflow: Registry) -> None:
    """One parameter was tuned by hand afterwards, on the test."""
    name = "gate-tuned"
    version = put(mlflow.uri, name, model_bytes(fitted(scale=4.001)))
    MADE[-1] = GOOD
    digest = hashlib.sha256(GOOD).hexdigest()[:12]
    found = f"refit: found digest {digest} from the same code, lock and CPU type: retrain, allowed is the same digest"
    with pytest.raises(Refused, match=found) as refused:
        promote_here(mlflow, name, version)
    assert set(failed(refused.value)) == {"refit"}
    promote_here(mlflow, name, version, force=True, why="a drill")


@pytest.mark.parametrize(("scale", "is_met"), [(4.00001, True), (4.001, False)])
def test_another_cpu_type_may_differ_in_the_last_digits(mlflow: Registry, scale: float, is_met: bool) -> None:
    """A score is the root of the scale: scales of 2.5e-6 and 2.5e-4 differ by half of that in scores."""
    name = f"gate-cpu-{is_met}"
    put(mlflow.uri, name, model_bytes(fitted(scale=scale)), cpu_type="abacus")
    MADE[-1] = GOOD
    if is_met:
        entry = promote_here(mlflow, name)
        assert entry.evidence["condition refit"].startswith("answers that differ by 1.")
        return
    with pytest.raises(Refused, match=r"refit: found answers that differ by 1\..*e-04, by another CPU type: retrain"):
        promote_here(mlflow, name)


def test_what_cannot_be_made_again_must_be_trained_again(mlflow: Registry) -> None:
    """No tags; a recipe that is gone; rows that are gone; rows that the recipe cannot be fitted to."""
    name = "gate-gone"

    def gone(_: TrainingRows) -> Sample:
        raise ValueError("the training rows of BTC-USD on 2010-01-08 are gone")

    put_version(mlflow.uri, name, GOOD)
    for recipe in ("forgotten", "kept", "kept"):
        put(mlflow.uri, name, GOOD, recipe=recipe)
    before = replace(TRAINING, event_time=TRAINING.event_time + 2 * 86_400 * NS)
    cases: tuple[tuple[GateInputs, str], ...] = (
        (INPUTS, "the version has no tags of its recipe, code and rows"),
        (INPUTS, "there is no recipe 'forgotten'; there are kept, another"),
        (replace(INPUTS, training=gone), "the training rows of BTC-USD on 2010-01-08 are gone"),
        (replace(INPUTS, training=lambda _: before), "none of 3,600 training rows is as early as the end of training"),
    )
    for version, (inputs, found) in enumerate(cases, 1):
        with pytest.raises(Refused, match=f"refit: found {found}: retrain, allowed") as refused:
            promote_here(mlflow, name, str(version), inputs=inputs)
        assert failed(refused.value)["QLIKE"] == "not judged"


def test_a_recipe_that_looks_at_the_test_makes_another_model_in_the_gate(mlflow: Registry) -> None:
    """The gate hides the test: in its place stand rows of training."""
    name = "gate-peeks"
    put(mlflow.uri, name, GOOD)

    def peeks(rows: Sample, spec: FeatureSpec, train_end: datetime) -> Candidate:
        made = kept(rows, spec, train_end)
        scale = 4.0 + float(np.mean(rows.after(train_end).targets))
        content = model_bytes(fitted(scale=scale))
        return replace(made, model_bytes=content, model=ServedModel.load(content, spec_id=spec.spec_id))

    own = peeks(replace(Sample.join([TRAINING, ROWS]), last_time=0), SPEC, START)
    put(mlflow.uri, name, own.model_bytes)
    with pytest.raises(Refused, match=r"refit: found digest .* from the same code, lock and CPU type: retrain"):
        promote_here(mlflow, name, "2", inputs=replace(INPUTS, recipes={"kept": peeks}))


# Rows and intervals


def test_one_hour_copied_four_times_is_refused(mlflow: Registry) -> None:
    """240 horizons, and four equal hours of the day: three quarters repeat the first, and so all equal other rows."""
    name = "gate-copied"
    put(mlflow.uri, name, GOOD)
    hour = market(60)
    copies = [replace(hour, event_time=hour.event_time + 86_400 * NS * i) for i in range(4)]
    with pytest.raises(Refused) as refused:
        promote_here(mlflow, name, inputs=on_rows(Sample.join(copies)))
    found = failed(refused.value)
    assert found["duplicates"] == "100.0%, 2,880 of 2,880"
    assert found["hours of the day"] == "6 in training, 2 in test"  # the hour begins at 00:01:01


def test_test_rows_that_training_has_seen_under_another_time_are_refused(mlflow: Registry) -> None:
    name = "gate-seen"
    put(mlflow.uri, name, GOOD)
    again = replace(TRAINING, event_time=TRAINING.event_time + 86_400 * NS)
    with pytest.raises(Refused, match=r"duplicates: found 100.0%, 3,\d\d\d of 3,\d\d\d, allowed is 1%"):
        promote_here(mlflow, name, inputs=on_rows(again))


@pytest.mark.parametrize(
    ("ratios", "condition"),
    [((1.0, 1.0), "interval width: found 3,600 of 3,600"), ((0.5, 2.0), "coverage: found 100.0%"),
     ((0.9, 1.1), "coverage: found 4")],
    ids=["width 0", "too wide", "too narrow"],
)  # fmt: skip
def test_an_interval_that_does_not_hold_nine_tenths_is_refused(
    mlflow: Registry, ratios: tuple[float, float], condition: str
) -> None:
    name = f"gate-interval-{ratios[1]}"
    put(mlflow.uri, name, model_bytes(baseline(intervals=(ratios,) * 3)))
    with pytest.raises(Refused, match=condition) as refused:
        promote_here(mlflow, name)
    assert set(failed(refused.value)) <= {"interval width", "coverage"}


# Losses


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(fitted("ewma_variance_1200"), id="noisy EWMA"),
        pytest.param(fitted(scale=4.4), id="badly scaled"),
        pytest.param(fitted(scale=0.0), id="the market stands still"),
    ],
)
def test_what_is_worse_than_the_champion_is_refused(mlflow: Registry, candidate: Any, request: Any) -> None:
    name = f"gate-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    put(mlflow.uri, name, model_bytes(candidate))
    with pytest.raises(Refused, match=f"QLIKE: found .*, allowed is 1.02 of {name} version 1 or less") as refused:
        promote_here(mlflow, name, "2")
    assert set(failed(refused.value)) - {"coverage"} == {"QLIKE"}
    assert champion(mlflow, name) == "1"


def test_swapped_labels_are_refused(mlflow: Registry) -> None:
    """The real fit, on targets of other rows."""
    name = "gate-swapped"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    rows, shuffled = market(300, seed=1), np.random.default_rng(2).permutation(market(300, seed=1).targets)
    rows.values[:, 2] *= np.exp(np.random.default_rng(3).normal(0, 0.1, len(rows)))
    put(mlflow.uri, name, model_bytes(fit_with_intervals(replace(rows, targets=shuffled), SPEC, fit)))
    with pytest.raises(Refused) as refused:
        promote_here(mlflow, name, "2")
    assert set(failed(refused.value)) - {"coverage"} == {"QLIKE"}


def test_too_few_horizons_are_refused_by_time_not_by_rows(mlflow: Registry) -> None:
    """239 minutes of two products have 5,736 rows; the gate opens at the 240th horizon."""
    name = "gate-short"
    put(mlflow.uri, name, GOOD)
    short = market(239)
    with pytest.raises(Refused, match="horizons: found 239 after 2010-01-09T00:01:00Z, allowed is 240 or more"):
        promote_here(mlflow, name, inputs=on_rows(short, short))
    assert champion(mlflow, name) is None
    promote_here(mlflow, name, inputs=on_rows(market(240)))


def test_rows_that_a_model_or_the_champion_was_trained_on_do_not_count(mlflow: Registry) -> None:
    """The champion was trained two hours into the rows: 300 - 121 horizons are left, whatever rows the caller gives."""
    name = "gate-trained"
    later = START + timedelta(hours=2)
    put(mlflow.uri, name, model_bytes(fitted(scale=3.99), train_end=f"{later:%Y-%m-%dT%H:%M:%SZ}"))
    with pytest.raises(Refused, match="horizons: found 180 after 2010-01-09T02:01:00Z"):
        promote_here(mlflow, name, inputs=on_rows(ROWS))
    promote_here(mlflow, name, inputs=on_rows(market(500)))
    put(mlflow.uri, name, GOOD)
    with pytest.raises(Refused, match="horizons: found 180 after 2010-01-09T02:01:00Z"):
        promote_here(mlflow, name, "2", inputs=on_rows(ROWS))


def test_without_a_row_of_test_nothing_passes(mlflow: Registry) -> None:
    name = "gate-empty"
    put(mlflow.uri, name, GOOD)
    with pytest.raises(Refused) as refused:
        promote_here(mlflow, name, inputs=on_rows(ROWS.take(np.zeros(len(ROWS), np.bool_))))
    assert set(failed(refused.value)) == {*LIMITS, "QLIKE"} - {"refit"}


def test_a_file_that_is_not_the_registered_one_is_refused_even_if_forced(mlflow: Registry) -> None:
    name = "gate-digest"
    put(mlflow.uri, name, GOOD, digest="0" * 64)
    for force in (False, True):
        with pytest.raises(Refused, match=f"digest: found {hashlib.sha256(GOOD).hexdigest()}, allowed is 0000"):
            promote_here(mlflow, name, force=force)
    assert champion(mlflow, name) is None
    assert [(entry.action, entry.at) for entry in history(mlflow, name)] == [("refuse", None)] * 2


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x80\x04no model", "are no ONNX model"),
        (nan_between(-1, 1e9), "the model answers score nan"),
        (model_bytes(spec_id="0123456789ab"), "trained on rows of spec 0123456789ab"),
        (
            model_bytes(baseline(intervals=((1.1, 1.5), *BASELINE.intervals[1:]))),
            "must be finite, above 0 and inside",
        ),
    ],
    ids=["pickle", "NaN", "another spec", "outside its interval"],
)
def test_what_cannot_serve_is_refused_even_if_forced(
    mlflow: Registry, content: bytes, found: str, request: pytest.FixtureRequest
) -> None:
    name = f"gate-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    put(mlflow.uri, name, content)
    for force in (False, True):
        with pytest.raises(Refused, match=found) as refused:
            promote_here(mlflow, name, force=force)
        assert set(failed(refused.value)) == {"loads", *LIMITS}
    assert champion(mlflow, name) is None


def test_answers_that_are_unusable_on_test_rows_are_counted_and_refused(mlflow: Registry) -> None:
    """A model can pass the loader's questions and fail on rows of the market."""
    name = "gate-answers"
    put(mlflow.uri, name, nan_between(3e-6, 1e-3))
    ewma = ROWS.values[:, SPEC.columns.index("ewma_variance_300")]
    count = int(np.sum(ewma > 3e-6))
    assert 10 < count < 1_000
    with pytest.raises(
        Refused, match=f"answers: found {count} of 3,600 unusable, allowed is 0 unusable; .*QLIKE: found not judged"
    ):
        promote_here(mlflow, name)
    promote_here(mlflow, name, force=True, why="it does load")


@pytest.mark.parametrize("lower", [-1.0, -np.inf], ids=["-1", "-inf"])
def test_an_interval_that_begins_below_0_is_refused(mlflow: Registry, lower: float) -> None:
    name = f"gate-below{lower}"
    put(mlflow.uri, name, with_a_lower_end_below_0(lower))
    with pytest.raises(Refused, match="answers: found 3,600 of 3,600 unusable") as refused:
        promote_here(mlflow, name)
    assert set(failed(refused.value)) == {*LIMITS, "QLIKE"} - {"refit", "horizons", "answers alone"}


@pytest.mark.parametrize("content", [with_the_next_rows_upper_end(), that_dices()], ids=["reads the next row", "dices"])
def test_answers_that_depend_on_their_batch_are_refused(
    mlflow: Registry, content: bytes, request: pytest.FixtureRequest
) -> None:
    name = f"gate-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    put(mlflow.uri, name, content)
    with pytest.raises(
        Refused, match=r"answers alone: found 3,\d\d\d of 3,600 otherwise, allowed is the same"
    ) as refused:
        promote_here(mlflow, name)
    assert set(failed(refused.value)) == {"answers alone"}


def test_a_baseline_is_no_volatility_ml_even_if_forced(mlflow: Registry) -> None:
    put(mlflow.uri, "volatility-ml", GOOD)
    for force in (False, True):
        with pytest.raises(Refused, match=r"variant: found baseline, allowed is ml$"):
            promote_here(mlflow, "volatility-ml", force=force)


def test_a_refusal_names_every_condition_that_failed(mlflow: Registry) -> None:
    name = "gate-every"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    put(mlflow.uri, name, WORSE)
    with pytest.raises(Refused) as refused:
        promote_here(mlflow, name, "2", inputs=on_rows(market(100)))
    assert failed(refused.value)["horizons"] == "100 after 2010-01-09T00:01:00Z"
    assert "horizons: found 100" in str(refused.value)
    assert "QLIKE: found 2." in str(refused.value)
    assert f"{name} version 2 is refused" in str(refused.value)


def test_tags_and_stored_verdicts_open_no_gate(mlflow: Registry) -> None:
    """The gate scores the rows itself, whatever the version's tags say."""
    name = "gate-tags"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    put(mlflow.uri, name, WORSE)
    for key, value in {"metric.qlike": "0.0", "train_end": "2000-01-01T00:00:00Z", "gate": "passed"}.items():
        fields = {"name": name, "version": "2", "key": key, "value": value}
        mlflow.call("POST", "model-versions/set-tag", fields, dict)
    with pytest.raises(Refused, match=r"QLIKE: found [23]\."):
        promote_here(mlflow, name, "2")


def test_the_champion_is_not_promoted_again(mlflow: Registry) -> None:
    name = "gate-again"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    with pytest.raises(Refused, match="is not champion: found version 1"):
        promote_here(mlflow, name, why="once more", force=True)


def test_force_needs_a_reason_and_is_recorded(mlflow: Registry) -> None:
    name = "gate-forced"
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name, force=True)  # nothing had to be forced
    put(mlflow.uri, name, WORSE)
    with pytest.raises(ValueError, match="a forced promotion needs a reason"):
        promote_here(mlflow, name, "2", force=True, why=" ")
    promote_here(mlflow, name, "2", force=True, why="a drill")
    first, second = history(mlflow, name)
    assert (first.is_forced, second.is_forced) == (False, True)
    assert second.why == "a drill"
    assert float(second.evidence["condition QLIKE"].split(",")[0]) > 1.5
    assert champion(mlflow, name) == "2"


def test_judging_changes_nothing(mlflow: Registry) -> None:
    name = "gate-judge"
    put(mlflow.uri, name, GOOD)
    verdict = judge(mlflow, mlflow.version(name, "1"), inputs=INPUTS, spec=SPEC, baseline=name)
    assert verdict.is_open
    assert champion(mlflow, name) is None
    assert history(mlflow, name) == []


def test_the_command_line_tests_on_the_lake(mlflow: Registry, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Three simulated hours: the first minute is the embargo."""
    name = "gate-lake"
    put(mlflow.uri, name, GOOD)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    monkeypatch.setenv("LAKE_URI", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match=r"horizons: found 0 after 2010-01-09T00:01:00Z: .* simulate these days"):
        main(["promote", name, "1", "--why", "a drill"])
    lake, day = Lake.open(tmp_path), START.date()
    simulate(lake, "BTC-USD", day, hours=(0, 3))
    make_trades(lake, "BTC-USD", day)
    make_feature_rows(lake, "BTC-USD", day, SPEC)
    make_training_set(lake, "BTC-USD", day, SPEC)
    with pytest.raises(SystemExit, match=r"horizons: found 17\d after"):
        main(["promote", name, "1", "--why", "a drill"])
    main(["promote", name, "1", "--why", "a drill", "--force"])
    assert "promote, forced" in capsys.readouterr().out
    *refused, entry = history(mlflow, name)
    assert [each.action for each in refused] == ["refuse", "refuse"]
    assert (entry.why, entry.is_forced) == ("a drill", True)
    assert "2010-01-09T00:01" < entry.evidence["first_row"] < "2010-01-09T00:02"


# The ledger


def test_rollback_goes_back_entry_by_entry_to_the_first(mlflow: Registry) -> None:
    """Promoted 1, 2, 3; back to 2, back to 1; the next promotion follows 1, not the rolled back versions."""
    name = "ledger-stack"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    seen = [(champion(mlflow, name), champion(mlflow, name, "previous"))]
    for _ in range(2):
        roll_back_here(mlflow, name)
        seen.append((champion(mlflow, name), champion(mlflow, name, "previous")))
    assert seen == [("3", "2"), ("2", "1"), ("1", None)]
    with pytest.raises(Refused, match="the ledger holds 1 promotion of ledger-stack that stands, allowed is 2 or more"):
        roll_back_here(mlflow, name)
    promote_here(mlflow, name, "3")
    assert champion(mlflow, name, "previous") == "1"
    assert roll_back_here(mlflow, name).to_version == "1"
    moves = [(entry.action, entry.from_version, entry.to_version) for entry in history(mlflow, name)]
    assert moves == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("promote", "2", "3"),
        ("rollback", "3", "2"),
        ("rollback", "2", "1"),
        ("promote", "1", "3"),
        ("rollback", "3", "1"),
    ]


@pytest.mark.parametrize("by_hand", ["1", "2", "4"])
def test_a_champion_that_was_moved_by_hand_goes_back_to_the_newest_promotion(
    mlflow: Registry, by_hand: str, monkeypatch: Any, capsys: Any
) -> None:
    """Promoted 1, 2, 3, then moved in MLflow: back to 3, and the next rollback to 2, as if nothing had been moved."""
    name = f"by-hand-{by_hand}"
    for version in "1234":
        put(mlflow.uri, name, GOOD)
        if version != "4":
            promote_here(mlflow, name, version)
    set_alias(mlflow, name, "champion", by_hand)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    said = f"the champion of {name} is version {by_hand} now, the ledger says 3: moved by hand?"
    for command in (["history", name], ["served-at", "2000-01-01T00:00Z"]):
        main(command)
        assert said in capsys.readouterr().out
    back = roll_back_here(mlflow, name)
    assert (back.from_version, back.to_version) == (by_hand, "3")
    assert back.evidence["moved_by_hand"] == f"champion was version {by_hand}, the ledger had 3"
    assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("3", "2")
    main(["history", name])
    assert "by hand?" not in capsys.readouterr().out
    assert roll_back_here(mlflow, name).to_version == "2"


def test_a_rollback_passes_over_versions_that_are_gone_or_do_not_load_and_records_them(mlflow: Registry) -> None:
    """Promoted 1 to 4, then 3 is deleted and the file of 2 does not load: back to 1."""
    name, other = "ledger-gone", FeatureSpec(window_size=20)
    contents = {"1": GOOD, "2": model_bytes(spec_id=other.spec_id), "3": GOOD, "4": GOOD}
    for version, content in contents.items():
        put(mlflow.uri, name, content)
        spec = other if version == "2" else SPEC
        promote_here(mlflow, name, version, spec=spec, force=True, why="a drill")
    mlflow.call("DELETE", "model-versions/delete", {"name": name, "version": "3"}, dict)
    back = roll_back_here(mlflow, name)
    assert (back.from_version, back.to_version, champion(mlflow, name)) == ("4", "1", "1")
    skipped = history(mlflow, name)[-1].evidence["skipped"]
    assert [*skipped] == ["3", "2"]
    assert skipped["3"].startswith(f"registered: {name} has no version 3 at ")
    assert f"rows here are of spec {SPEC.spec_id}" in skipped["2"]
    with pytest.raises(Refused, match="the ledger holds 1 promotion"):  # 2 and 3 are no target afterwards, either
        roll_back_here(mlflow, name)


def test_a_rollback_without_any_version_that_stands_names_the_command_that_helps(mlflow: Registry) -> None:
    name = "ledger-none"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    for version in "12":
        mlflow.call("DELETE", "model-versions/delete", {"name": name, "version": version}, dict)
    with pytest.raises(Refused, match=r"version 2 registered: found .*version 1 registered: found ") as refused:
        roll_back_here(mlflow, name)
    helps = f"No earlier champion can serve: `python -m offline.promotion promote {name} VERSION --force --why REASON`"
    assert helps in str(refused.value)
    assert champion(mlflow, name) == "3"


def test_previous_names_the_newest_version_that_mlflow_still_has(mlflow: Registry) -> None:
    name = "previous-older"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    mlflow.call("DELETE", "model-versions/delete", {"name": name, "version": "3"}, dict)
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name, "4")
    assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("4", "2")


def set_clock(monkeypatch: Any, ahead: timedelta) -> None:
    """Let the ledger's clock be ahead."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + ahead

    monkeypatch.setattr(ledger, "datetime", Clock)


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def test_a_clock_that_was_wrong_for_one_promotion_changes_no_order(
    mlflow: Registry, ahead: timedelta, monkeypatch: Any, capsys: Any
) -> None:
    """Promoted 1, 2 with a wrong clock, back to 1, promoted 3: the next rollback goes to 1, not to the bad 2."""
    name = f"clock-{ahead.days}"
    for _ in "123":
        put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name, "1")
    with monkeypatch.context() as wrong:
        set_clock(wrong, ahead)
        promote_here(mlflow, name, "2")
    back = roll_back_here(mlflow, name)
    third = promote_here(mlflow, name, "3")
    assert back.to_version == "1"
    assert back.at and third.at
    moves = [(entry.action, entry.to_version) for entry in history(mlflow, name)]
    assert moves == [("promote", "1"), ("promote", "2"), ("rollback", "1"), ("promote", "3")]
    tick = timedelta(microseconds=1)
    for when, version in ((back.at, "1"), (third.at - tick, "1"), (third.at, "3"), (third.at + 2 * abs(ahead), "3")):
        assert served_at(mlflow, when)[name].to_version == version
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    main(["history", name])
    said = capsys.readouterr().out
    one, other = (2, 1) if ahead > timedelta(0) else (1, 2)
    between = f"to version {one} at .*, and later to {other} at"
    assert re.search(rf"the clock went back between two moves of {name}: {between}", said)
    assert said.count("the clock went back") == 1
    assert roll_back_here(mlflow, name).to_version == "1"


def test_a_ledger_without_links_goes_on_with_links(mlflow: Registry, monkeypatch: Any) -> None:
    """Two promotions of the earlier form, then a rollback with the clock an hour behind: the rollback is the newest."""
    name = "before-links"
    for _ in "12":
        put(mlflow.uri, name, GOOD)
    with monkeypatch.context() as earlier:
        earlier.setattr(ledger, "TEXTS", tuple(each for each in ledger.TEXTS if each != "after"))
        first, second = (promote_here(mlflow, name, version) for version in "12")
        assert {entry.after for entry in history(mlflow, name)} == {""}
    set_clock(monkeypatch, timedelta(hours=-1))
    back = roll_back_here(mlflow, name)
    assert [entry.entry_id for entry in history(mlflow, name)] == [first.entry_id, second.entry_id, back.entry_id]
    assert (back.to_version, history(mlflow, name)[-1].after) == ("1", second.entry_id)


def test_a_rollback_to_a_model_of_another_spec_is_refused_with_both_ids(mlflow: Registry, monkeypatch: Any) -> None:
    """Promoted under a window of 50, then under a window of 20: the first model could not score these rows."""
    name, other = "ledger-spec", FeatureSpec(window_size=20)
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    put(mlflow.uri, name, model_bytes(spec_id=other.spec_id))
    promote_here(mlflow, name, "2", spec=other, force=True, why="another window")
    with pytest.raises(Refused, match=f"loads: found .*spec {SPEC.spec_id}, rows here are of spec {other.spec_id}"):
        roll_back_here(mlflow, name, spec=other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    monkeypatch.setenv("WINDOW_SIZE", "20")
    with pytest.raises(SystemExit, match=f"rows here are of spec {other.spec_id}"):
        main(["rollback", name, "--why", "back"])
    assert champion(mlflow, name) == "2"
    assert roll_back_here(mlflow, name, "the window too").to_version == "1"


def test_what_served_at_a_time_is_the_last_entry_before_it(mlflow: Registry, capsys: Any, monkeypatch: Any) -> None:
    name = "ledger-when"
    put(mlflow.uri, name, GOOD)
    put(mlflow.uri, name, GOOD)
    first = promote_here(mlflow, name, "1")
    second = promote_here(mlflow, name, "2")
    back = roll_back_here(mlflow, name)
    assert first.at and second.at and back.at
    tick = timedelta(microseconds=1)
    assert name not in served_at(mlflow, first.at - tick)
    for when, version in ((first.at, "1"), (second.at - tick, "1"), (second.at, "2"), (back.at, "1")):
        assert served_at(mlflow, when)[name].to_version == version
    with pytest.raises(ValueError, match="must say its zone"):
        served_at(mlflow, first.at.replace(tzinfo=None))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    monkeypatch.setenv("COLUMNS", "250")
    main(["served-at", f"{second.at:%Y-%m-%dT%H:%M:%S.%fZ}"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if name in line)
    assert line.split()[2:7] == ["promote", name, "1", "2", first.digest[:12]]
    main(["history", name])
    assert capsys.readouterr().out.count(name) == 3
    with pytest.raises(SystemExit):
        main(["served-at", "2026-11-20T10:00"])
    assert "a time must say its zone, as 2026-11-20T10:00Z" in capsys.readouterr().err


def test_entries_that_somebody_deletes_in_the_ui_are_still_read(mlflow: Registry) -> None:
    name = "ledger-deleted"
    put(mlflow.uri, name, GOOD)
    entry = promote_here(mlflow, name)
    mlflow.call("POST", "runs/delete", {"run_id": entry.entry_id}, dict)
    assert history(mlflow, name) == [entry]


def test_an_entry_reads_back_as_it_was_written(mlflow: Registry) -> None:
    name = "ledger-equal"
    put(mlflow.uri, name, GOOD)
    entry = promote_here(mlflow, name, who="Zoë", why="a 'quoted' reason; with €")
    assert history(mlflow, name) == [entry]
    run = mlflow.call("GET", "runs/get", {"run_id": entry.entry_id}, dict)["run"]["info"]
    assert run["status"] == "FINISHED"
    assert entry.at is not None
    assert int(run["end_time"]) == int(entry.at.timestamp() * 1_000)


# Killed, at once, away


class Place(NamedTuple):
    """Where a spawned process promotes; an object store's client does not outlive a fork."""

    mlflow_uri: str
    lake_uri: str
    name: str
    made: list[bytes]

    def promote(self, version: str, why: str = "because") -> None:
        MADE[:] = self.made
        promote_here(Registry(self.mlflow_uri), self.name, version, why=why, objects=Objects.open(self.lake_uri))


def _promote_and_die(place: Place, step: str) -> None:
    """Promote version 2, and be killed before a step of the ledger."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(ledger, step, die)
    place.promote("2", "killed")


@pytest.mark.parametrize(
    ("step", "moved"),
    [("begin", False), ("set_alias", False), ("_tag", True)],
    ids=["before the intent", "before the alias moved", "before the entry was closed"],
)
def test_a_killed_promotion_is_finished_by_the_next_start(
    mlflow: Registry, lakes: Lakes, step: str, moved: bool
) -> None:
    name = f"killed-{step.strip('_').replace('_', '-')}-{lakes.kind.split()[0]}"
    lake_uri = lakes.uri()
    objects = Objects.open(lake_uri)
    for _ in range(2):
        put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name, objects=objects)
    arguments = (Place(mlflow.uri, lake_uri, name, MADE), step)
    process = multiprocessing.get_context("spawn").Process(target=_promote_and_die, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert champion(mlflow, name) == ("2" if moved else "1")
    finished = [entry for entry in finish_pending(mlflow, objects) if entry.model == name]
    assert finish_pending(mlflow, objects) == []
    entries = history(mlflow, name)
    assert all(entry.state == "done" for entry in entries)
    if step == "begin":
        assert [entry.to_version for entry in entries] == ["1"]
    else:
        assert finished == entries[1:]
        assert (entries[1].why, entries[1].to_version) == ("killed", "2")
        assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("2", "1")
        at = entries[1].at
        assert at is not None
        assert (at == entries[1].begun) == moved
        assert roll_back_here(mlflow, name, objects=objects).to_version == "1"


def _promote_in_turn(place: Place, version: str, outcomes: Any) -> None:
    try:
        place.promote(version)
        outcomes.put((version, "promoted"))
    except Refused as error:
        outcomes.put((version, str(failed(error))))


def test_promotions_at_once_come_one_after_the_other(mlflow: Registry, lakes: Lakes) -> None:
    """Four processes, four equally good versions: each entry begins where the entry before ended."""
    name, lake_uri = f"at-once-{lakes.kind.split()[0]}", lakes.uri()
    versions = [put(mlflow.uri, name, GOOD) for _ in range(4)]
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    place = Place(mlflow.uri, lake_uri, name, MADE)
    processes = [context.Process(target=_promote_in_turn, args=(place, version, outcomes)) for version in versions]
    for process in processes:
        process.start()
    found = dict(outcomes.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert set(found.values()) == {"promoted"}
    entries = history(mlflow, name)
    assert [entry.from_version for entry in entries] == [None, *(entry.to_version for entry in entries[:-1])]
    assert champion(mlflow, name) == entries[-1].to_version
    assert champion(mlflow, name, "previous") == entries[-2].to_version


def test_what_another_machine_has_begun_is_left_to_it_until_it_is_abandoned(mlflow: Registry, monkeypatch: Any) -> None:
    name = "elsewhere"
    for _ in range(2):
        put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(ledger, "_machine", lambda: "another")
        begun = ledger.begin(mlflow, replace(history(mlflow, name)[0], to_version="2", begun=datetime.now(UTC)))
    assert [entry for entry in finish_pending(mlflow, locks()) if entry.model == name] == []
    with pytest.raises(RegistryError, match="me began to promote elsewhere to version 2 on another at"):
        roll_back_here(mlflow, name)
    assert champion(mlflow, name) == "1"
    set_clock(monkeypatch, timedelta(minutes=-2))  # the other machine's clock is two minutes ahead of this one's
    (finished,) = (entry for entry in finish_pending(mlflow, locks()) if entry.model == name)
    assert finished.entry_id == begun.entry_id
    assert champion(mlflow, name) == "2"


def test_a_promotion_that_lost_its_lock_moves_no_alias(mlflow: Registry, monkeypatch: Any) -> None:
    """The process was stopped between the intent and the move, for so long that another one may hold the lock."""
    name = "lost-lock"
    for _ in range(2):
        put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)

    def is_lost(_: Lease) -> None:
        raise Occupied("this process was stopped for so long")

    with monkeypatch.context() as stopped:
        stopped.setattr(Lease, "check", is_lost)
        with pytest.raises(RegistryError, match="another promotion or rollback is at work: this process was stopped"):
            promote_here(mlflow, name, "2")
    assert champion(mlflow, name) == "1"
    (finished,) = (entry for entry in finish_pending(mlflow, locks()) if entry.model == name)
    assert (finished.to_version, finished.state, champion(mlflow, name)) == ("2", "done", "2")


def test_an_alias_that_mlflow_refuses_to_move_fails_the_entry_and_changes_nothing(
    mlflow: Registry, monkeypatch: Any
) -> None:
    """The version is deleted between the verdict and the move."""
    name = "deleted-meanwhile"
    for _ in range(2):
        put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    begin = ledger.begin

    def delete_then_begin(registry: Registry, entry: Entry) -> Entry:
        registry.call("DELETE", "model-versions/delete", {"name": name, "version": "2"}, dict)
        return begin(registry, entry)

    monkeypatch.setattr(ledger, "begin", delete_then_begin)
    with pytest.raises(RegistryError, match="version=2"):
        promote_here(mlflow, name, "2")
    assert [entry.state for entry in history(mlflow, name)] == ["done", "failed"]
    assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("1", None)
    assert [entry for entry in finish_pending(mlflow, locks()) if entry.model == name] == []
    with pytest.raises(Refused, match="the ledger holds 1 promotion of"):  # what failed does not stand
        roll_back_here(mlflow, name)


def test_an_mlflow_that_goes_away_within_a_promotion_is_told_and_the_entry_finished_later(
    mlflow: Registry, monkeypatch: Any
) -> None:
    name = "goes-away"
    for _ in range(2):
        put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = Registry(f"http://127.0.0.1:{closed.getsockname()[1]}")

    def move_at_nobody(_: Registry, *rest: Any) -> None:
        set_alias(nobody, *rest)

    with monkeypatch.context() as away:
        away.setattr(ledger, "set_alias", move_at_nobody)
        with pytest.raises(RegistryAway, match="may stand there, not closed"):
            promote_here(mlflow, name, "2")
    assert champion(mlflow, name) == "1"
    (finished,) = (entry for entry in finish_pending(mlflow, locks()) if entry.model == name)
    assert (finished.to_version, finished.state) == ("2", "done")
    assert champion(mlflow, name) == "2"


def _roll_back_and_die(registry: Registry, name: str, step: str) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(ledger, step, die)
    roll_back_here(registry, name, "killed")


@pytest.mark.parametrize("step", ["set_alias", "_tag"], ids=["before the alias moved", "before it was closed"])
def test_a_killed_rollback_that_is_asked_for_again_goes_back_once(
    mlflow: Registry, step: str, monkeypatch: Any, capsys: Any
) -> None:
    name = f"killed-back-{step.strip('_').replace('_', '-')}"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    process = multiprocessing.get_context("fork").Process(target=_roll_back_and_die, args=(mlflow, name, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
    main(["rollback", name, "--why", "again"])
    assert f"the rollback of {name} to version 2 that me began at" in capsys.readouterr().out
    assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("2", "1")
    (back,) = (entry for entry in history(mlflow, name) if entry.action == "rollback")
    assert (back.why, back.state) == ("killed", "done")
    main(["rollback", name, "--why", "further"])
    assert "ask again" not in capsys.readouterr().out
    assert champion(mlflow, name) == "1"


@pytest.mark.parametrize("lost", ["runs/create", "runs/set-tag"])
def test_a_rollback_whose_answer_was_lost_goes_back_once_when_it_is_asked_for_again(
    mlflow: Registry, lost: str, monkeypatch: Any
) -> None:
    """MLflow does the work, and the answer never comes."""
    name = f"lost-{lost.replace('/', '-')}"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    _lose_answers(monkeypatch, lost)
    with pytest.raises(RegistryAway, match=f"roll back {name} to version 2: the entry may stand there") as told:
        roll_back_here(mlflow, name)
    assert "do this again" not in str(told.value)
    assert ("champion names version 2 already" in str(told.value)) == (lost == "runs/set-tag")
    monkeypatch.undo()
    assert roll_back_here(mlflow, name).to_version == "2"
    assert champion(mlflow, name) == "2"


def test_a_rollback_that_has_moved_and_cannot_be_closed_is_through(mlflow: Registry, monkeypatch: Any) -> None:
    name = "lost-close"
    for version in "12":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    _lose_answers(monkeypatch, "runs/update")
    back = roll_back_here(mlflow, name)
    monkeypatch.undo()
    assert champion(mlflow, name) == "1"
    assert history(mlflow, name)[-1] == back


@pytest.mark.parametrize("alias", ["champion", "previous"])
def test_a_rollback_that_mlflow_fails_in_is_finished_by_the_next(
    mlflow: Registry, alias: str, monkeypatch: Any
) -> None:
    """MLflow moves the alias, and answers 500."""
    name = f"fails-{alias}"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)

    def move_and_fail(registry: Registry, name: str, moved: str, version: str | None) -> None:
        set_alias(registry, name, moved, version)
        if moved == alias:
            with answering_500() as failing:
                set_alias(Registry(failing), name, moved, version)

    with monkeypatch.context() as failing:
        failing.setattr(ledger, "set_alias", move_and_fail)
        with pytest.raises(RegistryAway, match=r"500.* may stand there, not closed") as told:
            roll_back_here(mlflow, name)
    assert ("champion names version 2 already" in str(told.value)) == (alias == "previous")
    assert history(mlflow, name)[-1].state == "pending"
    assert roll_back_here(mlflow, name, "again").to_version == "2"
    assert [entry.state for entry in history(mlflow, name)] == ["done"] * 4
    assert served_at(mlflow, datetime.now(UTC))[name].to_version == "2"


@contextlib.contextmanager
def answering_500() -> Iterator[str]:
    """Run a server that reads a request and then fails."""

    class Failing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(500)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            thread.join(10)


def test_a_champion_moves_though_what_previous_would_name_was_deleted(mlflow: Registry) -> None:
    """Version 1 is gone when 3 goes back to 2, version 2 when 4 is promoted."""
    name = "previous-deleted"
    for version in "123":
        put(mlflow.uri, name, GOOD)
        promote_here(mlflow, name, version)
    mlflow.call("DELETE", "model-versions/delete", {"name": name, "version": "1"}, dict)
    assert roll_back_here(mlflow, name).state == "done"
    assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("2", None)
    assert served_at(mlflow, datetime.now(UTC))[name].to_version == "2"
    mlflow.call("DELETE", "model-versions/delete", {"name": name, "version": "2"}, dict)
    put(mlflow.uri, name, GOOD)
    promote_here(mlflow, name, "4")
    assert (champion(mlflow, name), champion(mlflow, name, "previous")) == ("4", None)
    assert [entry.state for entry in history(mlflow, name)] == ["done"] * 5


def _lose_answers(monkeypatch: Any, lost: str) -> None:
    call = Registry.call

    def call_and_lose(registry: Registry, method: str, path: str, *rest: Any) -> Any:
        answer = call(registry, method, path, *rest)
        if path == lost:
            raise RegistryAway(
                "MLflow does not answer at there (timed out): start it, then do this again"
            ) from OSError("timed out")
        return answer

    monkeypatch.setattr(Registry, "call", call_and_lose)


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: promote_here(registry, "away"),
        partial(roll_back_here, name="away"),
        history,
        lambda registry: registry.champion("away"),
    ],
    ids=["promote", "rollback", "history", "champion"],
)
def test_an_mlflow_that_is_away_is_named_at_once(ask: Callable[[Registry], Any]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(RegistryAway, match=f"MLflow does not answer at {uri} .*: start it, or set MLFLOW_TRACKING_URI"):
        ask(Registry(uri))


@pytest.mark.parametrize("answer", [b"<!doctype html>", b'{"experiment": {"experi', b"[]", b"null", b"\xff"])
def test_a_server_that_is_not_mlflow_is_named_with_what_it_said(registry: FakeRegistry, answer: bytes) -> None:
    registry.broken = (200, answer)
    shown = repr(answer.decode(errors="replace"))
    for ask in (history, lambda registry: registry.champion("elsewhere")):
        with pytest.raises(RegistryAway) as told:
            ask(Registry(registry.uri))
        assert str(told.value).startswith(f"{registry.uri} answers ")
        assert f" with what MLflow does not answer, {shown} (" in str(told.value)
        assert ": is it MLflow? MLFLOW_TRACKING_URI says where that is" in str(told.value)
