"""The jars of the local broker: fetched once, and checked against the SHA-256 of `jgo.lock.toml` at every start."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

LOCK_FILE = Path(__file__).with_name("jgo.lock.toml")

log = structlog.get_logger(__name__)


class JarsMissing(RuntimeError):
    """The broker's jars are missing and could not be fetched."""


@dataclass(frozen=True)
class Jar:
    """A locked jar: its Maven coordinates and the required digest."""

    group: str
    artifact: str
    version: str
    sha256: str

    def path(self, folder: Path) -> Path:
        """Return the jar's path in a Maven repository with the root `folder`."""
        return folder.joinpath(
            *self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar"
        )

    def is_intact(self, folder: Path) -> bool:
        """Return whether the file exists with the locked digest."""
        path = self.path(folder)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def read_lock() -> list[Jar]:
    """Return the locked jars, in class path order."""
    locked = tomllib.loads(LOCK_FILE.read_text())["dependencies"]
    return [Jar(d["groupId"], d["artifactId"], d["version"], d["sha256"]) for d in locked]


def fetch_jars(folder: Path, jars: Iterable[Jar] | None = None) -> list[Path]:
    """Return the paths of all locked jars, after fetching missing or damaged jars.

    With all jars intact the call needs no network and takes about 0.1 s.

    Args:
        folder: root of the Maven repository with the jars.
        jars: the jars to fetch; the project's lock by default.

    Raises:
        JarsMissing: a jar could not be fetched, or a fetched file does not have the locked digest.
    """
    jars = read_lock() if jars is None else list(jars)
    with ThreadPoolExecutor(8) as pool:
        intact = list(pool.map(lambda jar: jar.is_intact(folder), jars))
        missing = [jar for jar, is_intact in zip(jars, intact, strict=True) if not is_intact]
        if missing:
            _download(missing, folder, pool)
    return [jar.path(folder) for jar in jars]


def _download(jars: list[Jar], folder: Path, pool: ThreadPoolExecutor) -> None:
    # A start with all jars does not pay for these imports.
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    log.info("fetching the broker's jars", missing=len(jars), folder=str(folder))
    for jar in jars:
        if jar.path(folder).exists():
            log.warning("a jar is not the locked one and is fetched again", jar=jar.path(folder).name)
            jar.path(folder).unlink()
    context = MavenContext(repo_cache=folder, timeout=30)
    context.remote_repos.update(GlobalSettings.load().repositories)  # a person's own mirrors

    def download(jar: Jar) -> str | None:
        try:
            context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except Exception as error:  # jgo names no errors of its own: requests', OSError and RuntimeError come through
            return f"{jar.artifact} {jar.version}: {type(error).__name__}: {error}"
        if not jar.is_intact(folder):
            jar.path(folder).unlink()
            return f"{jar.artifact} {jar.version}: what was fetched does not have the SHA-256 of {LOCK_FILE.name}"
        return None

    failures = [failure for failure in pool.map(download, jars) if failure]
    if failures:
        raise JarsMissing(
            f"{len(failures)} of {len(jars)} jars of the local broker could not be fetched into {folder}; the first: "
            f"{failures[0][:300]}. Is there a network? They are needed once; or let KAFKA_BOOTSTRAP_SERVERS name "
            f"a broker that is running."
        )
