"""What a version was made from: recipe, code, locked packages, type of CPU, and rows; enough to make it again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

import msgspec

from data.files import CHECKOUT

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


class LakeRows(msgspec.Struct, frozen=True, kw_only=True, tag="lake", tag_field="kind"):
    """Training rows from the lake.

    Attributes:
        content_hashes: hash of the `training_set` by product and UTC day.
    """

    content_hashes: dict[str, dict[date, str]]


TrainingRows = SimulatedRows | LakeRows


@dataclass(frozen=True, slots=True)
class Provenance:
    """Description of how a version was made. The end of training is in the version's file.

    Attributes:
        recipe: name in `offline.models.recipes.RECIPES`.
        code_digest: SHA-256 of the source of `MADE_BY`.
        lock_digest: SHA-256 of the file of locked packages; empty without this file.
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
    def of_tags(cls, tags: Mapping[str, str]) -> Self | None:
        """Return the description in a version's tags; None if the tags lack a part of the description."""
        try:
            rows = msgspec.json.decode(tags["rows"], type=TrainingRows)
            return cls(tags["recipe"], tags["code_digest"], tags.get("lock_digest", ""), tags["cpu_type"], rows)
        except (KeyError, msgspec.DecodeError):
            return None

    def tags(self) -> dict[str, str]:
        """Return the tags of a version."""
        return {
            "recipe": self.recipe,
            "code_digest": self.code_digest,
            "lock_digest": self.lock_digest,
            "cpu_type": self.cpu_type,
            "rows": msgspec.json.encode(self.rows).decode(),
        }

    def differences(self) -> list[str]:
        """Return the names of what has changed since the version was made: code, lock, CPU type."""
        pairs = {
            "code": (self.code_digest, code_digest()),
            "lock": (self.lock_digest, lock_digest()),
            "CPU type": (self.cpu_type, cpu_type()),
        }
        return [name for name, (then, now) in pairs.items() if then != now]


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
