"""Stop a server behind a gateway without a failed request."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI


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
