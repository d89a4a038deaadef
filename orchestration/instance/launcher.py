"""Launch runs, and tag each with the code server whose child the run is."""

# No `from __future__ import annotations` here: Dagster reads the real types.

from dagster import DefaultRunLauncher
from dagster._core.launcher.base import LaunchRunContext

from orchestration.instance.home import CODE_SERVER_TAG, installation_in


class TaggingRunLauncher(DefaultRunLauncher):
    """Dagster's launcher, with a tag.

    Several code servers may share a database. The tag tells a new code server the open runs of the predecessor.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        origin = context.dagster_run.remote_job_origin
        if context.workspace is not None and origin is not None:
            name = origin.repository_origin.code_location_origin.location_name
            server_id = getattr(context.workspace.get_code_location(name), "server_id", "")
            self._instance.add_run_tags(context.dagster_run.run_id, {CODE_SERVER_TAG: installation_in(server_id)})
        super().launch_run(context)
