"""Follow the alias `champion`: load its model while the old model answers, then replace the old model."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import structlog

from data.features.spec import FeatureSpec
from data.models.kept import forget_last_good, load_kept, load_last_good, save_last_good
from data.models.registry import ModelFile, Registry, Version
from data.models.served import BASELINE, ServedModel
from data.names import ModelRefused, RefusalKind, RegistryError
from data.times import NS, to_ns
from online.metrics import ServingMetrics
from online.settings import ModelSettings

log = structlog.get_logger()

POLL_S = 0.25
"""Time between two requests to the registry, give or take a fifth: a promotion is seen within 1 s, of which fetching
and loading take some 0.05 s."""
RETRY_S = 1.0
"""Time to the next request after a failed fetch, or an error of ours."""
ASK_TIMEOUT_S = 0.5
"""Timeout of a request, which the registry answers in some 10 ms: a lost answer must not cost a second."""
TIMEOUT_S = 2.0
"""Timeout of a file, and of a request while no model serves."""
AWAY_S = 3.0
"""Silence after which the registry is logged as away: a busy registry may miss a request."""
STOP_S = 2.0
LOOK_AROUND_S = 0.2


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Hold a model that may serve, checked and warm.

    Attributes:
        name, version: of the registered model.
        origin: `registry`: the registry named this version; `disk`: the registry gave no model, and the last good model
            on disk serves.
    """

    model: ServedModel
    name: str
    version: str
    origin: Literal["registry", "disk"]


class ModelRefusal(NamedTuple):
    """Tell why a champion does not serve.

    Attributes:
        kind: the reason in one word; only `unfetched` is retried.
        reason: the reason in a sentence.
    """

    wanted: Version
    kind: RefusalKind | Literal["unfetched"]
    reason: str


def load_model(file: ModelFile, spec: FeatureSpec) -> ServedModel:
    """Return the model of a file, checked and warm, for rows of a spec.

    Raises:
        ModelRefused: see `ServedModel.load`.
    """
    return ServedModel.load(file.model_bytes, spec_id=spec.spec_id, digest=file.digest, known_columns=spec.columns)


class ModelWatch:
    """Keep the champion of the registry serving: of the variant, else of the baseline.

    A thread asks, fetches, checks, loads, keeps the file as the last good model, and only then replaces `served`,
    whole: a request in progress goes on with the old model. A refused model is logged once; the old model keeps
    serving. While the registry is away the old model serves, and a start takes the last good model from disk.

    Args:
        prepare: called in the thread with a new model, before the model serves.

    Attributes:
        served: the model that serves, None before the first model. Only the thread writes; readers need no lock.
    """

    def __init__(
        self, settings: ModelSettings, metrics: ServingMetrics, prepare: Callable[[ModelVersion], None] = lambda _: None
    ) -> None:
        self.served: ModelVersion | None = None
        self._registry, self._folder = Registry(settings.mlflow_tracking_uri, TIMEOUT_S), settings.models_dir
        self._spec = settings.spec()
        self._names = tuple(dict.fromkeys((f"volatility-{settings.model_variant}", BASELINE)))
        self._prepare = prepare
        self._refusals: dict[str, ModelRefusal] = {}  # by name; replaced whole
        self._heard_at = math.nan
        self._silent_since: float | None = None
        self._is_away = False
        self._told = ""
        self._has_model, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._metrics = metrics
        metrics.registry_age.set_function(lambda: time.monotonic() - self._heard_at)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_S)  # the thread may wait for the registry, and holds nothing to close

    def await_model(self, running: Callable[[], bool]) -> ModelVersion | None:
        """Return the first model as soon as a model serves, or None if `running` turns false before."""
        while running():
            if self._has_model.wait(LOOK_AROUND_S):
                return self.served
        return None

    def refused(self) -> list[dict[str, str]]:
        """Return name, version, kind and reason of each refused champion."""
        return [
            {"name": found.wanted.name, "version": found.wanted.version, "kind": found.kind, "reason": found.reason}
            for found in self._refusals.values()
        ]

    def look(self) -> bool:
        """Ask the registry once, and follow its champion; return whether the registry answered.

        Without an answer the old model keeps serving; without an old model, the last good model on disk serves.
        """
        reasons: list[str] = []
        gone: list[str] = []
        answers = True
        for name in self._names:
            if answers:
                try:
                    if self._follow(name, gone, reasons):
                        self._told = ""
                        return True
                    self._note_refusal(name, None)
                    gone.append(name)
                    reasons.append(f"{name} has no champion at {self._registry.uri}")
                    continue
                except ModelRefused as error:
                    reasons.append(f"{name} from the registry is refused: {error}")
                except RegistryError as error:
                    reasons.append(str(error))
                    answers = False
            if self.served is not None:
                if self.served.name == name or not answers:
                    return answers
            elif self._take_last_good(name, reasons):
                return answers
        told = "; ".join(reasons)
        if told != self._told:
            self._told = told
            if self.served is None:
                log.warning("no model yet", reason=f"{told}. `python -m offline.training` registers a first model")
            else:
                log.warning("no champion to follow; what serves goes on", reason=told)
        return answers

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            pause_s = POLL_S
            try:
                self.look()
            except Exception as error:  # of any kind: a service that never looks again would be worse
                self._metrics.errors.labels("model_watch").inc()
                if repr(error) != told:
                    log.error("cannot take over a model; what serves goes on", exc_info=error)
                told, pause_s = repr(error), RETRY_S
            if any(refusal.kind == "unfetched" for refusal in self._refusals.values()):
                pause_s = RETRY_S
            self._stop.wait(random.uniform(0.8, 1.2) * pause_s)

    def _follow(self, name: str, gone: Sequence[str], reasons: Sequence[str]) -> bool:
        """Let the champion of a name serve, and return whether the registry has a champion.

        Args:
            gone: names without a champion, whose models need not stay on disk.

        Raises:
            ModelRefused: the champion may not serve.
            RegistryError: the registry does not answer, or does not give the file now.
        """
        wanted = self._ask(name)
        if wanted is None:
            return False
        served = self.served
        wanted_names = (wanted.name, wanted.version, wanted.digest)
        if served is not None and wanted_names == (served.name, served.version, served.model.digest):
            self._note_refusal(name, None)
            return True
        known = self._refusals.get(name)
        if known is not None and known.wanted == wanted and known.kind != "unfetched":
            raise ModelRefused(known.reason, known.kind)
        try:
            file = load_kept(self._folder, wanted) or self._registry.fetch(wanted)
            model = load_model(file, self._spec)
        except ModelRefused as error:
            self._note_refusal(name, ModelRefusal(wanted, error.kind, str(error)))
            raise
        except RegistryError as error:
            self._note_refusal(name, ModelRefusal(wanted, "unfetched", str(error)))
            raise
        self._note_refusal(name, None)
        try:
            save_last_good(self._folder, file)
            for other in gone:
                forget_last_good(self._folder, other)
        except OSError as error:
            log.warning("a model serves, but cannot be kept", name=name, version=wanted.version, reason=str(error))
        self._take(file, model, "registry", reasons)
        return True

    def _ask(self, name: str) -> Version | None:
        try:
            found = self._registry.champion(name, TIMEOUT_S if self.served is None else ASK_TIMEOUT_S)
        except RegistryError as error:
            self._silent_since = self._silent_since or time.monotonic()
            if not self._is_away and time.monotonic() >= self._silent_since + AWAY_S:
                self._is_away = True
                log.warning("the registry is away", reason=str(error))
            raise
        if self._is_away:
            log.info("the registry is back")
        self._heard_at, self._silent_since, self._is_away = time.monotonic(), None, False
        return found

    def _take_last_good(self, name: str, reasons: list[str]) -> bool:
        """Let the last good model of a name serve from disk; append the cause of a failure to `reasons`."""
        try:
            kept = load_last_good(self._folder, name)
            if kept is None:
                reasons.append(f"{self._folder / name} holds no last good model")
                return False
            model = load_model(kept, self._spec)
        except ModelRefused as error:
            reasons.append(f"{name} from {self._folder} is refused: {error}")
            return False
        self._take(kept, model, "disk", reasons)
        return True

    def _take(
        self, file: ModelFile, model: ServedModel, origin: Literal["registry", "disk"], reasons: Sequence[str]
    ) -> None:
        found = ModelVersion(model, file.name, file.version, origin)
        self._prepare(found)
        was, self.served = self.served, found
        self._has_model.set()
        self._export(found)
        more = {"because": "; ".join(reasons)} if reasons else {}
        if was is not None:
            self._metrics.model_swaps.inc()
            more["was"] = f"{was.name} {was.version}"
        log.info("model", name=found.name, version=found.version, digest=model.digest[:12], origin=origin, **more)

    def _export(self, found: ModelVersion) -> None:
        metrics, model = self._metrics, found.model
        for gauge in (metrics.model, metrics.model_since, metrics.model_train_end):
            gauge.clear()
        metrics.model.labels(model.variant, found.version, model.digest).set(1)
        metrics.model_since.labels(model.variant, found.version).set(time.time())
        metrics.model_train_end.labels(model.variant, found.version).set(to_ns(model.train_end) / NS)

    def _note_refusal(self, name: str, refusal: ModelRefusal | None) -> None:
        """Keep and log once why the champion of a name does not serve; None clears the refusal."""
        known = self._refusals.get(name)
        if known is refusal or (known and refusal and known[:2] == refusal[:2]):
            return
        if known is not None:
            self._metrics.model_refused.remove(name, known.kind)
        self._refusals = {other: found for other, found in self._refusals.items() if other != name}
        if refusal is not None:
            self._refusals = self._refusals | {name: refusal}
            self._metrics.model_refused.labels(name, refusal.kind).set(1)
            log.error(
                "model refused", name=name, version=refusal.wanted.version, kind=refusal.kind, reason=refusal.reason
            )
