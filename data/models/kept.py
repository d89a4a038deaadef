"""Keep the last good models on disk, to serve while the registry does not answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path

from data.files import replacing
from data.models.registry import ModelFile, Version
from data.names import ModelRefused

NOTE = "last_good.json"
KEPT_FILES = 5
"""Files in the folder of a model: the last good model, and older models that another process may be reading."""
DIGEST = re.compile("[0-9a-f]{64}")


def save_last_good(folder: Path, version: ModelFile) -> None:
    """Save a model that was loaded and has answered, for a start without the registry.

    The model file is named by its digest and written before the note with the digest: no reader, and no process that
    saves at the same time, sees half of a model. Of older files, and of partial files from killed processes, the newest
    `KEPT_FILES` stay. The saved file stays whatever the clock says of its age.
    """
    place = folder / version.name
    note = {"name": version.name, "version": version.version, "digest": version.digest}
    for name, content in ((f"{version.digest}.onnx", version.model_bytes), (NOTE, json.dumps(note).encode())):
        with replacing(place / name) as file:
            file.write(content)
    _prune(place, f"{version.digest}.onnx")


def load_last_good(folder: Path, name: str) -> ModelFile | None:
    """Return the last saved model, or None if no model was saved.

    Raises:
        ModelRefused: the note or the model file cannot be read, or the file is not the saved file.
    """
    note_path = folder / name / NOTE
    try:
        note = json.loads(note_path.read_bytes())
        version, digest = str(note["version"]), str(note["digest"])
        model_bytes = (folder / name / f"{digest}.onnx").read_bytes()
    except FileNotFoundError as error:
        if not note_path.exists():
            return None
        raise ModelRefused(f"{note_path} points to a file that is gone: {error}", "absent") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{note_path} cannot be read: {error!r}", "absent") from error
    found = hashlib.sha256(model_bytes).hexdigest()
    if found != digest:
        raise ModelRefused(f"{folder / name}: the file's SHA-256 is {found}, saved was {digest}", "digest")
    return ModelFile(name, version, digest, model_bytes)


def load_kept(folder: Path, wanted: Version) -> ModelFile | None:
    """Return the file of a version that served here before; None if the file is gone or has another digest."""
    if not DIGEST.fullmatch(wanted.digest):
        return None
    try:
        model_bytes = (folder / wanted.name / f"{wanted.digest}.onnx").read_bytes()
    except OSError:
        return None
    is_whole = hashlib.sha256(model_bytes).hexdigest() == wanted.digest
    return ModelFile(wanted.name, wanted.version, wanted.digest, model_bytes) if is_whole else None


def forget_last_good(folder: Path, name: str) -> None:
    """Remove the note of a model that was replaced, so that no start without the registry serves the old model."""
    (folder / name / NOTE).unlink(missing_ok=True)


def _prune(place: Path, saved: str) -> None:
    """Remove all but the saved model and the newest others, while other processes may do the same."""
    written = []
    for path in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # gone, or moved to its name
            written.append((path.stat().st_mtime_ns, path))
    others = sorted((at, path) for at, path in written if path.name not in (NOTE, saved))
    for _, path in others[: 1 - KEPT_FILES]:
        path.unlink(missing_ok=True)
