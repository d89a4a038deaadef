"""The folders keep their order: imports run one way, without a circle, and no folder holds too many modules."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from data.files import CHECKOUT

PRODUCT = ("data", "online", "offline", "monitoring", "orchestration")
ALLOWED = {
    "data": {"data"},
    "online": {"online", "data"},
    "offline": {"offline", "data"},
    "monitoring": {"monitoring", "data"},
    "orchestration": set(PRODUCT),
}
MOST_MODULES = 8
WELL_KNOWN = {"inspect", "requests", "kafka", "dagster", "mlflow", "pandas", "numpy", "prometheus_client"}


def modules() -> dict[str, Path]:
    """Return the files of the product folders by module name."""
    paths = (path for folder in PRODUCT for path in (CHECKOUT / folder).rglob("*.py"))
    return {".".join(path.relative_to(CHECKOUT).with_suffix("").parts): path for path in paths}


MODULES = modules()


def imports_of(path: Path) -> Iterator[str]:
    """Yield the product modules that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in whole]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PRODUCT)


IMPORTS = {name: set(imports_of(path)) - {name} for name, path in MODULES.items()}


def folder_of(module: str) -> str:
    """Return the folder on the second floor, as `data.features`; a module on the first floor stands for itself.

    >>> folder_of("data.features.kernel"), folder_of("data.trades")
    ('data.features', 'data.trades')
    """
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else module


def test_no_circle_of_modules() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_no_circle_of_folders() -> None:
    between: dict[str, set[str]] = {}
    for module, imported in IMPORTS.items():
        between.setdefault(folder_of(module), set()).update(folder_of(each) for each in imported)
    TopologicalSorter({folder: found - {folder} for folder, found in between.items()}).prepare()


@pytest.mark.parametrize("folder", PRODUCT)
def test_imports_run_from_a_higher_floor_to_a_lower_one(folder: str) -> None:
    wrong = {
        (module, each)
        for module, imported in IMPORTS.items()
        for each in imported
        if module.partition(".")[0] == folder and each.partition(".")[0] not in ALLOWED[folder]
    }
    assert not wrong


def test_no_folder_has_more_modules_than_one_can_keep_in_mind() -> None:
    counted = Counter(path.parent for path in MODULES.values() if path.stem not in ("__init__", "__main__"))
    assert {str(folder): count for folder, count in counted.items() if count > MOST_MODULES} == {}


def test_each_folder_says_what_it_is_for() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        tree = ast.parse((folder / "__init__.py").read_text())
        assert ast.get_docstring(tree), folder
        assert len(tree.body) == 1, f"{folder}/__init__.py holds more than its docstring"


def test_no_module_has_the_name_of_a_library() -> None:
    names = {path.stem for path in MODULES.values()} - {"__init__", "__main__"}
    assert names & (sys.stdlib_module_names | WELL_KNOWN) == set()
