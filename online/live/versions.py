"""Know of each served version what the model promises: variance floor, end of training, quantiles of its test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from data.models.promises import MEASURES, QUANTILES, read_promises
from data.models.registry import Registry, Version
from data.models.served import ServedModel
from data.names import ModelRefused, RegistryError
from data.times import second_text
from online.live.points import ModelName

MAX_VERSIONS = 64
RETRY_S = 30.0
"""Time to the next request for a version that the registry did not give."""


class VersionFacts(NamedTuple):
    """Hold the facts of a version.

    Attributes:
        digest: SHA-256 of the file, as the registry promises.
        train_end: end of the training data, RFC 3339; None if the file may not serve here.
        variance_floor: see `data.truth.losses.qlike`; None if the file has none.
        promised: by measure, the 5, 50 and 95 % quantiles over the hours of the test; a measure without tags is absent.
    """

    digest: str
    train_end: str | None
    variance_floor: float | None
    promised: dict[str, tuple[float, float, float]]


class Versions:
    """Ask the registry once for each version. `learn` is called by one thread, all else by any thread."""

    def __init__(self, registry: Registry, spec_id: str, serving: Callable[[], ServedModel | None]) -> None:
        self._registry, self._spec_id, self._serving = registry, spec_id, serving
        self._known: dict[ModelName, VersionFacts] = {}  # replaced whole
        self._again: dict[ModelName, float] = {}

    def floor_of(self, name: ModelName) -> float | None:
        """Return the variance floor of a model, None if not known."""
        facts = self._known.get(name)
        return facts and facts.variance_floor

    def known(self) -> list[dict[str, Any]]:
        """Return the facts of all known versions."""
        return [name._asdict() | facts._asdict() for name, facts in self._known.items()]

    def learn(self, names: Iterable[ModelName]) -> None:
        """Ask the registry for new versions; a version that is not given is asked for again later."""
        now = time.monotonic()
        self._again = {name: at for name, at in self._again.items() if at > now}
        for name in sorted(set(names) - self._known.keys() - self._again.keys())[:MAX_VERSIONS]:
            try:
                version = self._registry.version(f"volatility-{name.model_variant}", name.version)
                facts = self._facts(version)
            except RegistryError:
                self._again[name] = now + RETRY_S
                continue
            kept = list(self._known.items())[-MAX_VERSIONS + 1 :]
            self._known = dict(kept) | {name: facts}

    def _facts(self, version: Version) -> VersionFacts:
        """Return the facts of a version, from its tags and its file.

        Raises:
            RegistryError: the registry does not answer.
        """
        model = self._serving()
        if model is None or model.digest != version.digest:
            try:
                file = self._registry.fetch(version)
                model = ServedModel.load(file.model_bytes, spec_id=self._spec_id, digest=file.digest)
            except ModelRefused:
                model = None
        train_end = None if model is None else second_text(model.train_end)
        floor = None if model is None else model.variance_floor
        return VersionFacts(version.digest, train_end, floor, promised(version.tags))


def promised(tags: dict[str, str]) -> dict[str, tuple[float, float, float]]:
    """Return the promised quantiles of a version by measure; a measure without all three is left out.

    >>> promised({"promised_qlike_05": ".1", "promised_qlike_50": ".2", "promised_qlike_95": ".3", "digest": "ab"})
    {'qlike': (0.1, 0.2, 0.3)}
    """
    found = read_promises(tags)
    return {
        measure: (found[measure, 0.05], found[measure, 0.5], found[measure, 0.95])
        for measure in MEASURES
        if all((measure, quantile) in found for quantile in QUANTILES.values())
    }
