"""Settings of the Dagster side, besides the settings of offline and online."""

from __future__ import annotations

import shlex

from pydantic import Field

from data.settings import Folder, PageSettings, StateSettings


class OrchestrationSettings(StateSettings, PageSettings):
    """Inbox, schedules and alerts; read when Dagster loads the definitions."""

    inbox_dir: Folder = Field(
        default_factory=lambda data: data["var_dir"] / "inbox", description="folder of new recordings for the lake"
    )
    replay_recordings: str = Field("", description="recordings of the replay schedule, paths as in a shell")
    replay_cron: str = Field("0 * * * *", description="times of the replay schedule, which is off by default; UTC")
    retrain_cron: str = Field("30 1 * * *", description="when models are trained anew; UTC")
    sink_cron: str = Field("*/10 * * * *", description="when new records of the topics go to the lake; UTC")
    sink_feeds_trades: bool = Field(True, description="served trades of finished days feed the table trades")
    drift_cron: str = Field("5 * * * *", description="when drift is judged; UTC")
    alert_webhook_url: str | None = Field(
        None, pattern="^https?://", description="gets JSON documents of failed runs, and of alerts by Alertmanager"
    )

    def make_inbox(self) -> None:
        """Make the inbox if the path is the default; a person makes a folder of their own."""
        if "inbox_dir" not in self.model_fields_set:
            self.inbox_dir.mkdir(parents=True, exist_ok=True)

    @property
    def dagster_url(self) -> str:
        return f"http://127.0.0.1:{self.dagster_port}"

    @property
    def scheduled_recordings(self) -> list[str]:
        """Return the recordings of the replay schedule."""
        return shlex.split(self.replay_recordings)
