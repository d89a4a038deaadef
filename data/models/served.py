"""Load a served model: ONNX bytes in, checked once; scores out. All processes that score use this loader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from data.features.spec import CONTRACT, FeatureSpec
from data.models.contents import check_contents
from data.models.input_sets import Steps, with_less_input
from data.names import ModelRefused
from data.times import second_text
from data.trades import Floats

OUTPUTS = ("score", "lower", "upper")

VARIANTS = ("baseline", "ml")

BASELINE, ML = (f"volatility-{variant}" for variant in VARIANTS)
"""Names of the registered models."""

METADATA = ("variant", "columns", "steps", "priors", "spec_id", "horizon_s", "train_end", "coverage")
"""Metadata that an ONNX file must have, as text: `columns` joined by commas, `steps` and `priors` as JSON, `train_end`
as RFC 3339 in UTC. Files of earlier releases lack `variance_floor`, a number, and `tercile_bounds`, two numbers joined
by a comma. See `ServedModel`."""

ALL_PRODUCTS = ""
"""Key of the prior for a product that training did not see, and for a row without a product."""

ADDED = ("prior", "step")
"""Inputs of the graph after the model's columns: the prior variance, and the index of the step that answers."""

CHUNK = 128
"""Rows of each run of the graph, the last rows padded, so that a score has the same bytes in any batch.

Padding 1 row to 2 is not enough. Measured with onnxruntime 1.32 on AVX-512, one thread: Log computes 16 values at a
time and the remainder by other code, which gives other last bits for 17 % of values. 1.2 million rows at random
offsets, in batches of 1 to 1,100, against one run over all: 495 rows in 385 batch sizes differed (2, 3, 6, 7, 10, 11,
14, 23, ...), in no multiple of 16; Exp, Sqrt, Tanh, Sigmoid, Erf, Pow, MatMul, Gemm and ReduceSum differed nowhere.
Through chunks of 128 rows no operator differed, at no index in a chunk and at no alignment of the input. With several
threads onnxruntime splits a batch at any row, and Log differs again: hence one thread. A fixed size also avoids kernels
that are chosen by batch size. One row costs 50 us, each of many rows 0.3 us; chunks of 64 double the 0.3 us, chunks of
256 halve the 0.3 us.
"""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Scores:
    """Forecasts for n rows.

    Attributes:
        score: shape (n,), above 0: volatility per horizon, not annualized.
        lower, upper: shape (n,): the interval, lower <= score <= upper.
        missing: shape (n, k), True where a column of the model has no part in the answer, see
            `data.models.input_sets.Answered`.
    """

    score: Floats
    lower: Floats
    upper: Floats
    missing: NDArray[np.bool_]

    def are_usable(self) -> NDArray[np.bool_]:
        """Return for each row whether the score is finite, above 0 and inside an interval with no end below 0."""
        inside = (self.lower >= 0) & (self.lower <= self.score) & (self.score <= self.upper)
        return inside & (self.score > 0) & np.isfinite(self.upper)

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Return the scores of all parts."""
        columns = zip(*((part.score, part.lower, part.upper, part.missing) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def take(self, rows: slice | NDArray[np.intp]) -> Self:
        """Return the scores of some rows."""
        return type(self)(self.score[rows], self.lower[rows], self.upper[rows], self.missing[rows])


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A checked and warm model. Build a model with `load`; `score` may be called from several threads.

    Attributes:
        variant: `baseline` or `ml`.
        columns: names of the k input columns in order, `CONTRACT` first.
        steps: which columns answer a row, see `Steps`.
        priors: mean variance per horizon that training saw, by product, and of `ALL_PRODUCTS`: the level of the first
            minutes, and the forecast without a return.
        spec_id: id of the feature spec whose rows the model was trained on.
        horizon_s: how far ahead the model forecasts, seconds.
        train_end: newest time of the training data, UTC: rows up to `train_end` are in-sample.
        coverage: nominal share of targets inside the interval.
        digest: SHA-256 of the file, hex.
        variance_floor: smaller realized variances count as this in QLIKE, from training; None if the file states none.
        tercile_bounds: the volatilities between the terciles of the training rows, by the square root of `reference`;
            None if the file states none.
    """

    variant: str
    columns: tuple[str, ...]
    steps: Steps
    priors: dict[str, float]
    spec_id: str
    horizon_s: int
    train_end: datetime
    coverage: float
    digest: str
    _session: ort.InferenceSession
    variance_floor: float | None = None
    tercile_bounds: tuple[float, float] | None = None

    @property
    def reference(self) -> str | None:
        """Return the column of the calibrated EWMA, whose square root tells calm rows from wild ones; None without one.

        The scaled EWMAs are the only steps with one column, and the calibrated one comes first.
        """
        return next((step[0] for step in self.steps.steps if len(step) == 1), None)

    @classmethod
    def load(
        cls,
        model_bytes: bytes,
        *,
        spec_id: str,
        digest: str | None = None,
        known_columns: Collection[str] | None = None,
    ) -> Self:
        """Check the bytes of an ONNX file, load and warm the model.

        Args:
            spec_id: the spec of the rows that will be scored.
            digest: the SHA-256 that the registry promised; None: any digest.
            known_columns: all columns that rows of the spec have; None: not checked.

        Raises:
            ModelRefused: wrong digest, not ONNX, values in other files, foreign operators, metadata missing, unreadable
                or impossible, another spec, unknown columns, other inputs or outputs, or an answer that is not usable,
                see `Scores.are_usable`.
        """
        found = hashlib.sha256(model_bytes).hexdigest()
        if digest is not None and digest != found:
            raise ModelRefused(f"the file's SHA-256 is {found}, the registry promised {digest}", "digest")
        check_contents(model_bytes)
        session = _open(model_bytes)
        metadata = _metadata(session)
        model = cls(**metadata, digest=found, _session=session)
        if model.spec_id != spec_id:
            raise ModelRefused(
                f"the model was trained on rows of spec {model.spec_id}, rows here are of spec {spec_id}: train again, "
                "with `python -m offline.training` or the job `retrain`",
                "spec",
            )
        if model.columns[: len(CONTRACT)] != CONTRACT or len(set(model.columns)) < len(model.columns):
            reason = f"columns must be distinct and begin with {CONTRACT}, were {model.columns}"
            raise ModelRefused(reason, "columns")
        if known_columns is not None and not set(model.columns) <= set(known_columns):
            unknown = sorted(set(model.columns) - set(known_columns))
            raise ModelRefused(
                f"the model wants columns {unknown}, rows of spec {spec_id} have {sorted(known_columns)}", "columns"
            )
        _check_signature(session, len(model.columns))
        model._warm()
        return model

    def score(self, values: Floats, product_ids: Sequence[str] | None = None) -> Scores:
        """Return the forecasts for rows of features; a row's answer has the same bytes in any batch.

        Each row is answered by the first of the model's steps whose columns have values; each step has its own
        interval. Any finite value is allowed: the graph limits its inputs.

        Args:
            values: shape (n, k), the model's `columns` in order, NaN where a value is missing.
            product_ids: n, of each row; None: rows without a product.

        Raises:
            ValueError: another shape, or an infinite value.
        """
        if values.ndim != 2 or values.shape[1] != len(self.columns):
            raise ValueError(f"values must have shape (n, {len(self.columns)}) for {self.columns}, had {values.shape}")
        if np.isinf(values).any():
            row, column = np.argwhere(np.isinf(values))[0]
            what = f"row {row}: {self.columns[column]}"
            raise ValueError(f"{what} must be finite, or NaN where missing, was infinite")
        rows, k = values.shape
        step, missing = self.steps.answered(values)
        padded = np.ones((-(-rows // CHUNK) * CHUNK, k + len(ADDED)), np.float32)
        np.minimum(np.maximum(values, -_FLOAT32_MAX), _FLOAT32_MAX, out=padded[:rows, :k], casting="same_kind")
        padded[:rows, k] = self._prior(product_ids)
        padded[:rows, k + 1] = step
        answers = np.empty((len(OUTPUTS), len(padded)))
        for start in range(0, len(padded), CHUNK):
            outputs = self._session.run(OUTPUTS, {"X": padded[start : start + CHUNK]})
            for answer, output in zip(answers, outputs, strict=True):
                answer[start : start + CHUNK] = output.reshape(CHUNK)
        score, lower, upper = answers[:, :rows]
        return Scores(score, lower, upper, missing)

    def _prior(self, product_ids: Sequence[str] | None) -> float | list[float]:
        """Return the prior of each row, or one prior for all rows."""
        usual = self.priors[ALL_PRODUCTS]
        return usual if product_ids is None else [self.priors.get(name, usual) for name in product_ids]

    def _warm(self) -> None:
        """Score known rows of each step, from 0 to more than float32 holds, and check the scores.

        Raises:
            ModelRefused: the model raises an error, or a score is not usable.
        """
        rows = np.repeat([[0.0], [1e-30], [1e-8], [1e-3], [1.0], [1e3], [1e300]], len(self.columns), axis=1)
        rows[:, 0] = 50
        parts = list(with_less_input(rows))
        for step in self.steps.steps:
            unused = [i for i, name in enumerate(self.columns) if name not in (*CONTRACT, *step)]
            parts.append(rows.copy())
            parts[-1][:, unused] = np.nan
        rows = np.concatenate(parts)
        try:
            found = self.score(rows)
        except Exception as error:  # onnxruntime raises unrelated classes, one for each of its status codes
            raise ModelRefused(f"the model does not answer: {error}", "answers") from error
        usable = found.are_usable()
        if not usable.all():
            i = int(np.argmin(usable))
            raise ModelRefused(
                f"asked about {dict(zip(self.columns, rows[i].tolist(), strict=True))} the model answers score "
                f"{found.score[i]} in [{found.lower[i]}, {found.upper[i]}]; a score must be finite, above 0 and inside",
                "answers",
            )


def _open(model_bytes: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # see CHUNK
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # onnxruntime also raises what onnxruntime would print
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not its own format, which nobody looks into
    try:
        return ort.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises unrelated classes, one for each of its status codes
        start = model_bytes[:8].hex(" ")
        reason = f"{len(model_bytes)} bytes that begin with {start!r} are no ONNX model: {error}"
        raise ModelRefused(reason, "format") from error


def _metadata(session: ort.InferenceSession) -> dict[str, Any]:
    metadata = session.get_modelmeta().custom_metadata_map
    absent = [name for name in METADATA if not metadata.get(name)]
    if absent:
        raise ModelRefused(f"metadata_props lack {absent}, a model must state {list(METADATA)}", "metadata")
    try:
        train_end = datetime.fromisoformat(metadata["train_end"])
        offset = train_end.utcoffset()
        if offset is None or offset.total_seconds() != 0:
            raise ValueError(f"train_end must be UTC and end in Z, was {metadata['train_end']!r}")
        now = datetime.now(UTC)
        if train_end > now:
            raise ValueError(f"train_end must not be later than now, {second_text(now)}, was {metadata['train_end']}")
        horizon_s, coverage = int(metadata["horizon_s"]), float(metadata["coverage"])
        if horizon_s != FeatureSpec.horizon_s:
            raise ValueError(f"horizon_s must be {FeatureSpec.horizon_s}, was {metadata['horizon_s'][:20]}")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1, was {metadata['coverage']}")
        if metadata["variant"] not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, was {metadata['variant']!r}")
        columns = tuple(metadata["columns"].split(","))
        return {
            "variant": metadata["variant"],
            "columns": columns,
            "steps": Steps(columns, _steps(json.loads(metadata["steps"]))),
            "priors": _priors(json.loads(metadata["priors"])),
            "spec_id": metadata["spec_id"],
            "horizon_s": horizon_s,
            "train_end": train_end,
            "coverage": coverage,
            "variance_floor": _floor(metadata.get("variance_floor")),
            "tercile_bounds": _bounds(metadata.get("tercile_bounds")),
        }
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # of any JSON
        raise ModelRefused(f"metadata_props cannot be read: {error}", "metadata") from error


def _floor(text: str | None) -> float | None:
    """Return the variance floor of a file, None if the file states none.

    Raises:
        ValueError: the floor is not between 0 and 1.
    """
    floor = float(text) if text else None
    if floor is not None and not 0 < floor < 1:
        raise ValueError(f"variance_floor must be above 0 and below 1, was {floor}")
    return floor


def _bounds(text: str | None) -> tuple[float, float] | None:
    """Return the tercile bounds of a file, None if the file states none.

    Raises:
        ValueError: not two rising numbers above 0.
    """
    if not text:
        return None
    low, high = (float(each) for each in text.split(","))
    if not 0 < low <= high:
        raise ValueError(f"tercile_bounds must rise and be above 0, were {text}")
    return low, high


def _steps(found: Any) -> list[tuple[str, ...]]:
    """Return the steps of a file.

    Raises:
        ValueError: no list of lists of names.
    """
    if not isinstance(found, list) or not all(isinstance(step, list) for step in found):
        raise ValueError(f"steps must be a list of lists of names, were {str(found)[:80]}")
    return [tuple(str(name) for name in step) for step in found]


def _priors(found: Any) -> dict[str, float]:
    """Return the priors of a file.

    Raises:
        ValueError: no prior for all products, or a prior that is not above 0.
    """
    if not isinstance(found, dict) or ALL_PRODUCTS not in found:
        raise ValueError(f"priors must be an object with the key {ALL_PRODUCTS!r}, were {str(found)[:80]}")
    priors = {name: float(value) for name, value in found.items()}
    bad = {name: value for name, value in priors.items() if not 0 < value < 1}
    if bad:
        raise ValueError(f"priors must be above 0 and below 1, were {bad}")
    return priors


def _check_signature(session: ort.InferenceSession, k: int) -> None:
    """Check inputs and outputs: one input `X` of float32 (any number of rows, k and `ADDED`); three float32 outputs,
    one number a row.
    """
    k += len(ADDED)
    inputs = [(node.name, node.type, node.shape[1:]) for node in session.get_inputs()]
    if inputs != [("X", "tensor(float)", [k])] or isinstance(session.get_inputs()[0].shape[0], int):
        raise ModelRefused(f"the input must be X, float32, shape (any, {k}), was {inputs}", "signature")
    outputs = {node.name: (node.type, node.shape[1:]) for node in session.get_outputs()}
    for name in OUTPUTS:
        kind, width = outputs.get(name, ("absent", []))
        if kind != "tensor(float)" or width not in ([], [1]):
            raise ModelRefused(f"output {name} must be float32 with one number a row, was {kind} {width}", "signature")
