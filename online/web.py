"""How the API answers apart from what it answers: JSON, problems, bodies, request ids, timing."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from online.requests import BadBody

log = structlog.get_logger()

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,100}")
NO_STORE = {"cache-control": "no-store"}
"""Every answer holds for the moment alone."""


class Problem(Exception):
    """An answer that is no success, as problem+json."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers, more


def problem_answer(
    scope: Scope, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    content = msgspec.json.encode(body | {"request_id": scope.get("request_id")} | more)
    return Response(content, status, NO_STORE | dict(headers or {}), media_type="application/problem+json")


def json_answer(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(content), status, NO_STORE, media_type="application/json")


def described_problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe problems for OpenAPI, as `responses` of a route."""
    text = {"type": "string"}
    error = {"type": "object", "properties": {"field": text, "problem": text}, "required": ["field", "problem"]}
    properties = {"type": text, "title": text, "status": {"type": "integer"}, "detail": text, "request_id": text}
    schema = {
        "type": "object",
        "properties": properties | {"errors": {"type": "array", "items": error}},
        "required": list(properties),
    }
    content = {"application/problem+json": {"schema": schema}}
    return {int(status): {"description": status.phrase, "content": content} for status in statuses}


async def read_body(request: Request, max_bytes: int, within_s: float) -> bytes:
    """Return the body, of which never more than `max_bytes` are kept.

    Raises:
        Problem: 413, it is longer, by what it says of itself or by what came; 408, it was not whole in time; 400, the
            client went away.
    """
    too_large = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must be at most {max_bytes} bytes")
    if int(request.headers.get("content-length", 0)) > max_bytes:  # the server refused what is no number
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        detail = f"the body was not whole within {within_s:g} s, {len(body)} bytes had come"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail, {"connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "the client went away before its body was whole") from None
    return bytes(body)


class Direct(APIRoute):
    """A route whose endpoint takes the request and returns the response: FastAPI describes it, and does no more.

    What FastAPI does for endpoints with parameters costs 25 us also where there are none.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


class Observed:
    """Gives each request an id, counts its time, and answers for what failed unexpectedly.

    Plain ASGI, which costs a tenth of Starlette's middleware class.
    """

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self._app = app
        self._seconds = cache(seconds.labels)  # finding a child costs more than counting in it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)
        scope["request_id"] = request_id.decode()
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log.error("unexpected", request_id=scope["request_id"], exc_info=error)
            if status:
                raise  # half an answer is out: the server can but cut it off
            detail = "the service failed; its log has the cause under this request id"
            await problem_answer(scope, HTTPStatus.INTERNAL_SERVER_ERROR, detail)(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")  # the template: a label must not grow with requests
            self._seconds(route, status).observe(time.perf_counter() - started)


def handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return problem_answer(request.scope, error.status, error.detail, error.headers, **error.more)

    @app.exception_handler(BadBody)
    async def bad_body(request: Request, error: BadBody) -> Response:
        errors = [found._asdict() for found in error.errors]
        return problem_answer(request.scope, HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=errors)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": str(found["loc"][-1]), "problem": found["msg"]} for found in error.errors()]
        detail = "; ".join(f"{found['field']}: {found['problem']}" for found in errors)
        return problem_answer(request.scope, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problem_answer(request.scope, HTTPStatus(error.status_code), detail, error.headers)
