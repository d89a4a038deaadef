"""Ask the registry about the versions that forecasts name: once for each version."""

from __future__ import annotations

import time
from typing import NamedTuple

import structlog

from data.models.kept import load_kept
from data.models.promises import read_promises
from data.models.registry import ModelFile, Registry, Version
from data.models.served import ServedModel
from data.models.settings import RegistrySettings
from data.names import ModelRefused, RegistryAway, RegistryError
from data.times import to_ns

log = structlog.get_logger()

TIMEOUT_S = 2.0
AGAIN_S = 30.0
"""Seconds between two questions about the versions that a registry could not answer for."""
MOST_OPEN, MOST_KNOWN = 50, 500
"""Versions that wait for an answer, and versions whose answer is kept: a foreign program may name any number. While
`MOST_OPEN` wait, nobody asks about a further version."""


class VersionKey(NamedTuple):
    """A version as a forecast names it; `digest` is empty in shadows of earlier releases."""

    model_variant: str
    version: str
    digest: str
    spec_id: str


class VersionFacts(NamedTuple):
    """What is known of a version.

    Attributes:
        floor: variance floor; None: the version states none.
        reference: column whose square root has the `tercile_bounds`.
        tercile_bounds: volatilities; None: the version states none.
        train_end: newest time of the training data, ns since 1970.
        promises: by promise and quantile, as `("qlike", "0.05")`; absent where the version has no such tag.
    """

    floor: float | None
    reference: str | None
    tercile_bounds: tuple[float, float] | None
    train_end: int | None
    promises: dict[tuple[str, str], float]


UNKNOWN = VersionFacts(None, None, None, None, {})


class Versions:
    """Keeps what the registry answered, and asks again about versions for which the registry was away.

    Attributes:
        are_late: whether an answer came after a forecast of the version was judged without it.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._registry = Registry(settings.mlflow_tracking_uri, TIMEOUT_S)
        self._models_dir = settings.models_dir
        self._known: dict[VersionKey, VersionFacts] = {}
        self._open: dict[VersionKey, float] = {}  # time of the last question about each unanswered version
        self.are_late = False

    def facts(self, key: VersionKey) -> VersionFacts:
        """Return what is known of a version; asks on the first call for a version."""
        if key not in self._known and key not in self._open and len(self._open) < MOST_OPEN:
            self._ask(key)
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]
        return self._known.get(key, UNKNOWN)

    def ask_again(self) -> None:
        """Ask about unanswered versions whose last question is `AGAIN_S` old."""
        for key, asked in list(self._open.items()):
            if time.monotonic() - asked >= AGAIN_S and self._ask(key):
                self.are_late = True

    def _ask(self, key: VersionKey) -> bool:
        """Ask about a version; return whether the question is answered for good."""
        is_first = key not in self._open
        name = f"volatility-{key.model_variant}"
        try:
            self._known[key] = self._find(name, key)
        except RegistryAway as error:
            if is_first:
                log.warning("the registry is away: a version is judged without floor", **_shown(key), reason=str(error))
            self._open[key] = time.monotonic()
            return False
        except (RegistryError, ModelRefused) as error:
            log.warning("version not found: no QLIKE is exported for it", **_shown(key), reason=str(error))
            self._known[key] = UNKNOWN
        else:
            if self._known[key].floor is None:
                log.warning("a version states no variance floor: no QLIKE is exported for it", **_shown(key))
        self._open.pop(key, None)
        return True

    def _find(self, name: str, key: VersionKey) -> VersionFacts:
        """Return the facts of a version, from the registry and the model file.

        Raises:
            RegistryError: the registry does not answer, or does not know the version.
            ModelRefused: the file is not the forecast's.
        """
        try:
            version = self._registry.version(name, key.version)
        except RegistryAway:
            file = load_kept(self._models_dir, Version(name, key.version, {"digest": key.digest}, ""))
            if file is None:
                raise
            return _facts(file, key, {})
        digest = key.digest or version.digest
        file = load_kept(self._models_dir, version._replace(tags={"digest": digest}))
        return _facts(file or self._registry.fetch(version), key, version.tags)


def _shown(key: VersionKey) -> dict[str, str]:
    """Return the fields of a version for the log."""
    return {"model_variant": key.model_variant, "version": key.version}


def _facts(file: ModelFile, key: VersionKey, tags: dict[str, str]) -> VersionFacts:
    model = ServedModel.load(file.model_bytes, spec_id=key.spec_id, digest=key.digest or file.digest)
    promises = {(measure, f"{quantile:g}"): value for (measure, quantile), value in read_promises(tags).items()}
    return VersionFacts(model.variance_floor, model.reference, model.tercile_bounds, to_ns(model.train_end), promises)
