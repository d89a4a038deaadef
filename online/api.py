"""Serve forecasts over HTTP: `python -m online.api`, or `uvicorn online.api:create_app --factory`."""

from __future__ import annotations

import multiprocessing
import signal
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from uvicorn.config import STARTUP_FAILURE

from data.process.running import REFUSED, end_if_set_back, stop_this_process
from data.settings import UnreadableSecret
from online.http import routes
from online.server.headers import BoundedHeaders
from online.server.leaving import LeavingServer
from online.settings import STRANGERS, ApiSettings

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


def main() -> int:
    try:
        settings = ApiSettings()
    except (UnreadableSecret, ValidationError) as error:  # the texts of both hold no secret
        print(error, file=sys.stderr)
        return REFUSED
    if settings.api_lets_strangers_in:
        print(STRANGERS.format(host=settings.host), file=sys.stderr)
        return REFUSED
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
    end_if_set_back(stop_this_process)
    LeavingServer(config, app, settings.api_leave_s).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
