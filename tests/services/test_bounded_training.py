"""A training under a bound of memory: a stratified sample forecasts as well as all rows, and is drawn again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.models.registry import Registry
from data.models.served import BASELINE, ML
from offline.cards.version_texts import CARD
from offline.days.row_budget import FIXED_MB, ROW_KB
from offline.days.steps import TRAINING_SET
from offline.lake.store import Lake
from offline.promotion.inputs import lake_inputs
from offline.promotion.provenance import LakeRows, Provenance, named_hashes
from offline.training import Challenger, lake_training, train
from tests.benchmarks.bounded_training import FIRST_DAY, MAX_MB, fill, measured
from tests.mlflow_server import running_mlflow
from tests.models import SPEC
from tests.proofs import Proof

pytestmark = pytest.mark.filterwarnings("default")  # MLflow warns about its own code

PRODUCTS, DAYS = 3, 5
TEST_DAY = FIRST_DAY + dt.timedelta(days=DAYS - 1)
TRAIN_END = dt.datetime.combine(TEST_DAY, dt.time(), dt.UTC)
FEW_MB = FIXED_MB + int(10_000 * ROW_KB / 1e3)
"""Bound of 10,000 rows of training."""
PLENTY_MB = 100_000


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_mlflow(tmp_path) as server:
        yield Registry(server.uri)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    fill(tmp_path / "lake", PRODUCTS, DAYS)
    return Lake.open(tmp_path / "lake")


def trained(registry: Registry, lake: Lake, max_mb: int) -> dict[str, Challenger]:
    rows, made_from, spans, test = lake_training(lake, SPEC, lake.partitions(TRAINING_SET), TEST_DAY, max_mb)
    results = train(registry, rows, SPEC, TRAIN_END, made_from, spans=spans, test=test)
    return {each.candidate.name: each for each in results if isinstance(each, Challenger)}


def test_a_third_of_the_rows_trains_as_well_and_is_drawn_again_by_the_gate(
    lake: Lake, registry: Registry, tmp_path: Path
) -> None:
    whole, some = (trained(registry, lake, max_mb) for max_mb in (PLENTY_MB, FEW_MB))
    for name in (BASELINE, ML):
        ours, theirs = (found[name].candidate for found in (some, whole))
        assert ours.params["rows"] == pytest.approx(10_000, rel=0.01)
        assert theirs.params["rows"] > 30_000
        assert ours.metrics["test_rows"] == theirs.metrics["test_rows"], "all rows of the test count"
        assert ours.metrics["qlike"] == pytest.approx(theirs.metrics["qlike"], rel=0.03)
        assert ours.promises.keys() == theirs.promises.keys() != set()
        assert "sample share" not in theirs.params

        version = registry.version(name, some[name].version)
        made = Provenance.of_version(registry, version)
        assert made is not None and isinstance(made.rows, LakeRows) and made.rows.sample is not None
        assert ours.params["sample share"] == f"{made.rows.sample.share:.6g}"
        card = some[name].texts[CARD]
        assert f"{made.rows.sample.share:.3%} of the rows of 12 of 12 product-days, seed 0" in card
        assert f"TRAIN_MAX_MB={FEW_MB}" in card
        assert "stratified" not in whole[name].texts[CARD]

        inputs = lake_inputs(str(tmp_path / "lake"), SPEC, FEW_MB)
        refit = inputs.refit(made, TRAIN_END, SPEC)
        assert refit.candidate.model.digest == version.digest
        test = inputs.test(TRAIN_END)
        assert 0.3 < test.share < 1
        verdicts = inputs.verdicts(made, refit, test.after(TRAIN_END), TRAIN_END, SPEC, "")
        assert [each for each in verdicts if not each.passed] == []
    hashes = {each.content_hash for each in lake.partitions(TRAINING_SET) if each.day < TEST_DAY}
    assert named_hashes(registry) >= hashes


@pytest.mark.acceptance
def test_2000_product_days_train_within_the_bound(tmp_path: Path, proof: Proof) -> None:
    """Product-days of two hours: 5.6 million rows. On a fifth of the products, all rows train too."""
    proof.disturbs("a tenth of the memory that all rows would take")
    (found,) = measured(40, 50, [MAX_MB], tmp_path / "all")
    proof.saw(rows=found.rows, of_rows=found.of_rows, most_mb=found.mb, seconds=found.read_s + found.training_s)
    assert found.mb <= MAX_MB
    some, whole = measured(8, 50, [MAX_MB // 2, PLENTY_MB], tmp_path / "few")
    off = {name: some.qlike[name] / whole.qlike[name] - 1 for name in (BASELINE, ML)}
    proof.saw(share=some.rows / whole.rows, **{f"{name} QLIKE off": each for name, each in off.items()})
    assert all(abs(each) <= 0.01 for each in off.values())
