"""Dagster's storage by settings: PostgreSQL, or SQLite in Dagster's home."""

# No `from __future__ import annotations` here: Dagster reads the real types.
# ruff: noqa: PLC0415 - dagster-postgres is not installed on a laptop without PostgreSQL

import os
from collections.abc import Mapping
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from orchestration.settings import DagsterSettings


class SettingsStorage(DagsterStorage, ConfigurableClass):
    """Build the storage of the settings; `dagster.yaml` names this class.

    Dagster shows the configuration of a storage, and hands the configuration to runs. The class has no configuration:
    each process reads the password from the settings.
    """

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Any:  # noqa: ARG003
        """Return the storage: PostgreSQL with `DAGSTER_PG_HOST`, without the variable SQLite in `DAGSTER_HOME`."""
        settings = DagsterSettings()
        if not settings.shares_storage:
            return DagsterSqliteStorage.from_local(os.environ["DAGSTER_HOME"], inst_data)
        try:
            from dagster_postgres import DagsterPostgresStorage
        except ImportError:
            raise ValueError(
                "DAGSTER_PG_HOST is set, and the package dagster-postgres is missing: install the group `server`"
            ) from None
        return DagsterPostgresStorage(settings.postgres_url(), should_autocreate_tables=True, inst_data=inst_data)
