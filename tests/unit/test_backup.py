"""Backups are whole or not there, hold a lake that existed, and are restored to empty places alone."""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from data.stream.records import PREDICTIONS
from data.times import DAY_S, NS
from offline.lake.cleaning import clean
from offline.lake.store import Lake
from offline.served.compaction import compact
from offline.served.sink import sink
from orchestration.backup.__main__ import main, restore, save
from orchestration.backup.copies import SUMS, BackupRefused, Copies, check, made_whole
from orchestration.backup.lake import copy_lake, write_order
from orchestration.local.settings import UNFINISHED_RESTORE, StackSettings
from orchestration.local.stack import StartRefused, check_state, only_stack
from tests.served import FakeTopic, record, records_of
from tests.unit.test_cleaning import HOUR_S, grow_old, later, write
from tests.unit.test_lake import DAY

DAY_NS = DAY_S * NS


class Cut(Exception):
    """Stands for an error in the middle of a backup."""


def settings_of(var: Path) -> StackSettings:
    return StackSettings(var_dir=var)


def copied(lake: Lake, folder: Path) -> Lake:
    """Return the lake in a backup of a lake."""
    with made_whole(folder) as copies:
        copy_lake(lake, copies)
    return Lake.open(folder / "lake")


def make_registry(var: Path, digest: str | None = None) -> None:
    """Make a folder as MLflow's, with the tables that a backup reads: one version, one entry of the ledger."""
    place = var / "mlflow" / "artifacts" / "1" / "models" / "m-1" / "artifacts"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(b"model")
    with closing(sqlite3.connect(var / "mlflow" / "mlflow.db")) as database:
        database.executescript(
            "CREATE TABLE model_versions (name, version, workspace, source, storage_location, current_stage);"
            "CREATE TABLE model_version_tags (workspace, name, version, key, value);"
            "CREATE TABLE experiments (experiment_id, name); CREATE TABLE runs (experiment_id);"
            "INSERT INTO model_versions VALUES ('volatility-ml', 1, 'default', 'models:/m-1',"
            " 'mlflow-artifacts:/1/models/m-1/artifacts', 'None');"
            "INSERT INTO experiments VALUES (1, 'promotions'); INSERT INTO runs VALUES (1);"
        )
        promised = digest or hashlib.sha256(b"model").hexdigest()
        database.execute(
            "INSERT INTO model_version_tags VALUES ('default', 'volatility-ml', 1, 'digest', ?)", [promised]
        )
        database.commit()


@pytest.fixture
def var(tmp_path: Path) -> Path:
    """A state folder with a registry and a lake of one partition."""
    folder = tmp_path / "var"
    make_registry(folder)
    write(Lake.open(folder / "lake"), 5)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder but locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cut), made_whole(tmp_path / "monday") as copies:
        copies.add_bytes("lake/a", b"1")
        raise Cut
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_the_disk_changed_is_noticed_before_the_backup_has_its_name(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="lake/a has the SHA-256"), made_whole(tmp_path / "monday") as copies:
        copies.add_bytes("lake/a", b"1")
        (copies.folder / "lake/a").write_bytes(b"2")
    assert list(tmp_path.iterdir()) == []


def test_the_rest_of_a_killed_backup_is_no_part_of_the_next(tmp_path: Path) -> None:
    (tmp_path / ".monday.part" / "lake").mkdir(parents=True)
    (tmp_path / ".monday.part" / "lake" / "old").write_bytes(b"half")
    with made_whole(tmp_path / "monday") as copies:
        copies.add_bytes("lake/new", b"1")
    assert set(contents(tmp_path)) == {"monday/lake/new", f"monday/{SUMS}"}


def test_a_backup_replaces_no_other(tmp_path: Path) -> None:
    with made_whole(tmp_path / "monday") as copies:
        copies.add_bytes("a", b"1")
    with pytest.raises(BackupRefused, match="BACKUP names another one"), made_whole(tmp_path / "monday"):
        pass
    assert contents(tmp_path / "monday")["a"] == b"1"


def test_of_two_backups_at_a_time_one_is_made(tmp_path: Path) -> None:
    with made_whole(tmp_path / "monday") as copies:
        with pytest.raises(BackupRefused, match="wait for its end"), made_whole(tmp_path / "monday"):
            pass
        copies.add_bytes("a", b"1")
    assert set(check(tmp_path / "monday")) == {"a"}


def remove(file: Path) -> None:
    file.unlink()


def change(file: Path) -> None:
    file.write_bytes(b"2")


def add(file: Path) -> None:
    file.with_name("more").write_bytes(b"")


def lose_list(file: Path) -> None:
    (file.parent / SUMS).unlink()


def cut_list(file: Path) -> None:
    (file.parent / SUMS).write_text("0123\n")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (remove, "is broken: a cannot be read"),
        (change, "is broken: a has the SHA-256 d4735e3a"),
        (add, "is broken: more is in the folder, and not in SHA256SUMS"),
        (lose_list, "is no whole backup: SHA256SUMS cannot be read"),
        (cut_list, "is broken: line 1 of SHA256SUMS"),
    ],
)
def test_a_broken_backup_is_refused_in_a_sentence(tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    with made_whole(tmp_path / "monday") as copies:
        copies.add_bytes("a", b"1")
    harm(tmp_path / "monday" / "a")
    with pytest.raises(BackupRefused, match=said):
        check(tmp_path / "monday")


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, reading = tmp_path / "source", Copies.add
    source.write_bytes(b"one")
    left = [b"two", b"three"]

    def slow(copies: Copies, path: str, file: Any) -> None:
        reading(copies, path, io.BytesIO(file.read()))
        if left:
            source.write_bytes(left.pop(0))

    monkeypatch.setattr(Copies, "add", slow)
    with made_whole(tmp_path / "monday") as copies:
        assert copies.add_file("a", source)
        assert not copies.add_file("b", tmp_path / "gone")
    assert set(contents(tmp_path / "monday")) == {"a", SUMS}
    assert contents(tmp_path / "monday")["a"] == b"three"


def test_rows_that_a_writer_replaces_during_the_backup_are_those_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the manifest of 5 rows was copied, the partition gets 6 rows, and clean-ups move the 5 rows aside."""
    lake = Lake.open(tmp_path / "lake")
    write(lake, 5)
    adding = Copies.add_bytes

    def then_replaced(copies: Copies, path: str, content: bytes) -> None:
        adding(copies, path, content)
        if path.startswith("lake/manifests"):
            write(lake, 6)
            grow_old(lake, 100)
            assert clean(lake, 24 * HOUR_S, later(25)).aside == 1

    monkeypatch.setattr(Copies, "add_bytes", then_replaced)
    backup = copied(lake, tmp_path / "backup")
    assert len(lake.read("trades", "BTC-USD", DAY)) == 6
    assert len(backup.read("trades", "BTC-USD", DAY)) == 5


@pytest.mark.parametrize("at", [1, 2, 3])
def test_days_that_are_merged_during_the_backup_are_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Three files of a day become one, which removes the three, while the backup copies file `at`."""
    lake = Lake.open(tmp_path / "lake")
    values: list[bytes | None] = [record(PREDICTIONS, i + 1, DAY_NS + i) for i in range(30)]
    for count in (10, 20, 30):
        sink(lake, FakeTopic({3: values[:count]}).reader, PREDICTIONS)
    expected, adding, names = records_of(lake, PREDICTIONS), Copies.add, list[str]()

    def then_merged(copies: Copies, path: str, file: Any) -> None:
        adding(copies, path, file)
        names.append(path)
        if len(names) == at:
            assert compact(lake, PREDICTIONS, 100 * DAY_NS) == 1

    monkeypatch.setattr(Copies, "add", then_merged)
    backup = copied(lake, tmp_path / "backup")
    assert records_of(backup, PREDICTIONS) == expected
    assert len([path for path in backup.objects.paths() if path.endswith(".parquet")]) == (1 if at < 3 else 3)


def test_a_lake_that_has_lost_an_object_gives_no_backup(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    Path(write(lake, 5)).unlink()
    with pytest.raises(BackupRefused, match="is lost, and a manifest of the lake names it"):
        copied(lake, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_no_lock_is_copied(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    write(lake, 5)
    for path in ("locks/promotions.json", "served/features/lock.json", "clock", "pictures/BTC-USD/2025-01-06.png"):
        lake.objects.put(path, b"{}", None)
    found = {path for path in copied(lake, tmp_path / "backup").objects.paths() if not path.startswith("objects/")}
    assert found == {"manifests/BTC-USD.json", "pictures/BTC-USD/2025-01-06.png"}


def test_rows_are_restored_before_what_names_them() -> None:
    paths = [
        "rejects/a.json",
        "manifests/B.json",
        "objects/ab/ab.parquet",
        "served/features/manifest.json",
        "pictures/b",
    ]
    assert sorted(paths, key=write_order) == [paths[2], paths[4], paths[1], paths[3], paths[0]]


def test_an_empty_place_gets_registry_and_lake(tmp_path: Path, var: Path) -> None:
    said = save(tmp_path / "monday", settings_of(var))
    assert "1 versions of models with their files, 1 entries of the ledger" in said
    assert "1 products with 1 partitions" in said
    restore(tmp_path / "monday", settings_of(tmp_path / "new"), replaces=False)
    assert contents(tmp_path / "new" / "lake") == contents(var / "lake")
    assert contents(tmp_path / "new" / "mlflow") == contents(tmp_path / "monday" / "registry")
    assert len(Lake.open(tmp_path / "new" / "lake").read("trades", "BTC-USD", DAY)) == 5
    check_state(settings_of(tmp_path / "new"))


def test_a_version_whose_file_is_another_is_named(tmp_path: Path) -> None:
    make_registry(tmp_path / "var", digest="00")
    said = save(tmp_path / "monday", settings_of(tmp_path / "var"))
    assert "these versions have no whole file in MLflow, so neither here: volatility-ml 1" in said


def test_a_full_place_stays_unless_it_may_be_replaced(tmp_path: Path, var: Path) -> None:
    save(tmp_path / "monday", settings_of(var))
    lake = Lake.open(var / "lake")
    write(lake, 6)
    before = contents(var)
    with pytest.raises(BackupRefused, match="mlflow is not empty: restore to another VAR_DIR, or let REPLACE=1 move"):
        restore(tmp_path / "monday", settings_of(var), replaces=False)
    assert before.items() <= contents(var).items()
    restore(tmp_path / "monday", settings_of(var), replaces=True)
    assert len(Lake.open(var / "lake").read("trades", "BTC-USD", DAY)) == 5
    assert len(Lake.open(var / "lake.before-restore-1").read("trades", "BTC-USD", DAY)) == 6
    assert (var / "mlflow.before-restore-1" / "mlflow.db").exists()


def test_nothing_is_replaced_while_a_stack_runs_or_by_a_broken_backup(tmp_path: Path, var: Path) -> None:
    save(tmp_path / "monday", settings_of(var))
    before = contents(var)
    with only_stack(var), pytest.raises(StartRefused, match="another stack"):
        restore(tmp_path / "monday", settings_of(var), replaces=True)
    next((tmp_path / "monday").rglob("*.parquet")).write_bytes(b"")
    with pytest.raises(BackupRefused, match="is broken"):
        restore(tmp_path / "monday", settings_of(var), replaces=True)
    assert before.items() <= contents(var).items()
    assert sorted(path.name for path in var.iterdir()) == ["lake", "mlflow", "stack.lock"]


def test_no_stack_starts_on_half_of_a_restore_and_the_next_restore_ends_it(
    tmp_path: Path, var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore dies between the two folders."""
    save(tmp_path / "monday", settings_of(var))
    renaming, calls = Path.rename, list[Path]()

    def dying(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return renaming(path, target)

    new = settings_of(tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            restore(tmp_path / "monday", new, replaces=False)
    assert (tmp_path / "new" / UNFINISHED_RESTORE).exists()
    with pytest.raises(StartRefused, match="was not finished"):
        check_state(new)
    restore(tmp_path / "monday", new, replaces=False)
    check_state(new)
    assert contents(tmp_path / "new" / "lake") == contents(var / "lake")
    assert contents(tmp_path / "new" / "mlflow") == contents(tmp_path / "monday" / "registry")


def test_the_command_answers_in_sentences(
    tmp_path: Path, var: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAR_DIR", str(var))
    assert main(["save", ""]) == 2
    assert capsys.readouterr().err == "name the folder of the backup: make backup BACKUP=/srv/backups/monday\n"
    assert main(["save", str(tmp_path / "monday")]) == 0
    assert f"{tmp_path / 'monday'}: " in capsys.readouterr().out
    assert main(["check", str(tmp_path / "monday")]) == 0
    assert "files are whole\nregistry: 1 versions of models, 1 entries of the ledger" in capsys.readouterr().out
    assert main(["restore", str(tmp_path / "tuesday")]) == 2
    assert "is no whole backup" in capsys.readouterr().err
