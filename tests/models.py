"""Small models for tests, in the shape of served models, with parameters for computing by hand."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import pickle
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from functools import cache
from typing import NoReturn

import numpy as np

from data.features.spec import FeatureSpec
from data.models.registry import ModelFile, Registry
from data.names import AlreadyThere
from offline.lake.objects import Objects
from offline.leaks.verdicts import MODEL_SENTINELS, ROW_SENTINELS
from offline.models.baseline import ScaledEwma, Unconditional, Window
from offline.models.cascade import Cascade
from offline.promotion.inputs import GateInputs
from offline.promotion.ledger import Entry
from offline.promotion.moves import promote, roll_back
from offline.promotion.register import experiment_id

SPEC = FeatureSpec()

SENTINELS = (*ROW_SENTINELS, *MODEL_SENTINELS)
"""Names of all sentinels: a training has a verdict of each."""

INTERVALS = ((0.5, 1.5), (0.25, 2.0), (0.125, 3.0))


def baseline(
    column: str = "ewma_variance_300",
    scale: float = 4.0,
    prior: float = 1e-6,
    intervals: tuple[tuple[float, float], ...] = INTERVALS,
    shrinkage: float = 50.0,
) -> Cascade:
    """Return a model of three steps: an EWMA, the contract, the prior.

    By default: score = sqrt(4 * ewma); with the contract alone 100 * ret_std ** 2, half way (in log) to 1e-6 at n = 50.
    """
    window = Window(float(np.log(100.0)), 1.0, shrinkage, prior, 1e-9)
    steps = (ScaledEwma(column, scale), window, Unconditional())
    return Cascade("baseline", ("n", "ret_mean", "ret_std", column), steps, {"": prior}, 1e-10, intervals)


BASELINE = baseline()

METADATA = {"spec_id": SPEC.spec_id, "horizon_s": "60", "train_end": "2010-01-09T00:00:00Z", "coverage": "0.9"}

NAN = float("nan")


def model_bytes(model: Cascade = BASELINE, **metadata: str) -> bytes:
    """Return the model as a file; `metadata` replaces entries of the model's own metadata."""
    return model.to_onnx(METADATA | metadata)


def model_file(
    name: str = "volatility-baseline", version: str = "3", content: bytes | None = None, digest: str = ""
) -> ModelFile:
    """Return a model file as a registry gives it; without `digest`, the promised digest is right."""
    content = model_bytes() if content is None else content
    return ModelFile(name, version, digest or hashlib.sha256(content).hexdigest(), content)


def a_pickle() -> bytes:
    return pickle.dumps({"model": [1, 2, 3]})


def _nothing(*_: object) -> NoReturn:
    raise ValueError("there are no rows: what is promoted here is forced")


NO_ROWS = GateInputs(_nothing, _nothing)
"""Inputs of a gate that is not under test."""


def put_version(
    uri: str, name: str, content: bytes, digest: str | None = None, tags: Mapping[str, str] | None = None
) -> str:
    """Put a file into a real registry as a version, past `register`, in some 50 ms, and return the version's number.

    Args:
        digest: digest in the version's tag; the file's own unless given.
        tags: more tags, as of `Provenance`.
    """
    registry = Registry(uri)
    with contextlib.suppress(AlreadyThere):
        registry.call("POST", "registered-models/create", {"name": name}, dict)
    run = registry.call("POST", "runs/create", {"experiment_id": experiment_id(registry, name)}, dict)["run"]["info"]
    place = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    url = f"{uri}/api/2.0/mlflow-artifacts/artifacts/{place}/model.onnx"
    urllib.request.urlopen(urllib.request.Request(url, content, method="PUT"), timeout=10).close()
    tags = {"digest": digest or hashlib.sha256(content).hexdigest(), "spec_id": SPEC.spec_id, **(tags or {})}
    created = registry.call(
        "POST",
        "model-versions/create",
        {
            "name": name,
            "source": run["artifact_uri"],
            "run_id": run["run_id"],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        },
        dict,
    )
    return str(created["model_version"]["version"])


@cache
def locks() -> Objects:
    """Return a lake for the ledger's lock alone; processes that a test forks have the same lake."""
    folder = tempfile.mkdtemp(prefix="cryptovol-locks-")
    atexit.register(shutil.rmtree, folder, True)
    return Objects.open(folder)


def forced(registry: Registry, name: str, version: str, why: str = "a test of other parts than the gate") -> Entry:
    """Make a version champion, without a look at rows."""
    return promote(registry, name, version, objects=locks(), inputs=NO_ROWS, spec=SPEC, who="me", why=why, force=True)


def roll_back_here(
    registry: Registry, name: str, why: str = "back", spec: FeatureSpec = SPEC, objects: Objects | None = None
) -> Entry:
    """Restore the champion before; the lock is in `objects`, or in a lake of its own."""
    return roll_back(registry, name, objects=objects or locks(), spec=spec, who="me", why=why)
