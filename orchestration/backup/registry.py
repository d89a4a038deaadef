"""Copy the local MLflow while it runs: its database by SQLite's own backup, then the files that the database names.

A file of a model is written before the version that names it, and does not change afterwards. So a database that is
copied first finds all its files among the files that are copied afterwards.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from orchestration.backup.copies import BackupRefused, Copies

REGISTRY = "registry"
"""Folder of the registry in a backup."""
DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
"""Database and folder of the files, below MLflow's folder and below `REGISTRY`."""
BUSY_S = 30.0
"""Limit for a writer of the database to end its transaction."""

_VERSIONS = """
    SELECT v.name, v.version, coalesce(v.storage_location, v.source), t.value
    FROM model_versions v
    LEFT JOIN model_version_tags t
        ON (t.workspace, t.name, t.version, t.key) = (v.workspace, v.name, v.version, 'digest')
    WHERE v.current_stage <> 'Deleted_Internal'
"""
_MOVES = """
    SELECT count(*) FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id WHERE e.name = 'promotions'
"""


class CopiedRegistry(NamedTuple):
    """Counts of a copied registry.

    Attributes:
        versions: of models, whose file is in the backup with the promised digest.
        without_file: versions without such a file in MLflow itself, as `volatility-ml 3`.
        moves: entries of the ledger.
    """

    versions: int
    without_file: list[str]
    moves: int


def copy_registry(folder: Path, copies: Copies) -> CopiedRegistry:
    """Copy MLflow's folder.

    Raises:
        BackupRefused: the folder has no database, the copy is damaged, or a file changes while it is copied.
        OSError: a copy cannot be written.
    """
    if not (folder / DATABASE).exists():
        raise BackupRefused(f"there is no registry in {folder}: VAR_DIR names the folder of the stack's state")
    path = f"{REGISTRY}/{DATABASE}"
    copy = copies.folder / path
    copy.parent.mkdir()
    try:
        with (
            closing(sqlite3.connect(f"{(folder / DATABASE).as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            if (said := target.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise BackupRefused(f"{folder / DATABASE} is damaged: {said}")
    except sqlite3.Error as error:
        raise BackupRefused(f"{folder / DATABASE} cannot be copied: {error}") from error
    copies.note(path)
    for file in sorted((folder / ARTIFACTS).rglob("*")):
        if file.is_file():
            copies.add_file(f"{REGISTRY}/{file.relative_to(folder).as_posix()}", file)
    return registry_in(copies.folder / REGISTRY)


def registry_in(folder: Path) -> CopiedRegistry:
    """Return what a copied registry holds.

    Raises:
        BackupRefused: the database cannot be read.
    """
    without_file, count = [], 0
    try:
        with closing(sqlite3.connect(f"{(folder / DATABASE).as_uri()}?mode=ro", uri=True)) as database:
            versions = database.execute(_VERSIONS).fetchall()
            moves = int(database.execute(_MOVES).fetchone()[0])
    except sqlite3.Error as error:
        raise BackupRefused(f"{folder / DATABASE} cannot be read: {error}") from error
    for name, version, location, digest in versions:
        model = folder / ARTIFACTS / urlsplit(location or "").path.strip("/") / "model.onnx"
        try:
            is_whole = digest is None or hashlib.sha256(model.read_bytes()).hexdigest() == digest
        except OSError:
            is_whole = False
        count += is_whole
        without_file += [] if is_whole else [f"{name} {version}"]
    return CopiedRegistry(count, without_file, moves)
