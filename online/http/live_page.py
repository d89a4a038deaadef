"""Serve the live page: its files, and its stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from data.models.registry import Registry
from data.models.served import ServedModel
from data.names import PRODUCT_PATTERN, SOURCE_PATTERN
from data.trades import StreamKey
from data.truth.adaptation import TAIL
from online.http.answers import Problem
from online.live.facts import SlowFacts
from online.live.points import Cursor
from online.live.pulse import Checks, Pulse
from online.live.versions import Versions
from online.live.view import LiveView
from online.settings import ApiSettings

EVENTS = "/live/events"
"""Route of the stream. A stream lasts as long as a browser is open, so the time of a stream is no request's time."""
LIBRARY = Path(sys.prefix) / "browser" / "node_modules" / "uplot" / "dist"
"""Folder of the chart library, which set-up fetches by `package-lock.json`."""
LIBRARY_FILES = {"uplot.js": LIBRARY / "uPlot.iife.min.js", "uplot.css": LIBRARY / "uPlot.min.css"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Media types of the served files, by ending."""
FILES = {
    path.name: path for path in (Path(__file__).parent / "static").iterdir() if path.suffix in TYPES
} | LIBRARY_FILES
"""Path of each served file by its name. A name from a request is looked up, and never becomes a path."""
HEADERS = {
    "cache-control": "no-cache",  # a browser asks again each time, and gets 304 for an unchanged file
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

FRAME_S = 0.25
"""Time between two frames of a browser."""
RETRY_MS = 1_000
"""Time after which a browser connects again."""
MAX_BROWSERS = 32


class LivePage:
    """Hold the state of the live page, from the start of the API to the stop.

    Args:
        version: of the software.
        serving: returns the model that serves, None before the first.
        checks: see `Checks`.
    """

    def __init__(
        self,
        settings: ApiSettings,
        version: str,
        view: LiveView,
        serving: Callable[[], ServedModel | None],
        checks: Checks,
    ) -> None:
        self.view = view
        pages = {
            "Dagster": settings.dagster_url,
            "MLflow": settings.mlflow_url,
            "Grafana": settings.grafana_url,
        }
        spec = settings.spec()
        self.versions = Versions(Registry(settings.mlflow_tracking_uri), spec.spec_id, serving)
        facts = SlowFacts(settings, view, self.versions, pages, lambda: self.pulse.silent())
        self.pulse = Pulse(view, self.versions, facts, checks, settings.max_feature_age_s)
        self._hello = {
            "version": version,
            "horizon_s": spec.horizon_s,
            "gap_s": spec.gap_s,
            "limit_s": settings.max_feature_age_s,
            "nominal": 1 - 2 * TAIL,
            "pages": pages,
        }
        self._closing: asyncio.Event | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Answer browsers until the block ends, or until a stop signal: the server waits for open streams."""
        closing, loop = asyncio.Event(), asyncio.get_running_loop()
        self._closing = closing
        self.pulse.start()
        with _called_first_at_stop(lambda: loop.call_soon_threadsafe(closing.set)):
            try:
                yield
            finally:
                closing.set()
                self.pulse.begin_stop()

    async def events(self, wanted: StreamKey | None) -> AsyncIterator[ServerSentEvent]:
        """Yield the events of one browser until the API stops: `hello` once, `state` each second, and new `rows`."""
        yield ServerSentEvent(raw_data=msgspec.json.encode(self._hello).decode(), event="hello", retry=RETRY_MS)
        cursor: Cursor | None = None
        beat = 0
        while self._closing is not None and not self._closing.is_set():
            if beat != (beat := self.pulse.newest.number) and beat:
                state = await run_in_threadpool(self.pulse.state_for, wanted)
                yield ServerSentEvent(raw_data=state.decode(), event="state")
            # In a thread: the call waits for a lock, and a first frame takes some ms.
            frame, cursor = await run_in_threadpool(self.view.frame, wanted, cursor, self.versions.floor_of)
            if frame is not None:
                yield ServerSentEvent(raw_data=frame.decode(), event="rows")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FRAME_S):
                    await self._closing.wait()


@contextlib.contextmanager
def _called_first_at_stop(call: Callable[[], object]) -> Iterator[None]:
    """Call a function at SIGTERM and SIGINT, before the handlers of the server."""
    if threading.current_thread() is not threading.main_thread():  # a server inside a test
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_live_page(app: FastAPI, page: LivePage, guard: Callable[[Request], Awaitable[None]]) -> None:
    """Add the page at `/`, its files and its stream.

    Args:
        guard: refuses a request for the stream that needs a login.
    """

    async def admit() -> AsyncIterator[None]:
        if page.pulse.watch(1) > MAX_BROWSERS:
            page.pulse.watch(-1)
            detail = f"{MAX_BROWSERS} browsers look at the live page already"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)
        try:
            yield
        finally:
            page.pulse.watch(-1)

    @app.get("/", include_in_schema=False)
    async def live_page(request: Request) -> Response:
        """Return the live page."""
        return _file_answer(request, "index.html")

    @app.get("/static/{name}", include_in_schema=False)
    async def file_of_page(request: Request, name: str) -> Response:
        """Return a file of the live page, or of its chart library."""
        return _file_answer(request, name)

    @app.get(
        EVENTS,
        include_in_schema=False,
        response_class=EventSourceResponse,
        dependencies=[Depends(guard), Depends(admit)],
    )
    async def live_events(
        product_id: Annotated[str | None, Query(pattern=PRODUCT_PATTERN)] = None,
        source_id: Annotated[str | None, Query(pattern=SOURCE_PATTERN)] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """Stream the events of the live page, for one stream of forecasts or for the newest."""
        wanted = StreamKey(source_id, product_id) if source_id and product_id else None
        async for event in page.events(wanted):
            yield event


def _file_answer(request: Request, name: str) -> Response:
    """Return a file.

    Raises:
        Problem: 404, no file has this name.
    """
    path = FILES.get(name)
    if path is None or not path.is_file():
        detail = f"no file {name}"
        if name in LIBRARY_FILES:
            detail = "the chart library is not here: `make run` fetches it, see docs/live-page.md"
        raise Problem(HTTPStatus.NOT_FOUND, detail)
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=HEADERS | {"etag": tag})
    return Response(content, headers=HEADERS | {"etag": tag}, media_type=TYPES[path.suffix])
