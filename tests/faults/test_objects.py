"""Readers and writers of the same objects, in a folder and in an object store: nothing is torn, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from data.files import CHECKOUT
from offline.lake.objects import Objects
from offline.locks.lease import LEASE_S, leased
from tests.pipeline import wait_until
from tests.proofs import Proof
from tests.seaweed import Lakes

READS = 10_000
MANIFEST = "manifests/BTC-USD.json"

REPLACING = """
import hashlib, json, random, sys
from offline.lake.objects import ANY, Objects
objects, rng = Objects.open(sys.argv[1]), random.Random(int(sys.argv[2]))
kept = []
while True:
    content = rng.randbytes(rng.choice((100, 100_000)))
    name = f"objects/{hashlib.sha256(content).hexdigest()}"
    with objects.scratch() as file:
        file.write_bytes(content)
        objects.add(name, file)
    kept.append(name)
    manifest = {"object": name, "fill": "x" * rng.randrange(50_000)}
    objects.put("manifests/BTC-USD.json", json.dumps(manifest).encode(), ANY)
    if len(kept) > 500:
        objects.delete(kept.pop(0))
"""

ADDING = """
import json, sys
from offline.lake.objects import Changed, Objects
objects, name, count = Objects.open(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(count):
    while True:
        held = objects.get("manifests/BTC-USD.json")
        entries, version = ([], None) if held is None else (json.loads(held.content), held.version)
        if [name, number] in entries:
            break
        try:
            objects.put("manifests/BTC-USD.json", json.dumps([*entries, [name, number]]).encode(), version)
            break
        except Changed:
            continue
"""

HOLDING = """
import sys, time
from offline.lake.objects import Objects
from offline.locks.lease import leased
with leased(Objects.open(sys.argv[1]), "locks/a.json", 60):
    print("holds", flush=True)
    time.sleep(600)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.acceptance
def test_of_10000_reads_during_replacements_none_is_torn(lakes: Lakes, proof: Proof) -> None:
    """Two processes replace a manifest and write the objects that the manifest names, as fast as they can."""
    proof.disturbs(f"two writers replace what is read, in {lakes.kind}")
    uri = lakes.uri()
    objects, torn, versions = Objects.open(uri), [], set()
    writers = [start(REPLACING, uri, seed) for seed in (1, 2)]

    def read() -> None:
        for _ in range(READS // 4):
            held = objects.get(MANIFEST)
            assert held is not None
            versions.add(held.version)
            try:
                named = json.loads(held.content)
                with objects.opened(named["object"]) as file:
                    content = file.read()
                if f"objects/{hashlib.sha256(content).hexdigest()}" != named["object"]:
                    torn.append(named)
            except (ValueError, OSError) as error:
                torn.append(error)

    try:
        wait_until(lambda: objects.get(MANIFEST), "the first manifest", within_s=30)
        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert all(writer.poll() is None for writer in writers)
    finally:
        end(*writers)
    proof.saw(reads=READS, versions_seen=len(versions), torn=len(torn))
    assert torn == []
    assert len(versions) > 100


def test_writers_of_one_manifest_lose_nothing_though_they_are_killed(lakes: Lakes, proof: Proof) -> None:
    """Two writers add 100 entries each; each is killed five times, and begins again."""
    proof.disturbs(f"two writers of one object, each killed 5 times, in {lakes.kind}")
    uri, rng = lakes.uri(), random.Random(16)
    objects = Objects.open(uri)

    def entries() -> list[list[object]]:
        held = objects.get(MANIFEST)
        found: list[list[object]] = [] if held is None else json.loads(held.content)
        return found

    for goal in (10, 30, 60, 100, 150):
        writers = [start(ADDING, uri, name, 100) for name in ("one", "other")]
        try:
            wait_until(lambda goal=goal: len(entries()) >= goal, "entries of both writers", within_s=60)  # type: ignore[misc]
        finally:
            rng.shuffle(writers)
            end(*writers)
    last = [start(ADDING, uri, name, 100) for name in ("one", "other")]
    assert [writer.wait(60) for writer in last] == [0, 0]
    end(*last)
    proof.equal(sorted(entries()), sorted([name, i] for name in ("one", "other") for i in range(100)), "entries")


def test_the_lock_of_a_killed_process_is_taken_over_at_once(lakes: Lakes, proof: Proof) -> None:
    uri = lakes.uri()
    first, second = start(HOLDING, uri), start(HOLDING, uri)
    try:
        assert first.stdout is not None
        assert second.stdout is not None
        wait_until(lambda: Objects.open(uri).get("locks/a.json"), "a holder", within_s=30)
        held = Objects.open(uri).get("locks/a.json")
        assert held is not None
        holder, waiting = (first, second) if json.loads(held.content)["owner"][2] == first.pid else (second, first)
        assert holder.stdout is not None
        assert waiting.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        os.kill(holder.pid, signal.SIGKILL)
        assert waiting.stdout.readline() == "holds\n"
    finally:
        end(first, second)
    proof.disturbs(f"the holder of a lock killed, in {lakes.kind}")
    with leased(Objects.open(uri), "locks/a.json", wait_s=LEASE_S / 2):
        pass
