"""An object store keeps the same promises as a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from offline.lake import objects as module
from offline.lake import remote
from offline.lake.objects import ANY, Objects
from tests.seaweed import KEY, SECRET, Seaweed
from tests.unit.test_objects import CHECKS, check_parquet_is_read_by_columns


@pytest.fixture
def objects(seaweed: Seaweed, tmp_path: Path) -> Objects:
    return Objects.open(seaweed.uri(tmp_path.name))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_object_store(check: Callable[[Objects], None], objects: Objects) -> None:
    check(objects)


def test_a_large_object_is_read_by_ranges_of_one_version(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 1_000)
    check_parquet_is_read_by_columns(objects)
    with objects.opened("objects/de/def.parquet") as opened:
        rows = pa.parquet.ParquetFile(opened)
        objects.put("objects/de/def.parquet", b"another" * 10_000, ANY)
        with pytest.raises(OSError, match="cannot be read"):
            rows.read(["n"])


def test_keys_come_from_the_file_of_shared_credentials(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    path.write_text(f"[tests]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_PROFILE", "tests")
    objects = Objects.open(seaweed.uri(tmp_path.name))
    objects.put("a", b"1", None)
    assert objects.paths() == ["a"]


def test_the_endpoint_comes_from_the_environment(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{seaweed.endpoint}")
    objects = Objects.open(f"s3://lake/{tmp_path.name}")
    objects.put("a", b"1", None)
    assert objects.paths() == ["a"]


def test_a_wrong_key_and_an_absent_store_are_explained(
    seaweed: Seaweed, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        remote, "_PATIENCE", remote._PATIENCE | {"retry_config": remote._PATIENCE["retry_config"] | {"max_retries": 1}}
    )
    away = Objects.open(f"s3://lake/away?endpoint_override={nobody.removeprefix('http://')}&scheme=http")
    with pytest.raises(OSError, match="s3://lake/away/a cannot be read"):
        away.get("a")
    with pytest.raises(OSError, match="s3://lake/away/a cannot be written"):
        away.put("a", b"1", None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(OSError, match="cannot be read") as refused:
        Objects.open(seaweed.uri("other")).get("a")
    assert "another" not in str(refused.value)
