"""Build the images without Docker, and run them as Docker would: read-only, as another user, tini as process 1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from data.files import CHECKOUT

TOOLS = ("buildah", "mmdebstrap", "unshare", "make")
BASE = "localhost/cryptovol-base"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
USER = 10001

RUN = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$STATE" "$ROOT/var/lib/cryptovol"
mount -o remount,bind,ro "$ROOT"
exec chroot --userspec="$WHO" "$ROOT" /usr/bin/env -i --chdir="$FOLDER" "$@"
"""
"""Runs in a mount and a process namespace of its own. The network is the machine's, as in buildah's chroot."""


def need_tools() -> None:
    """Skip the test where a tool is missing, or the right to use the tool."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)}: not installed")
    if os.geteuid() != 0:
        pytest.skip("only root may build a root file system")


@dataclass
class Image:
    """A built image.

    Attributes:
        root: its mounted root file system.
        config: as Docker keeps it: Env, User, Entrypoint, Cmd, Healthcheck, WorkingDir.
    """

    name: str
    root: Path
    config: dict[str, Any]

    def size_mb(self) -> float:
        """Return the size of all files, MB."""
        found = subprocess.run(["du", "-s", "-B1", self.root], capture_output=True, check=True)
        return int(found.stdout.split()[0]) / 1e6


class Builder:
    """buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = ["buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self._environment = os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def run(self, *arguments: str) -> str:
        """Run a command of buildah; return what it printed."""
        command = [*self._command, *arguments]
        return subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, text=True, check=True).stdout

    def make_base(self) -> None:
        """Make the base image: Debian with Python, from packages."""
        archive = self._folder / "base.tar"
        release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        options = ("--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates")
        subprocess.run(["mmdebstrap", *options, release["VERSION_CODENAME"], archive], check=True)
        container = self.run("from", "scratch").strip()
        self.run("add", "--quiet", container, str(archive), "/")
        self.run("commit", "--quiet", "--rm", container, BASE)
        archive.unlink()

    def make_images(self) -> None:
        """Build both images by the documented command."""
        options = f"--secret id=ca,src={CERTIFICATES}" if Path(CERTIFICATES).exists() else ""
        command = ["make", "image", f"BUILDER={' '.join(self._command)}", f"BASE={BASE}", f"BUILD_OPTIONS={options}"]
        subprocess.run(command, cwd=CHECKOUT, env=self._environment, check=True)

    def open(self, name: str) -> Image:
        """Mount an image."""
        container = self.run("from", "--pull-never", name).strip()
        config = json.loads(self.run("inspect", container))["Docker"]["config"]
        return Image(name, Path(self.run("mount", container).strip()), config)

    def remove(self) -> None:
        """Remove the store: some GB."""
        self.run("umount", "--all")
        self.run("rm", "--all")
        shutil.rmtree(self._folder)


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Container:
    """A process from an image: read-only root, the image's user and environment, and a folder for the state.

    Attributes:
        command: replaces the image's own.
        settings: environment besides the image's.
        state: folder that the process sees as /var/lib/cryptovol.
    """

    image: Image
    command: tuple[str, ...]
    settings: Mapping[str, str]
    state: Path
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        config = self.image.config
        inside = [*config["Env"], *(f"{name}={value}" for name, value in self.settings.items())]
        words = [*inside, *config["Entrypoint"], *(self.command or config["Cmd"])]
        outside = {
            "ROOT": str(self.image.root),
            "STATE": str(self.state),
            "WHO": config["User"],
            "FOLDER": config["WorkingDir"],
        }
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", RUN, "sh", *words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | outside, stdout=log, stderr=log)

    @property
    def first_pid(self) -> int:
        """Return the id of the container's process 1, as the machine sees it."""
        (pid,) = self.first_pids("tini")
        return pid

    def first_pids(self, name: str) -> list[int]:
        """Return the id of the container's process 1 if the process has this name already."""
        return [pid for pid in children_of(self.process.pid) if Path(f"/proc/{pid}/comm").read_text().strip() == name]

    def stop(self, within_s: float = 10.0) -> int:
        """End the container as Docker would: SIGTERM to its process 1."""
        os.kill(self.first_pid, signal.SIGTERM)
        return self.process.wait(within_s)

    def kill(self) -> None:
        self.process.kill()  # the kernel then kills process 1, and with it the namespace
        self.process.wait()


def run_in(image: Image, state: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command from an image to its end; the output is both streams."""
    container = Container(image, command, settings, state, state.with_suffix(".log"))
    container.log.write_text("")
    container.start()
    code = container.process.wait(300)
    return subprocess.CompletedProcess(command, code, container.log.read_text())
