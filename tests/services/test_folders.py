"""Names of folders that a person may choose: each file and address for another program still names the right place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from confluent_kafka.admin import AdminClient

from data.files import CHECKOUT
from data.models.registry import Registry
from data.names import RegistryError
from data.stream.records import TOPICS
from data.stream.topics.creation import create_topics
from offline.days.staging import RECORDINGS, simulate
from offline.lake.store import Lake
from orchestration.instance.home import enter_home
from orchestration.local.observers.configs import prometheus_file, write_configs
from orchestration.local.parts import stack_parts
from orchestration.local.settings import StackSettings
from orchestration.local.stack import SMALL_MACHINE_LIMITS, StartRefused, only_stack
from tests.broker import Broker, free_ports
from tests.pipeline import Process, running, wait_until

NAME = 'jörg\'s "my" data #1 100% & $HOME; a=b, [c] `d` (e) @f ~g! ü: 漢\\'
"""A space, umlauts, and characters that mean something in some file, shell, URI or pattern."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return an empty folder with an odd name."""
    folder = tmp_path / NAME
    folder.mkdir()
    return folder


@contextmanager
def in_locale(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for each in ("LC_ALL", "LANG", "LC_CTYPE"):
            patch.setenv(each, name)
        yield


def test_the_broker_keeps_its_data_below_any_folder(
    odd: Path, jars: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the POSIX locale, with the jars below the same folder, as `make run` has them; also after a restart."""
    own = [odd / "jars" / path.name for path in jars]
    own[0].parent.mkdir()
    for path, copy in zip(jars, own, strict=True):
        shutil.copyfile(path, copy)
    broker = Broker(odd / "kafka", own)
    with in_locale(monkeypatch, "C"):
        broker.start()
        try:
            create_topics({"bootstrap.servers": broker.bootstrap_servers})
            broker.stop()
            broker.start()
            found = AdminClient({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=20).topics
        finally:
            broker.kill()
    assert set(TOPICS) <= found.keys()
    assert (odd / "kafka" / "data" / "coinbase-trades-0").is_dir()
    assert [path.name for path in odd.parent.iterdir()] == [NAME], "nothing lies in a mangled folder"


def test_registry_and_dagster_keep_their_state_below_any_folder(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("VAR_DIR", str(odd))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    settings = StackSettings(mlflow_port=port)
    (part,) = (each for each in stack_parts(settings, {"bootstrap.servers": ""}) if each.name == "mlflow")
    environment = os.environ | SMALL_MACHINE_LIMITS | dict(part.environment)
    mlflow = Process("uvicorn", environment, odd / "mlflow.log", tuple(part.command[3:]))
    with running(mlflow):
        registry = Registry(settings.local_mlflow)
        wait_until(lambda: is_there(registry), "MLflow answers", 120)
        registry.call("POST", "registered-models/create", {"name": "a-model"}, dict)
    assert (odd / "mlflow" / "mlflow.db").stat().st_size > 0

    home = enter_home()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("products", ["BTC-USD"])
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("products") == ["BTC-USD"]
    assert [path.name for path in odd.parent.iterdir()] == [NAME]


def is_there(registry: Registry) -> bool:
    try:
        registry.champion("a-model", 5.0)
    except RegistryError:
        return False
    return True


def test_a_lake_below_any_folder_is_written_and_read(odd: Path) -> None:
    day = date(2010, 1, 4)
    simulate(Lake.open(odd / "lake"), "BTC-USD", day, hours=(9, 10))
    assert Lake.open(odd / "lake").products(RECORDINGS) == ["BTC-USD"]
    assert [path.name for path in odd.parent.iterdir()] == [NAME]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of the Debian package prometheus")
def test_prometheus_finds_the_rules_below_any_folder(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules lie in the checkout, whose folder has the odd name here."""
    shutil.copytree(CHECKOUT / "monitoring", odd / "monitoring")
    monkeypatch.setattr("orchestration.local.observers.configs.MONITORING", odd / "monitoring")
    monkeypatch.setenv("VAR_DIR", str(odd))
    settings = StackSettings()
    write_configs(settings)
    checked = subprocess.run(
        ["promtool", "check", "config", prometheus_file(settings)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("rules found") == 3


@pytest.mark.parametrize("place", ["file/var", "/proc/var"])
def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, place: str) -> None:
    """A file stands in the way; and no user can write there."""
    (tmp_path / "file").touch()
    environment = os.environ | {"VAR_DIR": str(tmp_path / place)}
    command = [sys.executable, "-m", "orchestration.local.stack"]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    (said,) = done.stdout.strip().splitlines()
    assert said.startswith(f"VAR_DIR: {tmp_path / place} is no folder that this user can write to (")
    assert said.endswith("): name another one")


@pytest.mark.parametrize("name", ["why?", "a%41", "a\tb", "🎈"])
def test_a_state_folder_that_a_part_would_misread_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    refused = pytest.raises(StartRefused, match="which Dagster's database or Java would not read as it stands: name a")
    with refused, only_stack(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []
