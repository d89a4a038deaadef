"""Which bytes may serve, and what a served model answers."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from data.models.served import CHUNK, ServedModel
from data.names import ModelRefused
from data.trades import Floats
from tests.models import NAN, SPEC, a_pickle, baseline, model_bytes

FULL = [50, 1e-6, 1e-4, 1e-6]
CONTRACT_STEPS = '[["n", "ret_mean", "ret_std"], []]'


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel.load(model_bytes(), spec_id=SPEC.spec_id, known_columns=SPEC.columns)


def test_a_model_says_what_it_is(model: ServedModel) -> None:
    assert (model.variant, model.spec_id, model.horizon_s, model.coverage) == ("baseline", SPEC.spec_id, 60, 0.9)
    assert model.columns == ("n", "ret_mean", "ret_std", "ewma_variance_300")
    assert model.train_end.isoformat() == "2010-01-09T00:00:00+00:00"
    assert model.digest == hashlib.sha256(model_bytes()).hexdigest()
    assert (model.variance_floor, model.tercile_bounds, model.reference) == (None, None, "ewma_variance_300")


def test_a_model_may_state_a_variance_floor_and_tercile_bounds() -> None:
    content = model_bytes(variance_floor="2.5e-09", tercile_bounds="0.0002,0.0004")
    model = ServedModel.load(content, spec_id=SPEC.spec_id)
    assert (model.variance_floor, model.tercile_bounds) == (2.5e-9, (2e-4, 4e-4))


@pytest.mark.parametrize(
    ("row", "score", "ends", "missing"),
    [
        (FULL, 2e-3, (0.5, 1.5), []),  # sqrt(4 * 1e-6)
        ([50, 1e-6, 1e-4, NAN], 1e-3, (0.25, 2), [3]),  # 100 * 1e-8 = 1e-6 = the unconditional variance
        ([50, 1e-6, 1e-3, NAN], 10**-2.5, (0.25, 2), [3]),  # 1e-4, in log half way to 1e-6: 1e-5
        ([10, 1e-6, 1e-3, NAN], 10 ** (-3 + 1 / 6), (0.25, 2), [3]),  # 10 / 60 of the way from 1e-6 to 1e-4
        ([50, NAN, 1e-4, 1e-6], 2e-3, (0.5, 1.5), [1]),  # ret_mean has no part in the EWMA
        ([0, NAN, NAN, NAN], 1e-3, (0.125, 3), [1, 2, 3]),
        ([1, 1e-6, NAN, NAN], 1e-3, (0.125, 3), [2, 3]),
        ([0, 0, 0, 0], 1e-3, (0.125, 3), [1, 2, 3]),  # a client that sends zeros for what cannot be known
        ([50, 0, 0, 0], 10**-5.5, (0.25, 2), [3]),  # no move, no level: ret_std is read as 1e-9, half way to 1e-6
        ([50, 0, 0, NAN], 10**-5.5, (0.25, 2), [3]),
    ],
)
def test_a_row_is_answered_from_the_columns_that_it_has(
    model: ServedModel, row: list[float], score: float, ends: tuple[float, float], missing: list[int]
) -> None:
    found = model.score(np.array([row], np.float64))
    assert found.score[0] == pytest.approx(score, rel=1e-5)
    assert (found.lower[0], found.upper[0]) == pytest.approx((ends[0] * score, ends[1] * score), rel=1e-5)
    assert np.flatnonzero(found.missing[0]).tolist() == missing


def test_any_finite_value_gets_a_finite_positive_answer(model: ServedModel) -> None:
    extremes = [0.0, 5e-324, 1e-300, 1e-30, 1.0, 1e3, 1e30, 1e300]
    rows = np.array([[50, mean, std, ewma] for mean in (-1e300, 0.0) for std in extremes for ewma in (*extremes, NAN)])
    found = model.score(rows)
    assert np.all(np.isfinite(found.upper) & (found.lower > 0) & (found.lower < found.score))
    assert np.all(found.score < found.upper)


def test_no_rows_give_no_scores(model: ServedModel) -> None:
    assert len(model.score(np.empty((0, 4))).score) == 0


def test_an_infinite_value_and_a_wrong_width_are_refused_by_name(model: ServedModel) -> None:
    with pytest.raises(ValueError, match="row 1: ret_std must be finite"):
        model.score(np.array([FULL, [50, 0, np.inf, 1e-6]]))
    with pytest.raises(ValueError, match=r"shape \(n, 4\).*had \(1, 3\)"):
        model.score(np.zeros((1, 3)))


def _rows(seed: int, count: int) -> Floats:
    rng = np.random.default_rng(seed)
    rows = np.column_stack(
        [
            rng.integers(0, 51, count),
            rng.normal(0, 1e-5, count),
            np.exp(rng.normal(-9, 3, count)),
            np.exp(rng.normal(-14, 3, count)),
        ]
    )
    rows[rng.random(count) < 0.5, 3] = np.nan
    return rows


@pytest.mark.parametrize("size", [1, 2, 7, 64, 127, 128, 129, 1000])
def test_a_score_has_the_same_bytes_in_any_batch(model: ServedModel, size: int) -> None:
    rows = _rows(1, 3000)
    whole = model.score(rows)
    parts = [model.score(rows[start : start + size]) for start in range(0, len(rows), size)]
    for name in ("score", "lower", "upper", "missing"):
        assert np.concatenate([getattr(part, name) for part in parts]).tobytes() == getattr(whole, name).tobytes()


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(40)), size=st.integers(1, 300))
def test_a_score_does_not_depend_on_its_place_or_its_neighbours(
    model: ServedModel, order: list[int], size: int
) -> None:
    rows = _rows(2, 40)
    alone = np.concatenate([model.score(row[None]).score for row in rows])
    mixed = np.array(order * 8)[:size]
    assert model.score(rows[mixed]).score.tobytes() == alone[mixed].tobytes()


def test_onnxruntime_itself_gives_other_bytes_in_other_batches() -> None:
    """The reason for `CHUNK`: a logarithm alone, asked in batches of 1, of 16, of `CHUNK`, and all at once."""
    graph = helper.make_graph([helper.make_node("Log", ["X"], ["y"])], "log", [_float("X", 1)], [_float("y", 1)])
    opset = helper.make_opsetid("", 18)
    one_thread = ort.SessionOptions()
    one_thread.intra_op_num_threads = 1
    log_model = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    log = ort.InferenceSession(log_model, one_thread)
    x = np.exp(np.random.default_rng(0).normal(-9, 3, (128 * CHUNK, 1))).astype(np.float32)

    def logs(size: int) -> bytes:
        return np.concatenate([log.run(None, {"X": x[i : i + size]})[0] for i in range(0, len(x), size)]).tobytes()

    if logs(1) == logs(len(x)):
        pytest.skip("this processor's logarithm is the same in every batch")  # no vector units: no remainder
    assert logs(CHUNK) == logs(len(x)) == logs(16)


# What is refused.


def _load(content: bytes, digest: str | None = None) -> ServedModel:
    return ServedModel.load(content, spec_id=SPEC.spec_id, digest=digest, known_columns=SPEC.columns)


def _float(name: str, width: int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] if width is None else [None, width])


def _graph_model(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[str]) -> bytes:
    """A model with the right metadata and another graph."""
    graph = helper.make_graph(nodes, "other", inputs, [_float(name, 1) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(
        model, {prop.key: prop.value for prop in onnx.load_from_string(model_bytes()).metadata_props}
    )
    return bytes(model.SerializeToString())


def _without(name: str) -> bytes:
    model = onnx.load_from_string(model_bytes())
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != name}
    del model.metadata_props[:]
    helper.set_model_props(model, kept)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (a_pickle(), "no ONNX model"),
        (b"", "no ONNX model"),
        (model_bytes()[:-200], "no ONNX model|metadata_props lack"),
        (_without("train_end"), r"metadata_props lack \['train_end'\]"),
        (model_bytes(train_end="yesterday"), "metadata_props cannot be read"),
        (model_bytes(train_end="2010-01-09T00:00:00"), "must be UTC"),
        (
            model_bytes(train_end="9999-12-31T23:59:59Z"),
            r"must not be later than now, 2\d{3}-.*Z, was 9999-12-31T23:59:59Z",
        ),
        (model_bytes(horizon_s="3600"), "horizon_s must be 60, was 3600"),
        (model_bytes(horizon_s="9" * 40), "horizon_s must be 60, was 9{20}$"),
        (model_bytes(coverage="nan"), "coverage must be between 0 and 1, was nan"),
        (model_bytes(coverage="7"), "coverage must be between 0 and 1, was 7"),
        (model_bytes(variant="oracle"), r"variant must be one of \('baseline', 'ml'\), was 'oracle'"),
        (model_bytes(spec_id="0123456789ab"), f"rows of spec 0123456789ab, rows here are of spec {SPEC.spec_id}"),
        (model_bytes(columns="ret_std,ret_mean,n,ewma_variance_300"), "begin with"),
        (model_bytes(columns="n,ret_mean,ret_std,n", steps=CONTRACT_STEPS), "distinct"),
        (model_bytes(columns="n,ret_mean,ret_std,moon_phase", steps="[[]]"), r"wants columns \['moon_phase'\]"),
        (model_bytes(columns="n,ret_mean,ret_std"), r"steps need the columns \['ewma_variance_300'\], the model has"),
        (model_bytes(columns="n,ret_mean,ret_std", steps=CONTRACT_STEPS), r"must be X, float32, shape \(any, 5\)"),
        (model_bytes(steps='[["ewma_variance_300"]]'), "the last step must need no column, needed"),
        (model_bytes(steps="[]"), "the last step must need no column, needed nothing: no steps"),
        (model_bytes(steps="yes"), "metadata_props cannot be read"),
        (model_bytes(variance_floor="0"), "variance_floor must be above 0"),
        (model_bytes(variance_floor="nan"), "variance_floor must be above 0"),
        (model_bytes(tercile_bounds="0.0004,0.0002"), "tercile_bounds must rise"),
        (model_bytes(tercile_bounds="1,2,3"), "metadata_props cannot be read"),
        (model_bytes(steps="5"), "steps must be a list of lists of names, were 5"),
        (_without("priors"), r"metadata_props lack \['priors'\]"),
        (model_bytes(priors='{"BTC-USD": 1e-6}'), "priors must be an object with the key ''"),
        (model_bytes(priors='{"": 1e-6, "BTC-USD": 0}'), r"priors must be above 0 and below 1, were {'BTC-USD': 0.0}"),
        (model_bytes(baseline(prior=NAN)), "priors must be above 0 and below 1, were {'': nan}"),
        (model_bytes(baseline(shrinkage=NAN)), "asked about .* answers score"),
        (model_bytes(baseline(scale=NAN)), "asked about .* answers score nan"),
        (model_bytes(baseline(intervals=((1.1, 1.5), (0.2, 2), (0.1, 3)))), "must be finite, above 0 and inside"),
        (model_bytes(baseline(intervals=((0.5, 1.5), (0.2, 2), (0.1, NAN)))), r"in \[0.0001\d*, nan\]"),
        (
            _graph_model([helper.make_node("Identity", ["X"], ["score"])], [_float("X", 6)], ["score"]),
            r"output score must be float32 with one number a row",
        ),
    ],
)
def test_what_may_not_serve_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        _load(content)


def test_a_file_with_another_digest_is_refused() -> None:
    content = model_bytes()
    promised = hashlib.sha256(content).hexdigest()
    assert _load(content, digest=promised).digest == promised
    with pytest.raises(ModelRefused, match=f"the registry promised {promised}"):
        _load(model_bytes(coverage="0.95"), digest=promised)


def test_a_model_with_another_input_name_is_refused() -> None:
    nodes = [helper.make_node("Identity", ["rows"], ["score"])]
    with pytest.raises(ModelRefused, match="the input must be X"):
        _load(_graph_model(nodes, [_float("rows", 6)], ["score"]))
