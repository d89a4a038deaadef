"""A trained model that asks to be registered, and the type of a recipe that makes one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data.features.spec import FeatureSpec
from data.models.served import ServedModel
from data.trades import Floats

if TYPE_CHECKING:
    from offline.samples import Sample


@dataclass(frozen=True)
class Candidate:
    """A trained and tested model, ready to register.

    Attributes:
        name: of the registered model.
        model_bytes: the ONNX file.
        model: the loaded `model_bytes`.
        example: shape (2, k), two rows of input.
        params, metrics: for the MLflow run.
        weights: fitted numbers to show, see `offline.models.shape.shown_weights`.
        promises: quantiles of hourly figures of the test, see `offline.evaluation.promises`; empty without a test.
        reason: why the model is much better than the calibrated EWMA; empty if nobody gave a reason.
    """

    name: str
    model_bytes: bytes
    model: ServedModel
    example: Floats
    params: dict[str, Any]
    metrics: dict[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    promises: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


Recipe = Callable[["Sample", FeatureSpec, dt.datetime], Candidate]
"""Fit a model on the rows up to a time, and test the model on the later rows. The same rows give the same bytes."""
