"""Serve forecasts over HTTP: `python -m online.api`, or `uvicorn online.api:create_app --factory`."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from online.http import routes
from online.http.headers import BoundedHeaders
from online.settings import ApiSettings

DRAIN_S = 5
"""How long open requests may take to end after SIGTERM."""


def create_app() -> FastAPI:
    """Return the application for uvicorn's own command; ends a uvicorn with several workers.

    Each worker would have counters and a newest forecast of its own, and `/metrics` would jump between them.
    """
    if multiprocessing.parent_process() is not None and "--reload" not in sys.argv:
        print(
            "the API is one process, because /metrics has the counts of one: run it without --workers and "
            "WEB_CONCURRENCY, and start further replicas on other ports, each with its own /metrics",
            file=sys.stderr,
        )
        sys.exit(STARTUP_FAILURE)  # with this code, uvicorn's supervisor starts no worker again
    return routes.create_app()


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


def main() -> None:
    settings = ApiSettings()
    app = routes.create_app(settings)
    # uvicorn ends in good order and then raises the signal again: exit code 0, as of every other process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.api_port,
        http=BoundedHeaders,
        workers=1,  # whatever WEB_CONCURRENCY says
        timeout_graceful_shutdown=DRAIN_S,
        access_log=False,  # 0.1 ms a request; /metrics has the counts
    )
    LeavingServer(config, app, settings.api_leave_s).run()


if __name__ == "__main__":
    main()
