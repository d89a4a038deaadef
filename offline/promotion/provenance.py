"""The making of a version: recipe, code, locked packages, type of CPU, and rows; enough to make the version again."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

import msgspec

from data.files import CHECKOUT
from data.models.registry import Registry, Version
from data.models.served import BASELINE, ML
from data.names import VersionNotFound

MADE_BY = (
    "data/features",
    "data/models/input_sets.py",
    "data/models/served.py",
    "data/simulator",
    "data/truth",
    "offline/days/training_set.py",
    "offline/models",
    "offline/samples.py",
)
"""Folders and modules whose source decides a model's bytes, given the rows in the lake or the simulator's seed."""
LOCK = "requirements.txt"
ROWS_TAG = "rows"
ROWS_FILE = "training/rows.json"
"""Path of the list of training rows among the artifacts of a version's run."""
MOST_IN_TAG = 8_000
"""Characters of a list of rows in a tag, some 90 product-days: each question for an alias gets all tags."""


class SimulatedRows(msgspec.Struct, frozen=True, kw_only=True, tag="simulated", tag_field="kind"):
    """Training rows from the simulator; the same fields give the same rows.

    Attributes:
        days: UTC.
        hours: first hour (inclusive) and last hour (exclusive) of each day.
    """

    seed: int
    products: tuple[str, ...]
    days: tuple[date, ...]
    hours: tuple[int, int] = (0, 24)


class RowSample(msgspec.Struct, frozen=True, kw_only=True):
    """A stratified sample of rows, see `offline.samples.thinned` and `offline.days.row_budget.sampled_days`.

    Attributes:
        share: of the rows of each product-day that gives rows.
        seed: another seed chooses other rows and days.
        max_mb: bound of memory that decided the share, `TRAIN_MAX_MB`.
        of_rows, of_days: numbers of rows and of product-days that the sample stands for.
        first_day: of these product-days, UTC.
    """

    share: float
    seed: int
    max_mb: int
    of_rows: int
    of_days: int
    first_day: date


class LakeRows(msgspec.Struct, frozen=True, kw_only=True, tag="lake", tag_field="kind", omit_defaults=True):
    """Training rows from the lake.

    Attributes:
        content_hashes: hash of the `training_set` by product and UTC day, of the product-days that give rows.
        sample: which of their rows; None: all rows.
    """

    content_hashes: dict[str, dict[date, str]]
    sample: RowSample | None = None

    def product_days(self) -> list[tuple[str, date]]:
        """Return product and day of each product-day."""
        return [(product_id, day) for product_id, days in self.content_hashes.items() for day in days]


class ListedRows(msgspec.Struct, frozen=True, kw_only=True, tag="listed", tag_field="kind"):
    """Reference to rows that are too many for a tag: the artifact `ROWS_FILE` of the version's run names the rows.

    Attributes:
        digest: SHA-256 of the artifact.
    """

    digest: str


TrainingRows = SimulatedRows | LakeRows


@dataclass(frozen=True, slots=True)
class Provenance:
    """Description of how a version was made. The end of training is in the version's file.

    Attributes:
        recipe: name in `offline.models.recipes.RECIPES`.
        code_digest: SHA-256 of the source of `MADE_BY`.
        lock_digest: SHA-256 of the file of locked packages; empty without the file.
        cpu_type: bytes of a fit are equal on one type of CPU, and may differ in the last bits on another.
        rows: the training rows.
    """

    recipe: str
    code_digest: str
    lock_digest: str
    cpu_type: str
    rows: TrainingRows

    @classmethod
    def here(cls, recipe: str, rows: TrainingRows) -> Self:
        """Return the description of a version that this process makes."""
        return cls(recipe, code_digest(), lock_digest(), cpu_type(), rows)

    @classmethod
    def of_version(cls, registry: Registry, version: Version) -> Self | None:
        """Return the description in the tags of a version, and in the artifact `ROWS_FILE` where the tags refer to it.

        Returns:
            None if a part of the description is missing, or the artifact is not the artifact of the tags.

        Raises:
            RegistryError: MLflow does not answer.
        """
        tags = version.tags
        try:
            rows = training_rows(registry, version)
            if rows is None:
                return None
            return cls(tags["recipe"], tags["code_digest"], tags.get("lock_digest", ""), tags["cpu_type"], rows)
        except (KeyError, ValueError):
            return None

    def rows_file(self) -> str:
        """Return the content of the artifact `ROWS_FILE`; empty if the tags name all rows."""
        encoded = msgspec.json.encode(self.rows).decode()
        return encoded if len(encoded) > MOST_IN_TAG else ""

    def tags(self) -> dict[str, str]:
        """Return the tags of a version."""
        listed = self.rows_file().encode()
        rows = ListedRows(digest=hashlib.sha256(listed).hexdigest()) if listed else self.rows
        return {
            "recipe": self.recipe,
            "code_digest": self.code_digest,
            "lock_digest": self.lock_digest,
            "cpu_type": self.cpu_type,
            ROWS_TAG: msgspec.json.encode(rows).decode(),
        }

    def differences(self) -> list[str]:
        """Return the names of what has changed since the version was made: code, lock, CPU type."""
        pairs = {
            "code": (self.code_digest, code_digest()),
            "lock": (self.lock_digest, lock_digest()),
            "CPU type": (self.cpu_type, cpu_type()),
        }
        return [name for name, (then, now) in pairs.items() if then != now]


def training_rows(registry: Registry, version: Version) -> TrainingRows | None:
    """Return the training rows of a version, of its tags or of the artifact `ROWS_FILE` where the tags refer to it.

    Returns:
        None if the tags name no rows, as of a version that was registered by hand.

    Raises:
        ValueError: the tags name rows, but the tag is damaged, or the artifact is gone, damaged or replaced.
        RegistryError: MLflow does not answer.
    """
    if ROWS_TAG not in version.tags:
        return None
    try:
        rows: TrainingRows | ListedRows = msgspec.json.decode(version.tags[ROWS_TAG], type=TrainingRows | ListedRows)
    except msgspec.DecodeError as error:
        raise ValueError(f"the tag `{ROWS_TAG}` is damaged: {error}") from error
    if not isinstance(rows, ListedRows):
        return rows
    try:
        listed = registry.artifact(version.run_id, ROWS_FILE)
        if hashlib.sha256(listed).hexdigest() != rows.digest:
            raise ValueError(f"the artifact {ROWS_FILE} is another one than the tag `{ROWS_TAG}` says")
        return msgspec.json.Decoder(LakeRows).decode(listed)
    except VersionNotFound as error:
        raise ValueError(f"the artifact {ROWS_FILE} is not at the registry: {error}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"the artifact {ROWS_FILE} is damaged: {error}") from error


def named_hashes(registry: Registry) -> set[str]:
    """Return the content hashes of the training sets that a champion, a challenger or a previous version names.

    The gate fits champions and challengers again, and drift compares with the rows of a champion: these training sets
    must stay readable after their days were made anew.

    Raises:
        ValueError: a version names rows that cannot be read, so that nobody knows which training sets must stay.
        RegistryError: MLflow does not answer.
    """
    found = set[str]()
    for name in (BASELINE, ML):
        for alias in ("champion", "challenger", "previous"):
            version = registry.aliased(name, alias)
            if version is None:
                continue
            try:
                rows = training_rows(registry, version)
            except ValueError as error:
                raise ValueError(
                    f"the training rows of {name} version {version.version} ({alias}) cannot be read, so nothing may "
                    f"be removed from the lake: {error}. Bring the rows back in MLflow, or give the alias `{alias}` to "
                    "another version, then run this again"
                ) from error
            if isinstance(rows, LakeRows):
                found |= {content_hash for days in rows.content_hashes.values() for content_hash in days.values()}
    return found


def code_digest() -> str:
    """Return the SHA-256 of the source of `MADE_BY`: of each file's path and bytes, sorted by path."""
    paths: list[Path] = []
    for each in MADE_BY:
        path = CHECKOUT / each
        paths += [path] if path.suffix == ".py" else path.rglob("*.py")
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(CHECKOUT).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def lock_digest() -> str:
    """Return the SHA-256 of the file of locked packages; empty if the file is absent."""
    path = CHECKOUT / LOCK
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def cpu_type() -> str:
    """Return architecture and model name of the CPU, as `x86_64 AMD EPYC 9R14`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {models[0] if models else platform.processor()}".strip()
