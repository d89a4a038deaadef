"""Follow champions and challengers of both variants, and keep them loaded: the shadows of the model that serves."""

from __future__ import annotations

import math
import random
import threading
import time

import numpy as np
import structlog

from data.models.kept import load_kept
from data.models.registry import Registry, Version
from data.models.served import CHUNK, VARIANTS, ServedModel
from data.names import ModelRefused, RegistryError
from online.metrics import ForecasterMetrics
from online.model_watch import ModelVersion, load_model
from online.settings import ModelSettings

log = structlog.get_logger()

ALIASES = ("champion", "challenger")

POLL_S = 5.0
"""Time between two looks at the registry, give or take a fifth. A look is four requests, some 10 ms of Python's time,
and a shadow can wait."""
TIMEOUT_S = 2.0
STOP_S = 2.0
FIRST_LOOK_S = 1.0
"""Time that a start may wait for its shadows. A look takes some 0.1 s, while the kernels load; a shadow that missed a
row starts afresh."""

MAX_CHUNK_S = 0.001
"""Processor time that a shadow may need for a chunk of rows, the best of `TRIALS`: a tick waits for its shadows too."""
TRIALS = 5


class ShadowWatch:
    """Keep the models of both variants with the alias `champion` or `challenger` loaded.

    The model that serves is one of them, and is no shadow of itself: who scores leaves out a shadow with its digest. So
    a model that stops to serve, and keeps an alias, can go on as a shadow with the next row.

    A thread asks, fetches, checks and loads, and replaces `shadows` whole. A model that fails is left out, logged once,
    and counted; a refused file is not fetched again until the alias moves. While the registry is away all stays.

    Attributes:
        shadows: at most one of each digest; another tuple where a model has changed. Only the thread writes.
    """

    def __init__(self, settings: ModelSettings, metrics: ForecasterMetrics) -> None:
        self.shadows: tuple[ModelVersion, ...] = ()
        self._registry, self._folder = Registry(settings.mlflow_tracking_uri, TIMEOUT_S), settings.models_dir
        self._spec = settings.spec()
        self._failures, self._errors = metrics.shadow_failures, metrics.errors
        self._failed: dict[_Key, Exception] = {}  # the newest failure of each version with an alias
        self._has_looked, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_S)  # the thread may wait for the registry, and holds nothing to close

    def await_first_look(self) -> None:
        """Wait up to `FIRST_LOOK_S` until the registry was asked once, with or without an answer."""
        self._has_looked.wait(FIRST_LOOK_S)

    def look(self) -> None:
        """Ask the registry once, and load the models that it names.

        Raises:
            RegistryError: the registry does not answer; all stays.
        """
        asked = ((f"volatility-{variant}", alias) for variant in VARIANTS for alias in ALIASES)
        wanted = [found for name, alias in asked if (found := self._registry.aliased(name, alias)) is not None]
        known = {(each.name, each.version, each.model.digest): each for each in self.shadows}
        self._failed = {key: error for key, error in self._failed.items() if key in map(_key, wanted)}
        shadows: dict[str, ModelVersion] = {}  # by digest, in the order of `wanted`
        for each in wanted:
            if each.digest not in shadows and (model := known.get(_key(each)) or self._load(each)) is not None:
                shadows[each.digest] = model
        if tuple(shadows.values()) != self.shadows:
            self.shadows = tuple(shadows.values())
            log.info("shadows", models=[f"{each.name} {each.version}" for each in self.shadows])

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                self.look()
                told = ""
            except RegistryError as error:
                log.debug("shadows are not followed", reason=str(error))  # who serves logs that the registry is away
            except Exception as error:  # of any kind: a service that never looks again would be worse
                self._errors.labels("model_watch").inc()
                if repr(error) != told:
                    log.error("cannot follow shadows", exc_info=error)
                told = repr(error)
            self._has_looked.set()
            self._stop.wait(random.uniform(0.8, 1.2) * POLL_S)

    def _load(self, wanted: Version) -> ModelVersion | None:
        """Return a model, checked and warm; None, logged once and counted, if the model fails."""
        key = _key(wanted)
        known = self._failed.get(key)
        if isinstance(known, ModelRefused):
            return None
        count = self._failures.labels(wanted.name.removeprefix("volatility-"), wanted.version)
        try:
            file = load_kept(self._folder, wanted) or self._registry.fetch(wanted)
            model = load_model(file, self._spec)
            _check_speed(model)
        except (ModelRefused, RegistryError) as error:
            count.inc()
            if known is None:
                log.error("a shadow failed", name=wanted.name, version=wanted.version, reason=str(error))
            self._failed[key] = error
            return None
        return ModelVersion(model, wanted.name, wanted.version, "registry")


_Key = tuple[str, str, str]


def _key(version: Version) -> _Key:
    return version.name, version.version, version.digest


def _check_speed(model: ServedModel) -> None:
    """Score a chunk of rows some times.

    Raises:
        ModelRefused: the best time is above `MAX_CHUNK_S`.
    """
    rows = np.ones((CHUNK, len(model.columns)))
    took_s = math.inf
    for _ in range(TRIALS):
        began = time.thread_time()
        model.score(rows)
        took_s = min(took_s, time.thread_time() - began)
    if took_s > MAX_CHUNK_S:
        reason = f"{CHUNK} rows take {took_s * 1e3:.1f} ms, and a shadow may take {MAX_CHUNK_S * 1e3:g} ms"
        raise ModelRefused(reason, "answers")
