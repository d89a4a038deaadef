"""Settings of the Dagster side, besides the settings of offline and online."""

from __future__ import annotations

import re
import shlex
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from data.names import is_loopback_host
from data.recordings.folders import RecordingFolders
from data.settings import (
    SECRET_IN_URI,
    HostSettings,
    PageSettings,
    Port,
    RecordingSettings,
    Settings,
    StateSettings,
)
from offline.lake.remote import is_uri
from offline.recordings.places import SETTING, RecordingPlaces, split_places
from offline.recordings.prefixes import RecordingPrefix


class Login(NamedTuple):
    """User name, without a colon, and password."""

    user: str
    password: str

    def in_url(self, url: str) -> str:
        """Return a URL with the login, for a request; such a URL must not be shown."""
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"


def _webhook(url: SecretStr) -> SecretStr:
    """Refuse an address that is not http, without its text: the address of a webhook is its key."""
    if not re.match("https?://", url.get_secret_value()):
        raise PydanticCustomError(SECRET_IN_URI, "a webhook begins with http:// or https://")
    return url


def _folder_or_uri(text: str | Path) -> str | Path:
    """Return the whole path of a folder, or a URI as it is; refuse a URI with a key, or of no known store."""
    if not is_uri(str(text)):
        return Path(text).expanduser().resolve()
    RecordingPrefix(str(text), "INBOX_DIR")
    return str(text)


class DagsterSettings(Settings):
    """Addresses of the Dagster processes, and Dagster's database."""

    dagster_host: str = Field("127.0.0.1", description="address that the Dagster UI listens on")
    dagster_code_port: Port = Field(3002, description="of the code server")
    backfill_runs: int = Field(2, ge=1, description="runs that make product-months at the same time")
    dagster_pg_host: str | None = Field(None, description="PostgreSQL; none: SQLite in Dagster's home")
    dagster_pg_port: Port = 5432
    dagster_pg_db: str = "dagster"
    dagster_pg_user: str = "dagster"
    dagster_pg_password: SecretStr | None = None

    @property
    def shares_storage(self) -> bool:
        """Return whether runs lie in PostgreSQL, where other installations may have runs too."""
        return self.dagster_pg_host is not None

    def postgres_url(self) -> str:
        """Return the address of the database with the login in it; never show the text."""
        password = f":{quote(self.dagster_pg_password.get_secret_value(), safe='')}" if self.dagster_pg_password else ""
        login, database = quote(self.dagster_pg_user, safe="") + password, quote(self.dagster_pg_db, safe="")
        return f"postgresql+psycopg2://{login}@{self.dagster_pg_host}:{self.dagster_pg_port}/{database}"


class WebserverSettings(HostSettings, PageSettings, DagsterSettings):
    """Address and login of the Dagster UI."""

    ui_user: str = Field("cryptovol", pattern="^[^:]+$", description="of the web UIs that ask for a password")
    ui_password: SecretStr | None = Field(None, description="of the web UIs; the Dagster UI asks for it if it is set")

    @property
    def ui_login(self) -> Login | None:
        """Return what the Dagster UI asks for; None: it asks nobody."""
        return Login(self.ui_user, self.ui_password.get_secret_value()) if self.ui_password else None

    @property
    def lets_strangers_in(self) -> bool:
        """Return whether the Dagster UI would serve other machines without a password."""
        return self.ui_login is None and not is_loopback_host(self.dagster_host)

    @property
    def dagster_local_url(self) -> str:
        """Return the address of the Dagster UI for processes of this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.dagster_host, self.dagster_host)
        return f"http://{host}:{self.dagster_port}{self.dagster_path}"

    def with_login(self, url: str) -> str:
        """Return a URL of the Dagster UI for a request: with the login if the UI asks for one."""
        return self.ui_login.in_url(url) if self.ui_login else url


class OrchestrationSettings(StateSettings, PageSettings, DagsterSettings, RecordingSettings):
    """Inbox, recordings, schedules and alerts; read when Dagster loads the definitions."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    inbox_dir: Annotated[Path | str, BeforeValidator(_folder_or_uri)] = Field(
        default_factory=lambda data: data["var_dir"] / "inbox",
        description="new recordings for the lake: a folder, or a prefix of an object store",
    )
    recording: str | None = Field(None, description="what `make run` replays, paths as in a shell; unset: simulated")
    recordings_dirs: str = Field(
        "",
        description="folders and prefixes of object stores, as s3://bucket/recordings, whose recordings Dagster's jobs "
        "may read, separated as in PATH; empty: the inbox, "
        "recordings/ under VAR_DIR, and the folders of RECORDING and REPLAY_RECORDINGS",
    )
    replay_recordings: str = Field("", description="recordings of the replay schedule, paths as in a shell")
    replay_cron: str = Field("0 * * * *", description="times of the replay schedule, which is off by default; UTC")
    replay_schedule_speed: str = Field("10", description="of the replay schedule: as REPLAY_SPEED of `make run`")
    runs_keep_days: int = Field(
        30, ge=2, description="days for which Dagster keeps ended runs with their logs; newest results and moves stay"
    )
    lake_first_day: date = Field(date(2010, 1, 1), description="of Dagster's partitions, UTC; earlier days are refused")
    retrain_cron: str = Field("30 1 * * *", description="when models are trained anew; UTC")
    sink_cron: str = Field("*/10 * * * *", description="when new records of the topics go to the lake; UTC")
    sink_feeds_trades: bool = Field(True, description="served trades of finished days feed the table trades")
    clean_cron: str = Field("45 4 * * *", description="when the lake is cleaned up; UTC")
    drift_cron: str = Field("5 * * * *", description="when drift is judged; UTC")
    alert_webhook_url: Annotated[SecretStr, AfterValidator(_webhook)] | None = Field(
        None, description="gets JSON documents of failed runs, and of alerts by Alertmanager"
    )

    def make_inbox(self) -> None:
        """Make the inbox if the path is the default; a person makes a folder of their own."""
        if "inbox_dir" not in self.model_fields_set and isinstance(self.inbox_dir, Path):
            self.inbox_dir.mkdir(parents=True, exist_ok=True)

    @property
    def recordings(self) -> list[Path]:
        """Return the recordings that `make run` replays; empty: the simulated day."""
        return _paths(self.recording or "")

    @property
    def scheduled_recordings(self) -> list[Path]:
        """Return the recordings of the replay schedule."""
        return _paths(self.replay_recordings)

    @property
    def recording_places(self) -> RecordingPlaces:
        """Return the folders and prefixes whose recordings Dagster's jobs may read.

        Raises:
            ValueError: a URI has a key, or is of no known store.
        """
        if self.recordings_dirs:
            named = split_places(self.recordings_dirs)
        else:
            replayed = (path.parent for path in (*self.recordings, *self.scheduled_recordings))
            named = [str(place) for place in (self.inbox_dir, self.var_dir / "recordings", *replayed)]
        folders = [Path(place).expanduser().resolve() for place in named if not is_uri(place)]
        prefixes = [RecordingPrefix(place, SETTING) for place in named if is_uri(place)]
        return RecordingPlaces(RecordingFolders(tuple(dict.fromkeys(folders))), tuple(dict.fromkeys(prefixes)))


def _paths(text: str) -> list[Path]:
    return [Path(path).expanduser().resolve() for path in shlex.split(text)]
