"""Bound the wait for the headers of a request, and their size.

uvicorn waits for headers without end, and keeps headers of any length: a client that sends a byte now and then would
hold a connection forever.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
"""Limit from the connection, or from the answer before, to the last byte of the headers. Longer than uvicorn waits for
the next request on an idle connection."""
MAX_HEADERS = 64 * 1024
"""Maximum size of the headers of a request, in bytes."""


class BoundedHeaders(HttpToolsProtocol):
    """uvicorn's protocol with a deadline and a limit for headers; answers 408 or 431, and closes the connection."""

    _deadline: asyncio.TimerHandle | None = None
    _is_in_headers = False
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_headers:  # the headers did not end in these bytes: none of them is of a body
            self._received += len(data)
            if self._received > MAX_HEADERS:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._is_in_headers, self._received = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_are_here()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # no further request is at work
            self._await_headers()

    def _await_headers(self) -> None:
        self._headers_are_here()
        self._deadline = self.loop.call_later(HEADERS_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _headers_are_here(self) -> None:
        self._is_in_headers = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus) -> None:
        """Close the connection; with an answer if a request has begun, silently else."""
        is_asked = self._is_in_headers
        self._headers_are_here()
        if is_asked and not self.transport.is_closing():
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()
