"""Serve forecasts over HTTP: `python -m online.api`, or `uvicorn online.api:create_app --factory`."""

from __future__ import annotations

import signal
import sys

import uvicorn

from online.http.routes import create_app
from online.settings import ApiSettings

DRAIN_S = 5
"""How long open requests may take to end after SIGTERM."""


def main() -> None:
    settings = ApiSettings()
    # uvicorn ends in good order and then raises the signal again: exit code 0, as of every other process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.api_port,
        timeout_graceful_shutdown=DRAIN_S,
        access_log=False,  # 0.1 ms a request; /metrics has the counts
    )


if __name__ == "__main__":
    main()
