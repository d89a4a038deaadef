"""Settings of the Dagster side, besides the settings of offline and online."""

from __future__ import annotations

import re
import shlex
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from data.settings import SECRET_IN_URI, Folder, PageSettings, Port, Settings, StateSettings


def _webhook(url: SecretStr) -> SecretStr:
    """Refuse an address that is not http, without its text: the address of a webhook is its key."""
    if not re.match("https?://", url.get_secret_value()):
        raise PydanticCustomError(SECRET_IN_URI, "a webhook begins with http:// or https://")
    return url


class DagsterSettings(Settings):
    """Addresses of the Dagster processes, and Dagster's database."""

    dagster_host: str = Field("127.0.0.1", description="address that the Dagster UI listens on")
    dagster_code_port: Port = Field(3002, description="of the code server")
    dagster_pg_host: str | None = Field(None, description="PostgreSQL; none: SQLite in Dagster's home")
    dagster_pg_port: Port = 5432
    dagster_pg_db: str = "dagster"
    dagster_pg_user: str = "dagster"
    dagster_pg_password: SecretStr | None = None

    def postgres_url(self) -> str:
        """Return the address of the database with the login in it; never show the text."""
        password = f":{quote(self.dagster_pg_password.get_secret_value(), safe='')}" if self.dagster_pg_password else ""
        login, database = quote(self.dagster_pg_user, safe="") + password, quote(self.dagster_pg_db, safe="")
        return f"postgresql+psycopg2://{login}@{self.dagster_pg_host}:{self.dagster_pg_port}/{database}"


class OrchestrationSettings(StateSettings, PageSettings, DagsterSettings):
    """Inbox, schedules and alerts; read when Dagster loads the definitions."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    inbox_dir: Folder = Field(
        default_factory=lambda data: data["var_dir"] / "inbox", description="folder of new recordings for the lake"
    )
    replay_recordings: str = Field("", description="recordings of the replay schedule, paths as in a shell")
    replay_cron: str = Field("0 * * * *", description="times of the replay schedule, which is off by default; UTC")
    retrain_cron: str = Field("30 1 * * *", description="when models are trained anew; UTC")
    sink_cron: str = Field("*/10 * * * *", description="when new records of the topics go to the lake; UTC")
    sink_feeds_trades: bool = Field(True, description="served trades of finished days feed the table trades")
    drift_cron: str = Field("5 * * * *", description="when drift is judged; UTC")
    alert_webhook_url: Annotated[SecretStr, AfterValidator(_webhook)] | None = Field(
        None, description="gets JSON documents of failed runs, and of alerts by Alertmanager"
    )

    def make_inbox(self) -> None:
        """Make the inbox if the path is the default; a person makes a folder of their own."""
        if "inbox_dir" not in self.model_fields_set:
            self.inbox_dir.mkdir(parents=True, exist_ok=True)

    @property
    def scheduled_recordings(self) -> list[str]:
        """Return the recordings of the replay schedule."""
        return shlex.split(self.replay_recordings)
