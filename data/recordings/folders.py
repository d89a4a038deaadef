"""Limit the recordings that a job may read to some folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class RecordingFolders(NamedTuple):
    """Folders whose files a job may read.

    Who may launch a job is not always who may read each file of the process: an error or a topic would show the lines
    of a file. A person at a command line needs no such limit.

    Attributes:
        folders: whole paths without symlinks.
    """

    folders: tuple[Path, ...]

    def real_path(self, path: str | Path) -> Path:
        """Return the whole path, without symlinks, of a file or folder at or below one of the folders.

        The answer to another path does not depend on what lies there.

        Raises:
            ValueError: the path leads elsewhere, by itself or by a symlink, or has a part `..`.
        """
        named = Path(path).expanduser()
        if ".." in named.parts:
            raise ValueError(f"{named}: a path of a recording has no part '..'; name the file from its folder on")
        try:
            real = named.resolve()
        except (OSError, RuntimeError):  # symlinks in a circle
            real = Path(os.devnull)
        if not any(real.is_relative_to(folder) for folder in self.folders):
            allowed = os.pathsep.join(map(str, self.folders))
            raise ValueError(
                f"{named} is not in one of the folders that jobs read ({allowed}): put the recording there, or let "
                "RECORDINGS_DIRS name its folder too"
            )
        return real
