"""Serve forecasts over HTTP: `python -m online.api`, or `uvicorn online.api:create_app --factory`."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from data.process.running import REFUSED
from data.settings import UnreadableSecret
from online.http.routes import create_app
from online.settings import ApiSettings

DRAIN_S = 5
"""How long open requests may take to end after SIGTERM."""
STRANGERS = (
    "HOST={host} lets other machines in, and the API has no keys: set API_KEYS or API_KEYS_FILE "
    "(`python -m online.keys new NAME` makes a key), leave HOST at 127.0.0.1, or let everybody ask with API_OPEN=true"
)
"""Refusal of an API that would serve other machines without keys."""


class LeavingServer(uvicorn.Server):
    """A server with a notice for the gateway before the stop.

    After SIGTERM, `/health/live` answers 503 for a while, and the other routes answer as before. The gateway then asks
    other replicas, and no request meets a closed port.

    Args:
        leave_s: seconds of the notice, at least until the gateway has asked `/health/live` again.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, leave_s: float) -> None:
        super().__init__(config)
        self._app, self._leave_s = app, leave_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.is_leaving = True
        await asyncio.sleep(self._leave_s)
        await super().shutdown(sockets)


def main() -> int:
    try:
        settings = ApiSettings()
    except (UnreadableSecret, ValidationError) as error:  # the texts of both hold no secret
        print(error, file=sys.stderr)
        return REFUSED
    if settings.api_lets_strangers_in:
        print(STRANGERS.format(host=settings.host), file=sys.stderr)
        return REFUSED
    app = create_app(settings)
    # uvicorn ends in good order and then raises the signal again: exit code 0, as of every other process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.api_port,
        timeout_graceful_shutdown=DRAIN_S,
        access_log=False,  # 0.1 ms a request; /metrics has the counts
    )
    LeavingServer(config, app, settings.api_leave_s).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
