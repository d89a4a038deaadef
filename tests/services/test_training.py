"""The baseline: its fit, the same results from its graph, and registration of the whole model or nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.features.spec import CONTRACT, FeatureSpec
from data.models.registry import Registry
from data.models.served import ServedModel
from data.names import RegistryError, VersionNotFound
from data.times import NS, to_datetime
from data.trades import Floats, StreamKey, Trades
from data.truth.counting import counted_rows
from data.truth.losses import qlike, terciles_between
from offline.models.baseline import ScaledEwma, Unconditional, Window, fit
from offline.models.candidate import Candidate
from offline.models.cascade import Cascade, Rows, StepModel
from offline.models.crossfit import with_intervals
from offline.models.recipes import (
    fit_with_intervals,
    rows_of,
    simulated_rows,
    simulated_spans,
    split,
    train_baseline,
    train_end_of_simulated_days,
)
from offline.promotion.ledger import history
from offline.promotion.moves import promote
from offline.promotion.register import register, set_alias
from offline.samples import Sample, sample
from offline.training import main
from tests.models import NAN, SPEC, model_bytes, put_version

MLFLOW_WARNS = pytest.mark.filterwarnings("default")  # about its own code
COLUMNS = ("n", "ret_mean", "ret_std", "ewma_variance_60", "ewma_variance_300", "ewma_variance_1200")


def _trades(event_time_s: list[float], price: list[float]) -> Trades:
    n = len(price)
    return Trades(
        keys=(StreamKey("s", "BTC-USD"),),
        stream=np.zeros(n, np.int32),
        trade_id=np.arange(1, n + 1),
        event_time=(np.array(event_time_s) * NS).astype(np.int64),
        ingest_time=np.zeros(n, np.int64),
        price=np.array(price),
        size=np.ones(n),
        side=np.zeros(n, np.int8),
    )


TRAIN_END = train_end_of_simulated_days()


@pytest.fixture(scope="module")
def rows() -> Sample:
    """The first two hours of each simulated day."""
    return simulated_rows(SPEC, hours=(0, 2))


@pytest.fixture(scope="module")
def candidate(rows: Sample) -> Candidate:
    """Run the real training on the rows."""
    return train_baseline(rows, SPEC, TRAIN_END)


# Fitting


def _market(seed: int, count: int) -> Sample:
    """Return rows with a target known in law: variance 3 * ewma_variance_300, times noise of mean 1.

    The EWMAs of 60 and 1,200 s are off by noise of 1 in log, `ret_std` ** 2 by noise of .5.
    """
    rng = np.random.default_rng(seed)
    log_variance = rng.normal(-14, 1, count)
    noise = np.exp(rng.normal(-0.045, 0.3, count))  # mean 1
    values: Floats = np.full((count, len(SPEC.columns)), NAN)
    values[:, [SPEC.columns.index(name) for name in COLUMNS]] = np.column_stack(
        [
            np.full(count, 50.0),
            rng.normal(0, 1e-6, count),
            np.exp((log_variance + rng.normal(0, 0.5, count)) / 2 - 1),
            np.exp(log_variance + rng.normal(0, 1, count)),
            np.exp(log_variance) / 3,
            np.exp(log_variance + rng.normal(0, 1, count)),
        ]
    )
    event_time = (5 * np.arange(count) + 1) * NS
    targets = np.sqrt(np.exp(log_variance) * noise)
    return Sample(values, targets, event_time, int(event_time[-1]), np.full(count, "BTC-USD"))


def _fit(rows: Sample) -> Cascade:
    return fit(rows_of(rows, SPEC), SPEC)


def _step(model: Cascade, kind: type[StepModel]) -> Any:
    """Return the first step of a kind."""
    return next(step for step in model.steps if type(step) is kind)


def _asked(rows: Sample, *known: str) -> Rows:
    """Return the rows with some columns alone."""
    values = rows.values.copy()
    values[:, [i for i, name in enumerate(SPEC.columns) if name not in ("n", *known)]] = NAN
    values[:, 0] = values[:, 0] if known else 0
    return rows_of(replace(rows, values=values), SPEC)


def test_the_half_life_that_knows_the_variance_is_chosen_and_scaled_to_it() -> None:
    """Then come the longer one, the first minutes, and the shortest."""
    fitted = _fit(_market(1, 20_000))
    assert [step.needs[:1] for step in fitted.steps] == [
        ("ewma_variance_300",),
        ("ewma_variance_1200",),
        ("known_steps",),
        ("ewma_variance_60",),
        ("n",),
        (),
    ]
    assert fitted.columns == (*COLUMNS, "mean_variance", "known_steps")
    assert _step(fitted, ScaledEwma).scale == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_intervals_hold_their_score_where_volatility_changes_after_the_fit(factor: float) -> None:
    """Realized volatility is then some 4 times, or a quarter of, the score: nine tenths of the ratios are on one side.

    The rest of the noise, exp(+-0.25), cannot bring the ratios back.
    """
    rows = _market(8, 5_000)
    fitted = _fit(rows)
    changed = rows_of(replace(rows, targets=factor * rows.targets), SPEC)
    fitted = with_intervals(fitted, changed, lambda _: fitted, 300)
    low, high = fitted.intervals[0]
    assert (low == 1.0 and high > 4.0) if factor > 1 else (low < 0.3 and high == 1.0)
    values = rows.values[:, [SPEC.columns.index(name) for name in fitted.columns]]
    found = ServedModel.load(model_bytes(fitted), spec_id=SPEC.spec_id).score(values)
    assert ((found.lower <= found.score) & (found.score <= found.upper)).all()


def test_the_scale_is_where_qlike_is_smallest() -> None:
    rows = _market(2, 2_000)
    fitted = _fit(rows)
    scale, ewma = _step(fitted, ScaledEwma).scale, rows.values[:, SPEC.columns.index("ewma_variance_300")]

    def loss(scale: float) -> float:
        return float(np.mean(qlike(rows.targets**2, scale * ewma, fitted.floor)))

    assert loss(scale) < min(loss(scale * 1.01), loss(scale / 1.01))


def test_short_windows_of_noise_are_shrunk_more_than_windows_that_know() -> None:
    rows = _market(3, 5_000)
    rng = np.random.default_rng(4)
    short = rows.values.copy()
    short[:, 0], short[:, 3:] = 5, NAN
    noisy = short.copy()
    noisy[:, 2] *= np.exp(rng.normal(0, 3, len(noisy)))
    shrinkage = [
        _step(_fit(Sample.join([rows, replace(rows, values=values)])), Window).shrinkage for values in (short, noisy)
    ]
    assert shrinkage[0] == 0
    assert shrinkage[1] >= 16


def test_intervals_hold_nine_tenths_of_each_step() -> None:
    """On rows that came after the fit."""
    fitted, test = fit_with_intervals(_market(5, 10_000), SPEC, fit), _market(9, 10_000)
    widths = []
    for known in (COLUMNS, CONTRACT, ()):
        found = fitted.forecast(_asked(test, *known))
        assert np.mean((found.lower <= test.targets) & (test.targets <= found.upper)) == pytest.approx(0.9, abs=0.015)
        widths.append(float((found.upper / found.lower)[0]))
    assert widths == sorted(widths)  # who knows less is less sure


def test_a_market_that_never_moved_cannot_be_learned_from() -> None:
    rows = _market(6, 1_000)
    with pytest.raises(ValueError, match="the training median of variance must be above 0"):
        _fit(replace(rows, targets=np.zeros(len(rows))))


def test_windows_that_never_moved_leave_the_contract_to_the_prior() -> None:
    rows = _market(6, 1_000)
    rows.values[:, 2] = 0
    fitted = _fit(rows)
    assert not any(isinstance(step, Window) for step in fitted.steps)
    score = fitted.forecast(_asked(rows, *CONTRACT)).score
    assert score == pytest.approx(np.mean(rows.targets**2) ** 0.5)


def test_a_row_with_less_than_two_returns_may_train() -> None:
    """Sparse markets have such rows: an hour of history, and one return in the window."""
    rows = _market(6, 1_000)
    rows.values[::2, 0], rows.values[::2, 2] = 1, NAN
    rows.values[::4, 0], rows.values[::4, 1] = 0, NAN
    assert _step(_fit(rows), ScaledEwma).scale == pytest.approx(3, rel=0.05)


# The graph


@pytest.mark.parametrize("shrinkage", [0.0, 8.0])
def test_the_graph_computes_what_was_fitted(shrinkage: float) -> None:
    rows = _market(7, 2_000)
    fitted = fit_with_intervals(rows, SPEC, fit)
    steps = [replace(step, shrinkage=shrinkage) if isinstance(step, Window) else step for step in fitted.steps]
    fitted = replace(fitted, steps=tuple(steps))
    served = ServedModel.load(model_bytes(fitted), spec_id=SPEC.spec_id)
    rows.values[:, 0] = np.arange(2_000) % 49 + 2
    for known in (COLUMNS, CONTRACT, ()):
        asked = _asked(rows, *known)
        values = np.column_stack([asked.columns[name] for name in fitted.columns])
        found, expected = served.score(values, ["BTC-USD"] * 2_000), fitted.forecast(asked)
        for name in ("score", "lower", "upper"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-6)
    assert isinstance(fitted.steps[-1], Unconditional)


# Samples


def test_the_last_row_up_to_each_twelfth_of_a_horizon_counts() -> None:
    """Twelfths of 60 s end at 5, 10, 15 s; a row at 5.0 s still belongs to the first."""
    seconds = np.array([0.1, 4.9, 5.0, 5.1, 9.0, 14.0])
    assert counted_rows((seconds * NS).astype(np.int64), FeatureSpec()).tolist() == [2, 4, 5]


def test_a_short_window_has_the_deviation_of_its_last_returns() -> None:
    """A trade a second, up 1 %, down 1 %, ...: any 2 returns have mean 0 and deviation sqrt(2) * ln 1.01."""
    trades = _trades([float(i) for i in range(400)], [100.0 * 1.01 ** (i % 2) for i in range(400)])
    made = sample(trades, SPEC, short_windows=(2,))
    short = made.values[made.values[:, 0] == 2][1:]  # the first such row is one of the stream's own
    assert len(short) > 60
    np.testing.assert_allclose(short[:, 1], 0, atol=1e-15)
    np.testing.assert_allclose(short[:, 2], np.sqrt(2) * np.log(1.01), rtol=1e-12)
    assert np.isnan(short[:, 3:]).all()
    np.testing.assert_allclose(made.targets, np.sqrt(60) * np.log(1.01), rtol=1e-12)


# The whole


def test_the_same_rows_give_the_same_digest_and_others_another(rows: Sample, candidate: Candidate) -> None:
    assert train_baseline(rows, SPEC, TRAIN_END).model.digest == candidate.model.digest
    sooner = TRAIN_END - dt.timedelta(days=1)
    assert train_baseline(rows, SPEC, sooner).model.digest != candidate.model.digest


def test_training_says_when_it_ended_and_is_tested_after_it(rows: Sample, candidate: Candidate) -> None:
    assert candidate.model.train_end.isoformat() == "2010-01-09T00:00:00+00:00"
    assert candidate.params["to"] < "2010-01-09"
    first = to_datetime(int(split(rows, TRAIN_END, SPEC).test.event_time.min()))
    assert "2010-01-09T00:01:00" < first.isoformat() < "2010-01-09T00:02:00"
    assert candidate.metrics["test_horizons"] > 100
    assert candidate.metrics["qlike"] < candidate.metrics["qlike_unconditional"]
    assert candidate.metrics["qlike_contract"] < candidate.metrics["qlike_unconditional"]


def test_the_file_states_floor_and_tercile_bounds_of_the_training_rows(rows: Sample, candidate: Candidate) -> None:
    training, model = split(rows, TRAIN_END, SPEC).training, candidate.model
    assert model.variance_floor == 0.01 * float(np.median(training.targets**2))
    assert model.reference is not None
    assert model.tercile_bounds is not None
    ewma = training.values[:, SPEC.columns.index(model.reference)]
    shares = np.bincount(terciles_between(model.tercile_bounds, np.sqrt(ewma[ewma > 0]))) / np.sum(ewma > 0)
    np.testing.assert_allclose(shares, 1 / 3, atol=1e-3)


def test_no_target_reaches_from_one_part_of_a_split_into_a_row_of_the_next() -> None:
    """Rows at 0.5, 10.5, 20.5, ... s for an hour, 60 s ahead; training ends at 1800 s. A row at 1739.5 sees 1800."""
    event_time = (np.arange(0.5, 3_600, 10) * NS).astype(np.int64)
    rows = Sample(np.zeros((360, len(SPEC.columns))), np.ones(360), event_time, 3_600 * NS, np.full(360, "BTC-USD"))
    parts = split(rows, dt.datetime.fromtimestamp(1_800, dt.UTC), SPEC)
    seconds = [part.event_time / NS for part in parts]
    assert seconds[0].max() == 1_730.5  # its target ends at 1731 + 60; that of the next row at 1801
    assert seconds[1].min() == 1_860.5  # a horizon after the end
    assert np.ceil(seconds[0].max()) + 60 <= seconds[1].min()


def test_a_train_end_that_leaves_nothing_to_test_is_refused(rows: Sample) -> None:
    with pytest.raises(ValueError, match="0 begin a horizon later: training needs both; choose another train_end"):
        train_baseline(rows, SPEC, TRAIN_END + dt.timedelta(days=2))


# The registry


def _named(candidate: Candidate, name: str) -> Candidate:
    return replace(candidate, name=name)


@MLFLOW_WARNS
def test_a_registered_model_is_challenger_and_its_digest_is_that_of_the_served_file(
    candidate: Candidate, mlflow_uri: str
) -> None:
    name = "training-challenger"
    assert register(Registry(mlflow_uri), _named(candidate, name)) == "1"
    promises = {"promised_qlike_95": 0.3125, "promised_coverage_05": 0.84}
    assert register(Registry(mlflow_uri), replace(_named(candidate, name), promises=promises)) == "2"
    assert Registry(mlflow_uri).champion(name) is None
    version = Registry(mlflow_uri).version(name, "challenger")
    assert version.version == "2"

    import mlflow

    client = mlflow.MlflowClient(mlflow_uri)
    uri = client.get_model_version_download_uri(name, "2").removeprefix("mlflow-artifacts:")
    with urllib.request.urlopen(f"{mlflow_uri}/api/2.0/mlflow-artifacts/artifacts{uri}/model.onnx") as answer:
        served = answer.read()
    assert hashlib.sha256(served).hexdigest() == version.tags["digest"] == candidate.model.digest
    assert served == candidate.model_bytes
    assert version.tags["train_end"] == "2010-01-09T00:00:00Z"
    assert float(version.tags["metric.qlike"]) == pytest.approx(candidate.metrics["qlike"], rel=1e-5)
    assert (version.tags["promised_qlike_95"], version.tags["promised_coverage_05"]) == ("0.3125", "0.84")
    assert version.tags["run_id"] == version.run_id
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["qlike"] == pytest.approx(candidate.metrics["qlike"])
    signature = mlflow.models.get_model_info(f"models:/{name}@challenger").signature
    assert (signature.inputs.input_names(), signature.outputs.input_names()) == (["X"], ["score", "lower", "upper"])


@MLFLOW_WARNS
def test_the_models_run_is_nested_in_the_run_that_is_active(candidate: Candidate, mlflow_uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(mlflow_uri)
    mlflow.set_experiment("training-outer")
    with mlflow.start_run() as outer:
        register(Registry(mlflow_uri), _named(candidate, "training-nested"))
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == outer.info.run_id
    run_id = Registry(mlflow_uri).version("training-nested", "challenger").run_id
    run = mlflow.MlflowClient(mlflow_uri).get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert run.info.experiment_id == outer.info.experiment_id


@MLFLOW_WARNS
def test_a_model_that_cannot_be_read_back_leaves_no_version(candidate: Candidate, mlflow_uri: str) -> None:
    name = "training-unreadable"
    other = ServedModel.load(model_bytes(), spec_id=SPEC.spec_id)
    with pytest.raises(RegistryError, match="is not registered"):
        register(Registry(mlflow_uri), replace(_named(candidate, name), model=other))
    with pytest.raises(VersionNotFound):
        Registry(mlflow_uri).version(name, "challenger")

    import mlflow

    assert mlflow.MlflowClient(mlflow_uri).search_model_versions(f"name = '{name}'") == []


class Dying:
    """Proxy of MLflow that dies on a request with `dies_of` in the path; then the address is silent."""

    def __init__(self, uri: str, dies_of: str) -> None:
        proxy = self
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy.asked.append(self.path)
                if any(dies_of in path for path in proxy.asked):
                    self.close_connection = True
                    self.connection.close()
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {key: self.headers[key] for key in ("Content-Type",) if key in self.headers}
                request = urllib.request.Request(uri + self.path, body or None, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        status, said = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    status, said = error.code, error.read()
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - the names that it looks for

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ValueError, OSError):  # of the connection that was closed
                    super().handle()

            def finish(self) -> None:
                with contextlib.suppress(ValueError, OSError):
                    super().finish()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@MLFLOW_WARNS
@pytest.mark.parametrize(
    "dies_of",
    ["runs/create", "runs/log-batch", "mlflow-artifacts/artifacts", "model-versions/create", "registered-models/alias"],
)
def test_an_mlflow_that_dies_while_a_model_is_registered_keeps_no_half_of_it(
    candidate: Candidate, mlflow_uri: str, dies_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is reported in seconds, the aliases stay, and a version made before the failure is whole."""
    import mlflow

    name = f"training-dying-{dies_of.replace('/', '-')}"
    put_version(mlflow_uri, name, candidate.model_bytes)
    set_alias(Registry(mlflow_uri), name, "challenger", "1")
    set_alias(Registry(mlflow_uri), name, "champion", "1")
    dying = Dying(mlflow_uri, dies_of)
    began = time.monotonic()
    try:
        with pytest.raises(RegistryError, match=r"MLflow .*(start it|train again)"):
            register(Registry(dying.uri), _named(candidate, name))
    finally:
        dying.close()
        mlflow.set_tracking_uri(mlflow_uri)
    assert time.monotonic() - began < 30
    assert mlflow.active_run() is None
    monkeypatch.undo()
    versions = mlflow.MlflowClient(mlflow_uri).search_model_versions(f"name = '{name}'")
    for version in versions:
        content = Registry(mlflow_uri).download(name, str(version.version))
        assert hashlib.sha256(content).hexdigest() == version.tags["digest"] == candidate.model.digest
    assert len(versions) == (2 if dies_of == "registered-models/alias" else 1)
    assert Registry(mlflow_uri).version(name, "challenger").version == "1"
    assert Registry(mlflow_uri).version(name, "champion").version == "1"


@MLFLOW_WARNS
def test_the_first_baseline_goes_through_the_gate_into_the_ledger(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five hours of each day: 299 horizons of test."""
    name = "training-first"
    monkeypatch.setenv("LAKE_URI", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    monkeypatch.setattr("offline.training.BASELINE", name)
    monkeypatch.setattr("offline.models.recipes.BASELINE", name)
    monkeypatch.setattr("offline.training.promote", partial(promote, baseline=name))
    monkeypatch.setattr("offline.training.simulated_rows", partial(simulated_rows, hours=(8, 13)))
    monkeypatch.setattr("offline.training.simulated_spans", partial(simulated_spans, hours=(8, 12)))
    main(["--if-missing"])
    assert f"{name} version 1 is champion: QLIKE " in capsys.readouterr().out
    (entry,) = history(Registry(mlflow_uri), name)
    champion = Registry(mlflow_uri).champion(name)
    assert champion is not None
    assert (entry.action, entry.from_version, entry.to_version, entry.state) == ("promote", None, "1", "done")
    assert (entry.digest, entry.who) == (champion.tags["digest"], "offline.training")
    assert entry.evidence["compared_with"] == "the calibrated EWMA"
    assert entry.evidence["qlike_ratio"] <= 1.02
    assert entry.evidence["condition refit"].startswith("the same digest")
    promises = {name: float(value) for name, value in champion.tags.items() if name.startswith("promised_")}
    assert set(promises) == {f"promised_{of}_{at}" for of in ("qlike", "coverage") for at in ("05", "50", "95")}
    for of in ("qlike", "coverage"):
        low, middle, high = (promises[f"promised_{of}_{at}"] for at in ("05", "50", "95"))
        assert 0 < low < middle < high
    monkeypatch.setattr("offline.training.simulated_rows", None)
    main(["--if-missing"])
    assert f"{name} version 1 is champion already: nothing to do" in capsys.readouterr().out


def test_an_mlflow_that_is_away_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit, match=f"MLflow does not answer at {uri} .*: start it, or set MLFLOW_TRACKING_URI"):
        main([])
