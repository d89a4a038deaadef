"""The documents name existing things: commands, files, settings, fields of records, metrics, routes, links."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from data.compiled import CompilerSettings
from data.features.spec import FeatureSpec
from data.files import CHECKOUT
from data.process.catalog import METRICS, page
from data.recordings.dialects.catalog import with_table
from data.settings import KafkaSettings
from data.stream.records import PARTITIONS, partition_of, schemas
from monitoring.settings import ExporterSettings
from offline.settings import OfflineSettings
from online.http.live_page import EVENTS
from online.settings import ApiSettings, ForecasterSettings, IngestorSettings
from orchestration.local.settings import StackSettings
from orchestration.settings import OrchestrationSettings

DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])
PRODUCT = ("data", "online", "offline", "monitoring", "orchestration")

SETTINGS: tuple[type[BaseSettings], ...] = (
    CompilerSettings,
    KafkaSettings,
    IngestorSettings,
    ForecasterSettings,
    ApiSettings,
    ExporterSettings,
    OfflineSettings,
    OrchestrationSettings,
    StackSettings,
)
BETWEEN_PROCESSES = {"INGESTOR_RESTARTED", "RUN_STARTED"}
"""Set by the stack for its own processes, not by a person."""
VARIABLES_OF_MAKE = {"BASE", "BUILDER", "BUILD_OPTIONS", "BACKUP", "REPLACE"}
"""Read by the Makefile alone."""

MADE_BY_THE_READER = {
    "trades.csv",
    "trades.png",
    "monday.csv.gz",
    "tuesday.ndjson",
    "monday.parquet",
    "candles.csv.gz",
    "features.parquet",
    "forecasts.parquet",
    "simulated.csv.gz",
    "day.csv.gz",
    "recording.csv",
    "card.md",
}
"""Recordings and results in examples."""
FILE = re.compile(r"(?:[\w.*-]+/)*[\w.*-]+\.(?:py|md|csv|gz|ndjson|parquet|yaml|toml|txt|zip|png)")


def names_of_settings() -> set[str]:
    fields = {name.upper() for settings in SETTINGS for name in settings.model_fields}
    return fields - BETWEEN_PROCESSES


def blocks(document: Path) -> list[str]:
    """Return the contents of the ``` blocks of a document."""
    return re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


COMMANDS = ("make ", ".venv/bin/", "python ", "curl ", "mkdir ", "cp ", "DAGSTER_HOME=")


def commands(document: Path) -> Iterator[list[str]]:
    """Yield the words of each command that a document shows in a block, without comments."""
    for block in blocks(document):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith(COMMANDS):
                for part in line.split("&&"):
                    yield shlex.split(part, comments=True)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))


def is_module(name: str) -> bool:
    """Return whether `python -m name` runs a module of the project or of a library."""
    if name.partition(".")[0] in (*PRODUCT, "tests"):
        path = CHECKOUT.joinpath(*name.split("."))
        return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    return importlib.util.find_spec(name) is not None


def section(text: str, heading: str) -> str:
    """Return the text under a heading, up to the next heading of its level or of a higher level."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{heading}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading}"
    return found[1]


def first_cells(text: str) -> set[str]:
    """Return the names in the first cells of a text's tables."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_newcomers_documents_show_commands() -> None:
    """The tests of commands below cannot pass without commands."""
    for name in ("README.md", "docs/tour.md"):
        assert len(list(commands(CHECKOUT / name))) >= 5, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    wrong = []
    known = names_of_settings() | {"DAGSTER_HOME"} | VARIABLES_OF_MAKE
    for words in commands(document):
        set_here = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
        wrong += [f"setting {name}" for name in set_here if name not in known]
        if words[0] == "make":
            wrong += [f"make {word}" for word in words[1:] if "=" not in word and word not in targets()]
        if "-m" in words and "python" in words[0] and not is_module(words[words.index("-m") + 1]):
            wrong.append(f"python -m {words[words.index('-m') + 1]}")
    text = document.read_text()
    wrong += [f"make {name}" for name in re.findall(r"`make ([a-z-]+)", text) if name not in targets()]
    wrong += [f"python -m {name}" for name in re.findall(r"python -m ([\w.]+\w)", text) if not is_module(name)]
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_in_commands_exist_or_are_made_by_the_reader(document: Path) -> None:
    wrong = []
    for words in commands(document):
        for word in words:
            value = word.rpartition("=")[2] if re.match(r"[A-Z_]+=", word) else word
            for name in value.split():
                is_made = name in MADE_BY_THE_READER or name.startswith("var/")
                if FILE.fullmatch(name) and not is_made and not (CHECKOUT / name).exists():
                    wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_project_that_a_text_names_exist(document: Path) -> None:
    """A path that begins with a room, as `data/features/spec.py` or `tests/unit/`."""
    rooms = "|".join((*PRODUCT, "tests", "docs"))
    named = re.findall(rf"`((?:{rooms})/[\w./-]*)`", document.read_text())
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings: lower case, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_setting_is_in_the_example_and_in_the_operators_page() -> None:
    example = re.findall(r"^([A-Z_]+)=", (CHECKOUT / ".env.example").read_text(), re.MULTILINE)
    assert len(example) == len(set(example))
    page = (CHECKOUT / "docs" / "operate.md").read_text()
    explained = first_cells(section(page, "## Settings"))
    explained |= set(re.findall(r"`([A-Z_]+)`", section(page, "## Processes and ports")))
    names = names_of_settings()
    assert names - set(example) == set()
    assert set(example) - names == set(), "the example names a setting that nobody reads"
    assert names - explained == set()
    assert {name for name in explained if name.isupper()} - names == set(), "the page names a setting that nobody reads"


def test_each_field_of_a_record_is_explained() -> None:
    page = (CHECKOUT / "docs" / "api.md").read_text()
    records = {
        name: set(record["properties"])
        for topic in schemas(FeatureSpec()).values()
        for name, record in topic["$defs"].items()
    }
    assert set(records) == {"Trade", "End", "Features", "Prediction", "Shadow", "Rejected", "Figure"}
    records["Prediction"] -= records["Features"]  # the page says that a prediction has all of them
    explained = {name: first_cells(section(page, f"### {name}")) for name in records}
    assert explained == records


@cache
def metrics() -> frozenset[str]:
    """Return the names of all metrics that the product exports, as Prometheus sees them."""
    return frozenset(name for metric in METRICS for name in (metric.exported_name, *metric.series))


def first_text(call: ast.Call) -> str:
    """Return the first argument of a call if the argument is a text or the route `EVENTS`, else an empty text."""
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Name) and first.id == "EVENTS":
        return EVENTS
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def test_the_page_of_metrics_is_made_from_the_code() -> None:
    document = (CHECKOUT / "docs" / "metrics.md").read_text()
    assert document.splitlines() == list(page()), (
        "make the page again: python -m data.process.catalog > docs/metrics.md"
    )
    assert {"cryptovol_rejects_total", "cryptovol_feature_age_seconds"} <= first_cells(document)


def test_the_table_of_recordings_is_made_from_the_code() -> None:
    page = (CHECKOUT / "docs" / "recordings.md").read_text()
    assert with_table(page) == page, "make the table again: python -m data.recordings.dialects.catalog"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_metric_that_is_not_exported(document: Path) -> None:
    named = set(re.findall(r"`(cryptovol_[a-z_]+)`", document.read_text())) - {"cryptovol_"}
    assert named - metrics() == set()


def test_each_route_is_explained() -> None:
    files = ("routes.py", "live_page.py", "access.py")
    trees = [ast.parse((CHECKOUT / "online" / "http" / name).read_text()) for name in files]
    methods = ("get", "post", "put", "delete")
    routes = {
        f"{node.func.attr.upper()} {first_text(node)}"
        for node in (each for tree in trees for each in ast.walk(tree))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods
        if first_text(node).startswith("/")
    }
    assert "POST /predict" in routes
    page = section((CHECKOUT / "docs" / "api.md").read_text(), "## HTTP API")
    assert {name for name in first_cells(page) if name.partition(" ")[0].lower() in methods} == routes


def test_the_partitions_of_the_products_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (`.*`) \|$", (CHECKOUT / "docs" / "scaling.md").read_text(), re.MULTILINE)
    named = {name: int(partition) for partition, names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert len(named) == PARTITIONS
    assert named == {name: partition_of(name) for name in named}
