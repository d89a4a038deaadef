"""Check the locks against known vulnerabilities: `make audit`.

The database is OSV: one request has names and versions of all locked packages, of Python, of the live page and of the
local broker. The exit code is 0 if none has a known vulnerability, 1 if one has, and 0 with a sentence if the database
cannot be reached: then nothing was checked.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from data.files import CHECKOUT

DATABASE = "https://api.osv.dev/v1/querybatch"
BATCH = 1_000
"""Most questions of a request."""
TIMEOUT_S = 30.0
PYTHON_LOCKS = ("requirements.txt", "requirements-build.txt", "requirements-peers.txt")
"""The locks of the images hold the same versions as the first."""
PAGE_LOCK = "online/http/static/package-lock.json"
BROKER_LOCK = "orchestration/local/kafka/jgo.lock.toml"


class Package(NamedTuple):
    """A locked package; `ecosystem` is the database's word for a registry."""

    ecosystem: str
    name: str
    version: str
    lock: str


class DatabaseAway(Exception):
    """The database of vulnerabilities gives no answer; the text has the reason."""


def locked_packages(root: Path = CHECKOUT) -> list[Package]:
    """Return all packages of all locks, each version once."""
    found = {each[:3]: each for each in reversed([*_python(root), *_page(root), *_broker(root)])}
    return sorted(found.values())


def _python(root: Path) -> Iterator[Package]:
    for lock in PYTHON_LOCKS:
        pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", (root / lock).read_text(), re.MULTILINE)
        yield from (Package("PyPI", name, version, lock) for name, version in pins)


def _page(root: Path) -> Iterator[Package]:
    for place, entry in json.loads((root / PAGE_LOCK).read_text())["packages"].items():
        if place:  # the first entry is the page itself
            yield Package("npm", place.rpartition("node_modules/")[2], entry["version"], PAGE_LOCK)


def _broker(root: Path) -> Iterator[Package]:
    for entry in tomllib.loads((root / BROKER_LOCK).read_text())["dependencies"]:
        yield Package("Maven", f"{entry['groupId']}:{entry['artifactId']}", entry["version"], BROKER_LOCK)


def vulnerabilities(packages: list[Package], client: httpx.Client) -> dict[Package, list[str]]:
    """Return the names of the known vulnerabilities of each package that has one.

    Raises:
        DatabaseAway: no answer, or another answer than expected.
    """
    found: dict[Package, list[str]] = {}
    for start in range(0, len(packages), BATCH):
        asked = packages[start : start + BATCH]
        questions = [
            {"package": {"ecosystem": each.ecosystem, "name": each.name}, "version": each.version} for each in asked
        ]
        for package, result in zip(asked, _answers(client, questions), strict=True):
            known = [str(each["id"]) for each in result.get("vulns", ())]
            if known or "next_page_token" in result:
                found[package] = known + (["and more"] if "next_page_token" in result else [])
    return found


def _answers(client: httpx.Client, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        answer = client.post(DATABASE, json={"queries": questions})
        answer.raise_for_status()
        results: list[dict[str, Any]] = answer.json()["results"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise DatabaseAway(str(error).partition("\n")[0] or type(error).__name__) from None
    if len(results) != len(questions):
        raise DatabaseAway(f"{len(results)} answers to {len(questions)} questions")
    return results


def main(client: httpx.Client | None = None) -> int:
    packages = locked_packages()
    try:
        found = vulnerabilities(packages, client or httpx.Client(timeout=TIMEOUT_S))
    except DatabaseAway as away:
        print(f"nothing was checked: the database of known vulnerabilities gives no answer ({DATABASE}: {away})")
        return 0
    for package, known in sorted(found.items()):
        print(f"{package.name} {package.version} ({package.lock}): {', '.join(known)}")
    print(f"{len(packages)} locked packages, {len(found)} with a known vulnerability")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
